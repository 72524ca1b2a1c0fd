//! One round: a new image, pulled by the crowd from the registry itself, then from a mirror, then through waylay, all on
//! the same wires. Bytes are told by the registry's log and the wires' counters, never by the daemons.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tokio::time::timeout;

use super::case::Setup;
use super::crowd::{Crowd, Pace, Pulled};
use super::image::Image;
use super::mirror::Mirror;
use super::runtime::{Clients, built_in};
use crate::bench::client::As;
use crate::bench::measure::{Idle, cpu, resident, touch};
use crate::fleet::network::Link;
use crate::fleet::{Daemon, Fleet, Node};
use crate::wait::eventually;

/// The registry's wire is silent when so many looks in a row see no byte leave.
const SILENT_LOOKS: u32 = 10;

/// What the rounds have in common.
pub(super) struct Scene<'a> {
    pub(super) fleet: &'a Fleet,
    /// Those that pull.
    pub(super) nodes: &'a [Node],
    /// The one that is a mirror when its turn comes; `None` leaves out what waylay is compared with.
    pub(super) mirror: Option<&'a Node>,
    /// Those that pull through waylay; from the registry and the mirror the built-in client does.
    pub(super) clients: Clients<'a>,
    pub(super) setup: Setup,
    pub(super) image_mib: u64,
}

/// What was measured in one round.
pub(super) struct Round {
    /// The image as people name it.
    pub(super) image: String,
    pub(super) image_bytes: u64,
    pub(super) direct: Option<Crowd>,
    pub(super) mirror: Option<Crowd>,
    pub(super) waylay: Crowd,
    /// Bytes of blobs in the registry's log while waylay's crowd pulled.
    pub(super) egress: u64,
    /// What left the registry's wire meanwhile, all headers, manifests and packets sent again included.
    pub(super) egress_on_wire: u64,
    /// Bytes on the wire between the zones, both ways, with all headers; `None` when there is no such wire.
    pub(super) crossed: Option<u64>,
    /// The share of the processors that nobody used until the last client ended.
    pub(super) idle: f64,
    /// The share that others had meanwhile who would have stepped back for the crowd.
    pub(super) yielding: f64,
    /// Processor time of all daemons, in seconds.
    pub(super) cpu: f64,
    /// The most memory that any daemon has had since it started.
    pub(super) peak_rss_mib: f64,
}

impl Scene<'_> {
    /// Round number `number`, from 1.
    pub(super) async fn round(&self, daemons: &[Daemon], number: usize) -> Result<Round> {
        let image = Image::create(self.fleet, &format!("round{number}"), self.image_mib, self.setup.layers)?;
        let limit = Duration::from_secs_f64(60.0 + 3.0 * self.setup.worst(image.bytes));
        let pace = Pace { apart: self.setup.apart, limit };
        let (mut direct, mut mirror) = (None, None);
        if let Some(node) = self.mirror {
            let at = self.fleet.registry().name();
            direct = Some(self.strangers(pace, &at, &image).await?);
            let running = Mirror::start(self.fleet, node, &format!("mirror{number}")).await?;
            mirror = Some(self.strangers(pace, &running.at(), &image).await?);
        }
        let registry = self.fleet.registry();
        self.silence(limit).await?;
        let (logged, carried) = (registry.blob_bytes()?, registry.node().link().carried()?);
        let crossed = self.crossed()?;
        // All copies, and as much again for what is in flight.
        touch(2 * image.bytes * self.nodes.len() as u64)?;
        let (spent, idle) = (spent(daemons)?, Idle::begin()?);
        let waylay = self.through(daemons, pace, &image, number).await?;
        let (idle, yielding) = (idle.share()?, idle.yielding()?);
        // A request that was given up or still runs is in the log only when it has ended.
        self.silence(limit).await?;
        let peaks = daemons.iter().filter_map(|daemon| resident(daemon.process().pid()).ok()).map(|(_, most)| most);
        let (repository, tag) = image.name();
        Ok(Round {
            image: format!("{}/{repository}:{tag}", registry.name()),
            image_bytes: image.bytes,
            direct,
            mirror,
            waylay,
            egress: registry.blob_bytes()? - logged,
            egress_on_wire: registry.node().link().carried()?.since(carried).sent,
            crossed: self.crossed()?.zip(crossed).map(|(now, before)| now - before),
            idle,
            yielding,
            cpu: self::spent(daemons)? - spent,
            peak_rss_mib: peaks.fold(0.0, f64::max),
        })
    }

    /// All nodes pull from `at`, with clients that nobody intercepts.
    async fn strangers(&self, pace: Pace, at: &str, image: &Image) -> Result<Crowd> {
        self.silence(pace.limit).await?;
        let pull = async |n: usize, _| {
            built_in(&self.nodes[n], As::Stranger, at, image).await?;
            Ok(Pulled::Whole(Duration::ZERO))
        };
        Ok(Crowd::gather(self.nodes.len(), pace, pull).await)
    }

    /// All nodes pull through their daemons; some are killed with their clients at half of the bound.
    async fn through(&self, daemons: &[Daemon], pace: Pace, image: &Image, number: usize) -> Result<Crowd> {
        let half = Duration::from_secs_f64(self.setup.bound(image.bytes) / 2.0);
        let doomed = self.doomed(number);
        let pull = async |n: usize, begun: Instant| {
            let trust = daemons[n].trust_dir();
            let pull = self.clients.pull(n, &self.nodes[n], &trust, image);
            if !doomed.contains(&n) {
                return pull.await.map(Pulled::Whole);
            }
            // The client dies with its future.
            match timeout((begun + half).saturating_duration_since(Instant::now()), pull).await {
                Ok(pulled) => pulled.map(Pulled::Whole),
                Err(_) => {
                    daemons[n].process().signal(Signal::SIGKILL)?;
                    Ok(Pulled::Killed)
                }
            }
        };
        Ok(Crowd::gather(self.nodes.len(), pace, pull).await)
    }

    /// Which nodes are killed in round `number`: others each time.
    pub(super) fn doomed(&self, number: usize) -> Vec<usize> {
        let first = (number - 1) * self.setup.killed;
        (first..first + self.setup.killed).map(|n| n % self.nodes.len()).collect()
    }

    /// What the wire between the zones has carried so far.
    fn crossed(&self) -> Result<Option<u64>> {
        let carried = self.fleet.between().map(Link::carried).transpose()?;
        Ok(carried.map(|both| both.received + both.sent))
    }

    /// Waits until nothing leaves the registry any more.
    async fn silence(&self, limit: Duration) -> Result<()> {
        let (mut before, mut looks) = (0, 0);
        eventually("the registry to fall silent", limit, async || {
            let sent = self.fleet.registry().node().link().carried()?.sent;
            looks = if sent == before { looks + 1 } else { 0 };
            before = sent;
            Ok((looks >= SILENT_LOOKS).then_some(()))
        })
        .await
    }
}

/// Processor time of all daemons so far, in seconds. One that was killed still tells it until it is started again.
fn spent(daemons: &[Daemon]) -> Result<f64> {
    daemons.iter().map(|daemon| Ok(cpu(daemon.process().pid()).context("a daemon")?.as_secs_f64())).sum()
}
