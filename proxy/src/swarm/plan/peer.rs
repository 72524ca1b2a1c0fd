//! What a plan knows of one peer.

use std::time::{Duration, Instant};

use fixedbitset::FixedBitSet;

/// A peer that failed so often, or was too slow so much more often than it gave something, is not asked again.
const STRIKES: u32 = 3;
/// One that was busy so often in a row, for more than a second, is asked on and no longer counted on.
const OVERRUN: u32 = 6;
/// One that was busy is left alone for so long, doubled each time in a row up to the second.
const REST: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(640));
/// Pieces in one word of a set.
const WORD: usize = usize::BITS as usize;

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) has: FixedBitSet,
    /// How many that are.
    count: u32,
    /// Never asked of it again; empty until something fails.
    failed: FixedBitSet,
    pub(super) near: bool,
    pub(super) open: u32,
    strikes: u32,
    /// How often in a row it was busy, and until when it is left alone for that.
    pub(super) refused: u32,
    pub(super) rests_until: Option<Instant>,
    /// How much more often it was too slow than it gave something, and when that last was.
    pub(super) lags: u32,
    lagged: Option<Instant>,
    /// Usual time of a piece; `None` before the first.
    pub(super) usual: Option<Duration>,
}

impl Peer {
    /// One that has nothing yet, of a blob with so many pieces.
    pub(super) fn new(pieces: usize, near: bool) -> Self {
        let has = FixedBitSet::with_capacity(pieces);
        let failed = FixedBitSet::new();
        Self {
            has,
            count: 0,
            failed,
            near,
            open: 0,
            strikes: 0,
            refused: 0,
            rests_until: None,
            lags: 0,
            lagged: None,
            usual: None,
        }
    }

    /// It has these now; what that changes is counted in `holders`.
    pub(super) fn set(&mut self, has: &FixedBitSet, holders: &mut [u16]) {
        let (failed, size) = (self.failed.as_slice(), self.has.len());
        // A crowd tells often and little, so whole words are compared.
        for (word, old) in self.has.as_mut_slice().iter_mut().enumerate() {
            let at = |words: &[usize]| words.get(word).copied().unwrap_or_default();
            let new = at(has.as_slice()) & !at(failed);
            if new == *old {
                continue;
            }
            let new = new & usize::MAX >> (WORD - (size - word * WORD).min(WORD));
            for bit in bits(*old ^ new) {
                let holders = &mut holders[word * WORD + bit];
                let more = new >> bit & 1 == 1;
                *holders = if more { holders.saturating_add(1) } else { holders.saturating_sub(1) };
            }
            self.count = self.count + new.count_ones() - old.count_ones();
            *old = new;
        }
    }

    /// It did not give this piece, and is not asked for it again.
    pub(super) fn fail(&mut self, index: usize, holders: &mut [u16]) {
        self.failed.grow(self.has.len());
        self.failed.insert(index);
        if self.has.contains(index) {
            self.has.remove(index);
            self.count -= 1;
            holders[index] = holders[index].saturating_sub(1);
        }
        self.strikes += 1;
        if !self.is_asked() {
            self.leave(holders);
        }
    }

    /// It was busy.
    pub(super) fn rest(&mut self, now: Instant) {
        // What else it refuses meanwhile was asked at the same time.
        if self.rests(now) {
            return;
        }
        self.rests_until = Some(now + (REST.0 * 2u32.pow(self.refused.min(5))).min(REST.1));
        self.refused += 1;
    }

    /// A request made at `since` took too long. What it was asked for longer belongs to the same lag.
    pub(super) fn lag(&mut self, since: Instant, now: Instant, holders: &mut [u16]) {
        if self.lagged.is_some_and(|lagged| since < lagged) {
            return;
        }
        (self.lags, self.lagged, self.rests_until) = (self.lags + 1, Some(now), Some(now + REST.1));
        if self.lags >= STRIKES {
            self.leave(holders);
        }
    }

    /// Whether what it has may never come.
    pub(super) fn is_overrun(&self) -> bool {
        self.refused >= OVERRUN
    }

    /// Whether it was busy a moment ago.
    pub(super) fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    /// It is not asked again.
    pub(super) fn leave(&mut self, holders: &mut [u16]) {
        self.strikes = STRIKES;
        for index in self.has.ones() {
            holders[index] = holders[index].saturating_sub(1);
        }
        self.has.clear();
        self.count = 0;
    }

    /// Whether it did not fail too often.
    pub(super) fn is_asked(&self) -> bool {
        self.strikes < STRIKES
    }

    /// Whether it has anything.
    pub(super) fn is_usable(&self) -> bool {
        self.count > 0
    }

    /// Those of `todo` that it may be asked for, lowest first.
    pub(super) fn among<'a>(
        &'a self,
        todo: &'a FixedBitSet,
        imports: &'a FixedBitSet,
    ) -> impl Iterator<Item = usize> + 'a {
        let words = todo.as_slice().iter().zip(self.has.as_slice()).zip(imports.as_slice()).enumerate();
        words.flat_map(|(word, ((todo, has), imports))| {
            let may = if self.near { usize::MAX } else { *imports };
            bits(todo & has & may).map(move |bit| word * WORD + bit)
        })
    }
}

/// The bits that are set, lowest first.
fn bits(word: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(word), |word| Some(word & word.wrapping_sub(1)))
        .take_while(|word| *word != 0)
        .map(|word| word.trailing_zeros() as usize)
}
