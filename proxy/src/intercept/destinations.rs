//! Where caught connections wanted to go, for a process beside the daemon that has been handed the map.

use std::{net::SocketAddr, os::fd::OwnedFd};

use aya::maps::{HashMap, Map, MapData, MapError};
use waylay_abi::{Remembered, Tuple};

use crate::accept::{ClientAddr, OrigDst};

/// The map of caught connections.
pub struct Destinations(HashMap<MapData, Tuple, Remembered>);

impl Destinations {
    /// The map behind a descriptor of it.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, MapError> {
        Ok(Self(HashMap::try_from(Map::HashMap(MapData::from_fd(fd)?))?))
    }

    /// Where the connection from `client` to the listener at `local` wanted to go, once; `None` when it was not caught.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn take(&mut self, client: ClientAddr, local: SocketAddr) -> Result<Option<OrigDst>, MapError> {
        let key = Tuple { source: client.0.ip().into(), port: client.0.port(), proxy_port: local.port() };
        let entry = match self.0.get(&key, 0) {
            Ok(entry) => entry,
            Err(MapError::KeyNotFound) => return Ok(None),
            Err(other) => return Err(other),
        };
        // Its place is swept by the daemon, or goes with it. A trial is the daemon's own.
        Ok((entry.trial == 0).then(|| OrigDst(entry.destination.into())))
    }
}
