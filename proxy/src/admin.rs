//! What operators and probes ask: `/livez`, `/readyz` and `/metrics` on loopback; on the control socket all of `control` and
//! `images` as well; and where that is wanted, `/metrics` alone for collectors on other machines. It only passes on;
//! deciding and doing are elsewhere.

pub mod bypass;
pub mod client;
mod control;
mod images;
pub mod status;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::BoxFuture, stream::BoxStream};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinSet,
};
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

use waylay_certs::RegistryName;

use self::{
    bypass::Destination,
    status::{Blob, Bypassed, Certificate, Peer, Reloaded, Status, Switched},
};
use crate::{
    content::image::Held,
    lifecycle::Readiness,
    oci::{digest::Digest, image::ImageName},
    preheat::{Login, Probed, Progress},
    store::Collected,
    telemetry::Trace,
    upstream::Body,
};

/// Connections of operators and probes served at once.
const MOST: usize = 64;

/// Why the control socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}; set {key} to an address of this machine with a free port")]
    Listen {
        /// The key that says the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Another daemon answers there.
    #[error("another waylay answers on {}; stop it first, or set admin.socket", .0.display())]
    Running(PathBuf),
    /// The socket could not be made.
    #[error("cannot make the control socket {} (admin.socket)", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What is told, gathered when it is asked for, and what an operator may have done.
pub trait View: Send + Sync + 'static {
    /// All counters in the Prometheus text format.
    fn metrics(&self) -> String;
    /// The state of the daemon.
    fn status(&self) -> Status;
    /// The other members.
    fn peers(&self) -> Vec<Peer>;
    /// All complete blobs.
    fn blobs(&self) -> Vec<Blob>;
    /// One of them; `None` when it is not held.
    fn blob(&self, digest: &Digest) -> Option<Blob>;
    /// Hashes a blob again; `None` when it is not held. Blocks for as long as that takes.
    ///
    /// # Errors
    /// When it cannot be read.
    fn verify(&self, digest: &Digest) -> io::Result<Option<bool>>;
    /// Throws a blob away; false when it is not held.
    ///
    /// # Errors
    /// When a file stays.
    fn remove(&self, digest: &Digest) -> io::Result<bool>;
    /// Protects blobs from eviction, or no longer. Those that are not held are left out.
    ///
    /// # Errors
    /// When it cannot be noted.
    fn pin(&self, digests: &[Digest], pinned: bool) -> io::Result<()>;
    /// Evicts to the limits, or says what would go.
    ///
    /// # Errors
    /// When the disk cannot be asked, or a file stays.
    fn collect(&self, dry_run: bool) -> io::Result<Collected>;
    /// What the store holds of an image. Blocks for the disk.
    ///
    /// # Errors
    /// When nothing is known of it ([`io::ErrorKind::NotFound`]), or it is not complete.
    fn image(&self, name: &ImageName) -> io::Result<Held>;
    /// The bytes of a blob; `None` when it is not held.
    fn bytes(&self, digest: &Digest) -> Option<Body>;
    /// Takes in a blob of `size` bytes.
    fn import_blob(&self, digest: Digest, size: u64, body: Body) -> BoxFuture<'static, io::Result<()>>;
    /// An image whose blobs were taken in is from now on known as `name`. Blocks for the disk.
    ///
    /// # Errors
    /// When it is not complete, or cannot be noted.
    fn import(&self, name: &ImageName, top: Digest) -> io::Result<Held>;
    /// Pulls an image as a runtime does, and tells of it; with `everywhere` all other members are asked to pull it, too, each
    /// with a login of its own. Dropping the stream ends it.
    fn pull(&self, name: ImageName, login: Option<Login>, everywhere: bool) -> BoxStream<'static, Progress>;
    /// Reads the list of registries again, and says what else in the configuration only a restart reads. Blocks for the disk.
    ///
    /// # Errors
    /// When the configuration cannot be used; the list that is in force stays.
    fn reload(&self) -> io::Result<Reloaded>;
    /// Connects to a registry and asks it whether it is one; `plain` where it is not listed.
    fn probe(&self, name: RegistryName, plain: bool) -> BoxFuture<'static, Probed>;
    /// Our certificates that are in use. Blocks for the disk.
    ///
    /// # Errors
    /// When they cannot be read.
    fn certificates(&self) -> io::Result<Vec<Certificate>>;
    /// Makes and publishes further certificates for a host, or all; with `withdraw` in place of those that there are, whose
    /// keys are deleted. Blocks for the disk.
    ///
    /// # Errors
    /// When the host is not listed, or they cannot be made or published.
    fn rotate(&self, host: Option<&str>, withdraw: bool) -> io::Result<Vec<Certificate>>;
    /// The last events, as JSON lines. Blocks for the disk.
    ///
    /// # Errors
    /// When they cannot be read.
    fn journal(&self) -> io::Result<String>;
    /// Sends new connections directly to their registry, or no longer; a restart does not change it.
    ///
    /// # Errors
    /// When it could not be done or not be remembered.
    fn switch(&self, wanted: Switched) -> io::Result<()>;
    /// Destinations whose connections go directly.
    fn bypass(&self) -> Vec<Bypassed>;
    /// Sends new connections to a destination directly, until then (in seconds since 1970) or for good; a restart does not
    /// change it. Blocks for the disk.
    ///
    /// # Errors
    /// When it could not be done or not be remembered.
    fn add_bypass(&self, destination: Destination, until: Option<u64>) -> io::Result<Bypassed>;
    /// Takes that back. Blocks for the disk.
    ///
    /// # Errors
    /// When it was not bypassed ([`io::ErrorKind::NotFound`]), or it could not be done or not be remembered.
    fn remove_bypass(&self, destination: &Destination) -> io::Result<()>;
    /// Tries the hooks now, with a connection of our own. Blocks for up to two seconds.
    ///
    /// # Errors
    /// When it did not come back, with the reason.
    fn prove(&self) -> io::Result<()>;
}

/// All listeners, bound.
pub struct Admin {
    tcp: TcpListener,
    metrics: Option<TcpListener>,
    socket: UnixListener,
    path: PathBuf,
}

/// Where a question comes in, which says what may be asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    /// From anywhere: counters only.
    Metrics,
    /// From this machine: probes too.
    Loopback,
    /// From an operator: everything.
    Control,
}

type Reply = Response<Body>;

/// What every answer is made of.
struct Desk<V> {
    view: Arc<V>,
    readiness: Readiness,
    trace: Trace,
}

impl Admin {
    /// Listens on `address`, on a socket at `path`, which only its owner may use, and on `metrics` for collectors.
    ///
    /// # Errors
    /// When one is taken or cannot be made.
    pub async fn bind(address: SocketAddr, metrics: Option<SocketAddr>, path: &Path) -> Result<Self, AdminError> {
        let tcp = listen("admin.listen", address).await?;
        let metrics = match metrics {
            Some(address) => Some(listen("admin.metrics", address).await?),
            None => None,
        };
        if client::answers(path).await {
            return Err(AdminError::Running(path.to_owned()));
        }
        let socket = socket(path).map_err(|source| AdminError::Socket { path: path.to_owned(), source })?;
        Ok(Self { tcp, metrics, socket, path: path.to_owned() })
    }

    /// Where the probes and metrics are.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Answers until dropped.
    pub async fn run<V: View>(self, view: Arc<V>, readiness: Readiness, trace: Trace) {
        let desk = Arc::new(Desk { view, readiness, trace });
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.tcp.accept(), if tasks.len() < MOST => if let Ok((io, _)) = accepted {
                    tasks.spawn(serve(io, desk.clone(), Door::Loopback));
                },
                Some(Ok((io, _))) = accept(self.metrics.as_ref()), if tasks.len() < MOST => {
                    tasks.spawn(serve(io, desk.clone(), Door::Metrics));
                }
                accepted = self.socket.accept(), if tasks.len() < MOST => if let Ok((io, _)) = accepted
                    && is_operator(&io)
                {
                    tasks.spawn(serve(io, desk.clone(), Door::Control));
                },
                Some(_) = tasks.join_next() => {}
            }
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        // Best effort: the next start removes a socket that nobody answers on.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, AdminError> {
    TcpListener::bind(address).await.map_err(|source| AdminError::Listen { key, address, source })
}

/// The next connection of a listener that may not be there; `None` when it is not.
async fn accept(listener: Option<&TcpListener>) -> Option<io::Result<(TcpStream, SocketAddr)>> {
    Some(listener?.accept().await)
}

fn socket(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        // Closed to others, so that the socket cannot be reached before its own mode is set.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

/// Whether the process at the other end is root's, of this daemon's own user, or of its group. The mode of the socket says
/// the same, but modes are changed by mistake.
fn is_operator(io: &UnixStream) -> bool {
    let Ok(peer) = io.peer_cred() else { return false };
    let known = peer.uid() == 0
        || peer.uid() == nix::unistd::geteuid().as_raw()
        || peer.gid() == nix::unistd::getegid().as_raw();
    if !known {
        tracing::warn!(uid = peer.uid(), pid = peer.pid(), "a stranger at the control socket was turned away");
    }
    known
}

async fn serve<IO, V: View>(io: IO, desk: Arc<Desk<V>>, door: Door)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let desk = desk.clone();
        async move { Ok::<_, Infallible>(desk.answer(request, door).await) }
    });
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "an operator's connection ended early");
    }
}

impl<V: View> Desk<V> {
    async fn answer(&self, request: Request<Incoming>, door: Door) -> Reply {
        let request = if door == Door::Control {
            match images::answer(&self.view, request).await {
                Ok(reply) => return reply,
                Err(request) => *request,
            }
        } else {
            request
        };
        let known = match (request.method(), request.uri().path()) {
            (method, path) if door == Door::Metrics && (method, path) != (&Method::GET, "/metrics") => None,
            (&Method::GET, "/livez") => Some(text(StatusCode::OK, "ok\n".to_owned())),
            (&Method::GET, "/readyz") => Some(match self.readiness.waiting() {
                waiting if waiting.is_empty() => text(StatusCode::OK, "ready\n".to_owned()),
                waiting => text(StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", waiting.join(", "))),
            }),
            (&Method::GET, "/metrics") => {
                let mut reply = text(StatusCode::OK, self.view.metrics());
                let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
                reply.headers_mut().insert(header::CONTENT_TYPE, kind);
                Some(reply)
            }
            (&Method::GET, "/trace") if door == Door::Control => Some(self.follow()),
            (method, path) if door == Door::Control => control::answer(&self.view, method, path).await,
            _ => None,
        };
        known.unwrap_or_else(|| text(StatusCode::NOT_FOUND, "not found\n".to_owned()))
    }

    /// One JSON object a line, for as long as the follower stays.
    fn follow(&self) -> Reply {
        let lines = BroadcastStream::new(self.trace.follow()).map(|event| {
            let line = match event {
                Ok(event) => serde_json::to_string(&*event).unwrap_or_default(),
                Err(BroadcastStreamRecvError::Lagged(missed)) => format!("{{\"event\":\"missed\",\"count\":{missed}}}"),
            };
            Ok(Frame::data(Bytes::from(line + "\n")))
        });
        Response::new(StreamBody::new(lines).boxed_unsync())
    }
}

fn text(status: StatusCode, text: String) -> Reply {
    let mut response = Response::new(Full::from(text).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::CommandExt as _, process::Command};

    use super::*;

    #[tokio::test]
    async fn the_control_socket_is_for_operators_whatever_its_mode_became() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("below/control.sock");
        let listener = socket(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let _own = UnixStream::connect(&path).await.unwrap();
        assert!(is_operator(&listener.accept().await.unwrap().0));
        if !nix::unistd::geteuid().is_root() {
            eprintln!("only root can play another user");
            return;
        }
        for open in [dir.path(), path.parent().unwrap(), &path] {
            std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "10", "--unix-socket"]).arg(&path).arg("http://localhost/status");
        let mut stranger = curl.uid(65_534).gid(65_534).spawn().unwrap();
        let accepted = listener.accept().await.unwrap().0;
        assert!(!is_operator(&accepted));
        drop(accepted);
        assert!(!tokio::task::spawn_blocking(move || stranger.wait()).await.unwrap().unwrap().success());
    }
}
