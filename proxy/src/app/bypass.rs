//! Destinations that the operator wants left alone, some of them for a time: in a file, so that they outlast a restart, in the
//! kernel's map and in the list that names are looked up in.

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use waylay_certs::durable;

use crate::{
    admin::{
        bypass::{Destination, now},
        status::Bypassed,
    },
    intercept::Intercept,
    tls::Listing,
};

/// Destinations by when they end, in seconds since 1970; `None` does not end.
type Entries = BTreeMap<Destination, Option<u64>>;

/// Far below what the kernel's map holds beside the configuration's.
const MOST: usize = 1024;

/// What is left alone, and those who are told.
pub(super) struct Bypass {
    guard: Option<Arc<Intercept>>,
    listing: Listing,
    file: PathBuf,
    configured: Vec<SocketAddr>,
    // std: held while a small file is written, off the async threads.
    entries: Mutex<Entries>,
}

impl Bypass {
    /// As it was left in `file`, beside what the configuration says. A file that cannot be read is as none, and said so.
    pub(super) fn new(
        guard: Option<Arc<Intercept>>,
        listing: Listing,
        file: PathBuf,
        configured: Vec<SocketAddr>,
    ) -> Self {
        let entries = read(&file).unwrap_or_else(|error| {
            tracing::error!(%error, file = %file.display(), "what is to be bypassed cannot be read; nothing is");
            Entries::new()
        });
        let bypass = Self { guard, listing, file, configured, entries: Mutex::default() };
        if let Err(error) = bypass.apply(&mut bypass.entries(), entries) {
            tracing::error!(%error, "what is to be bypassed cannot be told to the kernel");
        }
        bypass.end_what_is_due();
        bypass
    }

    /// All of it, those of the configuration first.
    pub(super) fn list(&self) -> Vec<Bypassed> {
        let configured = self.configured.iter().map(|address| Bypassed {
            destination: address.to_string(),
            origin: "configuration".to_owned(),
            until: None,
        });
        configured.chain(self.entries().iter().map(|(destination, until)| shown(destination, *until))).collect()
    }

    pub(super) fn add(&self, destination: Destination, until: Option<u64>) -> io::Result<Bypassed> {
        let mut entries = self.entries();
        let mut wanted = entries.clone();
        let told = shown(&destination, until);
        wanted.insert(destination, until);
        if wanted.len() > MOST {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{MOST} are bypassed already")));
        }
        self.change(&mut entries, wanted)?;
        tracing::info!(destination = told.destination, "bypassed by the operator");
        Ok(told)
    }

    pub(super) fn remove(&self, destination: &Destination) -> io::Result<()> {
        let mut entries = self.entries();
        let mut wanted = entries.clone();
        if wanted.remove(destination).is_none() {
            let configured = matches!(destination, Destination::Address(address) if self.configured.contains(address));
            let why = if configured {
                "is bypassed by the configuration (intercept.bypass); take it out there, then restart waylay"
            } else {
                "is not bypassed; `waylay bypass ls` shows what is"
            };
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{destination} {why}")));
        }
        self.change(&mut entries, wanted)?;
        tracing::info!(%destination, "no longer bypassed");
        Ok(())
    }

    /// Ends those whose time is over. Call it every now and then.
    pub(super) fn end_what_is_due(&self) {
        let mut entries = self.entries();
        let mut wanted = entries.clone();
        let now = now();
        wanted.retain(|_, until| until.is_none_or(|until| until > now));
        if wanted.len() < entries.len()
            && let Err(error) = self.change(&mut entries, wanted)
        {
            tracing::error!(%error, "the time to bypass a destination is over, but that cannot be done");
        }
    }

    /// Remembered before it is carried out.
    fn change(&self, entries: &mut Entries, wanted: Entries) -> io::Result<()> {
        write(&self.file, &wanted)?;
        self.apply(entries, wanted)
    }

    fn apply(&self, entries: &mut Entries, wanted: Entries) -> io::Result<()> {
        let address = |one: &Destination| match one {
            Destination::Address(address) => Some(*address),
            Destination::Name(_) => None,
        };
        let name = |one: &Destination| match one {
            Destination::Name(name) => Some(name.clone()),
            Destination::Address(_) => None,
        };
        if let Some(guard) = &self.guard {
            let addresses = self.configured.iter().copied().chain(wanted.keys().filter_map(address)).collect();
            guard.set_bypass(&addresses).map_err(io::Error::other)?;
        }
        self.listing.bypass(wanted.keys().filter_map(name).collect());
        *entries = wanted;
        Ok(())
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shown(destination: &Destination, until: Option<u64>) -> Bypassed {
    Bypassed { destination: destination.to_string(), origin: "operator".to_owned(), until }
}

fn read(file: &Path) -> io::Result<Entries> {
    match fs::read(file) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Entries::new()),
        Err(error) => Err(error),
    }
}

/// Whole at all times: what an operator took out of the way must not come back because something crashed.
fn write(file: &Path, entries: &Entries) -> io::Result<()> {
    durable::write(file, &serde_json::to_vec(entries)?, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(file: &Path) -> (Bypass, Listing) {
        let listing = Listing::default();
        (Bypass::new(None, listing.clone(), file.to_owned(), vec![([192, 0, 2, 9], 443).into()]), listing)
    }

    #[test]
    fn what_is_bypassed_stays_so_over_a_restart_and_ends_when_its_time_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bypass.json");
        let (bypass, listing) = open(&file);
        let (name, address) = ("r.test:5000".parse().unwrap(), "192.0.2.1".parse::<Destination>().unwrap());
        let later = now() + 3600;
        bypass.add(Destination::Name(name), Some(later)).unwrap();
        bypass.add(address.clone(), None).unwrap();
        bypass.end_what_is_due();
        let name = "r.test:5000".parse().unwrap();
        assert!(listing.is_bypassed(&name));

        let (again, listing) = open(&file);
        let told: Vec<_> = again.list().into_iter().map(|one| (one.destination, one.origin, one.until)).collect();
        let operator = |destination: &str, until| (destination.to_owned(), "operator".to_owned(), until);
        let configured = ("192.0.2.9:443".to_owned(), "configuration".to_owned(), None);
        assert_eq!(told, [configured, operator("192.0.2.1:443", None), operator("r.test:5000", Some(later))]);
        assert!(listing.is_bypassed(&name));
        again.add(Destination::Name(name.clone()), Some(now())).unwrap();
        again.end_what_is_due();
        assert!(!listing.is_bypassed(&name));
        again.remove(&address).unwrap();
        assert_eq!(open(&file).0.list().len(), 1, "the configuration's");
        assert_eq!(again.remove(&address).unwrap_err().kind(), io::ErrorKind::NotFound);
        let error = again.remove(&"192.0.2.9".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("intercept.bypass"), "{error}");
    }

    #[test]
    fn a_damaged_file_bypasses_nothing_and_can_be_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bypass.json");
        fs::write(&file, "{").unwrap();
        let (bypass, _) = open(&file);
        assert_eq!(bypass.list().len(), 1);
        bypass.add("r.test".parse().unwrap(), None).unwrap();
        assert_eq!(open(&file).0.list().len(), 2);
    }
}
