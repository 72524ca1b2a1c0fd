//! The simulated cluster: nodes, their links, the events between them. What nodes decide is the product's own code; this
//! carries their messages and bytes, and takes the time that these take.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rustc_hash::FxHashMap;
use waylay::{
    oci::digest::Digest,
    store::piece::Layout,
    swarm::pure::{HAVE_BATCH, HAVE_BATCH_ABROAD, owners},
};

use super::{
    net::{Link, Net},
    node::{Connection, Node},
    owner::{Book, Question},
    preset::Preset,
    queue::Queue,
    registry::Taking,
    request::Request,
    session::Session,
    slab::Slab,
    tally::Tally,
};

/// What happens.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// A node's client begins.
    Start(u32),
    /// A fetch looks around.
    Wake(u32),
    /// A question has come to an owner.
    Asked(u32),
    /// Its answer has come back, or will not come.
    Answered(u32),
    /// An owner that was asked who has a blob may still be silent; so many were left to ask.
    Silent { node: u32, blob: u16, left: usize },
    /// Node `of` begins to watch a fetch.
    Watched { session: u32, of: u32 },
    /// A first map comes back to a fetch.
    Mapped { session: u32, of: u32, map: u32 },
    /// A neighbour cannot be reached.
    Unreached { session: u32, of: u32 },
    /// A fetch tells its watchers what it has.
    Tell { session: u32, near: bool },
    /// They hear it, in the same zone or not.
    Told { session: u32, near: bool },
    /// A request for a piece has come to the one that has it.
    Requested(u32),
    /// The one that was asked for a piece has too many others to serve.
    Refused(u32),
    /// A flow may have ended at this link.
    Look(Link),
    /// A piece is held by the one that asked for it.
    Came(u32),
    /// The registry's answer begins.
    Taken(u32),
    /// A piece from the registry is held.
    Landed { taking: u32, index: u32 },
    /// A node that holds a blob tells an owner.
    Announced { owner: u32, node: u32, blob: u16 },
    /// A slot of a reader that died is free.
    Released(u32),
    /// A connection has been idle for long.
    Idle { from: u32, to: u32 },
    /// Some nodes crash.
    Crash,
    /// This one does.
    Die(u32),
}

/// All of it.
pub(super) struct World {
    pub(super) preset: Preset,
    pub(super) now: u64,
    base: Instant,
    pub(super) queue: Queue<Event>,
    pub(super) net: Net,
    pub(super) random: StdRng,
    pub(super) nodes: Vec<Node>,
    pub(super) blobs: Vec<Blob>,
    /// One for each node and blob, once it has begun.
    pub(super) sessions: Vec<Option<Box<Session>>>,
    pub(super) requests: Slab<Request>,
    pub(super) questions: Slab<Question>,
    pub(super) takings: Slab<Taking>,
    pub(super) maps: Slab<fixedbitset::FixedBitSet>,
    pub(super) books: BTreeMap<u32, Book>,
    pub(super) connections: FxHashMap<(u32, u32), Connection>,
    pub(super) registry: Link,
    pub(super) between: FxHashMap<(u16, u16), Link>,
    pub(super) machine: Option<Link>,
    pub(super) tally: Tally,
    /// Nodes that live and have not finished.
    pub(super) unfinished: u32,
    ended: Vec<u32>,
    /// Nodes that own a blob themselves have their answers at once.
    pub(super) own_answers: Vec<Question>,
}

/// One blob of the image.
#[derive(Debug)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) layout: Layout,
    /// Nodes, best first.
    pub(super) owners: Vec<u32>,
}

impl World {
    /// The cluster of a preset, before anybody has begun. `exact` shares links by progressive filling.
    pub(super) fn new(preset: Preset, seed: u64, exact: bool) -> anyhow::Result<Self> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut net = Net::new(exact);
        let registry = net.link(preset.registry.rate);
        let machine = preset.machine.map(|rate| net.link(rate));
        let mut between = FxHashMap::default();
        let zones = preset.zones.as_ref().map_or(1, |zones| zones.count);
        if let Some(zones) = &preset.zones {
            for (from, to) in (0..zones.count).flat_map(|from| (0..zones.count).map(move |to| (from, to))) {
                if from != to {
                    between.insert((from, to), net.link(zones.between));
                }
            }
        }
        let addrs: Vec<SocketAddr> = (0..preset.nodes).map(address).collect();
        let digests: Vec<Digest> =
            (0..preset.layers.len()).map(|n| Digest::of(format!("{} {seed} {n}", preset.about).as_bytes())).collect();
        let answering = owners(&addrs, &digests);
        let blobs = digests.into_iter().zip(&preset.layers).zip(answering).map(|((digest, size), owners)| {
            let owners = owners.into_iter().map(number).collect();
            Ok(Blob { digest, layout: Layout::new(*size)?, owners })
        });
        let blobs = blobs.collect::<anyhow::Result<Vec<_>>>()?;
        let nodes = (0..preset.nodes).map(|_| {
            let slow = preset.tail.as_ref().filter(|tail| random.random_bool(tail.share));
            let speed = slow.map_or(1.0, |tail| tail.speed);
            let (up, down) = (net.link(preset.up * speed), net.link(preset.down * speed));
            Node::new(up, down, slow.is_some())
        });
        let nodes: Vec<_> = nodes.collect();
        let sessions = (0..nodes.len() * blobs.len()).map(|_| None).collect();
        let mut queue = Queue::default();
        for node in 0..preset.nodes {
            let late = f64::from(node) * preset.apart_ms + preset.delays.start_ms * random.random_range(0.5..1.5);
            queue.push(ms(late), Event::Start(node));
        }
        if preset.crashes > 0.0 {
            queue.push(ms(100.0), Event::Crash);
        }
        if let (Some(at), Some(owner)) = (preset.owner_dies_s, blobs.first().and_then(|blob| blob.owners.first())) {
            queue.push(ms(at * 1e3), Event::Die(*owner));
        }
        Ok(Self {
            unfinished: preset.nodes,
            preset,
            now: 0,
            base: Instant::now(),
            queue,
            net,
            random,
            nodes,
            blobs,
            sessions,
            requests: Slab::default(),
            questions: Slab::default(),
            takings: Slab::default(),
            maps: Slab::default(),
            books: BTreeMap::new(),
            connections: FxHashMap::default(),
            registry,
            between,
            machine,
            tally: Tally::of_zones(zones),
            ended: Vec::new(),
            own_answers: Vec::new(),
        })
    }

    /// Until every living node has finished, or the preset's limit.
    pub(super) fn run(&mut self) {
        let limit = ms(self.preset.limit_s * 1e3);
        while self.unfinished > 0 {
            if self.queue.next().is_none_or(|next| next > self.now) {
                self.share();
            }
            let Some((at, event)) = self.queue.pop() else { return };
            if at > limit {
                return;
            }
            self.now = at;
            self.happen(event);
        }
    }

    fn share(&mut self) {
        self.net.settle(self.now);
        for (at, link) in self.net.looks.drain(..) {
            if at != super::net::NEVER {
                self.queue.push(at.max(self.now), Event::Look(link));
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start(node) => self.start(node),
            Event::Wake(session) => self.woken(session),
            Event::Asked(question) => self.asked(question),
            Event::Answered(question) => self.answered(question),
            Event::Silent { node, blob, left } => self.silent(node, blob, left),
            Event::Watched { session, of } => self.watched(session, of),
            Event::Mapped { session, of, map } => self.mapped(session, of, map),
            Event::Unreached { session, of } => self.unreached(session, of),
            Event::Tell { session, near } => self.tell(session, near),
            Event::Told { session, near } => self.told(session, near),
            Event::Requested(request) => self.requested(request),
            Event::Refused(request) => self.refused(request),
            Event::Look(link) => {
                let mut ended = std::mem::take(&mut self.ended);
                self.net.look(link, self.now, &mut ended);
                for tag in ended.drain(..) {
                    self.flowed(tag);
                }
                self.ended = ended;
            }
            Event::Came(request) => self.came(request),
            Event::Taken(taking) => self.taken(taking),
            Event::Landed { taking, index } => self.landed(taking, index),
            Event::Announced { owner, node, blob } => self.announced(owner, node, blob),
            Event::Released(server) => self.released(server),
            Event::Idle { from, to } => self.idle(from, to),
            Event::Crash => self.crash(),
            Event::Die(node) => self.die(node),
        }
    }

    /// A flow has brought all its bytes: a piece of the registry's where the lowest bit of its tag is set.
    fn flowed(&mut self, tag: u32) {
        if tag & 1 == 1 { self.piece_taken(tag >> 1) } else { self.sent(tag >> 1) }
    }

    /// The product's clock.
    pub(super) fn instant(&self) -> Instant {
        self.base + Duration::from_nanos(self.now)
    }

    /// When an instant of the product's clock is.
    pub(super) fn moment(&self, instant: Instant) -> u64 {
        instant.saturating_duration_since(self.base).as_nanos() as u64
    }

    /// In `delay` nanoseconds.
    pub(super) fn later(&mut self, delay: u64, event: Event) {
        self.queue.push(self.now + delay, event);
    }

    /// Half a round trip between two nodes.
    pub(super) fn way(&self, one: u32, other: u32) -> u64 {
        ms(if self.is_near(one, other) { self.preset.delays.near_ms } else { self.preset.delays.far_ms } / 2.0)
    }

    /// The zone that a node stands in.
    pub(super) fn zone(&self, node: u32) -> u16 {
        (node % self.tally.into_zones.len() as u32) as u16
    }

    /// Whether two nodes stand in one zone.
    pub(super) fn is_near(&self, one: u32, other: u32) -> bool {
        self.zone(one) == self.zone(other)
    }

    /// So many nodes of the zone of `node`, or fewer, any with the same chance.
    pub(super) fn some_near(&mut self, node: u32, amount: usize) -> Vec<u32> {
        let (all, zones) = (self.nodes.len() as u32, self.tally.into_zones.len() as u32);
        let some = (0..amount).map(|_| self.random.random_range(0..all.div_ceil(zones)) * zones + node % zones);
        some.filter(|other| *other < all).collect()
    }

    /// The number of the fetch of a blob by a node.
    pub(super) fn session_of(&self, node: u32, blob: u16) -> u32 {
        node * self.blobs.len() as u32 + u32::from(blob)
    }

    /// How uneven the connection between two nodes is: the same as long as it lasts.
    pub(super) fn weight(&self, from: u32, to: u32) -> f32 {
        if self.preset.uneven == 0.0 {
            return 1.0;
        }
        // Splitmix of the pair, then Box and Muller: a draw that needs no memory.
        let mut seed = u64::from(from) << 32 | u64::from(to);
        let mut draw = || {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed ^ mixed >> 31) >> 11) as f64 / (1_u64 << 53) as f64
        };
        let normal = (-2.0 * draw().max(1e-12).ln()).sqrt() * (std::f64::consts::TAU * draw()).cos();
        (self.preset.uneven * normal).exp() as f32
    }

    /// How long news waits for company.
    pub(super) fn batch(near: bool) -> u64 {
        (if near { HAVE_BATCH } else { HAVE_BATCH_ABROAD }).as_nanos() as u64
    }
}

/// Where node `number` listens.
pub(super) fn address(number: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from_bits((10 << 24) + number + 1), 4500))
}

/// Which node listens there.
pub(super) fn number(addr: SocketAddr) -> u32 {
    match addr {
        SocketAddr::V4(addr) => addr.ip().to_bits() - (10 << 24) - 1,
        SocketAddr::V6(_) => u32::MAX,
    }
}

/// Milliseconds in nanoseconds.
pub(super) fn ms(milliseconds: f64) -> u64 {
    (milliseconds * 1e6).max(0.0) as u64
}
