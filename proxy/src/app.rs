//! The composition root, the one file that knows everything: binds first, wires the parts, runs them, drains.

mod bypass;
mod lending;
mod members;
mod orders;
mod registries;
mod switch;
pub mod trust;
mod view;
mod watch;

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use tokio::net::TcpListener;
use waylay_certs::Identities;

use self::{bypass::Bypass, registries::Registries, switch::Switch, trust::ByEvidence, view::Desk, watch::Watcher};
use crate::{
    accept::{self, Origin},
    admin::{Admin, View},
    config::Config,
    content::Content,
    dial,
    http::Http,
    intercept::{self, Intercept, Listeners, Targets},
    journal::Journal,
    lifecycle::{self, Readiness, Shutdown, Terminations},
    metrics::Metrics,
    preheat::{Preheat, World},
    pull::{Pull, access::Access, ahead::Ahead, tags::Tags},
    standin::StandIn,
    store::{self, Store},
    swarm::Swarm,
    telemetry::Trace,
    throttle::Throttle,
    tls::{Listing, Tls, Trust},
    upstream::{Resolver, Upstream},
};

/// How long connections may go on after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(60);
/// How often interception is proven.
const PROVE: Duration = Duration::from_secs(60);
/// How soon it is tried again when this daemon just stepped aside.
const SOON: Duration = Duration::from_secs(1);
/// How late what was switched off for a time may come back.
const DUE: Duration = Duration::from_secs(1);
/// How long one proof may take.
const PROOF: Duration = Duration::from_secs(2);
/// How long looking up a redirect's host may take.
const LOOKUP: Duration = Duration::from_secs(5);

/// The part of a daemon that needs no privilege: from an accepted connection to the bytes. Tests use it with their own
/// way in.
pub struct Core {
    /// All counters.
    pub metrics: Arc<Metrics>,
    /// Where events go.
    pub trace: Trace,
    /// Ends everything.
    pub shutdown: Shutdown,
    /// The blob store.
    pub store: Store,
    /// The peer network; without one configured, a swarm of one.
    pub swarm: Swarm,
    config: Config,
    listing: Listing,
    content: Content,
    pull: Arc<Pull>,
    preheat: Preheat,
    http: Http,
}

impl Core {
    /// Opens the store, joins the peer network and wires the pull policy. Hosts of redirects are looked up by
    /// `resolver`; pulls by an operator's word go into the `world`.
    ///
    /// # Errors
    /// When the store or the peer network cannot be opened.
    pub async fn open(config: Config, resolver: Resolver, world: World) -> anyhow::Result<Self> {
        let (metrics, trace, shutdown) = (Arc::new(Metrics::default()), Trace::default(), Shutdown::new());
        let store = Store::open(store::Config {
            dir: config.store.dir.clone(),
            quota: config.store.quota,
            low_disk: config.store.low_disk,
        })?;
        let swarm = match &config.swarm {
            Some(swarm) => {
                Swarm::start(members::resolve(swarm, config.state_dir.join("members"))?, store.clone()).await?
            }
            None => Swarm::alone(),
        };
        let upstream = Upstream::new(resolver, Throttle::new(config.pull.registry_rate));
        let content = Content::new(store.clone(), swarm.clone(), upstream.clone(), metrics.clone(), trace.clone());
        let tags = config.store.dir.join("tags");
        let tags = Tags::open(&tags).with_context(|| format!("cannot open {}", tags.display()))?;
        let access = Access::new(config.pull.offline_grace);
        let most = config.pull.read_ahead;
        let ahead = (most > 0).then(|| Ahead::new(most, metrics.clone()));
        let spares_gets = config.pull.spare_gets;
        let pull = Arc::new(Pull::new(upstream.clone(), content.clone(), access, tags, ahead, spares_gets));
        let preheat = Preheat::new(pull.clone(), upstream.clone(), metrics.clone(), trace.clone(), world);
        let listing = Listing::new(registries::listed(&config));
        let http = Http::new(pull.clone(), upstream, metrics.clone(), trace.clone(), shutdown.clone());
        Ok(Self { metrics, trace, shutdown, store, swarm, config, listing, content, pull, preheat, http })
    }

    /// Serves what arrives at `listeners` until the shutdown has begun and connections have ended.
    ///
    /// # Errors
    /// When a listener fails for good.
    pub async fn serve<O: Origin, T: Trust, W: accept::Watch>(
        &self,
        listeners: Vec<TcpListener>,
        origin: O,
        trust: Arc<T>,
        watch: Arc<W>,
    ) -> std::io::Result<accept::Drained> {
        let tls = Arc::new(Tls::new(self.listing.clone(), trust, self.http.clone()));
        let proxy = &self.config.proxy;
        let memory = accept::Memory::own(proxy.max_memory);
        let limits = accept::Config { max_connections: proxy.max_connections, memory, drain: DRAIN };
        accept::run(listeners, limits, origin, tls, watch, self.shutdown.clone()).await
    }

    /// A watch that counts and shows connections, for a way in without a kernel guard.
    pub fn watch(&self) -> Arc<impl accept::Watch + use<>> {
        Arc::new(Watcher::new(self.metrics.clone(), self.trace.clone()))
    }

    /// What the control socket answers, for a way in without a kernel guard: with the configuration's `file`, which is read
    /// again when told so, and certificates of these `identities`.
    pub fn view(&self, file: PathBuf, identities: Arc<Identities>) -> Arc<impl View + use<>> {
        let switch = Arc::new(Switch::new(None, self.config.state_dir.join("off")));
        let registries = Registries::new(self.config.clone(), file, identities, self.listing.clone(), None);
        let bypass = Arc::new(self.bypass(None));
        let desk = self.desk(None, switch, bypass, Journal::new(&self.config.state_dir), Arc::new(registries));
        let desk = Arc::new(desk);
        self.take_orders(&desk);
        desk
    }

    fn desk(
        &self,
        guard: Option<Arc<Intercept>>,
        switch: Arc<Switch>,
        bypass: Arc<Bypass>,
        journal: Journal,
        registries: Arc<Registries>,
    ) -> Desk {
        let (config, started, core) = (self.config.clone(), SystemTime::now(), view::Parts::of(self));
        Desk { config, started, core, guard, switch, bypass, journal, registries }
    }

    /// Other members' operators may ask this node to pull, as long as the desk stands.
    fn take_orders(&self, desk: &Arc<Desk>) {
        let pulls: Weak<Desk> = Arc::downgrade(desk);
        self.swarm.take_orders(pulls);
    }

    fn bypass(&self, guard: Option<Arc<Intercept>>) -> Bypass {
        let (file, configured) = (self.config.state_dir.join("bypass.json"), self.config.intercept.bypass.clone());
        Bypass::new(guard, self.listing.clone(), file, configured)
    }

    /// Says goodbye to the peers and notes that the store was closed cleanly.
    pub async fn close(self) {
        self.swarm.close().await;
        if let Err(error) = self.store.close() {
            tracing::warn!(%error, "the store was not closed cleanly; its unfinished blobs will be hashed again");
        }
    }
}

/// Runs the daemon until it is told to stop, with the configuration that `file` holds.
///
/// # Errors
/// When it cannot start: a taken port, no privilege, an unusable store.
pub async fn run(config: Config, file: PathBuf) -> anyhow::Result<()> {
    // Before anything can be seen of this daemon: whoever sees it may tell it to stop.
    let terminations = Terminations::listen().context("cannot handle signals")?;
    let listeners = bind(&config.proxy.listen).await?;
    let admin = Admin::bind(config.admin.listen, config.admin.metrics, &config.admin.socket).await?;
    let readiness = Readiness::new();
    let starting = readiness.part("intercept");
    let identities = Arc::new(Identities::open(config.state_dir.join("identities"))?);
    registries::publish(&config, &identities)?;
    let trust = Arc::new(ByEvidence::new(identities.clone(), config.trust.directory.clone(), system_roots()));
    let core = Core::open(config.clone(), outside(), world(trust.clone())).await?;
    let guard = Arc::new(attach(&config, &listeners)?);
    let stand_in = stand_in(&listeners, &guard);
    let switch = Arc::new(Switch::new(Some(guard.clone()), config.state_dir.join("off")));
    let watch =
        Watcher::new(core.metrics.clone(), core.trace.clone()).with(guard.clone(), switch.clone(), stand_in.clone());
    let watch = Arc::new(watch);
    let journal = Journal::new(&config.state_dir);
    let remembering = journal.clone().keep(core.trace.follow());
    let listing = core.listing.clone();
    let registries = Arc::new(Registries::new(config.clone(), file, identities, listing, Some(guard.clone())));
    let bypass = Arc::new(core.bypass(Some(guard.clone())));
    let desk = Arc::new(core.desk(Some(guard.clone()), switch.clone(), bypass.clone(), journal, registries.clone()));
    core.take_orders(&desk);
    let desk = admin.run(desk, readiness, core.trace.clone());
    let stop = core.shutdown.clone();
    let origin = guard.origin();
    tracing::info!(
        cgroup = %guard.cgroup().display(),
        registries = config.registries.len() + config.plain_http.len(),
        peers = config.swarm.is_some(),
        "started"
    );
    let proving = prove(guard.clone(), switch.clone(), core.metrics.clone(), starting);
    let publishing = registries.republish();
    let lending = lending::keep(core.store.clone(), config.store.containerd.clone());
    let served = tokio::select! {
        served = core.serve(listeners, origin, trust, watch) => served,
        () = async { tokio::join!(desk, proving, publishing, remembering, lending, come_back(switch, bypass), stop_on_signal(terminations, stop)); } => Ok(accept::Drained { cut: 0 }),
    };
    if let Some(stand_in) = stand_in {
        stand_in.goodbye();
    }
    core.close().await;
    let drained = served.context("accepting connections failed")?;
    tracing::info!(cut = drained.cut, "stopped");
    Ok(())
}

/// The process that takes over what waits in our queue when we no longer can.
fn stand_in(listeners: &[TcpListener], guard: &Intercept) -> Option<Arc<StandIn>> {
    let listeners: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
    match StandIn::start(&listeners, guard) {
        Ok(stand_in) => Some(Arc::new(stand_in)),
        Err(error) => {
            tracing::warn!(%error, "no stand-in: connections that wait while this daemon dies will be reset");
            None
        }
    }
}

async fn stop_on_signal(mut terminations: Terminations, stop: Shutdown) {
    let signal = terminations.next().await;
    tracing::info!(signal, "stopping");
    // No error: without a service manager there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    stop.begin();
}

async fn bind(addresses: &[SocketAddr]) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        match TcpListener::bind(address).await {
            Ok(listener) => listeners.push(listener),
            // A host without IPv6 has no ::1; IPv6 connections then go directly.
            Err(error) if address.is_ipv6() && error.kind() == std::io::ErrorKind::AddrNotAvailable => {
                tracing::info!(%address, "this host has no IPv6 loopback, IPv6 connections are left alone");
            }
            Err(error) => {
                let message = format!("cannot listen on {address} (proxy.listen); use port 0 to take a free one");
                return Err(error).context(message);
            }
        }
    }
    Ok(listeners)
}

fn attach(config: &Config, listeners: &[TcpListener]) -> anyhow::Result<Intercept> {
    let port = |family: fn(&IpAddr) -> bool| -> Option<u16> {
        let mut addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok());
        addresses.find(|address| family(&address.ip())).map(|address| address.port())
    };
    let v4 = port(IpAddr::is_ipv4).context("no IPv4 listener (proxy.listen)")?;
    let names = config.registries.iter().chain(&config.plain_http);
    let mut targets = Targets::for_ports(names.map(|name| name.port));
    if let Some(runtimes) = &config.intercept.runtimes {
        targets.runtimes.clone_from(runtimes);
    }
    let wanted = intercept::Config {
        cgroup: config.intercept.cgroup.clone(),
        targets,
        bypass: config.intercept.bypass.clone(),
        ..intercept::Config::default()
    };
    Ok(Intercept::attach(&wanted, Listeners { v4, v6: port(IpAddr::is_ipv6) })?)
}

/// Proves again and again that connections are intercepted; the first success makes the daemon ready, and so does an
/// operator who wants none intercepted. The service manager is told after the first attempt: a restart would mend
/// nothing, and pulls work directly meanwhile.
async fn prove(guard: Arc<Intercept>, switch: Arc<Switch>, metrics: Arc<Metrics>, starting: lifecycle::Unready) {
    let mut starting = Some(starting);
    let mut every = tokio::time::interval(PROVE);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            // Somebody waits to see it work again.
            () = switch.turned_on() => {}
        }
        if switch.is_aside() {
            if switch.is_off() {
                metrics.intercept_effective.set(0);
                starting.take();
                // No error: without a service manager there is nobody to tell.
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
            } else {
                // At a limit, which may be over in a moment, and nobody relies on a daemon that has proven nothing.
                every.reset_after(SOON);
            }
            continue;
        }
        let tried = guard.clone();
        let proven = tokio::task::spawn_blocking(move || tried.prove(PROOF)).await;
        match proven {
            Ok(Ok(())) => {
                metrics.intercept_effective.set(1);
                starting.take();
            }
            Ok(Err(error)) => {
                metrics.intercept_effective.set(0);
                tracing::warn!(%error, "connections are not intercepted now; pulls go directly");
            }
            Err(_) => return,
        }
        // Saying it again does no harm.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }
}

/// Ends what the operator wanted for a time only. By the clock on the wall, which goes on while the machine sleeps.
async fn come_back(switch: Arc<Switch>, bypass: Arc<Bypass>) {
    let mut every = tokio::time::interval(DUE);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let (switch, bypass) = (switch.clone(), bypass.clone());
        let ended = tokio::task::spawn_blocking(move || {
            switch.end_if_due();
            bypass.end_what_is_due();
        });
        if ended.await.is_err() {
            return;
        }
    }
}

fn system_roots() -> Vec<rustls::pki_types::CertificateDer<'static>> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "cannot read some of the system's certificates");
    }
    found.certs
}

/// What a runtime on this node would find and trust.
fn world(trust: Arc<ByEvidence>) -> World {
    let lookup: Resolver = Arc::new(|host, port| {
        let host = host.to_owned();
        Box::pin(async move { dial::resolve(&host, port, |_| false, LOOKUP).await.ok()?.into_iter().next() })
    });
    World { lookup, roots: Arc::new(move |name| trust.of_this_node(name)) }
}

/// Looks up a redirect's host, and refuses addresses that no redirect may lead to.
pub fn outside() -> Resolver {
    Arc::new(|host, port| {
        let host = host.to_owned();
        Box::pin(async move { dial::resolve(&host, port, dial::forbidden, LOOKUP).await.ok()?.into_iter().next() })
    })
}
