//! A whole waylay in this process, between a client and a scripted registry. The kernel and the trust of a runtime are
//! played by the test; all else is the product.

mod control;
mod played;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use rustls::RootCertStore;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::broadcast, task::JoinHandle};
use waylay::{
    app::Core,
    config::Config,
    oci::Digest,
    telemetry::{ConnectionEvent, Event, RequestEvent},
    upstream::Resolver,
};
use waylay_certs::{Identities, RegistryName};

use self::control::Answering;
use self::played::{Kernel, Played, Runtime};
use super::{Client, Cluster, Running, RunningCdn, authority::trusting, witness};
use crate::fleet::{AccessLine, Counters};

/// How a node is to be.
pub struct Plan {
    registry: RegistryName,
    destination: SocketAddr,
    plain: bool,
    roots: Arc<RootCertStore>,
    settings: String,
    listed: bool,
    trusted: bool,
    hosts: Vec<(String, SocketAddr)>,
    others: Vec<(RegistryName, SocketAddr)>,
    caught: bool,
    looks_up: bool,
}

/// A node that runs, until it is dropped.
pub struct Node {
    core: Option<Arc<Core>>,
    addr: SocketAddr,
    serving: Option<JoinHandle<()>>,
    events: Mutex<broadcast::Receiver<Arc<Event>>>,
    program: String,
    played: Arc<Played>,
    /// What the runtime trusts: our certificate, and what it trusted before.
    trusts: Arc<RootCertStore>,
    plan: Plan,
    identities: Arc<Identities>,
    answering: Option<Answering>,
    dir: TempDir,
}

impl Plan {
    /// More configuration, lines of TOML below the first level, such as `[store]\nquota = "64MiB"`.
    pub fn configured(mut self, toml: &str) -> Self {
        self.settings.push_str(toml);
        self.settings.push('\n');
        self
    }

    /// The registry is in no list.
    pub fn unlisted(mut self) -> Self {
        self.listed = false;
        self
    }

    /// The runtime does not trust us.
    pub fn untrusted(mut self) -> Self {
        self.trusted = false;
        self
    }

    /// Knows the address of a CDN's host.
    pub fn knowing(mut self, host: &str, cdn: &RunningCdn) -> Self {
        self.hosts.push((host.to_owned(), cdn.addr()));
        self
    }

    /// Clients connect to its listeners by themselves: the kernel caught nothing.
    pub fn uncaught(mut self) -> Self {
        self.caught = false;
        self
    }

    /// Looks hosts of redirects up as the daemon does, and may go where that may.
    pub fn looking_up(mut self) -> Self {
        self.looks_up = true;
        self
    }

    /// Beside this registry too, which the same authority has certified: [`Node::client_of`].
    pub fn and(mut self, registry: &Running) -> Self {
        self.others.push((name(registry), registry.addr()));
        self
    }

    /// One of the nodes of a cluster, by its number from 0.
    pub fn member(self, cluster: &Cluster, number: usize) -> Self {
        self.configured(&cluster.settings(number))
    }

    /// Starts it, with a store of its own.
    pub async fn start(self) -> Node {
        let dir = tempfile::tempdir().expect("there is room for a directory");
        Box::pin(Node::start(self, dir)).await
    }
}

impl Node {
    /// A node whose runtime believes to talk to `registry`.
    pub fn beside(registry: &Running) -> Plan {
        Plan {
            registry: name(registry),
            destination: registry.addr(),
            plain: registry.is_plain(),
            roots: registry.roots(),
            settings: String::new(),
            listed: true,
            trusted: true,
            hosts: Vec::new(),
            others: Vec::new(),
            caught: true,
            looks_up: false,
        }
    }

    async fn start(plan: Plan, dir: TempDir) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        witness::listen();
        // A name of its own, by which its access lines are told from those of other tests. The kernel allows 15 bytes.
        let program = format!("containerd-{}", NUMBER.fetch_add(1, Relaxed));
        let identities = Identities::open(dir.path().join("identities")).expect("the directory is ours");
        let hosts = [&plan.registry].into_iter().chain(plan.others.iter().map(|(name, _)| name));
        let held: Vec<_> = hosts
            .map(|RegistryName { host, .. }| {
                (host.clone(), identities.ensure(host, SystemTime::now()).expect("an identity can be made"))
            })
            .collect();
        let known = plan.roots.clone();
        let shown = held.iter().map(|(_, identity)| identity.certificate().clone());
        let mut trusts = RootCertStore::clone(&trusting(shown));
        trusts.roots.extend(known.roots.iter().cloned());
        let played = Arc::new(Played {
            destination: Mutex::new(plan.destination),
            others: Mutex::default(),
            caught: plan.caught,
            program: program.clone(),
            trusted: AtomicBool::new(plan.trusted),
            keys: held.into_iter().map(|(host, identity)| (host, identity.certified_key())).collect(),
            roots: known,
        });
        let mut node = Self {
            core: None,
            addr: plan.destination,
            serving: None,
            events: Mutex::new(broadcast::channel(1).1),
            program,
            played,
            trusts: Arc::new(trusts),
            plan,
            identities: Arc::new(identities),
            answering: None,
            dir,
        };
        node.run().await;
        node
    }

    async fn run(&mut self) {
        let core = Core::open(self.config(), self.resolver(), self.world()).await.expect("the node starts");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        self.addr = listener.local_addr().expect("a bound listener has an address");
        let (mut listeners, mut others) = (vec![listener], Vec::new());
        for (_, destination) in &self.plan.others {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
            others.push((listener.local_addr().expect("a bound listener has an address"), *destination));
            listeners.push(listener);
        }
        *self.played.others.lock().unwrap_or_else(PoisonError::into_inner) = others;
        self.events = Mutex::new(core.trace.follow());
        let core = Arc::new(core);
        let (serving, played) = (core.clone(), self.played.clone());
        self.serving = Some(tokio::spawn(async move {
            let watch = serving.watch();
            let way_in = Kernel(played.clone());
            // How it ended is what a test sees of it.
            let _ = serving.serve(listeners, way_in, Arc::new(Runtime(played)), watch).await;
        }));
        self.core = Some(core);
    }

    /// Stops as the daemon does when it is told to, and starts again with the same store at another port.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.run().await;
    }

    /// The same with more configuration, from now on.
    pub async fn restart_configured(&mut self, toml: &str) {
        self.plan.settings.push_str(toml);
        self.restart().await;
    }

    /// Tells it to stop; [`Self::stop`] waits for the end.
    pub fn told_to_stop(&self) {
        self.core().shutdown.begin();
    }

    /// Stops as the daemon does when it is told to: connections end first.
    pub async fn stop(&mut self) {
        let (Some(core), Some(serving)) = (self.core.take(), self.serving.take()) else { return };
        if let Some(answering) = self.answering.take() {
            answering.end().await;
        }
        core.shutdown.begin();
        serving.await.expect("accepting does not panic");
        let core = Arc::into_inner(core).expect("nobody else holds the node");
        core.close().await;
    }

    fn config(&self) -> Config {
        let further = self.plan.others.iter().map(|(name, _)| format!(", \"{name}\"")).collect::<String>();
        let list = if !self.plan.listed {
            String::new()
        } else if self.plan.plain {
            format!("plain_http = [\"{}\"{further}]\n", self.plan.registry)
        } else {
            format!("registries = [\"{}\"{further}]\n", self.plan.registry)
        };
        let text = format!("state_dir = \"{}\"\n{list}{}", self.dir.path().join("state").display(), self.plan.settings);
        let path = self.config_file();
        std::fs::write(&path, text).expect("the directory is ours");
        Config::load(&path).expect("the test's configuration is valid")
    }

    fn resolver(&self) -> Resolver {
        if self.plan.looks_up {
            return waylay::app::outside();
        }
        let hosts = self.plan.hosts.clone();
        Arc::new(move |host, port| {
            let known = hosts.iter().find(|(name, addr)| name == host && addr.port() == port).map(|(_, addr)| *addr);
            Box::pin(std::future::ready(known))
        })
    }

    /// A client whose connections are caught: it believes to talk to the registry, and trusts us and the registry.
    pub fn client(&self) -> Client {
        let RegistryName { host, port } = &self.plan.registry;
        Client::new(self.addr, host, *port, (!self.plan.plain).then(|| self.trusts.clone()))
    }

    /// The same for a registry of [`Plan::and`].
    pub fn client_of(&self, registry: &Running) -> Client {
        let others = self.played.others.lock().unwrap_or_else(PoisonError::into_inner);
        let led = others.iter().find(|(_, destination)| *destination == registry.addr());
        let (addr, _) = *led.expect("the node was started beside this registry");
        Client::new(addr, registry.host(), registry.addr().port(), (!self.plan.plain).then(|| self.trusts.clone()))
    }

    /// Where its listener is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Lets connections lead to another destination than the registry.
    pub fn leads_to(&self, destination: SocketAddr) {
        *self.played.destination.lock().unwrap_or_else(PoisonError::into_inner) = destination;
    }

    /// Whether the runtime is known to trust us, from now on.
    pub fn trusted(&self, trusted: bool) {
        self.played.trusted.store(trusted, Relaxed);
    }

    /// The certificate that it shows for the registry.
    pub fn certificate(&self) -> rustls::pki_types::CertificateDer<'static> {
        self.played.keys[0].1.cert[0].clone()
    }

    /// Its counters now.
    pub fn counters(&self) -> Counters {
        Counters::new(self.core().metrics.render())
    }

    /// Its access lines so far.
    pub fn access(&self) -> Vec<AccessLine> {
        witness::of(&self.program)
    }

    /// Waits until there are this many access lines, and returns them; fails the test after 20 s, or if there are more.
    pub async fn pulls(&self, count: usize) -> Vec<AccessLine> {
        let lines = witness::until(&self.program, count).await;
        assert_eq!(lines.len(), count, "access lines: {lines:#?}");
        lines
    }

    /// Waits until a connection has ended for which this is so; fails the test after 20 s. Each is seen only once.
    pub async fn connection(&self, what: &str, is_it: impl Fn(&ConnectionEvent) -> bool) -> ConnectionEvent {
        self.event(what, |event| match event {
            Event::Connection(connection) if is_it(connection) => Some(connection.clone()),
            _ => None,
        })
        .await
    }

    /// Waits until a request was answered for which this is so; fails the test after 20 s. Each is seen only once.
    pub async fn request(&self, what: &str, is_it: impl Fn(&RequestEvent) -> bool) -> RequestEvent {
        self.event(what, |event| match event {
            Event::Request(request) if is_it(request) => Some(request.clone()),
            _ => None,
        })
        .await
    }

    /// The next event that nobody waited for, if there is one.
    pub fn told(&self) -> Option<Arc<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).try_recv().ok()
    }

    async fn event<T>(&self, what: &str, wanted: impl Fn(&Event) -> Option<T>) -> T {
        let next = || match self.events.lock().unwrap_or_else(PoisonError::into_inner).try_recv() {
            Ok(event) => Ok(wanted(&event)),
            Err(broadcast::error::TryRecvError::Empty) => Err(()),
            Err(error) => panic!("{what}: {error}"),
        };
        let found = crate::wait::eventually(what, witness::PATIENCE, async || {
            while let Ok(event) = next() {
                if event.is_some() {
                    return Ok(event);
                }
            }
            Ok(None)
        });
        found.await.expect("it happens in time")
    }

    /// Whether it holds this blob, verified and synced.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.core().store.get(digest).is_some()
    }

    /// Waits until it holds this blob: a client may have the last byte before it is synced to disk.
    pub async fn keeps(&self, digest: &Digest) {
        let held = async || Ok(self.holds(digest).then_some(()));
        crate::wait::eventually("the blob is stored", witness::PATIENCE, held).await.expect("it is stored in time");
    }

    /// Waits until its peers tell that they have this blob.
    pub async fn finds(&self, digest: &Digest) {
        let told = async || Ok(self.core().swarm.locate(digest).await.map(|_| ()));
        crate::wait::eventually("a peer tells of the blob", witness::PATIENCE, told).await.expect("it is told in time");
    }

    /// Everything that it has on disk: its state, its store, its identities.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The file of a complete blob in its store, to be damaged.
    pub fn blob_file(&self, digest: &Digest) -> PathBuf {
        self.dir.path().join("state/store/blobs/sha256").join(digest.hex())
    }

    fn core(&self) -> &Core {
        self.core.as_ref().expect("the node runs")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }
}

fn name(registry: &Running) -> RegistryName {
    RegistryName::new(registry.host(), registry.addr().port()).expect("a scripted registry has a DNS name")
}
