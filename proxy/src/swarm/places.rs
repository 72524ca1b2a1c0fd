//! How many connections each member has, or orders under way, so that none takes the places of all others.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// All places that are taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(
    // std: held for a look-up, never across an await.
    Arc<Mutex<HashMap<SocketAddr, usize>>>,
);

/// One place, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    member: SocketAddr,
}

impl Places {
    /// One more place for `member`, unless it has `most` already.
    pub(super) fn take(&self, member: SocketAddr, most: usize) -> Option<Place> {
        let mut taken = self.lock();
        let count = taken.entry(member).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { places: self.clone(), member })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        match taken.get_mut(&self.member) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.member)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_has_so_many_places_and_takes_none_of_the_others() {
        let (places, one, two) = (Places::default(), ([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 1).into());
        let mut held: Vec<_> = (0..3).map_while(|_| places.take(one, 2)).collect();
        assert_eq!(held.len(), 2);
        assert!(places.take(two, 2).is_some());
        held.pop();
        assert!(places.take(one, 2).is_some());
        held.clear();
        assert!(places.lock().is_empty());
    }
}
