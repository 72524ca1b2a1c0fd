//! What this node should do next: whom to ask, greet and compare tables with.

use std::{net::SocketAddr, time::Instant};

use rand::{RngExt as _, seq::IteratorRandom as _};

use super::{Member, Roster, Standing, table};

/// Members greeted at a time.
const GREETINGS: usize = 8;
/// Members asked whether they reach one that is suspected.
const WITNESSES: usize = 2;
/// Somebody anywhere in the ring is asked once in so many rounds, so that what went by a part of it is found.
const STRAY: u32 = 10;

/// What this node should do now. Each is answered for: [`Roster::answered`] or [`Roster::silent`], and for the others as
/// they say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Ask whether it lives; `anew` on another connection than the last time.
    Ping {
        /// Whom.
        to: SocketAddr,
        /// On a new connection.
        anew: bool,
    },
    /// Introduce ourselves, and hear what it says of itself.
    Greet(SocketAddr),
    /// Ask the witnesses whether they reach it; answered by [`Roster::confirmed`].
    Confirm {
        /// Who is suspected.
        of: SocketAddr,
        /// Who is asked.
        witnesses: Vec<SocketAddr>,
    },
    /// Compare tables with it; answered by [`Roster::compared`].
    Compare(SocketAddr),
}

impl Roster {
    /// What is to be done now.
    pub fn tick(&mut self, now: Instant) -> Vec<Act> {
        self.forget(now);
        let mut acts = Vec::new();
        for to in self.watched() {
            let Some(member) = self.members.get_mut(&to) else { continue };
            if member.standing == Standing::Living && !member.busy && member.due <= now {
                (member.busy, member.due) = (true, now + self.pace.ping);
                acts.push(Act::Ping { to, anew: member.missed > 0 });
            }
        }
        if self.next_stray <= now {
            self.next_stray = now + STRAY * self.pace.ping;
            let point = (self.rng.random(), self.card.addr);
            let stray = self.after(point).find(|addr| self.standing(*addr) == Some(Standing::Living));
            acts.extend(stray.map(|to| Act::Ping { to, anew: false }));
        }
        let due = |member: &Member| !member.busy && member.due <= now;
        let suspects: Vec<_> =
            self.who(|member| due(member) && member.standing == Standing::Suspect && member.verdict.is_none());
        for of in suspects {
            acts.push(Act::Confirm { of, witnesses: self.witnesses(of) });
        }
        let unsure = self.who(|member| {
            let accused = member.standing == Standing::Suspect && member.verdict.is_some();
            due(member) && (accused || member.standing == Standing::Unasked)
        });
        let mut greet = unsure.into_iter().sample(&mut self.rng, GREETINGS);
        if self.next_retry <= now {
            let alone = !self.members.values().any(|member| member.standing.is_present());
            self.next_retry = now + if alone { self.pace.ping } else { self.pace.retry };
            for fixed in [true, false] {
                // Those who said goodbye too: one that is back may know nobody.
                let is_lost = |member: &Member| due(member) && !member.standing.is_present() && member.fixed == fixed;
                let lost = self.who(is_lost);
                greet.extend(lost.into_iter().choose(&mut self.rng));
            }
        }
        acts.extend(greet.into_iter().map(Act::Greet));
        if (self.next_compare <= now || !self.settled)
            && let Some(with) = self.differs.take()
        {
            self.next_compare = now + self.pace.compare;
            acts.push(Act::Compare(with));
        }
        for act in &acts {
            if let Act::Ping { to, .. } | Act::Greet(to) | Act::Confirm { of: to, .. } = act {
                self.members.get_mut(to).into_iter().for_each(|member| member.busy = true);
            }
        }
        acts
    }
    /// Who is asked about a suspect: those behind it, who do not watch it, and so have a path of their own.
    fn witnesses(&self, of: SocketAddr) -> Vec<SocketAddr> {
        let lives = |addr: &SocketAddr| *addr != of && self.standing(*addr) == Some(Standing::Living);
        self.after((table::place(of), of)).filter(lives).take(WITNESSES).collect()
    }
}
