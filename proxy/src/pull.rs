//! The decision: may this client have it, and from where. One screen shows the whole policy; each step it names does
//! one job. Bytes are `content`'s business, the registry's answers `upstream`'s.

pub mod access;
pub mod ahead;
mod blob;
mod imported;
mod manifest;
mod outcome;
pub mod tags;

use std::sync::Arc;

use http::{HeaderValue, Method, Response, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use waylay_certs::RegistryName;

use self::{
    access::{Access, Scope, Standing},
    ahead::Ahead,
    tags::Tags,
};
use crate::{
    content::{Content, Found, Supply, Tally},
    fault::{Fault, Side, What},
    oci::{
        Digest,
        route::{self, Pass, Route},
    },
    store::Provenance,
    upstream::{Body, Head, Origin, Upstream},
};

pub use outcome::Outcome;

/// Who asks, on one connection.
pub struct Client {
    /// The calling program.
    pub program: String,
    /// The registry it believes to talk to.
    pub registry: RegistryName,
    /// The registry's place, at the address that the client chose.
    pub origin: Arc<Origin>,
}

/// One request inside a terminated connection.
pub struct Request {
    /// Who asks.
    pub client: Arc<Client>,
    /// What.
    pub head: Head,
    /// What is sent along.
    pub body: Body,
}

impl Request {
    /// Whether the host that this names (RFC 9110, section 7.2; HTTP/2 in its URI) is `registry`. One that names several
    /// hosts names none: the registry may believe another one than we do.
    fn is_for(&self, registry: &RegistryName) -> bool {
        let headers = self.head.headers.get_all(header::HOST);
        if headers.iter().count() > 1 {
            return false;
        }
        let named: Vec<&str> = headers
            .iter()
            .map(|host| host.to_str().unwrap_or_default())
            .chain(self.head.uri.authority().map(http::uri::Authority::as_str))
            .collect();
        let is_it = |named: &&str| {
            // Without a port it is the scheme's, 443 or 80; the connection went to the registry's port in any case.
            let (host, port) = named.rsplit_once(':').map_or((*named, None), |(host, port)| (host, Some(port)));
            host.eq_ignore_ascii_case(&registry.host) && port.is_none_or(|port| port == registry.port.to_string())
        };
        !named.is_empty() && named.iter().all(is_it)
    }
}

/// The policy.
pub struct Pull {
    upstream: Upstream,
    content: Content,
    access: Access,
    tags: Tags,
    /// `None` where nothing is read ahead.
    ahead: Option<Ahead>,
    spares_gets: bool,
}

/// A request for one digest or tag, with what decides about it.
#[derive(Clone)]
struct Question {
    scope: Scope,
    expires: Option<std::time::SystemTime>,
    client: Arc<Client>,
    head: Head,
}

/// Whether a client may have a digest that we could serve.
enum Right {
    /// Yes.
    Granted,
    /// The registry says no, or something that only it can say.
    Refused,
    /// The registry cannot be asked, or fails.
    Away(Away),
}

/// How a registry failed.
enum Away {
    Fault(Fault),
    Answer(Box<Response<Incoming>>),
}

impl Pull {
    /// Decides with these parts. With `spares_gets`, a tag is asked for by HEAD, and its manifest only where nobody near
    /// has it.
    pub fn new(
        upstream: Upstream,
        content: Content,
        access: Access,
        tags: Tags,
        ahead: Option<Ahead>,
        spares_gets: bool,
    ) -> Self {
        Self { upstream, content, access, tags, ahead, spares_gets }
    }

    /// Answers one request.
    ///
    /// # Errors
    /// When neither we nor the registry can answer; nothing was sent then.
    pub async fn answer(self: &Arc<Self>, request: Request, outcome: &mut Outcome) -> Result<Response<Body>, Fault> {
        let path = request.head.uri.path_and_query().map_or("", |path| path.as_str());
        // A connection was decided upon for one registry; what it asks of another host is between those two.
        let route = if request.is_for(&request.client.registry) {
            route::route(&request.head.method, path)
        } else {
            Route::Pass(Pass::Unknown)
        };
        match route {
            Route::Blob { repository, digest, namespace } => {
                outcome.asks("blob", repository.as_str(), digest.to_string());
                self.blob(self.question(request, repository.as_str(), namespace), digest, outcome).await
            }
            Route::ManifestByDigest { repository, digest, namespace } => {
                outcome.asks("manifest", repository.as_str(), digest.to_string());
                self.manifest(self.question(request, repository.as_str(), namespace), digest, outcome).await
            }
            Route::ManifestByTag { repository, tag, namespace } => {
                outcome.asks("tag", repository.as_str(), tag.as_str().to_owned());
                self.tag(self.question(request, repository.as_str(), namespace), tag.as_str(), outcome).await
            }
            Route::Pass(Pass::Base) => {
                outcome.passes(Pass::Base.label());
                self.base(request, outcome).await
            }
            Route::Pass(pass) => {
                outcome.passes(pass.label());
                let answer = self.upstream.relay(&request.client.origin, &request.head, request.body).await?;
                Ok(relayed(answer, outcome))
            }
        }
    }

    /// Upstream's word on whether this client may have `digest`, which we found: its own former word if that is
    /// fresh, an authorised manifest's where upstream has served the digest here to some member, else a HEAD.
    async fn right(&self, question: &Question, digest: Digest, found: &Found) -> Right {
        match self.access.standing(&question.scope, digest, found.size) {
            Standing::Shown => return Right::Granted,
            Standing::Listed if found.provenance.contains(&question.provenance()) => return Right::Granted,
            Standing::Listed | Standing::Unknown => {}
        }
        let head = Head { method: Method::HEAD, ..question.head.plainly() };
        match self.upstream.ask(&question.client.origin, &head).await {
            Ok(answer) if answer.status() == StatusCode::OK => match length(&answer) {
                Some(size) if size == found.size => {
                    self.access.show(&question.scope, question.expires, digest, size);
                    self.content.came_from(digest, question.provenance());
                    Right::Granted
                }
                // It speaks of something else.
                Some(_) => Right::Refused,
                None => self.right_elsewhere(question, digest, found).await,
            },
            Ok(answer) if answer.status().is_redirection() => self.right_elsewhere(question, digest, found).await,
            Ok(answer) if answer.status().is_server_error() => Right::Away(Away::Answer(Box::new(answer))),
            Ok(_) => Right::Refused,
            Err(fault) => Right::Away(Away::Fault(fault)),
        }
    }

    /// Upstream's word where it redirects a HEAD, or tells no size: to its storage for a yes, but a login page would look the
    /// same. One byte of a blob of the right size tells them apart.
    async fn right_elsewhere(&self, question: &Question, digest: Digest, found: &Found) -> Right {
        let first = 0..1;
        match self.upstream.blob(&question.client.origin, &question.head, Some(first.clone())).await {
            Ok(answer) if blob::whole_size(&answer, Some(&first)) == Some(found.size) => {
                self.access.show(&question.scope, question.expires, digest, found.size);
                self.content.came_from(digest, question.provenance());
                Right::Granted
            }
            Ok(answer) if answer.status().is_server_error() => Right::Away(Away::Answer(Box::new(answer))),
            Ok(_) => Right::Refused,
            Err(fault) => Right::Away(Away::Fault(fault)),
        }
    }

    /// Whether `digest` may be served although the registry is away.
    fn right_while_away(&self, question: &Question, digest: Digest, found: &Found) -> bool {
        if Self::imported(&question.client, &question.scope.repository, found) {
            return true;
        }
        let proven = || found.provenance.contains(&question.provenance());
        self.access.while_away(&question.scope, digest, found.size, proven)
    }

    /// Upstream's own answer, whatever it is.
    async fn pass(&self, question: &Question, outcome: &mut Outcome) -> Result<Response<Body>, Fault> {
        Ok(relayed(self.upstream.ask(&question.client.origin, &question.head).await?, outcome))
    }

    fn question(&self, request: Request, repository: &str, namespace: Option<String>) -> Question {
        let registry = request.client.identity();
        // A mirror asked about another registry speaks for that registry's repository, not for its own. No repository has a
        // question mark in its name.
        let repository =
            namespace.map_or_else(|| repository.to_owned(), |namespace| format!("{repository}?ns={namespace}"));
        let (scope, expires) = self.access.scope(&registry, &repository, &request.head.headers);
        Question { scope, expires, client: request.client, head: request.head }
    }
}

impl Client {
    /// Who the registry is, for what it has shown and served: its verified name, or, where nothing proves a name, the
    /// address as well.
    fn identity(&self) -> String {
        let target = self.origin.target();
        if target.roots.is_some() { self.registry.to_string() } else { format!("{} at {}", self.registry, target.dst) }
    }
}

impl Question {
    /// The same client's question for another blob or manifest of the same repository; `None` where the path cannot name
    /// it.
    fn of(&self, digest: Digest) -> Option<Self> {
        let (path, query) = (self.head.uri.path(), self.head.uri.query());
        let (repository, _named) = path.rsplit_once('/')?;
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        let mut parts = self.head.uri.clone().into_parts();
        parts.path_and_query = Some(format!("{repository}/{digest}{query}").parse().ok()?);
        Some(Self { head: Head { uri: Uri::from_parts(parts).ok()?, ..self.head.clone() }, ..self.clone() })
    }

    fn provenance(&self) -> Provenance {
        Provenance { registry: self.scope.registry.to_string(), repository: self.scope.repository.to_string() }
    }

    fn supply(&self) -> Supply {
        Supply { origin: self.client.origin.clone(), head: self.head.plainly(), provenance: self.provenance() }
    }

    /// The registry that is asked, as content knows it.
    fn registry(&self) -> &str {
        &self.scope.registry
    }

    fn is_head(&self) -> bool {
        self.head.method == Method::HEAD
    }
}

impl Away {
    /// What the client sees when we cannot help either.
    fn show(self, outcome: &mut Outcome) -> Result<Response<Body>, Fault> {
        match self {
            Self::Fault(fault) => Err(fault),
            Self::Answer(answer) => Ok(relayed(*answer, outcome)),
        }
    }

    fn fault(self) -> Fault {
        match self {
            Self::Fault(fault) => fault,
            Self::Answer(answer) => Fault::with(Side::Registry, What::Status, answer.status().to_string()),
        }
    }
}

/// How long a body is, or would be, by an answer's head.
fn length<B>(answer: &Response<B>) -> Option<u64> {
    answer.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// An answer of upstream on its way to the client, its bytes counted.
fn relayed(answer: Response<Incoming>, outcome: &Outcome) -> Response<Body> {
    let (parts, body) = answer.into_parts();
    plain(Response::from_parts(parts, ()), Tally::counting(outcome.tally(), body).boxed_unsync())
}

/// An answer's head, without what concerned only its connection, before `body`.
fn plain(answer: Response<()>, body: Body) -> Response<Body> {
    let mut answer = answer.map(|()| body);
    *answer.headers_mut() = crate::upstream::end_to_end(answer.headers());
    // HTTP/1.1 or HTTP/2 towards the client is decided by its connection, not by upstream's.
    *answer.version_mut() = http::Version::default();
    answer
}

/// The value of a header that we made of digits or a checked name.
fn value(text: impl ToString) -> HeaderValue {
    HeaderValue::from_str(&text.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The headers that say which bytes these are, the same for GET and HEAD.
fn describe(response: &mut Response<Body>, digest: Digest, length: u64, media_type: &str) {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, value(length));
    headers.insert(header::CONTENT_TYPE, value(media_type));
    headers.insert(header::ETAG, value(format!("\"{digest}\"")));
    headers.insert("docker-content-digest", value(digest));
    headers.insert("docker-distribution-api-version", HeaderValue::from_static("registry/2.0"));
}
