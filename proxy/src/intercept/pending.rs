//! Connections on their way from `connect()` to `accept()`, as the hooks remember them.

use std::time::Duration;

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError},
};
use waylay_abi::{Remembered, Tuple};

/// Both maps: a place in the first is a reservation made in `connect()`, an entry in the second is what `accept()` finds.
pub(super) struct Pending {
    by_cookie: HashMap<MapData, u64, Remembered>,
    by_tuple: HashMap<MapData, Tuple, Remembered>,
}

impl Pending {
    pub(super) fn new(by_cookie: Map, by_tuple: Map) -> Result<Self, MapError> {
        Ok(Self { by_cookie: HashMap::try_from(by_cookie)?, by_tuple: HashMap::try_from(by_tuple)? })
    }

    /// What is remembered of a connection, once: it is forgotten with this call.
    pub(super) fn take(&mut self, tuple: &Tuple) -> Result<Option<Remembered>, MapError> {
        let entry = match self.by_tuple.get(tuple, 0) {
            Ok(entry) => entry,
            Err(MapError::KeyNotFound) => return Ok(None),
            Err(other) => return Err(other),
        };
        remove(&mut self.by_tuple, tuple)?;
        remove(&mut self.by_cookie, &entry.cookie)?;
        Ok(Some(entry))
    }

    /// Forgets connections that were never accepted and have become older than `age`: their `connect()` failed after
    /// the hook, or they died in the queue. `now` is `CLOCK_MONOTONIC` in nanoseconds. Returns how many places it freed.
    pub(super) fn sweep(&mut self, now: u64, age: Duration) -> Result<usize, MapError> {
        let limit = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        let old = |entry: &Remembered| now.saturating_sub(entry.at) > limit;
        let freed = sweep(&mut self.by_cookie, old)?;
        sweep(&mut self.by_tuple, old)?;
        Ok(freed)
    }
}

fn sweep<K: Pod>(map: &mut HashMap<MapData, K, Remembered>, old: impl Fn(&Remembered) -> bool) -> Result<usize, MapError> {
    // An error means that the entry went while we looked.
    let stale: Vec<K> = map.iter().flatten().filter(|(_, entry)| old(entry)).map(|(key, _)| key).collect();
    for key in &stale {
        remove(map, key)?;
    }
    Ok(stale.len())
}

/// Removes an entry that the kernel may have removed meanwhile.
fn remove<K: Pod>(map: &mut HashMap<MapData, K, Remembered>, key: &K) -> Result<(), MapError> {
    match map.remove(key) {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(other) => Err(other),
    }
}
