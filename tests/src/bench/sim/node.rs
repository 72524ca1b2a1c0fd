//! A node: its links, its connections, what it serves, and its end.

use std::collections::VecDeque;

use fixedbitset::FixedBitSet;
use rand::RngExt as _;
use waylay::pull::ahead::{AT_ONCE, FARTHEST, order};
use waylay::swarm::pure::{CONNECT_DEADLINE, CONNECTIONS, CROWDED, CROWDED_IDLE, HANDSHAKES, LINE, SLOTS, SLOW_READER};

use super::{
    net::Link,
    owner::Locating,
    request::Stage,
    world::{Event, World, ms},
};

/// A member that did not answer is left alone for so long, doubling up to the second: as `Members` does.
const REST: (u64, u64) = (2_000_000_000, 60_000_000_000);
/// Crashes come this often.
const CRASHES_MS: f64 = 100.0;

/// A connection that one node made to another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connection {
    ready: u64,
    lasting: bool,
}

/// Why a message cannot leave, and when its sender knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unreached {
    pub(super) after: u64,
    /// It lives, and has as many connections as it may.
    pub(super) busy: bool,
}

/// One of the cluster.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) up: Link,
    pub(super) down: Link,
    pub(super) slow: bool,
    pub(super) alive: bool,
    /// Connections that others made to it, and that it made.
    incoming: u32,
    outgoing: u32,
    /// Until when it is busy with greetings and reports.
    pub(super) busy: u64,
    /// When each greeting that it has taken on is over.
    greetings: VecDeque<u64>,
    /// Pieces on their way from it, and requests that wait for a slot.
    serving: Vec<u32>,
    line: VecDeque<u32>,
    /// Slots that dead readers hold.
    haunted: usize,
    /// Leases under way of all blobs.
    pub(super) leases: usize,
    /// Questions for leases under way.
    pub(super) asking: usize,
    /// How many layers its client has asked for, in the image's order.
    asked: u16,
    /// Which it has begun to fetch.
    begun: FixedBitSet,
    /// Which it has.
    has: FixedBitSet,
    pub(super) started: u64,
    pub(super) finished: Option<u64>,
    /// Blobs whose owners are being asked.
    pub(super) locating: Vec<Locating>,
    /// Those that did not answer, how often, and until when they rest.
    rests: Vec<(u32, u32, u64)>,
}

impl Node {
    pub(super) fn new(up: Link, down: Link, slow: bool) -> Self {
        Self {
            up,
            down,
            slow,
            alive: true,
            incoming: 0,
            outgoing: 0,
            busy: 0,
            greetings: VecDeque::new(),
            serving: Vec::new(),
            line: VecDeque::new(),
            haunted: 0,
            leases: 0,
            asking: 0,
            asked: 0,
            begun: FixedBitSet::new(),
            has: FixedBitSet::new(),
            started: 0,
            finished: None,
            locating: Vec::new(),
            rests: Vec::new(),
        }
    }

    pub(super) fn connections(&self) -> u32 {
        self.incoming + self.outgoing
    }
}

impl World {
    /// The node's client begins to pull.
    pub(super) fn start(&mut self, number: u32) {
        let (now, blobs) = (self.now, self.blobs.len());
        let node = &mut self.nodes[number as usize];
        if node.alive {
            (node.begun, node.has) = (FixedBitSet::with_capacity(blobs), FixedBitSet::with_capacity(blobs));
            node.started = now;
            self.ask_more(number);
        }
    }

    /// The client asks for layers, and some that come later are begun beforehand.
    fn ask_more(&mut self, number: u32) {
        let blobs = self.blobs.len() as u16;
        let node = &mut self.nodes[number as usize];
        let mut waits = (0..node.asked).filter(|blob| !node.has.contains((*blob).into())).count();
        while waits < self.preset.parallel && node.asked < blobs {
            waits += usize::from(!node.has.contains(node.asked.into()));
            node.asked += 1;
        }
        let size = |blob: u16| self.blobs[usize::from(blob)].layout.size();
        let farthest = blobs.min(node.asked + FARTHEST as u16);
        let (ahead, later): (Vec<u16>, Vec<u16>) =
            (node.asked..farthest).partition(|blob| node.begun.contains((*blob).into()));
        let mut places = AT_ONCE - ahead.len();
        let mut room = self.preset.read_ahead.saturating_sub(ahead.into_iter().map(size).sum());
        let mut later = order(later, &mut self.random);
        later.retain(|blob| {
            let fits = size(*blob) <= room && places > 0;
            if fits {
                (room, places) = (room - size(*blob), places - 1);
            }
            fits
        });
        for blob in (0..node.asked).chain(later) {
            if !self.nodes[number as usize].begun.put(blob.into()) {
                self.locate(number, blob);
            }
        }
    }

    /// The node has a blob.
    pub(super) fn has_blob(&mut self, number: u32, blob: u16) {
        let node = &mut self.nodes[number as usize];
        node.has.insert(blob.into());
        if node.has.is_full() {
            node.finished = Some(self.now);
            self.unfinished -= 1;
        } else {
            self.ask_more(number);
        }
    }

    /// When a message from one node to another may leave. `lasting` connections carry watches and pieces; others a question
    /// now and then.
    pub(super) fn reach(&mut self, from: u32, to: u32, lasting: bool) -> Result<u64, Unreached> {
        if let Some(connection) = self.connections.get_mut(&(from, to)) {
            connection.lasting |= lasting;
            return Ok(connection.ready.saturating_sub(self.now));
        }
        if !self.is_awake(from, to) {
            return Err(Unreached { after: 0, busy: false });
        }
        let (way, greet) = (self.way(from, to), ms(self.preset.delays.greet_ms));
        let deadline = CONNECT_DEADLINE.as_nanos() as u64;
        let peer = &mut self.nodes[to as usize];
        let arrives = self.now + way;
        while peer.greetings.front().is_some_and(|over| *over <= arrives) {
            peer.greetings.pop_front();
        }
        if peer.alive && (peer.incoming as usize >= CONNECTIONS || peer.greetings.len() >= HANDSHAKES) {
            self.tally.refused += 1;
            return Err(Unreached { after: way * 2, busy: true });
        }
        if peer.alive {
            peer.busy = peer.busy.max(arrives) + greet;
            peer.greetings.push_back(peer.busy);
            let ready = peer.busy + way;
            if ready - self.now < deadline {
                peer.incoming += 1;
                self.nodes[from as usize].outgoing += 1;
                self.connections.insert((from, to), Connection { ready, lasting });
                for node in [from, to] {
                    self.tally.connected(self.nodes[node as usize].connections());
                }
                return Ok(ready - self.now);
            }
            self.tally.late_greetings += 1;
        }
        self.missed(from, to, deadline);
        Err(Unreached { after: deadline, busy: false })
    }

    /// A question was answered: one that has many connections closes those that are idle.
    pub(super) fn rest(&mut self, from: u32, to: u32) {
        if self.nodes[to as usize].incoming as usize > CROWDED {
            self.later(CROWDED_IDLE.as_nanos() as u64, Event::Idle { from, to });
        }
    }

    pub(super) fn idle(&mut self, from: u32, to: u32) {
        if self.connections.get(&(from, to)).is_some_and(|connection| !connection.lasting) {
            self.connections.remove(&(from, to));
            self.nodes[to as usize].incoming -= 1;
            self.nodes[from as usize].outgoing -= 1;
        }
    }

    /// `from` leaves `to` alone for a while.
    pub(super) fn missed(&mut self, from: u32, to: u32, after: u64) {
        let now = self.now + after;
        let rests = &mut self.nodes[from as usize].rests;
        let at = rests.iter().position(|(node, ..)| *node == to).unwrap_or_else(|| {
            rests.push((to, 0, 0));
            rests.len() - 1
        });
        let (_, failures, until) = &mut rests[at];
        *failures += 1;
        *until = now + (REST.0 << (*failures - 1).min(5)).min(REST.1);
    }

    pub(super) fn is_awake(&self, from: u32, to: u32) -> bool {
        self.nodes[from as usize].rests.iter().all(|(node, _, until)| *node != to || *until <= self.now)
    }

    /// A request for a piece has come to the one that has it.
    pub(super) fn requested(&mut self, number: u32) {
        let Some(request) = self.requests.get_mut(number) else { return };
        let server = request.server;
        if !self.nodes[server as usize].alive {
            request.stage = Stage::Lost(self.now);
            self.drop_abandoned(number);
            return;
        }
        if self.nodes[server as usize].line.len() >= LINE {
            let client = request.client;
            self.tally.turned_away += 1;
            return self.later(self.way(server, client), Event::Refused(number));
        }
        request.stage = Stage::Waiting;
        self.nodes[server as usize].line.push_back(number);
        self.serve(server);
    }

    /// Gives slots to those in line.
    pub(super) fn serve(&mut self, server: u32) {
        loop {
            let node = &mut self.nodes[server as usize];
            if node.serving.len() + node.haunted >= SLOTS {
                return;
            }
            let Some(number) = node.line.pop_front() else { return };
            let Some(request) = self.requests.get_mut(number) else { continue };
            if request.abandoned {
                self.requests.take(number);
                continue;
            }
            let (client, session) = (request.client, request.session);
            if !self.nodes[client as usize].alive {
                self.requests.take(number);
                self.haunt(server);
                continue;
            }
            let blobs = self.blobs.len() as u32;
            let (blob, index) = ((session % blobs) as u16, request.index);
            let bytes = self.blobs[usize::from(blob)].layout.len(index);
            let flow = self.transfer(server, client, bytes, number << 1);
            if let Some(request) = self.requests.get_mut(number) {
                request.stage = Stage::Flowing(flow);
            }
            self.nodes[server as usize].serving.push(number);
        }
    }

    /// Bytes begin to flow from one node to another.
    fn transfer(&mut self, from: u32, to: u32, bytes: u64, tag: u32) -> u32 {
        let (giver, taker) = (&self.nodes[from as usize], &self.nodes[to as usize]);
        let zones = (self.zone(from), self.zone(to));
        let between = self.between.get(&zones).copied();
        let links: Vec<Link> = [taker.down, giver.up].into_iter().chain(between).chain(self.machine).collect();
        if zones.0 != zones.1 {
            self.tally.into_zones[usize::from(zones.1)] += bytes;
        }
        let weight = self.weight(from, to);
        self.net.start(&links, bytes, weight, f64::MAX, tag, self.now)
    }

    /// All bytes of a piece have left.
    pub(super) fn sent(&mut self, number: u32) {
        let Some(request) = self.requests.get_mut(number) else { return };
        request.stage = Stage::Landing;
        let (server, client, session, index) = (request.server, request.client, request.session, request.index);
        let blob = session % self.blobs.len() as u32;
        let bytes = self.blobs[blob as usize].layout.len(index);
        self.leave_slot(server, number);
        let hold = ms(self.preset.delays.hold_ms * bytes as f64 / f64::from(1 << 20));
        self.later(self.way(server, client) + hold, Event::Came(number));
    }

    /// The one that asked no longer wants it: what is under way of it ends.
    pub(super) fn abandon(&mut self, number: u32) {
        let Some(request) = self.requests.get_mut(number) else { return };
        request.abandoned = true;
        let server = request.server;
        match request.stage {
            Stage::Flowing(flow) => {
                self.net.stop(flow);
                self.requests.take(number);
                self.leave_slot(server, number);
            }
            Stage::Lost(_) => {
                self.requests.take(number);
            }
            Stage::Travelling | Stage::Waiting | Stage::Landing => {}
        }
    }

    fn drop_abandoned(&mut self, number: u32) {
        if self.requests.get(number).is_some_and(|request| request.abandoned) {
            self.requests.take(number);
        }
    }

    fn leave_slot(&mut self, server: u32, number: u32) {
        let node = &mut self.nodes[server as usize];
        if let Some(at) = node.serving.iter().position(|own| *own == number) {
            node.serving.swap_remove(at);
        }
        self.serve(server);
    }

    /// A reader that died keeps its slot until the server has waited long enough.
    fn haunt(&mut self, server: u32) {
        self.nodes[server as usize].haunted += 1;
        self.later(SLOW_READER.as_nanos() as u64, Event::Released(server));
    }

    pub(super) fn released(&mut self, server: u32) {
        self.nodes[server as usize].haunted -= 1;
        self.serve(server);
    }

    /// Some nodes crash, and more will.
    pub(super) fn crash(&mut self) {
        let living = self.nodes.iter().filter(|node| node.alive).count() as f64;
        let expected = living * self.preset.crashes * CRASHES_MS / 1e3;
        let chance = expected.fract();
        let amount = expected as usize + usize::from(self.random.random_bool(chance));
        for _ in 0..amount {
            let doomed = self.random.random_range(0..self.nodes.len()) as u32;
            if self.nodes[doomed as usize].alive {
                self.die(doomed);
            }
        }
        self.later(ms(CRASHES_MS), Event::Crash);
    }

    pub(super) fn die(&mut self, doomed: u32) {
        self.tally.crashed += 1;
        let node = &mut self.nodes[doomed as usize];
        node.alive = false;
        self.unfinished -= u32::from(node.finished.is_none());
        let (serving, line) = (std::mem::take(&mut node.serving), std::mem::take(&mut node.line));
        for number in serving.into_iter().chain(line) {
            let Some(request) = self.requests.get_mut(number) else { continue };
            if let Stage::Flowing(flow) = request.stage {
                self.net.stop(flow);
            }
            request.stage = Stage::Lost(self.now);
            self.drop_abandoned(number);
        }
        self.books.remove(&doomed);
        for blob in 0..self.blobs.len() as u16 {
            let number = self.session_of(doomed, blob);
            let Some(session) = self.sessions[number as usize].take() else { continue };
            for number in session.asks {
                let flowing = self.requests.get(number).and_then(|request| match request.stage {
                    Stage::Flowing(_) => Some(request.server),
                    _ => None,
                });
                self.abandon(number);
                if let Some(server) = flowing {
                    self.haunt(server);
                }
            }
            for number in session.takings {
                self.stop_taking(number);
            }
        }
    }
}
