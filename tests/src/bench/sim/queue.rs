//! What happens next: events by time, and by the order in which they were made. Those of the present moment are in a heap
//! that the processor's cache holds; the others are thrown into moments to come, as in a calendar (Brown, CACM 1988).

use std::{cmp::Ordering, collections::BinaryHeap};

/// How long a moment is, in nanoseconds.
const MOMENT: u64 = 1 << 17;
/// So many moments are in the calendar: half a second.
const MOMENTS: u64 = 1 << 12;

/// The events to come.
#[derive(Debug)]
pub(super) struct Queue<T> {
    /// The present one.
    moment: u64,
    present: BinaryHeap<Entry<T>>,
    calendar: Vec<Vec<Entry<T>>>,
    /// How many events are in the calendar.
    noted: usize,
    /// Beyond the calendar.
    far: BinaryHeap<Entry<T>>,
    made: u64,
}

#[derive(Debug)]
struct Entry<T> {
    at: u64,
    number: u64,
    event: T,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let calendar = (0..MOMENTS).map(|_| Vec::new()).collect();
        Self { moment: 0, present: BinaryHeap::new(), calendar, noted: 0, far: BinaryHeap::new(), made: 0 }
    }
}

impl<T> Queue<T> {
    /// `event` happens at `at`, in nanoseconds.
    pub(super) fn push(&mut self, at: u64, event: T) {
        self.made += 1;
        self.put(Entry { at, number: self.made, event });
    }

    /// The next event and its time.
    pub(super) fn pop(&mut self) -> Option<(u64, T)> {
        self.go_on();
        self.present.pop().map(|entry| (entry.at, entry.event))
    }

    /// When the next event is.
    pub(super) fn next(&mut self) -> Option<u64> {
        self.go_on();
        self.present.peek().map(|entry| entry.at)
    }

    /// How many events there were so far.
    pub(super) fn made(&self) -> u64 {
        self.made
    }

    fn put(&mut self, entry: Entry<T>) {
        match entry.at / MOMENT {
            moment if moment <= self.moment => self.present.push(entry),
            moment if moment < self.moment + MOMENTS => {
                self.calendar[(moment % MOMENTS) as usize].push(entry);
                self.noted += 1;
            }
            _ => self.far.push(entry),
        }
    }

    /// To the next moment in which something happens.
    fn go_on(&mut self) {
        while self.present.is_empty() {
            let far = self.far.peek().map(|entry| entry.at / MOMENT);
            self.moment = match far {
                Some(moment) if self.noted == 0 => moment,
                None if self.noted == 0 => return,
                _ => self.moment + 1,
            };
            let due = &mut self.calendar[(self.moment % MOMENTS) as usize];
            self.noted -= due.len();
            self.present.extend(due.drain(..));
            while self.far.peek().is_some_and(|entry| entry.at / MOMENT < self.moment + MOMENTS) {
                self.far.pop().into_iter().for_each(|entry| self.put(entry));
            }
        }
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    /// The earliest is the greatest, for the heap.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_in_which_they_were_made() {
        let (mut queue, mut random) = (Queue::default(), StdRng::seed_from_u64(1));
        let (mut now, mut came) = (0, Vec::new());
        for number in 0..20_000_u64 {
            // This moment, one of the calendar, and beyond it.
            let within = [4, MOMENT, MOMENT * MOMENTS * 3][random.random_range(0..3)];
            queue.push(now + random.random_range(0..within), number);
            if random.random_bool(0.4) {
                let next = queue.next();
                let (at, number) = queue.pop().unwrap();
                assert_eq!(next, Some(at));
                assert!(at >= now);
                now = at;
                came.push((at, number));
            }
        }
        came.extend(std::iter::from_fn(|| queue.pop()));
        assert_eq!(came.len(), 20_000);
        assert!(came.is_sorted());
        assert_eq!(queue.next(), None);
    }
}
