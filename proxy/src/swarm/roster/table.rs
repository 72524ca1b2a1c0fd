//! The table itself: who enters it and leaves it, the ring, and what is counted with every change.

use std::{
    net::SocketAddr,
    ops::Bound::{Excluded, Unbounded},
    time::Instant,
};

use super::{
    Change, Member, Roster, Standing, WATCHED,
    compare::{bucket, mark},
};
use crate::swarm::{
    frame::MAX_MEMBERS,
    news::{Card, News},
};

/// News that wait to be told; more are found by comparing tables.
const MAX_UNSAID: usize = 2 * MAX_MEMBERS;
/// Those who said goodbye, or were never there, are forgotten so many times sooner.
const SOONER: u32 = 24;

impl Roster {
    /// Whom this node watches: its living successors in the ring.
    pub(crate) fn watched(&self) -> Vec<SocketAddr> {
        let is_watched = |addr: &SocketAddr| self.members.get(addr).is_some_and(|member| member.standing.is_watched());
        self.after((place(self.card.addr), self.card.addr)).filter(is_watched).take(WATCHED).collect()
    }

    /// Everybody, once around the ring from there.
    pub(super) fn after(&self, from: (u64, SocketAddr)) -> impl Iterator<Item = SocketAddr> {
        self.ring.range((Excluded(from), Unbounded)).chain(self.ring.range(..=from)).map(|(_, addr)| *addr)
    }

    pub(super) fn who(&self, is: impl Fn(&Member) -> bool) -> Vec<SocketAddr> {
        self.members.iter().filter(|(_, member)| is(member)).map(|(addr, _)| *addr).collect()
    }

    /// Changes a member, and all that is counted by it.
    pub(super) fn change(&mut self, addr: SocketAddr, change: impl FnOnce(&mut Member)) {
        let Some(member) = self.members.get_mut(&addr) else { return };
        let boot = |member: &Member| member.card.as_ref().map(|card| card.boot);
        let before = (mark_of(member), member.standing.is_present(), boot(member));
        change(member);
        self.digests[bucket(member.place)] ^= before.0 ^ mark_of(member);
        match (before.1, member.standing.is_present()) {
            (false, true) => self.changes.push(Change::Came(addr)),
            (true, false) => self.changes.push(Change::Went(addr)),
            (true, true) if before.2 != boot(member) => self.changes.push(Change::Restarted(addr)),
            _ => {}
        }
    }

    /// A new member, if there is room. Who has been gone for the longest makes room.
    pub(super) fn enter(&mut self, addr: SocketAddr, fixed: bool, now: Instant) -> bool {
        if self.members.len() >= MAX_MEMBERS {
            let gone = self.members.iter().filter(|(_, member)| !member.fixed && !member.standing.is_present());
            let Some(longest) = gone.min_by_key(|(_, member)| member.since).map(|(addr, _)| *addr) else {
                return false;
            };
            self.drop_member(longest);
        }
        let place = place(addr);
        let member = Member {
            place,
            standing: Standing::Unasked,
            card: None,
            verdict: None,
            fixed,
            since: now,
            missed: 0,
            differed: 0,
            due: now,
            busy: false,
        };
        self.members.insert(addr, member);
        self.ring.insert((place, addr));
        self.changes.extend([Change::Known(addr), Change::Came(addr)]);
        true
    }

    /// Forgets those who have been gone for long.
    pub(super) fn forget(&mut self, now: Instant) {
        let long = |member: &Member| {
            let was_there = member.standing == Standing::Gone && member.card.is_some();
            let limit = if was_there { self.pace.forget } else { self.pace.forget / SOONER };
            now.saturating_duration_since(member.since) > limit
        };
        for addr in self.who(|member| !member.fixed && !member.standing.is_present() && long(member)) {
            self.drop_member(addr);
        }
    }

    /// Something that everybody should hear, unless too much waits already.
    pub(super) fn tell(&mut self, news: News) {
        if self.unsaid.len() < MAX_UNSAID {
            self.unsaid.push_back(news);
        }
    }

    /// Says that we live when somebody says that we do not, or knows a later card than ours: the clock went backwards
    /// between two starts. Not more often than it can be heard: two nodes may have one address by mistake.
    pub(super) fn refute(&mut self, news: &News, now: Instant) -> bool {
        let theirs = news.card();
        let outdated = match news {
            News::Is(card) => card.version() > self.card.version(),
            News::Gone(gone) => gone.card.version() >= self.card.version(),
        };
        let just_did = self.refuted.is_some_and(|at| now.saturating_duration_since(at) < self.pace.ping / 3);
        if !outdated || self.card.leaving || just_did {
            return false;
        }
        self.refuted = Some(now);
        self.reissue(theirs.count.max(self.card.count).saturating_add(1), false);
        self.tell(News::Is(self.card.clone()));
        self.changes.push(Change::Refuted);
        true
    }

    pub(super) fn reissue(&mut self, count: u64, leaving: bool) {
        self.count_card();
        let Card { addr, boot, .. } = self.card;
        self.card = Card::sign(&self.key, addr, boot, count, &self.card.zone, leaving);
        self.count_card();
    }

    /// Our own card counts as others count it; a second time takes it out again.
    pub(super) fn count_card(&mut self) {
        if !self.card.leaving {
            self.digests[bucket(place(self.card.addr))] ^= mark(&self.card);
        }
    }

    fn drop_member(&mut self, addr: SocketAddr) {
        if let Some(member) = self.members.remove(&addr) {
            self.ring.remove(&(member.place, addr));
            self.changes.push(Change::Forgotten(addr));
        }
    }
}

/// What a member counts for in the digests: those who are gone do not, because they are forgotten at different times.
fn mark_of(member: &Member) -> u64 {
    member.card.as_ref().filter(|_| member.standing.is_watched()).map_or(0, mark)
}

/// Where an address stands in the ring.
pub(super) fn place(addr: SocketAddr) -> u64 {
    let hash = blake3::hash(format!("waylay ring v1 {addr}").as_bytes());
    let mut place = [0; 8];
    place.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_be_bytes(place)
}
