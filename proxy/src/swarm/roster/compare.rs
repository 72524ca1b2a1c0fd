//! Comparing two tables: a digest for each of [`BUCKETS`] parts of the ring over who lives there, and for the parts that
//! differ all that is known, some parts at a time. A joiner differs in all of them, and so gets everybody.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use super::{Roster, Standing, table::place};
use crate::swarm::{
    frame::{Compare, Differ, MAX_NEWS, MAX_ZONE},
    news::{Card, News},
};

/// Parts of the ring.
pub(crate) const BUCKETS: usize = 256;
/// What the news in one answer may take, in bytes, so that they fit a frame.
const MAX_BYTES: usize = 48 << 10;
/// What news of one kind and the other take at most, in bytes, without the zone.
const CARD: usize = 130;
const GONE: usize = 240;
/// Before all others in the ring.
const LOWEST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl Roster {
    /// All digests in one.
    pub(crate) fn digest(&self) -> u64 {
        self.digests.iter().fold(0, |all, digest| all ^ digest)
    }

    /// The question that a comparison begins with, and goes on with from a later bucket.
    pub(crate) fn compare(&self, from: u16) -> Compare {
        Compare { from, digests: self.digests.clone() }
    }

    /// What this node knows of the parts that differ, as much as fits a frame.
    pub(crate) fn differ(&self, theirs: &Compare) -> Differ {
        let mut differ = Differ { buckets: Vec::new(), news: Vec::new(), next: theirs.from };
        let mut bytes = 0;
        for bucket in usize::from(theirs.from)..BUCKETS {
            if theirs.digests.get(bucket) != self.digests.get(bucket) {
                let mut news = self.known_in(bucket);
                news.truncate(MAX_BYTES / (GONE + MAX_ZONE));
                let length: usize = news.iter().map(length).sum();
                if bytes + length > MAX_BYTES || differ.news.len() + news.len() > MAX_NEWS {
                    return differ;
                }
                bytes += length;
                differ.news.extend(news);
                differ.buckets.push(bucket as u8);
            }
            differ.next = bucket as u16 + 1;
        }
        differ
    }

    /// What this node knows of those parts and the other does not.
    pub(crate) fn lacking(&self, theirs: &Differ) -> Vec<News> {
        let known: HashSet<_> = theirs.news.iter().map(essence).collect();
        let ours = theirs.buckets.iter().flat_map(|bucket| self.known_in(usize::from(*bucket)));
        ours.filter(|news| !known.contains(&essence(news))).collect()
    }

    fn known_in(&self, bucket: usize) -> Vec<News> {
        let here =
            self.ring.range(((bucket as u64) << 56, LOWEST)..).take_while(|(place, _)| self::bucket(*place) == bucket);
        let known = here.filter_map(|(_, addr)| {
            let member = self.members.get(addr)?;
            match (member.standing, &member.verdict) {
                (Standing::Gone, Some(verdict)) => Some(News::Gone((**verdict).clone())),
                _ => Some(News::Is(member.card.clone()?)),
            }
        });
        let own = (self::bucket(place(self.card.addr)) == bucket).then(|| News::Is(self.card.clone()));
        own.into_iter().chain(known).collect()
    }
}

fn length(news: &News) -> usize {
    let length = if matches!(news, News::Is(_)) { CARD } else { GONE };
    length + news.card().zone.len()
}

fn essence(news: &News) -> (SocketAddr, (u64, u64), bool) {
    (news.card().addr, news.card().version(), matches!(news, News::Gone(_)))
}

/// The part of the ring that a place is in.
pub(super) fn bucket(place: u64) -> usize {
    (place >> 56) as usize
}

/// What a living member counts for.
pub(super) fn mark(card: &Card) -> u64 {
    let hash = blake3::hash(format!("waylay mark v1 {} {} {}", card.addr, card.count, card.boot).as_bytes());
    let mut mark = [0; 8];
    mark.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_be_bytes(mark)
}
