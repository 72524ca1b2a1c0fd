//! Who is there: what this node believes of every other, and what it should do and say next. No I/O and no clock of its
//! own; `watch` does what it is told here, and comes back with what happened.
//!
//! Members stand in a ring, in the order of the hashes of their addresses. Each asks its [`WATCHED`] successors every
//! [`Pace::ping`] whether they live. One that is silent twice, the second time on a new connection, is suspected; two others
//! are asked whether they reach it, and if not, it is gone, and everybody is told. A member that is called gone and lives
//! says so with a later card, which counts more ([`Card::version`]). What was not told in time is found by comparing tables,
//! and that somebody is gone is then not believed before this node has asked for itself.

mod act;
mod compare;
mod pace;
mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Instant,
};

use iroh::SecretKey;
use rand::{SeedableRng as _, rngs::StdRng};

pub use self::act::Act;
pub(crate) use self::compare::BUCKETS;
pub use self::pace::Pace;
use super::news::{Card, Gone, News};

/// How many successors a member watches.
pub(crate) const WATCHED: usize = 3;
/// Unanswered questions until a member is suspected, or one that was never heard of is given up for now.
const MISSES: u8 = 2;

/// What is believed of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It was named, and has not been asked yet.
    Unasked,
    /// It lives.
    Living,
    /// It does not answer, or is said to be gone.
    Suspect,
    /// It does not answer anybody.
    Gone,
    /// It said goodbye.
    Left,
}

/// From whom something was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// From the gossip: everybody hears it.
    Gossip,
    /// From whom it is about, or who told only us: everybody should hear it.
    Told,
    /// By comparing tables: it may be old.
    Hearsay,
}

/// What became of a member, for those who keep books by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is in the table.
    Known(SocketAddr),
    /// It can be asked for things.
    Came(SocketAddr),
    /// It started again and knows nothing.
    Restarted(SocketAddr),
    /// It cannot be asked.
    Went(SocketAddr),
    /// It is not in the table any more.
    Forgotten(SocketAddr),
    /// We were called gone: what we told others may be forgotten.
    Refuted,
}

/// The table of one node.
#[derive(Debug)]
pub struct Roster {
    key: SecretKey,
    card: Card,
    pace: Pace,
    members: BTreeMap<SocketAddr, Member>,
    /// Everybody in the table, in the order of the ring.
    ring: BTreeSet<(u64, SocketAddr)>,
    digests: Vec<u64>,
    rng: StdRng,
    unsaid: VecDeque<News>,
    changes: Vec<Change>,
    /// Our table was as that of somebody: from now on what is new to us may be new to others.
    settled: bool,
    refuted: Option<Instant>,
    /// With whom tables should be compared.
    differs: Option<SocketAddr>,
    next_compare: Instant,
    next_stray: Instant,
    next_retry: Instant,
}

#[derive(Debug)]
struct Member {
    place: u64,
    standing: Standing,
    card: Option<Card>,
    /// Who said that the card is void.
    verdict: Option<Box<Gone>>,
    /// Given by the operator: never forgotten.
    fixed: bool,
    since: Instant,
    missed: u8,
    /// How often in a row its table was another than ours.
    differed: u8,
    due: Instant,
    /// Something is asked just now.
    busy: bool,
}

impl Standing {
    /// Whether it may be asked for things, and answers for its share of the digests.
    pub fn is_present(self) -> bool {
        !matches!(self, Self::Gone | Self::Left)
    }

    /// The stable name in what is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unasked => "unasked",
            Self::Living => "living",
            Self::Suspect => "suspect",
            Self::Gone => "gone",
            Self::Left => "left",
        }
    }

    /// Whether it has a place among those who are watched.
    fn is_watched(self) -> bool {
        matches!(self, Self::Living | Self::Suspect)
    }
}

impl Roster {
    /// The table of the member at `addr`, with nobody in it. `count` begins above that of an earlier start: it is the time.
    pub fn new(key: SecretKey, addr: SocketAddr, boot: u64, count: u64, zone: &str, pace: Pace, now: Instant) -> Self {
        let card = Card::sign(&key, addr, boot, count, zone, false);
        let mut roster = Self {
            key,
            card,
            pace,
            members: BTreeMap::new(),
            ring: BTreeSet::new(),
            digests: vec![0; BUCKETS],
            rng: StdRng::seed_from_u64(boot),
            unsaid: VecDeque::new(),
            changes: Vec::new(),
            settled: false,
            refuted: None,
            differs: None,
            next_compare: now,
            next_stray: now,
            next_retry: now,
        };
        roster.count_card();
        roster.unsaid.push_back(News::Is(roster.card.clone()));
        roster
    }

    /// Our own card.
    pub(crate) fn card(&self) -> &Card {
        &self.card
    }

    /// A member's card, if it ever showed one.
    pub(crate) fn card_of(&self, addr: SocketAddr) -> Option<&Card> {
        self.members.get(&addr)?.card.as_ref()
    }

    /// What is believed of a member; `None` when it is not in the table.
    pub(crate) fn standing(&self, addr: SocketAddr) -> Option<Standing> {
        Some(self.members.get(&addr)?.standing)
    }

    /// Everybody else, and what is believed of them.
    pub(crate) fn members(&self) -> impl Iterator<Item = (SocketAddr, Standing)> {
        self.members.iter().map(|(addr, member)| (*addr, member.standing))
    }

    /// What changed since the last time.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// The next of what everybody should hear.
    pub(crate) fn say(&mut self) -> Option<News> {
        self.unsaid.pop_front()
    }

    /// Somebody is said to be a member; nothing is told to others before it shows a card.
    pub(crate) fn add(&mut self, addr: SocketAddr, fixed: bool, now: Instant) {
        if addr == self.card.addr || addr.port() == 0 || addr.ip().is_unspecified() {
            return;
        }
        if self.members.contains_key(&addr) || self.enter(addr, fixed, now) {
            self.members.get_mut(&addr).into_iter().for_each(|member| member.fixed |= fixed);
        }
    }

    /// Whether this could change anything here: what is old needs no look at its signatures.
    pub(crate) fn is_news(&self, news: &News, heard: Heard) -> bool {
        let Some(member) = self.members.get(&news.card().addr) else { return true };
        let (known, version) = (member.card.as_ref().map(Card::version), Some(news.card().version()));
        match news {
            News::Is(_) => known < version,
            // Said before, and being looked into.
            News::Gone(_) if heard == Heard::Hearsay && known == version && member.verdict.is_some() => false,
            News::Gone(_) => known < version || (known == version && member.standing.is_present()),
        }
    }

    /// What a member must hear that shows this version of its card: that it is thought gone, or of a later card.
    pub(crate) fn rumour(&self, of: SocketAddr, shown: Option<(u64, u64)>) -> Option<News> {
        let member = self.members.get(&of)?;
        let card = member.card.as_ref()?;
        match &member.verdict {
            Some(verdict) => Some(News::Gone((**verdict).clone())),
            None if card.leaving || shown.is_some_and(|shown| card.version() > shown) => Some(News::Is(card.clone())),
            None => None,
        }
    }

    /// Takes news whose signatures were checked. Whether they were new.
    pub fn learn(&mut self, news: News, heard: Heard, now: Instant) -> bool {
        let addr = news.card().addr;
        if addr == self.card.addr {
            return self.refute(&news, now);
        }
        if !self.is_news(&news, heard) || (!self.members.contains_key(&addr) && !self.enter(addr, false, now)) {
            return false;
        }
        let Some(member) = self.members.get(&addr) else { return false };
        let doubtful = heard == Heard::Hearsay && member.standing.is_watched();
        if heard == Heard::Told || (heard == Heard::Hearsay && self.settled && !matches!(news, News::Gone(_))) {
            self.tell(news.clone());
        }
        self.change(addr, |member| {
            (member.missed, member.differed, member.since, member.due) = (0, 0, now, now);
            match news {
                News::Is(card) => {
                    member.standing = if card.leaving { Standing::Left } else { Standing::Living };
                    (member.card, member.verdict) = (Some(card), None);
                }
                News::Gone(gone) => {
                    member.standing = if doubtful { Standing::Suspect } else { Standing::Gone };
                    (member.card, member.verdict) = (Some(gone.card.clone()), Some(Box::new(gone)));
                }
            }
        });
        true
    }

    /// The member asked us for something, so it lives. One that is gone comes back by a later card only.
    pub(crate) fn alive(&mut self, addr: SocketAddr) {
        let Some(member) = self.members.get_mut(&addr) else { return };
        member.missed = 0;
        // What others say of it, it must hear itself.
        if member.standing == Standing::Suspect && member.verdict.is_none() {
            self.change(addr, |member| member.standing = Standing::Living);
        }
    }

    /// The member answered us.
    pub(crate) fn answered(&mut self, addr: SocketAddr) {
        let Some(member) = self.members.get_mut(&addr) else { return };
        (member.busy, member.missed) = (false, 0);
        if member.standing == Standing::Suspect {
            self.change(addr, |member| (member.standing, member.verdict) = (Standing::Living, None));
        }
    }

    /// It answered whether it lives, and said whether its table is as ours.
    pub fn agreed(&mut self, addr: SocketAddr, agrees: bool) {
        self.answered(addr);
        self.settled |= agrees;
        let watched = self.watched().contains(&addr);
        let Some(member) = self.members.get_mut(&addr) else { return };
        member.differed = if agrees { 0 } else { member.differed.saturating_add(1) };
        // A neighbour that is asked often may just not have heard yet.
        if member.differed > u8::from(watched) {
            self.differs = Some(addr);
        }
    }

    /// The member lives, and has no time: nothing is known of it that was not known before.
    pub(crate) fn put_off(&mut self, addr: SocketAddr, now: Instant) {
        let Some(member) = self.members.get_mut(&addr) else { return };
        (member.busy, member.due) = (false, now + self.pace.retry);
    }

    /// The member did not answer.
    pub(crate) fn silent(&mut self, addr: SocketAddr, now: Instant) {
        let lives = self.standing(addr) == Some(Standing::Living);
        let rank = if lives { self.watched().iter().position(|watched| *watched == addr) } else { None };
        let stagger = self.pace.stagger * rank.and_then(|rank| u32::try_from(rank).ok()).unwrap_or_default();
        self.change(addr, |member| {
            (member.busy, member.missed, member.due) = (false, member.missed.saturating_add(1), now);
            let standing = match member.standing {
                Standing::Living if member.missed >= MISSES => {
                    member.due = now + stagger;
                    Standing::Suspect
                }
                Standing::Unasked if member.missed >= MISSES => Standing::Gone,
                // What is said of it is true.
                Standing::Suspect if member.verdict.is_some() => Standing::Gone,
                as_it_was => as_it_was,
            };
            if member.standing != standing {
                (member.standing, member.since) = (standing, now);
            }
        });
    }

    /// What the witnesses said of a suspect. Without any, nobody reaches it.
    pub(crate) fn confirmed(&mut self, of: SocketAddr, lives: bool, now: Instant) {
        let Some(member) = self.members.get_mut(&of) else { return };
        member.busy = false;
        if lives {
            return self.answered(of);
        }
        let (Standing::Suspect, Some(card)) = (member.standing, member.card.clone()) else { return };
        self.learn(News::Gone(Gone::sign(&self.key, self.card.addr, card)), Heard::Told, now);
    }

    /// Tables were compared, or could not be.
    pub(crate) fn compared(&mut self, with: SocketAddr, done: bool) {
        self.settled |= done;
        self.members.get_mut(&with).into_iter().for_each(|member| member.differed = 0);
    }

    /// The member was reached after it was not among the living: what it knows may be new.
    pub(crate) fn found(&mut self, addr: SocketAddr) {
        self.differs = Some(addr);
    }

    /// The last that is said: goodbye.
    pub(crate) fn leave(&mut self) -> News {
        self.reissue(self.card.count.saturating_add(1), true);
        News::Is(self.card.clone())
    }
}
