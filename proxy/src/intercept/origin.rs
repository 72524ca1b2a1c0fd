//! The kernel's answer to the accept loop: where a connection wanted to go, and whose it is.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use aya::{Ebpf, maps::MapError};
use waylay_abi::{Comm, Remembered, Tuple, map};

use super::{lock, object, owner, pending::Pending, pidns::Pids, selftest::Sightings, settings::SettingsMap};
use crate::accept::{Caught, ClientAddr, OrigDst, Origin};

/// What the guard and the accept loop's [`KernelOrigin`] both hold.
pub(super) struct Shared {
    settings: Mutex<SettingsMap>,
    pending: Mutex<Pending>,
    pub(super) sightings: Sightings,
    pids: Pids,
}

impl Shared {
    pub(super) fn new(ebpf: &mut Ebpf, pids: Pids) -> Result<Self, object::LoadError> {
        let settings = SettingsMap::new(object::map(ebpf, map::SETTINGS)?)?;
        let pending = Pending::new(object::map(ebpf, map::BY_COOKIE)?, object::map(ebpf, map::BY_TUPLE)?)?;
        Ok(Self { settings: Mutex::new(settings), pending: Mutex::new(pending), sightings: Sightings::default(), pids })
    }

    pub(super) fn settings(&self) -> MutexGuard<'_, SettingsMap> {
        lock(&self.settings)
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        lock(&self.pending)
    }

    /// Our own trial came through: it tells which namespace we are in and under which number the hooks know us.
    fn learn(&self, entry: &Remembered) -> Result<(), MapError> {
        self.settings().change(|settings| {
            settings.netns = entry.netns;
            settings.own_tgid = entry.tgid;
        })?;
        self.sightings.saw(entry.cookie);
        Ok(())
    }
}

/// [`Origin`] over the kernel's maps.
#[derive(Clone)]
pub struct KernelOrigin {
    shared: Arc<Shared>,
}

impl KernelOrigin {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Origin for KernelOrigin {
    fn of(&self, client: ClientAddr, local: SocketAddr) -> io::Result<Option<Caught>> {
        let key = Tuple { source: client.0.ip().into(), port: client.0.port(), proxy_port: local.port() };
        let found = self.shared.pending().take(&key).map_err(io::Error::other)?;
        let Some(entry) = found else { return Ok(None) };
        if entry.trial != 0 {
            self.shared.learn(&entry).map_err(io::Error::other)?;
            return Ok(None);
        }
        Ok(Some(Caught {
            dst: OrigDst(entry.destination.into()),
            pid: self.shared.pids.visible(entry.tgid).or_else(|| owner::find(client.0, local)),
            comm: text(&entry.comm),
        }))
    }
}

/// A task's name as text.
fn text(comm: &Comm) -> String {
    let end = comm.iter().position(|&byte| byte == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(&comm[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_at_its_nul() {
        assert_eq!(text(b"containerd\0\0\0\0\0\0"), "containerd");
        assert_eq!(text(b"sixteen-bytes-ok"), "sixteen-bytes-ok");
        assert_eq!(text(&[0; 16]), "");
    }
}
