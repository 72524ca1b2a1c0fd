//! May this client have this digest? What upstream has shown about a credential, and for how long that counts.
//!
//! A digest is authorised for a credential in a repository when upstream itself answered 2xx for it, or when a
//! manifest that is authorised lists it without `urls` and upstream has served it under that very repository to some
//! member. Listing alone is not enough: a registry that accepts manifests with foreign layers lets anyone list any
//! digest. Nothing here keeps a credential, only a keyed hash of it, and only in memory.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header};
use moka::{Expiry, ops::compute::Op, sync::Cache};

use crate::oci::{Digest, manifest::Child};

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
#[derive(Debug, Clone)]
struct Grant {
    /// Upstream answered 2xx for this very digest.
    shown: bool,
    /// An authorised manifest lists it.
    listed: Option<Listed>,
    /// Until when this counts while the registry can be asked.
    fresh: Instant,
    /// Until when it counts while the registry is away.
    kept: Instant,
}

/// What the listing manifest says of a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its size in bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: Arc<str>,
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

    /// The scope of a request, and when its credential expires, if it says so itself.
    pub fn scope(&self, registry: &str, repository: &str, headers: &HeaderMap) -> (Scope, Option<SystemTime>) {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        let mut anonymous = true;
        for name in [header::AUTHORIZATION, header::COOKIE] {
            for value in headers.get_all(&name) {
                anonymous = false;
                hasher.update(&u64::try_from(value.len()).unwrap_or(u64::MAX).to_le_bytes());
                hasher.update(name.as_str().as_bytes()).update(value.as_bytes());
            }
        }
        let mut credential = [0; 16];
        credential.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        let scope = Scope {
            registry: registry.into(),
            repository: repository.into(),
            credential: (!anonymous).then_some(credential),
        };
        (scope, headers.get(header::AUTHORIZATION).and_then(|value| expiry(value.as_bytes())))
    }

    /// Upstream answered 2xx for `digest`.
    pub fn show(&self, scope: &Scope, expires: Option<SystemTime>, digest: Digest) {
        self.put(scope, expires, digest, |grant| grant.shown = true);
    }

    /// An authorised, verified manifest lists `children`; those with `urls` count for nothing.
    pub fn list(&self, scope: &Scope, expires: Option<SystemTime>, children: &[Child]) {
        for child in children.iter().filter(|child| !child.foreign) {
            let listed = Listed { size: child.size, media_type: child.media_type.as_str().into() };
            self.put(scope, expires, child.digest, |grant| grant.listed = Some(listed));
        }
    }

    /// What is known now, while upstream can be asked.
    pub fn standing(&self, scope: &Scope, digest: Digest) -> (Standing, Option<Listed>) {
        match self.grants.get(&(scope.clone(), digest)) {
            Some(grant) => {
                let standing = match &grant {
                    grant if grant.fresh <= Instant::now() => Standing::Unknown,
                    Grant { shown: true, .. } => Standing::Shown,
                    Grant { listed: Some(_), .. } => Standing::Listed,
                    Grant { .. } => Standing::Unknown,
                };
                (standing, grant.listed)
            }
            None => (Standing::Unknown, None),
        }
    }

    /// Whether `digest` may be served while the registry is away: what was shown without a credential, or to this
    /// one within the grace. `proven` says whether upstream has served it under this repository to some member.
    pub fn while_away(&self, scope: &Scope, digest: Digest, proven: impl Fn() -> bool) -> bool {
        let anonymous = Scope { credential: None, ..scope.clone() };
        [scope, &anonymous].into_iter().any(|scope| match self.grants.get(&(scope.clone(), digest)) {
            Some(grant) => grant.shown || (grant.listed.is_some() && proven()),
            None => false,
        })
    }

    fn put(&self, scope: &Scope, expires: Option<SystemTime>, digest: Digest, change: impl FnOnce(&mut Grant)) {
        let now = Instant::now();
        let life = expires.map_or(FRESH, |at| at.duration_since(SystemTime::now()).unwrap_or_default().min(FRESH));
        let (fresh, kept) = (now + life, now + self.grace.max(life));
        self.grants.entry((scope.clone(), digest)).and_compute_with(|old| {
            let mut grant = match old.map(|entry| entry.into_value()) {
                // What was said earlier and is stale must be said again.
                Some(grant) if grant.fresh > now => Grant { fresh, kept, ..grant },
                _ => Grant { shown: false, listed: None, fresh, kept },
            };
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
    let token = std::str::from_utf8(authorization).ok()?.strip_prefix("Bearer ")?;
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims.get("exp")?.as_u64()?))
}

struct UntilKept;

impl Expiry<(Scope, Digest), Grant> for UntilKept {
    fn expire_after_create(&self, _: &(Scope, Digest), grant: &Grant, now: Instant) -> Option<Duration> {
        Some(grant.kept.saturating_duration_since(now))
    }

    fn expire_after_update(
        &self,
        _: &(Scope, Digest),
        grant: &Grant,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(grant.kept.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::oci::manifest::Kind;

    fn headers(authorization: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(authorization).unwrap());
        headers
    }

    fn child(digest: Digest, foreign: bool) -> Child {
        Child { digest, size: 5, kind: Kind::Layer, foreign, media_type: "layer".into() }
    }

    fn bearer(exp: u64) -> String {
        format!("Bearer e30.{}.sig", URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{exp}}}")))
    }

    #[test]
    fn what_is_shown_to_one_credential_is_shown_to_no_other() {
        let (access, digest) = (Access::new(Duration::ZERO), Digest::of(b"x"));
        let (mine, _) = access.scope("r", "a", &headers("Basic me"));
        access.show(&mine, None, digest);
        assert_eq!(access.standing(&mine, digest).0, Standing::Shown);
        for (repository, headers) in [("a", headers("Basic you")), ("a", HeaderMap::new()), ("b", headers("Basic me"))]
        {
            let (other, _) = access.scope("r", repository, &headers);
            assert_eq!(access.standing(&other, digest).0, Standing::Unknown);
            assert!(!access.while_away(&other, digest, || true));
        }
    }

    #[test]
    fn a_foreign_layer_grants_nothing() {
        let access = Access::new(Duration::ZERO);
        let (scope, _) = access.scope("r", "a", &HeaderMap::new());
        let (own, foreign) = (Digest::of(b"own"), Digest::of(b"foreign"));
        access.list(&scope, None, &[child(own, false), child(foreign, true)]);
        assert_eq!(access.standing(&scope, own).0, Standing::Listed);
        assert_eq!(access.standing(&scope, foreign), (Standing::Unknown, None));
    }

    #[test]
    fn a_listed_digest_needs_provenance_while_the_registry_is_away() {
        let access = Access::new(Duration::from_secs(60));
        let (scope, _) = access.scope("r", "a", &HeaderMap::new());
        let digest = Digest::of(b"x");
        access.list(&scope, None, &[child(digest, false)]);
        assert!(access.while_away(&scope, digest, || true));
        assert!(!access.while_away(&scope, digest, || false));
    }

    #[test]
    fn an_expired_token_grants_nothing() {
        let access = Access::new(Duration::ZERO);
        let digest = Digest::of(b"x");
        let (scope, expires) = access.scope("r", "a", &headers(&bearer(1)));
        assert_eq!(expires, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1)));
        access.show(&scope, expires, digest);
        assert_eq!(access.standing(&scope, digest).0, Standing::Unknown);
    }

    #[test]
    fn a_token_that_is_no_jwt_says_nothing_of_its_end() {
        for text in ["Bearer x", "Bearer a.b.c", "Basic abc", "Bearer a.e30.c", &bearer(1).replace("Bearer", "bearer")]
        {
            assert_eq!(expiry(text.as_bytes()), None, "{text}");
        }
        assert!(expiry(bearer(u64::MAX).as_bytes()).is_none());
    }
}
