//! The proxy's side of a kernel test: listeners on loopback, the real hooks, and an accept loop that asks the kernel and
//! says to the client what it was told.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::watch,
};
use waylay::{
    accept::{Caught, ClientAddr, Origin as _},
    intercept::{Config, Intercept, KernelOrigin, Listeners},
};

/// Often enough for the shortest limit that a test sets.
const HEARTBEAT: Duration = Duration::from_millis(20);

/// Everything that the accept loop was told: `None` for a connection that was not caught, or was our own trial.
type Seen = Arc<Mutex<Vec<Option<Caught>>>>;

/// A running proxy's way in.
pub(crate) struct Proxy {
    intercept: Option<Arc<Intercept>>,
    serving: Option<Serving>,
    waiting: Option<(std::net::TcpListener, Option<std::net::TcpListener>)>,
    listeners: Listeners,
    seen: Seen,
}

impl Proxy {
    /// Binds, attaches and accepts, in the calling thread's namespace.
    pub(crate) fn start(config: &Config) -> anyhow::Result<Self> {
        let mut proxy = Self::start_paused(config)?;
        proxy.accept()?;
        Ok(proxy)
    }

    /// Binds and attaches; connections wait until [`Proxy::accept`].
    pub(crate) fn start_paused(config: &Config) -> anyhow::Result<Self> {
        let v4 = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("127.0.0.1")?;
        // No IPv6 in this namespace is one of the cases.
        let v6 = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).ok();
        let port = |listener: &std::net::TcpListener| listener.local_addr().map(|address| address.port());
        let listeners = Listeners { v4: port(&v4)?, v6: v6.as_ref().map(port).transpose()? };
        let intercept = Intercept::attach(config, listeners)?;
        Ok(Self {
            intercept: Some(Arc::new(intercept)),
            serving: None,
            waiting: Some((v4, v6)),
            listeners,
            seen: Seen::default(),
        })
    }

    /// Begins to accept.
    pub(crate) fn accept(&mut self) -> anyhow::Result<()> {
        let Some(waiting) = self.waiting.take() else { return Ok(()) };
        let (intercept, seen) = (Arc::clone(self.intercept()), Arc::clone(&self.seen));
        self.serving = Some(Serving::start(move |stop| serve(waiting, intercept, seen, stop))?);
        Ok(())
    }

    /// The guard.
    pub(crate) fn intercept(&self) -> &Arc<Intercept> {
        self.intercept.as_ref().expect("not detached")
    }

    /// Where the proxy listens.
    #[allow(dead_code, reason = "the daemon does not ask")]
    pub(crate) fn listeners(&self) -> Listeners {
        self.listeners
    }

    /// What the accept loop was told so far.
    #[allow(dead_code, reason = "the daemon does not ask")]
    pub(crate) fn seen(&self) -> Vec<Option<Caught>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops accepting and closes the listeners; the hooks stay.
    #[allow(dead_code, reason = "the daemon is killed instead")]
    pub(crate) fn close_listeners(&mut self) {
        self.serving = None;
        self.waiting = None;
    }

    /// Detaches the hooks.
    #[allow(dead_code, reason = "the daemon is killed instead")]
    pub(crate) fn detach(&mut self) {
        self.serving = None;
        self.intercept = None;
    }
}

/// A thread with a runtime, stopped and joined when dropped.
pub(crate) struct Serving {
    stop: Option<watch::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Serving {
    /// Runs `work` on a new thread, which inherits this one's namespace and cgroup, until it ends or this is dropped.
    pub(crate) fn start<F: Future<Output = anyhow::Result<()>>>(
        work: impl FnOnce(watch::Receiver<()>) -> F + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || {
            if let Err(error) = runtime.block_on(work(stopped)) {
                eprintln!("a server of this test failed: {error:#}");
            }
        };
        Ok(Self { stop: Some(stop), thread: Some(thread::Builder::new().spawn(run)?) })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(
    (v4, v6): (std::net::TcpListener, Option<std::net::TcpListener>),
    intercept: Arc<Intercept>,
    seen: Seen,
    mut stop: watch::Receiver<()>,
) -> anyhow::Result<()> {
    let v4 = listener(v4)?;
    let v6 = v6.map(listener).transpose()?;
    let origin = intercept.origin();
    let mut beat = tokio::time::interval(HEARTBEAT);
    loop {
        let (mut stream, peer) = tokio::select! {
            _ = stop.changed() => return Ok(()),
            _ = beat.tick() => { intercept.heartbeat()?; continue }
            accepted = v4.accept() => accepted?,
            accepted = accept(v6.as_ref()) => accepted?,
        };
        greet(&origin, &mut stream, peer, &seen).await?;
    }
}

/// Tells the client what the kernel told us; says nothing to one that was not caught.
async fn greet(origin: &KernelOrigin, stream: &mut TcpStream, peer: SocketAddr, seen: &Seen) -> anyhow::Result<()> {
    let local = stream.local_addr()?;
    let caught = origin.of(ClientAddr(peer), local)?;
    let text = caught.as_ref().map(|caught| {
        let pid = caught.pid.map_or("-".to_owned(), |pid| pid.to_string());
        format!("proxy dst={} pid={pid} comm={}\n", caught.dst, caught.comm)
    });
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(caught);
    // The client may be gone already.
    let _ = stream.write_all(text.unwrap_or_default().as_bytes()).await;
    Ok(())
}

fn listener(listener: std::net::TcpListener) -> std::io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn accept(listener: Option<&TcpListener>) -> std::io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}
