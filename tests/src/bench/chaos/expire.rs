//! A daemon's certificates expire: while it is stopped, what it has is put aside and one that ended long ago put in its
//! place; and taken back the same way.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use waylay_certs::Identities;
use waylay_certs::identity::{BACKDATE, LIFE};

use crate::fleet::{Daemon, registry};

/// For how long the certificate has been over: longer than any clock here is moved back.
const AGO: Duration = Duration::from_secs(200 * 24 * 3600);

/// What was put aside.
pub(super) struct Aside {
    /// The identities, and where they belong.
    identities: [PathBuf; 2],
    /// What stood in the trust directory. A runtime that read it at its start knows nothing newer.
    trusted: Vec<(PathBuf, Vec<u8>)>,
}

impl Aside {
    /// Puts an expired identity in the place of those of a stopped daemon.
    pub(super) fn put(daemon: &Daemon) -> Result<Self> {
        let place = daemon.state().join("identities");
        let aside = place.with_extension("aside");
        fs::rename(&place, &aside).context("cannot put the identities aside")?;
        let then = SystemTime::now() - LIFE - BACKDATE - AGO;
        Identities::open(&place)?.renew(registry::HOST, then)?;
        Ok(Self { identities: [aside, place], trusted: contents(&daemon.trust_dir())? })
    }

    /// Puts all back into a stopped daemon.
    pub(super) fn take_back(self) -> Result<()> {
        let [aside, place] = self.identities;
        fs::remove_dir_all(&place).context("cannot remove the expired identity")?;
        fs::rename(aside, place).context("cannot put the identities back")?;
        for (path, content) in self.trusted {
            fs::write(&path, content).with_context(|| format!("cannot put {} back", path.display()))?;
        }
        Ok(())
    }
}

fn contents(dir: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.into_iter().map(|path| Ok((path.clone(), fs::read(path)?))).collect()
}
