//! The registries in force and their certificates: as configured, and changed while the daemon runs.

use std::{
    collections::HashSet,
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use waylay_certs::{Identities, Manifest, Publish, Purpose, RegistryName};

use crate::{
    admin::status::{Certificate, Reloaded},
    config::Config,
    intercept::{Intercept, Targets},
    tls::{Listed, Listing},
};

/// How often certificates are looked at for a due successor.
const PUBLISH: Duration = Duration::from_secs(3600);

/// What can be changed without a restart.
pub(super) struct Registries {
    file: PathBuf,
    identities: Arc<Identities>,
    listing: Listing,
    guard: Option<Arc<Intercept>>,
    // std: held while files are written, by one at a time, off the async threads.
    config: Mutex<Config>,
}

impl Registries {
    pub(super) fn new(
        config: Config,
        file: PathBuf,
        identities: Arc<Identities>,
        listing: Listing,
        guard: Option<Arc<Intercept>>,
    ) -> Self {
        Self { file, identities, listing, guard, config: Mutex::new(config) }
    }

    /// Those that are in force, by name.
    pub(super) fn names(&self) -> Vec<String> {
        let listed = self.listing.now();
        let mut names: Vec<String> = listed.tls.iter().chain(&listed.plain).map(ToString::to_string).collect();
        names.sort_unstable();
        names
    }

    /// Whether one is in force, and if so, whether it speaks plain HTTP.
    pub(super) fn is_plain(&self, name: &RegistryName) -> Option<bool> {
        let listed = self.listing.now();
        if listed.plain.contains(name) { Some(true) } else { listed.tls.contains(name).then_some(false) }
    }

    /// Reads the configuration again. A registry is trusted before it is caught, and no longer caught before it is no longer
    /// trusted, so that no pull fails in between; connections that are open go on.
    pub(super) fn reload(&self) -> io::Result<Reloaded> {
        let wanted = Config::load(&self.file).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let mut config = self.config();
        let (before, after) = (listed(&config), listed(&wanted));
        let both = |one: &HashSet<_>, other: &HashSet<_>| one.intersection(other).cloned().collect();
        self.listing.set(Listed { tls: both(&before.tls, &after.tls), plain: both(&before.plain, &after.plain) });
        let restart = differing(&config, &wanted);
        (config.registries, config.plain_http) = (wanted.registries, wanted.plain_http);
        let published = publish(&config, &self.identities).map_err(io::Error::other);
        if let Some(guard) = &self.guard {
            let ports = Targets::for_ports(after.tls.iter().chain(&after.plain).map(|name| name.port)).ports;
            guard.set_ports(&ports).map_err(io::Error::other)?;
        }
        self.listing.set(after);
        published?;
        tracing::info!(registries = ?self.names(), "the list of registries was read again");
        Ok(Reloaded { registries: self.names(), restart })
    }

    /// Our certificates for the listed registries, those that are in use.
    pub(super) fn certificates(&self) -> io::Result<Vec<Certificate>> {
        let config = self.config();
        let manifest = Manifest::open(config.manifest()).map_err(io::Error::other)?;
        let files: Vec<(PathBuf, String)> = manifest
            .files(Purpose::Certificate)
            .into_iter()
            .filter_map(|file| Some((file.clone(), fs::read_to_string(file).ok()?)))
            .collect();
        let mut hosts: Vec<&String> = config.registries.iter().map(|name| &name.host).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let mut found = Vec::new();
        for host in hosts {
            for identity in self.identities.all(host).iter().filter(|one| one.is_valid(SystemTime::now())) {
                let pem = identity.pem();
                let stands = |(file, text): &(PathBuf, String)| text.contains(&pem).then(|| file.display().to_string());
                found.push(Certificate {
                    host: host.clone(),
                    fingerprint: hex::encode(identity.fingerprint()),
                    not_before: seconds(identity.not_before()),
                    not_after: seconds(identity.not_after()),
                    files: files.iter().filter_map(stands).collect(),
                });
            }
        }
        Ok(found)
    }

    /// Makes further certificates for a host, or all, and publishes them beside those that are there: a process that knows
    /// only those is served with them. With `withdraw` those are taken back and their keys deleted: such a process is passed
    /// through from now on.
    pub(super) fn rotate(&self, host: Option<&str>, withdraw: bool) -> io::Result<Vec<Certificate>> {
        {
            let config = self.config();
            let mut hosts: Vec<&str> = config.registries.iter().map(|name| name.host.as_str()).collect();
            hosts.retain(|one| host.is_none_or(|host| host == *one));
            hosts.sort_unstable();
            hosts.dedup();
            if let (Some(host), true) = (host, hosts.is_empty()) {
                let text =
                    format!("{host} is not listed, so it has no certificate; `waylay registry ls` shows what is");
                return Err(io::Error::new(io::ErrorKind::NotFound, text));
            }
            for host in hosts {
                let now = SystemTime::now();
                let made = if withdraw { self.identities.replace(host, now) } else { self.identities.renew(host, now) };
                made.map_err(io::Error::other)?;
            }
            publish(&config, &self.identities).map_err(io::Error::other)?;
        }
        let all = self.certificates()?;
        Ok(all.into_iter().filter(|one| host.is_none_or(|host| host == one.host)).collect())
    }

    /// Successors are made and published in time for the last of the old ones.
    pub(super) async fn republish(self: Arc<Self>) {
        let mut every = tokio::time::interval(PUBLISH);
        every.tick().await;
        loop {
            every.tick().await;
            let this = self.clone();
            let published = tokio::task::spawn_blocking(move || publish(&this.config(), &this.identities)).await;
            if let Ok(Err(error)) = published {
                tracing::error!(%error, "cannot publish certificates; those in use go on until they expire");
            }
        }
    }

    fn config(&self) -> MutexGuard<'_, Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a configuration lists.
pub(super) fn listed(config: &Config) -> Listed {
    Listed { tls: config.registries.iter().cloned().collect(), plain: config.plain_http.iter().cloned().collect() }
}

/// Sections of a configuration, other than the registries, that differ and that only a restart reads.
fn differing(one: &Config, other: &Config) -> Vec<String> {
    let sections = |config: &Config| serde_json::to_value(config).ok()?.as_object().cloned();
    let (Some(one), Some(other)) = (sections(one), sections(other)) else { return Vec::new() };
    let live = |key: &String| key == "registries" || key == "plain_http";
    one.iter().filter(|(key, value)| !live(key) && other.get(*key) != Some(value)).map(|(key, _)| key.clone()).collect()
}

pub(super) fn publish(config: &Config, identities: &Identities) -> anyhow::Result<()> {
    let registries: Vec<RegistryName> = config.registries.clone();
    let wanted = Publish { trust_dir: config.trust.directory.clone(), certs_d: config.trust.certs_d.clone() };
    let mut manifest = Manifest::open(config.manifest())?;
    let report = waylay_certs::publish(identities, &registries, &wanted, &mut manifest)?;
    for file in &report.written {
        tracing::info!(file = %file.display(), "published a certificate");
    }
    for file in &report.withdrawn {
        tracing::info!(file = %file.display(), "withdrew a certificate");
    }
    for skipped in &report.skipped {
        tracing::warn!(directory = %skipped.dir.display(), why = %skipped.why, "published no certificate");
    }
    Ok(())
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
