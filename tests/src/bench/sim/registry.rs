//! Taking from the registry: a lease is one bounded request, whose pieces come one after the other on one connection.

use std::{ops::Range, time::Instant};

use waylay::swarm::pure::Course;

use super::{
    net::Link,
    session::Session,
    world::{Event, World, ms},
};

/// A request to the registry under way.
#[derive(Debug)]
pub(super) struct Taking {
    session: u32,
    pieces: Range<u32>,
    /// The piece that comes now.
    at: u32,
    flow: Option<u32>,
    began: Instant,
    /// When the last piece that came is held: none overtakes another.
    held_at: u64,
    /// Bytes of the pieces that came.
    received: u64,
}

impl World {
    /// Asks the registry for these pieces.
    pub(super) fn take(&mut self, session_number: u32, session: &mut Session, pieces: Range<u32>) {
        let node = session_number / self.blobs.len() as u32;
        let at = pieces.start;
        let began = self.instant();
        let taking = self.takings.keep(Taking {
            session: session_number,
            pieces,
            at,
            flow: None,
            began,
            held_at: 0,
            received: 0,
        });
        session.takings.push(taking);
        self.nodes[node as usize].leases += 1;
        self.tally.requests += 1;
        let preset = &self.preset;
        self.later(ms(preset.delays.far_ms + preset.registry.answers_ms), Event::Taken(taking));
    }

    /// The registry's answer begins.
    pub(super) fn taken(&mut self, number: u32) {
        let blobs = self.blobs.len() as u32;
        let Some(taking) = self.takings.get(number) else { return };
        let (session, index) = (taking.session, taking.at);
        let (node, zone) = (&self.nodes[(session / blobs) as usize], self.zone(session / blobs));
        let bytes = self.blobs[(session % blobs) as usize].layout.len(index);
        let stands = self.preset.registry.zone.filter(|stands| *stands != zone);
        let between = stands.and_then(|stands| self.between.get(&(stands, zone)).copied());
        let links: Vec<Link> = [node.down, self.registry].into_iter().chain(between).chain(self.machine).collect();
        if between.is_some() {
            self.tally.into_zones[usize::from(zone)] += bytes;
        }
        self.tally.egress += bytes;
        let flow = self.net.start(&links, bytes, 1.0, self.preset.registry.connection, number << 1 | 1, self.now);
        if let Some(taking) = self.takings.get_mut(number) {
            taking.flow = Some(flow);
        }
    }

    /// A piece has come, and the next one follows.
    pub(super) fn piece_taken(&mut self, number: u32) {
        let blobs = self.blobs.len() as u32;
        let Some(taking) = self.takings.get_mut(number) else { return };
        let (index, session) = (taking.at, taking.session);
        let bytes = self.blobs[(session % blobs) as usize].layout.len(index);
        taking.received += bytes;
        self.tally.came(bytes, true, self.now);
        taking.at += 1;
        taking.flow = None;
        let more = taking.at < taking.pieces.end;
        let hold = ms(self.preset.delays.hold_ms * bytes as f64 / f64::from(1 << 20));
        taking.held_at = taking.held_at.max(self.now + hold);
        let held_at = taking.held_at;
        self.queue.push(held_at, Event::Landed { taking: number, index });
        if more {
            self.taken(number);
        }
    }

    /// A piece from the registry is held; with the last one the lease ends.
    pub(super) fn landed(&mut self, number: u32, index: u32) {
        let now = self.instant();
        let Some(taking) = self.takings.get(number) else { return };
        let (session, last) = (taking.session, index + 1 == taking.pieces.end);
        if !self.sessions[session as usize].as_ref().is_some_and(|own| own.writing.contains(index as usize)) {
            self.arrived(session, index);
        }
        if last && let Some(taking) = self.takings.take(number) {
            let node = session / self.blobs.len() as u32;
            self.nodes[node as usize].leases -= 1;
            if let Some(own) = self.sessions[session as usize].as_mut() {
                own.takings.retain(|other| *other != number);
                if let Some(course) = own.course.as_mut() {
                    course.lease_ended(&taking.pieces, now - taking.began, Ok(()), now);
                }
            }
        }
        self.pump(session);
    }

    /// The product's rule for leases that bring nothing.
    pub(super) fn give_up_stalled(&mut self, session: &mut Session, course: &mut Course, now: Instant) {
        let blobs = self.blobs.len();
        let received = |pieces: &Range<u32>| {
            let mut own = session.takings.iter().filter_map(|number| self.takings.get(*number));
            let taking = own.find(|taking| taking.pieces == *pieces)?;
            let layout = self.blobs[taking.session as usize % blobs].layout;
            let flowing = taking.flow.map_or(0.0, |flow| layout.len(taking.at) as f64 - self.net.left(flow, self.now));
            Some(taking.received + flowing as u64)
        };
        let given_up = course.give_up_stalled(|pieces| received(pieces).unwrap_or_default(), now);
        for pieces in given_up {
            self.tally.given_up += 1;
            let of = |number: &u32| self.takings.get(*number).is_some_and(|taking| taking.pieces == pieces);
            let numbers: Vec<u32> = session.takings.iter().copied().filter(of).collect();
            session.takings.retain(|number| !numbers.contains(number));
            for number in numbers {
                self.stop_taking(number);
            }
        }
    }

    /// It is given up.
    pub(super) fn stop_taking(&mut self, number: u32) {
        let Some(taking) = self.takings.take(number) else { return };
        if let Some(flow) = taking.flow {
            // What has not left yet does not count.
            self.tally.egress -= self.net.left(flow, self.now) as u64;
            self.net.stop(flow);
        }
        self.nodes[(taking.session / self.blobs.len() as u32) as usize].leases -= 1;
    }
}
