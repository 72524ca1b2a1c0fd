//! Our daemon on a node: `waylay run` with a configuration made for it, and what it says of itself.

use std::env;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;

use super::access::{AccessLine, Counters};
use super::clock::Clock;
use super::command::run;
use super::namespace::Inside;
use super::node::{Entry, Node};
use super::process::Process;
use super::registry::{HOST, PORT};
use crate::wait::eventually;

/// Where each daemon answers its operator, inside its node.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9464);
/// Where members reach each other.
const SWARM_PORT: u16 = 4500;
/// From start to ready, the debug build included.
const READY: Duration = Duration::from_secs(30);
/// How long it may take to end: it lets connections end for a minute. One that it passes through untouched, such as containerd
/// keeps for half a minute after its last request, it cannot know to be idle.
const END: Duration = Duration::from_secs(75);

/// How a daemon is configured where scenarios differ.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directories of runtimes that it publishes certificates in; none means that podman and dockerd don't trust it.
    pub certs_d: Vec<PathBuf>,
    /// Added to the configuration as it is.
    pub more: String,
    /// The section `[store]`.
    pub store: String,
    /// The zone it is in; `None` says nothing of zones.
    pub zone: Option<&'static str>,
    /// Its log filter.
    pub log: String,
    /// It has a wall clock of its own ([`Daemon::clock`]).
    pub own_clock: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let certs_d = vec!["/etc/docker/certs.d".into()];
        let store = "low_disk = \"64MiB\"".to_owned();
        Self { certs_d, more: String::new(), store, zone: None, log: "info".to_owned(), own_clock: false }
    }
}

/// A daemon on a node. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    entry: Entry,
    namespace: Inside,
    config: PathBuf,
    clock: Option<Clock>,
}

/// The secret that the daemons of one fleet share, as `waylay token new` made it.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Makes one for members at the addresses of `nodes`.
    ///
    /// # Errors
    /// With what `waylay token` said.
    pub fn create(nodes: &[Node]) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.args(["token", "new"]);
        for node in nodes {
            command.arg("--addr").arg(member(node).to_string());
        }
        Ok(Self(run(&mut command)?))
    }
}

impl Daemon {
    /// Starts one on each of `nodes`, all members of one swarm, and waits until all are ready.
    ///
    /// # Errors
    /// When one does not become ready; the error holds the end of its log.
    pub async fn on_all(nodes: &[Node]) -> Result<Vec<Self>> {
        Self::on_all_with(nodes, &Settings::default()).await
    }

    /// The same with other settings.
    ///
    /// # Errors
    /// As [`Self::on_all`].
    pub async fn on_all_with(nodes: &[Node], settings: &Settings) -> Result<Vec<Self>> {
        Self::on_each_with(nodes, |_| settings.clone()).await
    }

    /// The same with the settings that `settings` gives to the n-th node, from 0.
    ///
    /// # Errors
    /// As [`Self::on_all`].
    pub async fn on_each_with(nodes: &[Node], settings: impl Fn(usize) -> Settings) -> Result<Vec<Self>> {
        let token = Token::create(nodes)?;
        let mut daemons = Vec::new();
        for (n, node) in nodes.iter().enumerate() {
            daemons.push(Self::launch(node, nodes, &token, &settings(n))?);
        }
        for daemon in &mut daemons {
            daemon.ready().await?;
        }
        Ok(daemons)
    }

    fn launch(node: &Node, members: &[Node], token: &Token, settings: &Settings) -> Result<Self> {
        let entry = node.entry().clone();
        let home = entry.make_dir("waylay")?;
        let token_file = home.join("token");
        fs::write(&token_file, &token.0).context("cannot write the token")?;
        fs::set_permissions(&token_file, fs::Permissions::from_mode(0o600)).context("cannot protect the token")?;
        let config = home.join("config.toml");
        fs::write(&config, configuration(node, members, &home, settings)).context("cannot write the configuration")?;
        let clock = settings.own_clock.then(|| Clock::of(&entry)).transpose()?;
        let process = Self::spawn(&entry, &config, clock.as_ref())?;
        Ok(Self { process, entry, namespace: (**node.namespace()).clone(), config, clock })
    }

    fn spawn(entry: &Entry, config: &Path, clock: Option<&Clock>) -> Result<Process> {
        let mut command = entry.command(binary()?);
        command.arg("run").arg("--config").arg(config).env("RUST_BACKTRACE", "1");
        if let Some(clock) = clock {
            clock.give(&mut command)?;
        }
        entry.daemon("waylay", command)
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends or takes too long.
    pub async fn ready(&mut self) -> Result<()> {
        let mut last = String::new();
        let waited = eventually("waylay to be ready", READY, async || {
            self.process.alive()?;
            last = match ask(&self.namespace, "/readyz").await {
                Ok((StatusCode::OK, _)) => return Ok(Some(())),
                Ok((status, said)) => format!("{status}: {said}"),
                Err(error) => format!("{error:#}"),
            };
            Ok(None)
        })
        .await;
        waited.with_context(|| format!("/readyz says {last}; its log ends:\n{}", self.process.tail(20)))
    }

    /// Its directory of certificates, which the installer's drop-in adds to a runtime's `SSL_CERT_DIR`.
    #[must_use]
    pub fn trust_dir(&self) -> PathBuf {
        Self::trust_dir_of(&self.entry)
    }

    /// Where a daemon on that node will have that directory, once it runs.
    #[must_use]
    pub fn trust_dir_of(node: &Entry) -> PathBuf {
        node.dir().join("waylay/state/trust")
    }

    /// Where it keeps whole blobs.
    #[must_use]
    pub fn blob_dir(&self) -> PathBuf {
        self.home().join("state/store/blobs/sha256")
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.home().join("control.sock")
    }

    /// Its state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.home().join("state")
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The way into its node.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The line a person types to ask it how it is.
    #[must_use]
    pub fn status_line(&self) -> String {
        let waylay = binary().unwrap_or_else(|_| "waylay".into());
        format!("{} status --socket {}/control.sock", waylay.display(), self.home().display())
    }

    /// What `waylay` prints when it is asked these things of this daemon.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn says(&self, args: &[&str]) -> Result<String> {
        let socket = self.home().join("control.sock");
        let said = Command::new(binary()?).args(args).arg("--socket").arg(socket).output()?;
        let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        ensure!(said.status.success(), "waylay {args:?}: {out}{err}");
        Ok(out.into_owned())
    }

    /// Its counters now.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn counters(&self) -> Result<Counters> {
        let (status, text) = ask(&self.namespace, "/metrics").await?;
        ensure!(status == StatusCode::OK, "/metrics says {status}");
        Ok(Counters::new(text))
    }

    /// Its access lines so far.
    ///
    /// # Errors
    /// When its log cannot be read or a line lacks a field.
    pub fn access(&self) -> Result<Vec<AccessLine>> {
        AccessLine::all(&self.process.log()?)
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// When it is gone.
    pub fn freeze(&self) -> Result<()> {
        self.process.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it is gone.
    pub fn thaw(&self) -> Result<()> {
        self.process.signal(Signal::SIGCONT)
    }

    /// SIGTERM, and waits for its orderly end.
    ///
    /// # Errors
    /// When it does not end in time or ends badly.
    pub fn stop(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        let status = self.process.ended(END)?;
        if !status.success() {
            bail!("waylay ended with {status}:\n{}", self.process.tail(20));
        }
        Ok(())
    }

    /// Starts it again with the same configuration and state, and waits until it is ready. Its log goes on.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill();
        self.process = Self::spawn(&self.entry, &self.config, self.clock.as_ref())?;
        self.ready().await
    }

    /// Its wall clock, to move from elsewhere; `None` when it was started with the machine's.
    #[must_use]
    pub fn clock(&self) -> Option<&Clock> {
        self.clock.as_ref()
    }

    /// Leaves it running when this program ends: for a kept fleet.
    pub fn keep(self) {
        std::mem::forget(self);
    }

    fn home(&self) -> PathBuf {
        self.entry.dir().join("waylay")
    }
}

/// The daemon's binary: `WAYLAY_BIN`, or the one built beside the running program.
///
/// # Errors
/// When there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("WAYLAY_BIN") {
        return Ok(path.into());
    }
    let own = env::current_exe().context("cannot find this program's own path")?;
    // A test is in target/debug/deps, the demo in target/debug.
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join("waylay")).find(|path| path.is_file());
    found.with_context(|| format!("no waylay beside {}: build it with `cargo build --package waylay`", own.display()))
}

fn member(node: &Node) -> SocketAddr {
    SocketAddr::from((node.address(), SWARM_PORT))
}

fn configuration(node: &Node, members: &[Node], home: &Path, settings: &Settings) -> String {
    let others: Vec<String> =
        members.iter().filter(|member| member.name() != node.name()).map(|node| member(node).to_string()).collect();
    let (home, own, cgroup) = (home.display(), member(node), node.cgroup().path().display());
    let (certs_d, log, more, store) = (&settings.certs_d, &settings.log, &settings.more, &settings.store);
    let zone = settings.zone.map(|zone| format!("zone = {zone:?}")).unwrap_or_default();
    format!(
        r#"state_dir = "{home}/state"
registries = ["{HOST}:{PORT}"]
{more}
[intercept]
cgroup = "{cgroup}"
[admin]
listen = "{ADMIN}"
socket = "{home}/control.sock"
[store]
{store}
[swarm]
listen = "{own}"
token_file = "{home}/token"
members = {others:?}
{zone}
[trust]
certs_d = {certs_d:?}
[log]
filter = "{log}"
format = "json"
"#
    )
}

/// `GET path` from the daemon in `namespace`.
pub(crate) async fn ask(namespace: &Inside, path: &str) -> Result<(StatusCode, String)> {
    ask_at(namespace, ADMIN, path).await
}

/// The same of whoever listens at `address`.
pub(crate) async fn ask_at(namespace: &Inside, address: SocketAddr, path: &str) -> Result<(StatusCode, String)> {
    let stream = namespace.connect(address)?;
    stream.set_nonblocking(true)?;
    let io = TokioIo::new(tokio::net::TcpStream::from_std(stream)?);
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(io::Error::other)?;
        let request = Request::get(path)
            .header("host", address.to_string())
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(io::Error::other)?;
            let status = answer.status();
            let body = answer.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
            drop(sender);
            io::Result::Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        let (_, answer) = tokio::join!(connection, answer);
        answer
    };
    tokio::time::timeout(Duration::from_secs(5), exchange)
        .await
        .context("the daemon's admin port")?
        .context(path.to_owned())
}
