//! A server of the script: it listens, speaks TLS or not, counts, and lets each request meet its fate. What it would say
//! if nothing went wrong is for its [`Site`].

use std::{
    io,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use waylay::oci::Digest;

use super::{
    log::{Entry, Log, Seen},
    place::{Kind, Place},
    reply::{self, Answer, Body},
    script::{Fault, Gate, Script, When},
};

/// What a server says when nothing goes wrong.
pub(super) trait Site: Send + Sync + 'static {
    /// The answer to a request with this body.
    fn answer(&self, seen: &Seen, body: Bytes) -> Answer;
    /// The 401 to whoever needs other credentials.
    fn challenge(&self, seen: &Seen) -> Answer;
}

/// How a server takes connections.
#[derive(Clone)]
pub(super) enum Door {
    Https(Arc<ServerConfig>),
    Http,
    /// Takes the connection and never says a word.
    Silent,
}

/// A server that listens on a free port of loopback, until it is dropped.
///
/// Dropping it fails the test if anything inside it panicked.
pub struct Server {
    addr: SocketAddr,
    shared: Arc<Shared>,
    listening: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    name: String,
    site: Box<dyn Site>,
    log: Log,
    script: Script,
    door: Mutex<Door>,
    connections: AtomicU64,
    panics: Mutex<Vec<String>>,
}

impl Server {
    pub(super) async fn start(name: &str, listen: SocketAddr, site: Box<dyn Site>, script: Script, door: Door) -> Self {
        let listener = TcpListener::bind(listen).await.expect("loopback has a free port");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            site,
            log: Log::new(),
            script,
            door: Mutex::new(door),
            connections: AtomicU64::new(0),
            panics: Mutex::default(),
        });
        let listening = tokio::spawn(accept(listener, shared.clone()));
        Self { addr, shared, listening: tokio::sync::Mutex::new(Some(listening)) }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Lets this happen to these requests, from now on.
    pub fn fault(&self, when: When, fault: Fault) {
        self.shared.script.add(when, fault);
    }

    /// Lets these answers stop after this many bytes of body until the gate is opened.
    pub fn stall(&self, when: When, after: u64) -> Gate {
        let gate = Gate::new();
        self.fault(when, Fault::Stall(after, gate.clone()));
        gate
    }

    /// Lets these requests go unanswered until the gate is opened.
    pub fn hold(&self, when: When) -> Gate {
        let gate = Gate::new();
        self.fault(when, Fault::Hold(gate.clone()));
        gate
    }

    /// Takes back all faults; answers already under way keep theirs.
    pub fn heal(&self) {
        self.shared.script.clear();
    }

    /// Closes all connections and refuses new ones until [`Server::up`].
    pub async fn down(&self) {
        if let Some(listening) = self.listening.lock().await.take() {
            listening.abort();
            // Only once the task is gone the port is closed.
            let _ = listening.await;
        }
    }

    /// Listens again, at the same address.
    pub async fn up(&self) {
        let mut listening = self.listening.lock().await;
        if listening.is_none() {
            let listener = TcpListener::bind(self.addr).await.expect("the port is still ours");
            *listening = Some(tokio::spawn(accept(listener, self.shared.clone())));
        }
    }

    /// Takes new connections, but says nothing on them, until it [becomes](super::Running::becomes) otherwise.
    pub fn fall_silent(&self) {
        self.set_door(Door::Silent);
    }

    pub(super) fn set_door(&self, door: Door) {
        *self.shared.door.lock().unwrap_or_else(PoisonError::into_inner) = door;
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.log.requests()
    }

    /// Waits until `enough` says so of the requests so far, which are returned; fails the test after 20 s.
    pub async fn until(&self, what: &str, enough: impl FnMut(&[Seen]) -> bool) -> Vec<Seen> {
        self.shared.log.until(what, enough).await
    }

    /// Requests of this kind so far.
    pub fn count(&self, kind: Kind) -> usize {
        self.shared.log.count(kind)
    }

    /// GETs of blobs so far.
    pub fn blob_gets(&self) -> usize {
        self.count(Kind::BlobGet)
    }

    /// GETs of this blob so far.
    pub fn gets_of(&self, digest: Digest) -> usize {
        let requests = self.requests();
        requests.iter().filter(|seen| seen.kind == Kind::BlobGet && seen.digest() == Some(digest)).count()
    }

    /// HEADs of blobs so far.
    pub fn blob_heads(&self) -> usize {
        self.count(Kind::BlobHead)
    }

    /// GETs of manifests so far.
    pub fn manifest_gets(&self) -> usize {
        self.count(Kind::ManifestGet)
    }

    /// HEADs of manifests so far.
    pub fn manifest_heads(&self) -> usize {
        self.count(Kind::ManifestHead)
    }

    /// Bytes of bodies of blobs so far, as handed to the connections.
    pub fn blob_bytes_sent(&self) -> u64 {
        self.shared.log.sent(Some(Kind::BlobGet))
    }

    /// Bytes of all bodies so far.
    pub fn bytes_sent(&self) -> u64 {
        self.shared.log.sent(None)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(listening) = self.listening.get_mut().take() {
            listening.abort();
        }
        let panics = self.shared.panics.lock().unwrap_or_else(PoisonError::into_inner);
        if !panics.is_empty() && !std::thread::panicking() {
            panic!("the scripted {} panicked: {}", self.shared.name, panics.join("; "));
        }
    }
}

/// Takes connections; when this is dropped, they all end.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let number = shared.connections.fetch_add(1, Relaxed);
                connections.spawn(connection(shared.clone(), stream, number));
            }
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    shared.panicked(&*error.into_panic());
                }
            }
        }
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, number: u64) {
    let _ = stream.set_nodelay(true);
    let door = shared.door.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match door {
        Door::Http => serve(shared, stream, number).await,
        // A client that refuses our certificate is what some tests are about, and no fault of the script.
        Door::Https(config) => {
            if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                serve(shared, stream, number).await;
            }
        }
        Door::Silent => {
            std::future::pending::<()>().await;
            drop(stream);
        }
    }
}

async fn serve(shared: Arc<Shared>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, number: u64) {
    let service = service_fn(|request| {
        let shared = shared.clone();
        async move {
            match AssertUnwindSafe(answer(&shared, request, number)).catch_unwind().await {
                Ok(answered) => answered,
                Err(panic) => {
                    shared.panicked(&*panic);
                    Err(io::Error::other("the script panicked"))
                }
            }
        }
    });
    // Broken connections are the everyday business of this server.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(shared: &Shared, request: Request<Incoming>, connection: u64) -> io::Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let place = Place::of(head.uri.path());
    let host = head
        .uri
        .authority()
        .map(ToString::to_string)
        .or_else(|| Some(head.headers.get(header::HOST)?.to_str().ok()?.to_owned()));
    let entry = shared.log.add(Seen {
        kind: place.kind(&head.method),
        place,
        target: head.uri.path_and_query().map_or_else(|| head.uri.path().to_owned(), ToString::to_string),
        method: head.method,
        version: head.version,
        host: host.unwrap_or_default(),
        headers: head.headers,
        connection,
        status: 0,
        sent: 0,
        received: 0,
        finished: false,
    });
    let faults = shared.script.of(&entry.request);
    for fault in &faults {
        match fault {
            Fault::Hold(gate) => gate.pass().await,
            Fault::Late(delay) => tokio::time::sleep(*delay).await,
            Fault::HangUp => return Err(io::Error::other("hung up by the script")),
            Fault::Panic => panic!("as the script says"),
            _ => {}
        }
    }
    let body = collect(body, &entry).await?;
    let instead = faults.iter().find_map(|fault| instead(fault, shared, &entry.request));
    let answer = instead.unwrap_or_else(|| shared.site.answer(&entry.request, body));
    Ok(reply::respond(answer, &faults, entry))
}

/// The answer of a fault that leaves nothing to say for the site.
fn instead(fault: &Fault, shared: &Shared, seen: &Seen) -> Option<Answer> {
    let redirect = |to: &str| Answer::new(StatusCode::TEMPORARY_REDIRECT).with(header::LOCATION, to);
    match fault {
        Fault::Status(status) => Some(Answer::error(*status, "SCRIPTED")),
        Fault::TooMany(seconds) => {
            let answer = Answer::error(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS");
            Some(answer.with(header::RETRY_AFTER, seconds.to_string()))
        }
        Fault::Unauthorized => Some(shared.site.challenge(seen)),
        Fault::Redirect(to) => Some(redirect(to)),
        Fault::ToCdn(signer) => seen.digest().map(|digest| redirect(&signer.url(&digest))),
        _ => None,
    }
}

/// The whole body of a request, counted while it arrives so that a test can see it being streamed.
async fn collect(mut body: Incoming, entry: &Entry) -> io::Result<Bytes> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            entry.received.fetch_add(data.len() as u64, Relaxed);
            entry.changed();
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

impl Shared {
    fn panicked(&self, panic: &(dyn std::any::Any + Send)) {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "(no text)".to_owned());
        self.panics.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
}
