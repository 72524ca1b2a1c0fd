//! Questions to the owners of a blob: who has it, and what may I do? The product's `Tracker` answers; asking one after the
//! other is as `locate` does it.

use std::time::Instant;

use rand::RngExt as _;
use waylay::{
    store::Provenance,
    swarm::pure::{Announce, Course, FRAME_DEADLINE, Holding, Join, Joined, Reach, Record, STAGGER, Tracker},
};

use super::{
    node::Node,
    world::{Event, World, address, ms, number},
};

/// All of locating ends by then, as in `locate`.
const LOCATED_NS: u64 = 500_000_000;
/// Announcements wait this long for company, as in `herald`.
const NEWS_NS: u64 = 20_000_000;
/// The turn of an owner that has too many connections: no other is asked.
const BUSY: usize = usize::MAX - 1;
/// The bytes of a query and its answer, of an announcement, of an answer to a report, and of a report without its sets.
const FOUND: u64 = 60;
const ANNOUNCED: u64 = 150;
const JOINED: u64 = 100;
const REPORT: u64 = 120;

/// What a node knows as an owner.
#[derive(Debug)]
pub(super) struct Book {
    tracker: Tracker,
    boot: u64,
}

/// A question on its way, or its answer.
#[derive(Debug)]
pub(super) struct Question {
    node: u32,
    blob: u16,
    owner: u32,
    sent: u64,
    what: What,
}

/// A blob whose owners are being asked who has it.
#[derive(Debug)]
pub(super) struct Locating {
    blob: u16,
    began: u64,
    /// Not asked yet, the next one last.
    others: Vec<u32>,
    /// Asked, and not heard of yet.
    asked: usize,
}

#[derive(Debug)]
enum What {
    Find {
        found: Option<Record>,
    },
    /// The turn of the owner that is asked; a farewell needs no answer.
    Join {
        join: Box<Join>,
        turn: usize,
        farewell: bool,
        answer: Option<Option<Joined>>,
    },
}

impl World {
    /// Asks all owners who has a blob, one a moment after the other.
    pub(super) fn locate(&mut self, node: u32, blob: u16) {
        let owners = self.blobs[usize::from(blob)].owners.clone();
        if owners.contains(&node) {
            let (digest, now) = (self.blobs[usize::from(blob)].digest, self.instant());
            let found = self.book(node).tracker.find(&digest, address(node), now);
            if let Some(record) = found {
                return self.begin_with(node, blob, &record);
            }
        }
        let others: Vec<u32> =
            owners.into_iter().filter(|owner| *owner != node && self.is_awake(node, *owner)).rev().collect();
        self.nodes[node as usize].locating.push(Locating { blob, began: self.now, others, asked: 0 });
        self.ask_next(node, blob);
    }

    /// Asks the next owner; when there is none and all have answered, nobody has it.
    fn ask_next(&mut self, node: u32, blob: u16) {
        let locating = &mut self.nodes[node as usize].locating;
        let Some(at) = locating.iter().position(|own| own.blob == blob) else { return };
        let Some(owner) = locating[at].others.pop() else {
            if locating[at].asked == 0 {
                locating.swap_remove(at);
                self.begin(node, blob, &[]);
            }
            return;
        };
        locating[at].asked += 1;
        let (left, sent) = (locating[at].others.len(), locating[at].began);
        let question = self.questions.keep(Question { node, blob, owner, sent, what: What::Find { found: None } });
        match self.reach(node, owner, false) {
            Ok(wait) => self.later(wait + self.way(node, owner), Event::Asked(question)),
            Err(failed) => self.later(failed.after, Event::Answered(question)),
        }
        self.later(STAGGER.as_nanos() as u64, Event::Silent { node, blob, left });
    }

    /// An owner may have been silent for a moment: if no other was asked since, the next one is.
    pub(super) fn silent(&mut self, node: u32, blob: u16, left: usize) {
        let Node { alive, locating, .. } = &self.nodes[node as usize];
        if *alive && locating.iter().any(|own| own.blob == blob && own.others.len() == left && left > 0) {
            self.ask_next(node, blob);
        }
    }

    fn begin_with(&mut self, node: u32, blob: u16, record: &Record) {
        let providers: Vec<_> = record
            .providers
            .iter()
            .map(|(addr, complete)| (number(*addr), *complete))
            .filter(|(peer, _)| *peer != node && self.is_awake(node, *peer))
            .collect();
        self.begin(node, blob, &providers);
    }

    /// Tells an owner how a fetch stands, and asks what it may do: the first that answers decides.
    pub(super) fn question_join(&mut self, node: u32, blob: u16, join: Join, turn: usize, farewell: bool) {
        let owners = self.blobs[usize::from(blob)].owners.clone();
        for (turn, owner) in owners.into_iter().enumerate().skip(turn) {
            if owner == node {
                break;
            }
            if !self.is_awake(node, owner) {
                continue;
            }
            let sets = 3 * 10 * u64::from(self.blobs[usize::from(blob)].layout.count().div_ceil(64));
            self.tally.control(REPORT + sets);
            let what = What::Join { join: Box::new(join), turn, farewell, answer: None };
            let question = self.questions.keep(Question { node, blob, owner, sent: self.now, what });
            match self.reach(node, owner, false) {
                Ok(wait) => self.later(wait + self.way(node, owner), Event::Asked(question)),
                Err(failed) => {
                    if failed.busy
                        && let Some(Question { what: What::Join { turn, .. }, .. }) = self.questions.get_mut(question)
                    {
                        *turn = BUSY;
                    }
                    self.later(failed.after, Event::Answered(question));
                }
            }
            return;
        }
        if self.blobs[usize::from(blob)].owners.first() != Some(&node) {
            self.tally.alone += 1;
        }
        let now = self.instant();
        let book = self.book(node);
        let answer = book.tracker.join(address(node), &join, book.boot, now);
        if !farewell {
            let what = What::Join { join: Box::new(join), turn, farewell, answer: Some(answer) };
            self.own_answers.push(Question { node, blob, owner: node, sent: self.now, what });
        }
    }

    /// What nodes answered themselves, for when their fetches can hear it.
    pub(super) fn answer_own(&mut self) {
        while let Some(question) = self.own_answers.pop() {
            if let What::Join { answer: Some(answer), .. } = question.what {
                self.joined(question.node, question.blob, answer);
            }
        }
    }

    /// A question has come to an owner.
    pub(super) fn asked(&mut self, number: u32) {
        let now = self.instant();
        let cost = ms(self.preset.delays.join_ms);
        let Some(Question { node, blob, owner, sent, .. }) = self.questions.get(number) else { return };
        let (node, blob, owner, sent) = (*node, *blob, *owner, *sent);
        let is_join = self.questions.get(number).is_some_and(|question| matches!(question.what, What::Join { .. }));
        let deadline = sent + if is_join { FRAME_DEADLINE.as_nanos() as u64 } else { LOCATED_NS };
        if !self.nodes[owner as usize].alive {
            self.missed(node, owner, deadline.saturating_sub(self.now));
            return self.queue.push(deadline.max(self.now), Event::Answered(number));
        }
        self.tally.asked(owner, self.now);
        let busy = self.nodes[owner as usize].busy.max(self.now) + cost;
        self.nodes[owner as usize].busy = busy;
        let Some(mut question) = self.questions.take(number) else { return };
        let digest = self.blobs[usize::from(blob)].digest;
        let began = Instant::now();
        let book = self.book(owner);
        match &mut question.what {
            What::Find { found } => *found = book.tracker.find(&digest, address(node), now),
            What::Join { join, answer, .. } => *answer = Some(book.tracker.join(address(node), join, book.boot, now)),
        }
        self.tally.owners_took += began.elapsed();
        let mut back = busy + self.way(node, owner);
        if back > deadline {
            // It has gone on without it.
            back = deadline;
            self.tally.late_answers += 1;
            self.missed(node, owner, deadline.saturating_sub(self.now));
            match &mut question.what {
                What::Find { found } => *found = None,
                What::Join { answer, .. } => *answer = None,
            }
        }
        self.tally.control(if is_join { JOINED } else { FOUND });
        let number = self.questions.keep(question);
        self.queue.push(back.max(self.now), Event::Answered(number));
    }

    /// An answer is back, or will not come.
    pub(super) fn answered(&mut self, number: u32) {
        let Some(Question { node, blob, owner, what, .. }) = self.questions.take(number) else { return };
        self.rest(node, owner);
        if !self.nodes[node as usize].alive {
            return;
        }
        match what {
            What::Find { found } => self.found(node, blob, found),
            What::Join { farewell: true, answer: Some(_), .. } => {}
            // It is asked again in a moment.
            What::Join { turn: BUSY, farewell, .. } => {
                if !farewell {
                    self.joined(node, blob, None);
                }
            }
            What::Join { answer: Some(Some(joined)), .. } => self.joined(node, blob, Some(joined)),
            // Another crowd than ours, or no room: it goes on alone.
            What::Join { join, answer: Some(None), farewell, .. } => {
                self.question_join(node, blob, *join, usize::MAX, farewell);
                self.answer_own();
            }
            What::Join { join, turn, farewell, answer: None } => {
                self.tally.next_owner += 1;
                self.question_join(node, blob, *join, turn + 1, farewell);
                self.answer_own();
            }
        }
    }

    fn found(&mut self, node: u32, blob: u16, found: Option<Record>) {
        let locating = &mut self.nodes[node as usize].locating;
        let Some(at) = locating.iter().position(|own| own.blob == blob) else { return };
        locating[at].asked -= 1;
        if let Some(record) = found {
            locating.swap_remove(at);
            self.begin_with(node, blob, &record);
        } else {
            self.ask_next(node, blob);
        }
    }

    fn joined(&mut self, node: u32, blob: u16, joined: Option<Joined>) {
        let (number, now) = (self.session_of(node, blob), self.instant());
        let Some(mut session) = self.sessions[number as usize].take() else { return };
        if std::mem::take(&mut session.asking) {
            self.nodes[node as usize].asking -= 1;
        }
        let leased = session.course.as_mut().and_then(|course| course.joined(joined.as_ref(), now));
        if let Some(pieces) = leased {
            self.take(number, &mut session, pieces);
        }
        let at_random = session.course.as_mut().filter(|_| joined.is_none()).map_or(0, Course::at_random);
        self.sessions[number as usize] = Some(session);
        let neighbours = match joined {
            Some(joined) => joined.neighbours.into_iter().map(self::number).collect(),
            None if self.preset.zones.is_none() => self.some_near(node, at_random),
            None => Vec::new(),
        };
        for peer in neighbours {
            self.watch(number, peer, false);
        }
        self.pump(number);
    }

    /// The owner shall know that all is here, where there are zones.
    pub(super) fn bid_farewell(&mut self, node: u32, blob: u16, course: &Course, held: &fixedbitset::FixedBitSet) {
        let zone = self.zone_name(node);
        if !zone.is_empty() {
            let join = course.report(self.blobs[usize::from(blob)].digest, held, Reach::No, (&zone, super::REGISTRY));
            self.question_join(node, blob, join, 0, true);
        }
    }

    /// A node has a blob: its client goes on, and the owners are told.
    pub(super) fn holds(&mut self, node: u32, blob: u16) {
        for owner in self.blobs[usize::from(blob)].owners.clone() {
            if owner == node {
                self.announced(owner, node, blob);
            } else if let Ok(wait) = self.reach(node, owner, false) {
                self.tally.control(ANNOUNCED);
                self.later(NEWS_NS + wait + self.way(node, owner), Event::Announced { owner, node, blob });
            }
        }
        self.has_blob(node, blob);
    }

    pub(super) fn announced(&mut self, owner: u32, node: u32, blob: u16) {
        if !self.nodes[owner as usize].alive {
            return;
        }
        self.tally.asked(owner, self.now);
        let (known, now) = (&self.blobs[usize::from(blob)], self.instant());
        let provenance = vec![Provenance { registry: "registry.example".into(), repository: "app".into() }];
        let held = vec![Holding { blob: known.digest, size: known.layout.size(), complete: true, provenance }];
        let book = self.book(owner);
        book.tracker.note(address(node), Announce { held, gone: Vec::new() }, now);
        self.rest(node, owner);
    }

    fn book(&mut self, owner: u32) -> &mut Book {
        let random = &mut self.random;
        self.books
            .entry(owner)
            .or_insert_with(|| Book { tracker: Tracker::new(random.random()), boot: random.random_range(1..=u64::MAX) })
    }
}
