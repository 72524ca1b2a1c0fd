//! May this client have this digest? What upstream has shown about a credential, and for how long that counts.
//!
//! A digest is authorised for a credential in a repository when upstream itself answered 2xx for it, or when a
//! manifest that is authorised lists it without `urls` and upstream has served it under that very repository to some
//! member. Listing alone is not enough: a registry that accepts manifests with foreign layers lets anyone list any
//! digest. What a manifest passes on ends when its own right does. Nothing here keeps a credential, only a keyed hash of it, and only in memory.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header};
use moka::{Expiry, ops::compute::Op, sync::Cache};

use crate::{
    oci::{
        Digest,
        manifest::{Child, Kind},
    },
    upstream::is_harmless,
};

/// How long upstream's word counts at most.
const FRESH: Duration = Duration::from_secs(300);
/// Grants remembered at most.
const GRANTS: u64 = 200_000;
/// Credential headers longer than this are hashed but not looked into.
const LONGEST_TOKEN: usize = 16 << 10;

/// Whose word counts where: a credential in a repository of a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The registry's name.
    pub registry: Arc<str>,
    /// The repository, with the mirror's namespace in front where the request named one.
    pub repository: Arc<str>,
    credential: Option<[u8; 16]>,
}

impl Scope {
    /// Whether the request carried no credential at all.
    pub fn is_anonymous(&self) -> bool {
        self.credential.is_none()
    }
}

/// What upstream has shown about one digest in one scope.
#[derive(Debug, Clone, Default)]
struct Grant {
    /// Upstream answered 2xx for this very digest, with this size where it is known.
    shown: Option<(Option<u64>, Until)>,
    /// An authorised manifest lists it.
    listed: Option<(Listed, Until)>,
}

/// How long something counts.
#[derive(Debug, Clone, Copy)]
struct Until {
    /// While the registry can be asked.
    fresh: Instant,
    /// While the registry is away.
    kept: Instant,
}

impl Until {
    fn is_fresh(self) -> bool {
        self.fresh > Instant::now()
    }

    fn is_kept(self) -> bool {
        self.kept > Instant::now()
    }

    fn later(self, other: Self) -> Self {
        Self { fresh: self.fresh.max(other.fresh), kept: self.kept.max(other.kept) }
    }
}

impl Grant {
    /// How long anything of it counts.
    fn until(&self) -> Option<Until> {
        let shown = self.shown.as_ref().map(|(_, until)| *until);
        let listed = self.listed.as_ref().map(|(_, until)| *until);
        shown.into_iter().chain(listed).reduce(Until::later)
    }

    /// Whether upstream has shown a blob of `size` bytes, and until when that counts.
    fn shown(&self, size: u64) -> Option<Until> {
        let (shown, until) = self.shown.as_ref()?;
        shown.is_none_or(|shown| shown == size).then_some(*until)
    }

    /// Whether a manifest lists it with `size` bytes, and until when that counts.
    fn listed(&self, size: u64) -> Option<Until> {
        let (listed, until) = self.listed.as_ref()?;
        (listed.size == size).then_some(*until)
    }
}

/// What the listing manifest says of a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its size in bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: Arc<str>,
    /// The layer after it, if it is a layer and not the last.
    pub next: Option<Digest>,
}

/// What is known about a request before upstream is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Upstream has shown this very digest to this credential.
    Shown,
    /// An authorised manifest lists it; provenance decides.
    Listed,
    /// Upstream must be asked.
    Unknown,
}

/// All grants.
pub struct Access {
    grants: Cache<(Scope, Digest), Grant>,
    key: [u8; 32],
    grace: Duration,
}

impl Access {
    /// Remembers nothing yet; `grace` is how long a grant still counts while a registry is away.
    pub fn new(grace: Duration) -> Self {
        Self {
            grants: Cache::builder().max_capacity(GRANTS).expire_after(UntilKept).build(),
            key: rand::random(),
            grace,
        }
    }

    /// The scope of a request, and when its credential expires, if it says so itself. Any header that may be a credential
    /// counts as one: clients can be told to send a registry's key in a header of its own.
    pub fn scope(&self, registry: &str, repository: &str, headers: &HeaderMap) -> (Scope, Option<SystemTime>) {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        let mut told: Vec<_> = headers.iter().filter(|(name, _)| !is_harmless(name)).collect();
        // Values of one name keep their order.
        told.sort_by_key(|(name, _)| name.as_str());
        for (name, value) in &told {
            for part in [name.as_str().as_bytes(), value.as_bytes()] {
                hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes()).update(part);
            }
        }
        let mut credential = [0; 16];
        credential.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        let scope = Scope {
            registry: registry.into(),
            repository: repository.into(),
            credential: (!told.is_empty()).then_some(credential),
        };
        (scope, headers.get(header::AUTHORIZATION).and_then(|value| expiry(value.as_bytes())))
    }

    /// Upstream answered 2xx for `digest`, which is `size` bytes long.
    pub fn show(&self, scope: &Scope, expires: Option<SystemTime>, digest: Digest, size: u64) {
        self.put_shown(scope, digest, (Some(size), self.until(expires)));
    }

    /// Upstream once gave `digest` to somebody without any credential: that counts while it is away, and not a moment more.
    pub fn was_open(&self, scope: &Scope, digest: Digest) {
        let now = Instant::now();
        self.put_shown(scope, digest, (None, Until { fresh: now, kept: now + self.grace }));
    }

    /// Upstream's own answer says that `digest` is this manifest.
    pub fn list(&self, scope: &Scope, expires: Option<SystemTime>, manifest: &Child) {
        self.put_listed(scope, manifest, None, self.until(expires));
    }

    /// The verified manifest `parent` lists `children`; those with `urls` count for nothing, the others for as long as it
    /// does itself.
    pub fn pass_on(&self, scope: &Scope, parent: Digest, children: &[Child]) {
        let Some(until) = self.grants.get(&(scope.clone(), parent)).and_then(|grant| grant.until()) else { return };
        let ours = || children.iter().filter(|child| !child.foreign);
        let layers = || ours().filter(|child| child.kind == Kind::Layer);
        for child in ours().filter(|child| child.kind != Kind::Layer) {
            self.put_listed(scope, child, None, until);
        }
        let after = layers().skip(1).map(|next| Some(next.digest)).chain([None]);
        for (layer, next) in layers().zip(after) {
            self.put_listed(scope, layer, next, until);
        }
    }

    /// What is known now of a digest of `size` bytes, while upstream can be asked.
    pub fn standing(&self, scope: &Scope, digest: Digest, size: u64) -> Standing {
        let Some(grant) = self.grants.get(&(scope.clone(), digest)) else { return Standing::Unknown };
        if grant.shown(size).is_some_and(Until::is_fresh) {
            Standing::Shown
        } else if grant.listed(size).is_some_and(Until::is_fresh) {
            Standing::Listed
        } else {
            Standing::Unknown
        }
    }

    /// What an authorised manifest said of `digest`. It decides nothing about who may have it.
    pub fn listed(&self, scope: &Scope, digest: Digest) -> Option<Listed> {
        Some(self.grants.get(&(scope.clone(), digest))?.listed?.0)
    }

    /// Whether `digest` may be served while the registry is away: what was shown without a credential, or to this
    /// one within the grace. `proven` says whether upstream has served it under this repository to some member.
    pub fn while_away(&self, scope: &Scope, digest: Digest, size: u64, proven: impl Fn() -> bool) -> bool {
        let anonymous = Scope { credential: None, ..scope.clone() };
        [scope, &anonymous].into_iter().any(|scope| match self.grants.get(&(scope.clone(), digest)) {
            Some(grant) => {
                grant.shown(size).is_some_and(Until::is_kept)
                    || (grant.listed(size).is_some_and(Until::is_kept) && proven())
            }
            None => false,
        })
    }

    fn until(&self, expires: Option<SystemTime>) -> Until {
        let now = Instant::now();
        let life = expires.map_or(FRESH, |at| at.duration_since(SystemTime::now()).unwrap_or_default().min(FRESH));
        Until { fresh: now + life, kept: now + self.grace.max(life) }
    }

    fn put_shown(&self, scope: &Scope, digest: Digest, (size, until): (Option<u64>, Until)) {
        self.put(scope, digest, |grant| match &grant.shown {
            Some((_, before)) if before.fresh > until.fresh => {}
            _ => grant.shown = Some((size, until)),
        });
    }

    fn put_listed(&self, scope: &Scope, child: &Child, next: Option<Digest>, until: Until) {
        let listed = Listed { size: child.size, media_type: child.media_type.as_str().into(), next };
        self.put(scope, child.digest, |grant| match &grant.listed {
            Some((_, before)) if before.fresh > until.fresh => {}
            _ => grant.listed = Some((listed, until)),
        });
    }

    fn put(&self, scope: &Scope, digest: Digest, change: impl FnOnce(&mut Grant)) {
        self.grants.entry((scope.clone(), digest)).and_compute_with(|old| {
            let mut grant = old.map(|entry| entry.into_value()).unwrap_or_default();
            change(&mut grant);
            Op::Put(grant)
        });
    }
}

/// When a bearer token says that it expires (RFC 7519, section 4.1.4), unverified: a lie only shortens or fills up
/// to [`FRESH`].
fn expiry(authorization: &[u8]) -> Option<SystemTime> {
    if authorization.len() > LONGEST_TOKEN {
        return None;
    }
    let (scheme, token) = std::str::from_utf8(authorization).ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(claims.get("exp")?.as_f64()?).ok()?)
}

struct UntilKept;

impl Expiry<(Scope, Digest), Grant> for UntilKept {
    fn expire_after_create(&self, _: &(Scope, Digest), grant: &Grant, now: Instant) -> Option<Duration> {
        Some(grant.until()?.kept.saturating_duration_since(now))
    }

    fn expire_after_update(
        &self,
        _: &(Scope, Digest),
        grant: &Grant,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(grant.until()?.kept.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests;
