//! One node's fetch of one blob: the product's `Course` decides, this carries out.

use fixedbitset::FixedBitSet;
use rand::RngExt as _;
use waylay::swarm::{
    plan::IN_ALL,
    pure::{Ask, Course, Failure, Outlook, Reach},
};

use super::{
    node::Node,
    request::{Request, Stage},
    world::{Event, World, address, ms, number},
};

/// Silence is looked for this often.
const CHECK_NS: u64 = 250_000_000;
/// The bytes of a request, of a statement, and around a map, with their frames; by hand.
const REQUEST: u64 = 40;
const STATEMENT: u64 = 190;
const AROUND_MAP: u64 = 16;

/// A fetch, and what is left of it when all is here.
#[derive(Debug)]
pub(super) struct Session {
    /// `None` when all is here, or nothing more can be done.
    pub(super) course: Option<Course>,
    pub(super) held: FixedBitSet,
    /// Being written by somebody.
    pub(super) writing: FixedBitSet,
    cursor: u32,
    /// What those abroad and those near were told last.
    told: [FixedBitSet; 2],
    /// When those abroad and those near were told last, and whether they are about to be.
    tellings: [(u64, bool); 2],
    watchers: Vec<u32>,
    pub(super) asks: Vec<u32>,
    pub(super) takings: Vec<u32>,
    /// It asks for a lease.
    pub(super) asking: bool,
    /// When it looks around next.
    wakes: u64,
}

impl World {
    /// A fetch begins, with these that are known to have all of it or some.
    pub(super) fn begin(&mut self, node: u32, blob: u16, providers: &[(u32, bool)]) {
        let layout = self.blobs[usize::from(blob)].layout;
        let none = FixedBitSet::with_capacity(layout.count() as usize);
        let seed = self.random.random();
        let course = Course::new(layout, &none, 0..layout.count(), seed, self.instant());
        let number = self.session_of(node, blob);
        self.sessions[number as usize] = Some(Box::new(Session {
            course: Some(course),
            held: none.clone(),
            writing: none.clone(),
            cursor: 0,
            told: [none.clone(), none],
            tellings: [(0, false); 2],
            watchers: Vec::new(),
            asks: Vec::new(),
            takings: Vec::new(),
            asking: false,
            wakes: u64::MAX,
        }));
        for (peer, complete) in providers {
            self.watch(number, *peer, *complete);
        }
        self.pump(number);
    }

    /// Follows what a neighbour has.
    pub(super) fn watch(&mut self, number: u32, peer: u32, complete: bool) {
        let node = number / self.blobs.len() as u32;
        let near = self.is_near(node, peer);
        let Some(session) = self.sessions[number as usize].as_mut() else { return };
        let Some(course) = session.course.as_mut() else { return };
        if peer == node || !course.meet(address(peer)) {
            return;
        }
        if complete {
            let mut all = FixedBitSet::with_capacity(session.held.len());
            all.insert_range(..);
            course.has(address(peer), &all, near);
            return;
        }
        match self.reach(node, peer, true) {
            Ok(wait) => {
                self.tally.control(REQUEST);
                self.later(wait + self.way(node, peer), Event::Watched { session: number, of: peer });
            }
            Err(failed) => self.later(failed.after, Event::Unreached { session: number, of: peer }),
        }
    }

    pub(super) fn unreached(&mut self, number: u32, of: u32) {
        if let Some(course) = self.sessions[number as usize].as_mut().and_then(|session| session.course.as_mut()) {
            course.lost(address(of));
            self.pump(number);
        }
    }

    /// At `of`, somebody begins to watch: it is told what is here, and is a neighbour.
    pub(super) fn watched(&mut self, number: u32, of: u32) {
        if !self.nodes[of as usize].alive {
            return;
        }
        let blobs = self.blobs.len() as u32;
        let (watcher, own) = (number / blobs, of * blobs + number % blobs);
        let back = self.way(of, watcher);
        let session = self.sessions[own as usize].as_mut();
        let Some(session) = session.filter(|session| session.course.is_some() || !session.held.is_clear()) else {
            // It has nothing of it, and is no neighbour.
            return self.later(back, Event::Unreached { session: number, of });
        };
        let map = session.held.clone();
        if session.course.is_some() && !session.watchers.contains(&watcher) {
            session.watchers.push(watcher);
        }
        self.tally.control(map_bytes(&map));
        let map = self.maps.keep(map);
        self.later(back, Event::Mapped { session: number, of, map });
        self.watch(own, watcher, false);
    }

    pub(super) fn mapped(&mut self, number: u32, of: u32, map: u32) {
        let Some(map) = self.maps.take(map) else { return };
        let near = self.is_near(number / self.blobs.len() as u32, of);
        let course = self.sessions[number as usize].as_mut().and_then(|session| session.course.as_mut());
        if let Some(course) = course {
            course.has(address(of), &map, near);
            self.pump(number);
        }
    }

    /// Watchers near, or abroad, are told what is here.
    pub(super) fn tell(&mut self, number: u32, near: bool) {
        let blobs = self.blobs.len() as u32;
        let Some(mut session) = self.sessions[number as usize].take() else { return };
        session.tellings[usize::from(near)] = (self.now, false);
        session.told[usize::from(near)].clone_from(&session.held);
        // One that has all has closed its stream.
        session.watchers.retain(|watcher| {
            let other = self.sessions[(watcher * blobs + number % blobs) as usize].as_ref();
            other.is_some_and(|other| other.course.is_some())
        });
        let mut way = None;
        for watcher in &session.watchers {
            if self.is_near(number / blobs, *watcher) == near {
                self.tally.control(map_bytes(&session.held));
                way = Some(self.way(number / blobs, *watcher));
            }
        }
        self.sessions[number as usize] = Some(session);
        if let Some(way) = way {
            self.later(way, Event::Told { session: number, near });
        }
    }

    pub(super) fn told(&mut self, number: u32, near: bool) {
        let blobs = self.blobs.len() as u32;
        let node = number / blobs;
        let Some(session) = self.sessions[number as usize].as_mut() else { return };
        let (told, watchers) =
            (std::mem::take(&mut session.told[usize::from(near)]), std::mem::take(&mut session.watchers));
        // Read before they are needed, none waiting for another: there are too many for the processor's cache.
        let theirs =
            watchers.iter().filter_map(|watcher| self.sessions[(watcher * blobs + number % blobs) as usize].as_ref());
        std::hint::black_box(theirs.map(|theirs| theirs.asks.len()).sum::<usize>());
        for watcher in &watchers {
            if self.is_near(node, *watcher) != near {
                continue;
            }
            let other = watcher * blobs + number % blobs;
            let course = self.sessions[other as usize].as_mut().and_then(|session| session.course.as_mut());
            if let Some(course) = course {
                course.has(address(node), &told, near);
                // With all requests open, what others have changes nothing yet.
                if self.sessions[other as usize].as_ref().is_some_and(|session| session.asks.len() < IN_ALL) {
                    self.pump(other);
                }
            }
        }
        if let Some(session) = self.sessions[number as usize].as_mut() {
            session.told[usize::from(near)] = told;
            // Those that came meanwhile.
            let came = std::mem::replace(&mut session.watchers, watchers);
            session.watchers.extend(came);
        }
    }

    /// A piece is here, from anywhere.
    pub(super) fn arrived(&mut self, number: u32, index: u32) {
        let Some(session) = self.sessions[number as usize].as_mut() else { return };
        session.writing.remove(index as usize);
        session.held.insert(index as usize);
        while session.held.contains(session.cursor as usize) {
            session.cursor += 1;
        }
        for near in if self.preset.zones.is_some() { 0..2 } else { 1..2 } {
            let (told_at, telling) = &mut session.tellings[near];
            if !*telling && !session.watchers.is_empty() {
                *telling = true;
                let at = (*told_at + Self::batch(near == 1)).max(self.now);
                self.queue.push(at, Event::Tell { session: number, near: near == 1 });
            }
        }
    }

    /// A request has brought its piece.
    pub(super) fn came(&mut self, at: u32) {
        let Some(request) = self.ended(at) else { return };
        let (number, now) = (request.session, self.instant());
        let layout = self.blobs[number as usize % self.blobs.len()].layout;
        self.tally.came(layout.len(request.index), false, self.now);
        if let Some(course) = self.sessions[number as usize].as_mut().and_then(|session| session.course.as_mut()) {
            course.came(request.index, now);
        }
        self.arrived(number, request.index);
        self.pump(number);
    }

    /// A request was turned away: its peer has too many in line, or too many connections.
    pub(super) fn refused(&mut self, at: u32) {
        let Some(request) = self.ended(at) else { return };
        let (number, now) = (request.session, self.instant());
        let Some(session) = self.sessions[number as usize].as_mut() else { return };
        session.writing.remove(request.index as usize);
        session.course.iter_mut().for_each(|course| course.failed(request.index, Failure::Busy, now));
        self.pump(number);
    }

    /// A request is no longer open; `None` when nobody waits for it any more.
    fn ended(&mut self, at: u32) -> Option<Request> {
        let request = self.requests.take(at)?;
        if request.abandoned || !self.nodes[request.client as usize].alive {
            return None;
        }
        self.sessions[request.session as usize].as_mut()?.asks.retain(|ask| *ask != at);
        Some(request)
    }

    pub(super) fn woken(&mut self, number: u32) {
        let (now, clock) = (self.now, self.instant());
        let Some(session) = self.sessions[number as usize].as_mut().filter(|session| session.wakes == now) else {
            return;
        };
        session.wakes = u64::MAX;
        let silent: Vec<u32> = session
            .asks
            .iter()
            .copied()
            .filter(|ask| {
                self.requests.get(*ask).is_some_and(|request| {
                    request.is_silent(now, &self.blobs[(number as usize) % self.blobs.len()].layout)
                })
            })
            .collect();
        for at in silent {
            let Some(request) = self.requests.get(at) else { continue };
            let (client, server, index) = (request.client, request.server, request.index);
            self.tally.stalls += 1;
            // One that lives is heard of meanwhile, and is there for other questions.
            let lives = self.nodes[server as usize].alive;
            if !lives {
                self.missed(client, server, 0);
            }
            if let Some(session) = self.sessions[number as usize].as_mut() {
                session.asks.retain(|ask| *ask != at);
                session.writing.remove(index as usize);
                if let Some(course) = session.course.as_mut() {
                    course.failed(index, if lives { Failure::Slow } else { Failure::Peer }, clock);
                }
            }
            self.abandon(at);
        }
        self.pump(number);
    }

    /// What the product's loop does after each report.
    pub(super) fn pump(&mut self, number: u32) {
        let Some(mut session) = self.sessions[number as usize].take() else { return };
        let Some(mut course) = session.course.take() else {
            self.sessions[number as usize] = Some(session);
            return;
        };
        let blobs = self.blobs.len() as u32;
        let (node, blob) = (number / blobs, (number % blobs) as u16);
        let now = self.instant();
        if !session.takings.is_empty() {
            self.give_up_stalled(&mut session, &mut course, now);
        }
        match course.look(&session.held, session.cursor, now) {
            Outlook::Going => {}
            Outlook::Done => {
                self.bid_farewell(node, blob, &course, &session.held);
                self.sessions[number as usize] = Some(session);
                self.holds(node, blob);
                return;
            }
            Outlook::Hopeless => {
                self.tally.hopeless += 1;
                self.sessions[number as usize] = Some(session);
                return;
            }
        }
        // This one is not among them now.
        let all = self.session_of(node, 0) as usize..self.session_of(node + 1, 0) as usize;
        let others = self.sessions[all].iter().flatten().map(|session| session.asks.len()).sum();
        while let Some(ask) = course.next(others, now) {
            self.ask(number, &mut session, &mut course, ask);
        }
        if let Some(pieces) = course.push_on(now) {
            self.tally.unleased += 1;
            self.take(number, &mut session, pieces);
        }
        let Node { leases, asking, .. } = &mut self.nodes[node as usize];
        if let Some(reach) = course.join(&session.held, *leases + *asking, now) {
            session.asking = reach != Reach::No;
            *asking += usize::from(session.asking);
            let zone = self.zone_name(node);
            let join =
                course.report(self.blobs[usize::from(blob)].digest, &session.held, reach, (&zone, super::REGISTRY));
            self.question_join(node, blob, join, 0, false);
        }
        let wake = self.moment(course.wake(now)).min(self.now + CHECK_NS);
        if session.wakes > wake {
            session.wakes = wake;
            self.queue.push(wake, Event::Wake(number));
        }
        // The owner may be this node itself, and have answered.
        session.course = Some(course);
        self.sessions[number as usize] = Some(session);
        self.answer_own();
    }

    fn ask(&mut self, number: u32, session: &mut Session, course: &mut Course, ask: Ask) {
        if session.writing.contains(ask.index as usize) || session.held.contains(ask.index as usize) {
            course.elsewhere(ask.index);
            return;
        }
        let (client, server) = (number / self.blobs.len() as u32, self::number(ask.peer));
        session.writing.insert(ask.index as usize);
        self.tally.control(REQUEST + STATEMENT);
        let request = Request {
            session: number,
            client,
            server,
            index: ask.index,
            patience: ask.patience,
            since: self.now,
            stage: Stage::Travelling,
            abandoned: false,
        };
        let at = self.requests.keep(request);
        session.asks.push(at);
        match self.reach(client, server, true) {
            Ok(wait) => {
                let travels = wait + self.way(client, server) + ms(self.preset.delays.serve_ms);
                self.later(travels, Event::Requested(at));
            }
            Err(failed) if failed.busy => self.later(failed.after, Event::Refused(at)),
            // Noticed by its patience: a little later than the product would.
            Err(_) => {
                if let Some(request) = self.requests.get_mut(at) {
                    request.stage = Stage::Lost(self.now);
                }
            }
        }
    }

    pub(super) fn zone_name(&self, node: u32) -> String {
        let zone = self.zone(node);
        if self.preset.zones.is_some() { format!("zone-{zone}") } else { String::new() }
    }
}

fn map_bytes(map: &FixedBitSet) -> u64 {
    AROUND_MAP + 10 * map.len().div_ceil(64) as u64
}
