//! Pulling by the operator's word: this daemon asks itself as a runtime would, with the same policy, members and store, so
//! that the runtime's own pull finds everything here.

pub mod kept;
mod login;
mod probe;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream::BoxStream};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use oci_spec::image::{Arch, ImageIndex, Os};
use rustls::RootCertStore;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use waylay_certs::RegistryName;

pub use self::{login::Login, probe::Probed};
use crate::{
    dial::OrigDst,
    fault::Fault,
    metrics::{Metrics, Source},
    oci::{
        Digest, Manifest,
        image::ImageName,
        manifest::{Child, Kind, MAX_BYTES},
    },
    pull::{Client, Outcome, Pull, Request},
    swarm::Pulling,
    telemetry::Trace,
    upstream::{Body, Head, Resolver, Target, Upstream},
};

/// What access lines and `waylay trace` call it.
pub const PROGRAM: &str = "waylay pull";
/// Layers at once, as runtimes do.
const AT_ONCE: usize = 3;
/// A layer's progress is told after each of so many bytes.
const STEP: u64 = 1 << 20;
/// Indexes inside of indexes are followed so far.
const DEEPEST: usize = 4;
/// A body that brings nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// What a blob may be.
const ANYTHING: &str = "*/*";
/// The manifests that runtimes take.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// How a pull goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Progress {
    /// What the name means, and what belongs to it on this node's platform.
    Resolved {
        /// The image.
        image: String,
        /// The manifest that its name means.
        digest: Digest,
        /// Configuration and layers, by digest and size.
        blobs: Vec<(Digest, u64)>,
    },
    /// So many bytes of a blob are here.
    Bytes {
        /// Which blob.
        digest: Digest,
        /// Bytes so far.
        done: u64,
    },
    /// A blob is here and verified.
    Blob {
        /// Which blob.
        digest: Digest,
        /// Of its bytes, those that were in the store.
        store: u64,
        /// Those that came from other members.
        peer: u64,
        /// Those that came from the registry.
        registry: u64,
    },
    /// All of it is here.
    Done {
        /// The image.
        image: String,
        /// The manifest that its name means.
        digest: Digest,
        /// How long it took, in milliseconds.
        ms: u64,
    },
    /// So many other members were asked to pull it as well.
    Ordered {
        /// How many.
        members: u64,
    },
    /// How one of them goes on.
    Elsewhere {
        /// Which.
        member: SocketAddr,
        /// How far it is.
        pulling: Pulling,
    },
    /// It did not work.
    Failed {
        /// The image.
        image: String,
        /// Why, and what can be done.
        why: String,
    },
}

/// Whose certificates a registry is verified against.
pub type Roots = Arc<dyn Fn(&RegistryName) -> Arc<RootCertStore> + Send + Sync>;

/// What a pull without a runtime needs to know of the world: a runtime would have looked it up itself.
#[derive(Clone)]
pub struct World {
    /// Finds the address of a registry.
    pub lookup: Resolver,
    /// Whom this node trusts for a registry.
    pub roots: Roots,
}

/// Pulls by the operator's word.
#[derive(Clone)]
pub struct Preheat {
    pull: Arc<Pull>,
    upstream: Upstream,
    metrics: Arc<Metrics>,
    trace: Trace,
    world: World,
}

/// Why an image could not be pulled.
#[derive(Debug, thiserror::Error)]
enum PreheatError {
    #[error("{0} has no address: check the name, and this node's DNS or /etc/hosts")]
    NoAddress(String),
    #[error("{0}")]
    Fault(#[from] Fault),
    #[error("{registry} answered {status} for {what}{hint}")]
    Status { registry: String, status: StatusCode, what: String, hint: &'static str },
    #[error("{0}, of which the registry said that it belongs to the image, is no manifest of one")]
    NoManifest(String),
    #[error("it has no image for {os}/{arch}, but for {others}")]
    NoPlatform { os: Os, arch: Arch, others: String },
    #[error("{0} broke off; the log of `waylay run` says why")]
    Cut(Digest),
    #[error("the registry asks for a login in a way that is not understood: {0}")]
    Challenge(String),
    #[error("nobody waits for it any more")]
    Abandoned,
}

/// One pull.
struct Puller {
    preheat: Preheat,
    client: Arc<Client>,
    name: ImageName,
    authorization: Option<HeaderValue>,
    tell: mpsc::Sender<Progress>,
}

impl Preheat {
    /// Pulls by `pull`, counted and shown like all pulls.
    pub fn new(pull: Arc<Pull>, upstream: Upstream, metrics: Arc<Metrics>, trace: Trace, world: World) -> Self {
        Self { pull, upstream, metrics, trace, world }
    }

    /// Pulls an image for this node's platform, and tells of it until it is done or has failed. `plain` speaks plain HTTP.
    /// Must be called inside a tokio runtime; dropping the stream ends the pull.
    pub fn run(&self, name: ImageName, plain: bool, login: Option<Login>) -> BoxStream<'static, Progress> {
        let (tell, told) = mpsc::channel(64);
        let preheat = self.clone();
        tokio::spawn(async move {
            let (began, image) = (Instant::now(), name.to_string());
            let last = tokio::select! {
                () = tell.closed() => return,
                pulled = preheat.whole(name, plain, login, tell.clone()) => match pulled {
                    Ok(digest) => {
                        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                        Progress::Done { image, digest, ms }
                    }
                    Err(error) => Progress::Failed { image, why: error.to_string() },
                },
            };
            // A reader that has gone needs no word.
            let _ = tell.send(last).await;
        });
        ReceiverStream::new(told).boxed()
    }

    async fn whole(
        &self,
        name: ImageName,
        plain: bool,
        login: Option<Login>,
        tell: mpsc::Sender<Progress>,
    ) -> Result<Digest, PreheatError> {
        let RegistryName { host, port } = &name.registry;
        let dst = (self.world.lookup)(host, *port).await.ok_or_else(|| PreheatError::NoAddress(host.clone()))?;
        let roots = (!plain).then(|| (self.world.roots)(&name.registry));
        let origin = self.upstream.origin(Target { dst: OrigDst(dst), host: host.as_str().into(), port: *port, roots });
        let client = Arc::new(Client { program: PROGRAM.to_owned(), registry: name.registry.clone(), origin });
        let mut puller = Puller { preheat: self.clone(), client, name, authorization: None, tell };
        puller.log_in(login.as_ref()).await?;
        puller.image().await
    }
}

impl Puller {
    async fn image(&self) -> Result<Digest, PreheatError> {
        let mut reference = self.name.reference.to_string();
        let mut top = None;
        for _ in 0..DEEPEST {
            let (digest, body, media_type) = self.manifest(&reference).await?;
            let top = *top.get_or_insert(digest);
            let manifest = Manifest::parse(media_type.as_deref(), &body);
            let children = manifest.map_err(|_| PreheatError::NoManifest(reference.clone()))?.children;
            if children.iter().any(|child| child.kind == Kind::Manifest) {
                reference = for_this_node(&body, &reference)?;
                continue;
            }
            let blobs: Vec<Child> =
                children.into_iter().filter(|child| child.kind != Kind::Manifest && !child.foreign).collect();
            if blobs.is_empty() {
                break;
            }
            let listed = blobs.iter().map(|blob| (blob.digest, blob.size)).collect();
            self.tell(Progress::Resolved { image: self.name.to_string(), digest: top, blobs: listed }).await?;
            let pulls: Vec<_> = blobs.iter().map(|blob| self.blob(blob.digest).boxed()).collect();
            futures_util::stream::iter(pulls).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
            return Ok(top);
        }
        Err(PreheatError::NoManifest(reference))
    }

    async fn manifest(&self, reference: &str) -> Result<(Digest, Vec<u8>, Option<String>), PreheatError> {
        let what = format!("manifests/{reference}");
        let (answer, mut outcome) = self.ask(&what, MANIFESTS).await?;
        let media_type = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.map(str::to_owned);
        let (mut frames, mut body) = (answer.into_body().into_data_stream(), Vec::new());
        while let Some(data) = frames.next().await {
            body.extend_from_slice(&data.map_err(|_| PreheatError::NoManifest(reference.to_owned()))?);
            if body.len() > MAX_BYTES {
                return Err(PreheatError::NoManifest(reference.to_owned()));
            }
        }
        outcome.ended();
        let digest = Digest::of(&body);
        if reference.parse::<Digest>().is_ok_and(|asked| asked != digest) {
            return Err(PreheatError::NoManifest(reference.to_owned()));
        }
        Ok((digest, body, media_type))
    }

    async fn blob(&self, digest: Digest) -> Result<(), PreheatError> {
        let (answer, mut outcome) = self.ask(&format!("blobs/{digest}"), ANYTHING).await?;
        let mut body = answer.into_body().into_data_stream();
        let (mut done, mut told) = (0, 0);
        loop {
            match tokio::time::timeout(SILENCE, body.next()).await {
                Ok(Some(Ok(data))) => done += data.len() as u64,
                Ok(None) => break,
                Ok(Some(Err(error))) => {
                    if let Some(fault) = error.downcast_ref::<Fault>() {
                        outcome.fault(fault);
                    }
                    return Err(PreheatError::Cut(digest));
                }
                Err(_) => return Err(PreheatError::Cut(digest)),
            }
            if done - told >= STEP {
                told = done;
                self.tell(Progress::Bytes { digest, done }).await?;
            }
        }
        outcome.ended();
        let tally = outcome.tally();
        let of = |source| tally.get(source);
        let (store, peer, registry) = (of(Source::Store), of(Source::Peer), of(Source::Registry));
        self.tell(Progress::Blob { digest, store, peer, registry }).await
    }

    /// GET of something in the repository, answered as a runtime would be that takes what `accept` says.
    async fn ask(&self, what: &str, accept: &'static str) -> Result<(Response<Body>, Outcome), PreheatError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        headers.extend(self.authorization.clone().map(|value| (header::AUTHORIZATION, value)));
        let (answer, outcome) = self.send(&format!("/v2/{}/{what}", self.name.repository), headers).await?;
        if answer.status() == StatusCode::OK {
            return Ok((answer, outcome));
        }
        let hint = match answer.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.authorization.is_none() => {
                "; log in with your runtime's own command, or name the file with --auth-file; another member's is in its pull.logins"
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "; this login may not pull it",
            StatusCode::NOT_FOUND => "; there is no such image, or it is not for this login",
            StatusCode::TOO_MANY_REQUESTS => "; it wants fewer pulls, try again later",
            _ => "",
        };
        let registry = self.name.registry.to_string();
        Err(PreheatError::Status { registry, status: answer.status(), what: what.to_owned(), hint })
    }

    async fn send(&self, path: &str, mut headers: HeaderMap) -> Result<(Response<Body>, Outcome), PreheatError> {
        let Preheat { pull, metrics, trace, .. } = &self.preheat;
        let registry = self.client.registry.to_string();
        let mut outcome = Outcome::new(PROGRAM, &registry, "GET", metrics.clone(), trace.clone());
        let host = HeaderValue::from_str(&registry).map_err(|_| PreheatError::NoAddress(registry))?;
        headers.insert(header::HOST, host);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("waylay/", env!("CARGO_PKG_VERSION"))));
        let uri = path.parse().map_err(|_| PreheatError::NoManifest(path.to_owned()))?;
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request { client: self.client.clone(), head: Head { method: Method::GET, uri, headers }, body };
        match Box::pin(pull.answer(request, &mut outcome)).await {
            Ok(answer) => {
                outcome.answered(answer.status().as_u16());
                Ok((answer, outcome))
            }
            Err(fault) => {
                outcome.fault(&fault);
                Err(fault.into())
            }
        }
    }

    async fn tell(&self, progress: Progress) -> Result<(), PreheatError> {
        self.tell.send(progress).await.map_err(|_| PreheatError::Abandoned)
    }
}

/// The manifest for this node's platform in an index.
fn for_this_node(index: &[u8], reference: &str) -> Result<String, PreheatError> {
    let index: ImageIndex =
        serde_json::from_slice(index).map_err(|_| PreheatError::NoManifest(reference.to_owned()))?;
    let (os, arch) = (Os::default(), Arch::default());
    let platforms = || index.manifests().iter().filter_map(|one| Some((one, one.platform().as_ref()?)));
    match platforms().find(|(_, platform)| *platform.os() == os && *platform.architecture() == arch) {
        Some((manifest, _)) => Ok(manifest.digest().to_string()),
        None => {
            let others: Vec<_> = platforms().map(|(_, at)| format!("{}/{}", at.os(), at.architecture())).collect();
            Err(PreheatError::NoPlatform { os, arch, others: others.join(", ") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_without_this_platform_says_which_it_has() {
        let digest = Digest::of(b"x");
        let index = |os: &str| {
            format!(
                r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":1,
                "digest":"{digest}","platform":{{"os":"{os}","architecture":"{}"}}}}]}}"#,
                Arch::default()
            )
        };
        assert_eq!(for_this_node(index("linux").as_bytes(), "top").unwrap(), digest.to_string());
        let error = for_this_node(index("windows").as_bytes(), "top").unwrap_err().to_string();
        assert!(error.contains("windows/") && error.contains("linux/"), "{error}");
    }
}
