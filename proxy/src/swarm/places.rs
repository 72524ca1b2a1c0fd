//! How many connections each member has, or orders under way, and how many leases each registry, so that none takes the
//! places of all others.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// All places that are taken.
#[derive(Debug)]
pub(super) struct Places<K>(
    // std: held for a look-up, never across an await.
    Arc<Mutex<HashMap<K, usize>>>,
);

/// One place, until dropped.
#[derive(Debug)]
pub(super) struct Place<K: Eq + Hash> {
    places: Places<K>,
    whose: K,
}

impl<K> Default for Places<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone + Eq + Hash> Places<K> {
    /// One more place for `whose`, unless it has `most` already.
    pub(super) fn take(&self, whose: K, most: usize) -> Option<Place<K>> {
        let mut taken = self.lock();
        let count = taken.entry(whose.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { places: Self(self.0.clone()), whose })
    }
}

impl<K: Eq + Hash> Places<K> {
    /// How many places `whose` has.
    pub(super) fn count(&self, whose: &K) -> usize {
        self.lock().get(whose).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        match taken.get_mut(&self.whose) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.whose)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_has_so_many_places_and_takes_none_of_the_others() {
        let (places, one, two) = (Places::default(), "one", "two");
        let mut held: Vec<_> = (0..3).map_while(|_| places.take(one, 2)).collect();
        assert_eq!(held.len(), 2);
        assert!(places.take(two, 2).is_some());
        assert_eq!((places.count(&one), places.count(&two)), (2, 0));
        held.pop();
        assert!(places.take(one, 2).is_some());
        held.clear();
        assert!(places.lock().is_empty());
    }
}
