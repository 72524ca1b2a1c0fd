//! What happens next: a heap of events by time, and by the order in which they were made.

use std::{cmp::Ordering, collections::BinaryHeap};

/// The events to come.
#[derive(Debug)]
pub(super) struct Queue<T> {
    heap: BinaryHeap<Entry<T>>,
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
        Self { heap: BinaryHeap::new(), made: 0 }
    }
}

impl<T> Queue<T> {
    /// `event` happens at `at`, in nanoseconds.
    pub(super) fn push(&mut self, at: u64, event: T) {
        self.made += 1;
        self.heap.push(Entry { at, number: self.made, event });
    }

    /// The next event and its time.
    pub(super) fn pop(&mut self) -> Option<(u64, T)> {
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }

    /// When the next event is.
    pub(super) fn next(&self) -> Option<u64> {
        self.heap.peek().map(|entry| entry.at)
    }

    /// How many events there were so far.
    pub(super) fn made(&self) -> u64 {
        self.made
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
