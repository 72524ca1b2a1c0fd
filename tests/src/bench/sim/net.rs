//! Links and the flows on them. A flow's rate follows from its own links only: each time something starts or ends on a
//! link, the link shares its capacity among its flows by weight, where one that is held back elsewhere leaves the rest to
//! the others. What another link carries is never exceeded. `exact` instead fills all links progressively, which is what
//! the sharing is measured against.

mod exact;
#[cfg(test)]
mod tests;

/// A link by its number.
pub(super) type Link = u32;
/// A flow by its number.
pub(super) type Flow = u32;
/// Where a flow stands among those of a link.
type Place = u16;
/// The most links that a flow crosses.
const MOST: usize = 4;
/// What is called finished, in bytes.
const CRUMB: f64 = 0.5;
/// The share of a link's capacity that is not worth sharing again for.
const SLACK: f64 = 1e-3;
/// Nobody waits for this.
pub(super) const NEVER: u64 = u64::MAX;

/// All links and flows. Times are in nanoseconds, rates in bytes per nanosecond.
#[derive(Debug, Default)]
pub(super) struct Net {
    links: Vec<Wire>,
    flows: Vec<Stream>,
    free: Vec<Flow>,
    dirty: Vec<Link>,
    /// When to look at a link next, for whoever keeps the time.
    pub(super) looks: Vec<(u64, Link)>,
    exact: bool,
    /// Room for what a link's flows may have, and who they are.
    scratch: Vec<Claim>,
}

/// A cache line: thousands of nodes are limited by how fast memory answers.
#[derive(Debug)]
#[repr(align(64))]
struct Wire {
    capacity: f64,
    /// What each unit of weight may have; infinite while the link is not full.
    level: f64,
    used: f64,
    dirty: bool,
    /// When the first flow that ends here is looked for.
    due: u64,
    flows: Vec<Flow>,
}

/// A cache line, too.
#[derive(Debug)]
#[repr(align(64))]
struct Stream {
    left: f64,
    rate: f64,
    since: u64,
    /// The first is the receiver's: there its end is noticed.
    links: [Link; MOST],
    places: [Place; MOST],
    count: u8,
    weight: f32,
    most: f32,
    tag: u32,
}

#[derive(Debug, Clone, Copy)]
struct Claim {
    flow: Flow,
    weight: f64,
    most: f64,
    capped: bool,
}

impl Net {
    /// No links yet. `exact` fills all of them progressively at each change.
    pub(super) fn new(exact: bool) -> Self {
        Self { exact, ..Self::default() }
    }

    /// A link that carries so many bytes per second.
    pub(super) fn link(&mut self, bytes_per_second: f64) -> Link {
        let capacity = bytes_per_second / 1e9;
        self.links.push(Wire {
            capacity,
            level: f64::INFINITY,
            used: 0.0,
            dirty: false,
            due: NEVER,
            flows: Vec::new(),
        });
        self.links.len() as Link - 1
    }

    /// `bytes` begin to flow over `links`, the receiver's first. `tag` comes back at the end; `most` in bytes per second.
    pub(super) fn start(&mut self, links: &[Link], bytes: u64, weight: f32, most: f64, tag: u32, now: u64) -> Flow {
        let mut stream = Stream {
            left: bytes as f64,
            rate: 0.0,
            since: now,
            links: [0; MOST],
            places: [0; MOST],
            count: links.len() as u8,
            weight,
            most: (most / 1e9) as f32,
            tag,
        };
        stream.links[..links.len()].copy_from_slice(links);
        let flow = self.free.pop().unwrap_or(self.flows.len() as Flow);
        for (at, link) in links.iter().enumerate() {
            let wire = &mut self.links[*link as usize];
            // More than the registry was ever asked for at a time, by all nodes together.
            assert!(wire.flows.len() < usize::from(Place::MAX), "too many flows on one link");
            stream.places[at] = wire.flows.len() as Place;
            wire.flows.push(flow);
        }
        match self.flows.get_mut(flow as usize) {
            Some(slot) => *slot = stream,
            None => self.flows.push(stream),
        }
        self.soil(flow);
        flow
    }

    /// Bytes of it that are still to come.
    pub(super) fn left(&self, flow: Flow, now: u64) -> f64 {
        let stream = &self.flows[flow as usize];
        (stream.left - stream.rate * (now - stream.since) as f64).max(0.0)
    }

    /// It ends before its time.
    pub(super) fn stop(&mut self, flow: Flow) {
        self.soil(flow);
        let Stream { links, places, count, rate, .. } = self.flows[flow as usize];
        for at in 0..usize::from(count) {
            let wire = &mut self.links[links[at] as usize];
            wire.used -= rate;
            wire.flows.swap_remove(places[at] as usize);
            if let Some(&moved) = wire.flows.get(places[at] as usize) {
                let other = &mut self.flows[moved as usize];
                let place = other.links[..usize::from(other.count)].iter().position(|link| *link == links[at]);
                if let Some(place) = place {
                    other.places[place] = places[at];
                }
            }
        }
        self.free.push(flow);
    }

    /// Looks which flows have ended at the receiver's `link`; their tags. To be called at each of `looks`.
    pub(super) fn look(&mut self, link: Link, now: u64, ended: &mut Vec<u32>) {
        if self.links[link as usize].due != now {
            return;
        }
        self.links[link as usize].due = NEVER;
        let mut at = 0;
        let mut next = NEVER;
        while let Some(&flow) = self.links[link as usize].flows.get(at) {
            let stream = &self.flows[flow as usize];
            if stream.links[0] == link {
                let end = stream.end();
                if end <= now {
                    ended.push(stream.tag);
                    self.stop(flow);
                    continue;
                }
                next = next.min(end);
            }
            at += 1;
        }
        self.schedule(link, next);
    }

    /// Shares anew what changed. To be called before time goes on.
    pub(super) fn settle(&mut self, now: u64) {
        if self.exact {
            if !self.dirty.is_empty() {
                self.fill(now);
            }
            return;
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        for link in &dirty {
            // From now on the others fill what it leaves.
            self.links[*link as usize].dirty = false;
            self.share(*link, now);
        }
        // What was left to flows that are held back by a link that shared later.
        for link in &dirty {
            let wire = &self.links[*link as usize];
            if wire.level.is_finite() && wire.used < wire.capacity * (1.0 - SLACK) {
                self.share(*link, now);
            }
        }
        dirty.clear();
        self.dirty = dirty;
    }

    fn soil(&mut self, flow: Flow) {
        let stream = &self.flows[flow as usize];
        for link in &stream.links[..usize::from(stream.count)] {
            let wire = &mut self.links[*link as usize];
            if !wire.dirty {
                wire.dirty = true;
                self.dirty.push(*link);
            }
        }
    }

    fn share(&mut self, link: Link, now: u64) {
        self.warm(link);
        let mut claims = std::mem::take(&mut self.scratch);
        claims.clear();
        for &flow in &self.links[link as usize].flows {
            let stream = &self.flows[flow as usize];
            let weight = f64::from(stream.weight);
            let mut most = f64::from(stream.most);
            for other in stream.others(link) {
                most = most.min(weight * self.links[other as usize].level);
            }
            let most = most.min(self.fits(flow, link));
            claims.push(Claim { flow, weight, most, capped: false });
        }
        self.links[link as usize].level = water(self.links[link as usize].capacity, &mut claims);
        let level = self.links[link as usize].level;
        for claim in &claims {
            let rate = claim.most.min(claim.weight * level);
            self.set(claim.flow, rate.min(self.fits(claim.flow, link)), now);
        }
        let used = claims.iter().map(|claim| self.flows[claim.flow as usize].rate).sum();
        self.links[link as usize].used = used;
        self.scratch = claims;
    }

    /// Reads what sharing will need, each without waiting for the one before: with thousands of nodes nothing of it is in
    /// the processor's cache.
    fn warm(&self, link: Link) {
        let flows = || self.links[link as usize].flows.iter().map(|flow| &self.flows[*flow as usize]);
        let rates: f64 = flows().map(|stream| stream.rate).sum();
        let others = flows().flat_map(|stream| stream.others(link)).map(|other| &self.links[other as usize]);
        let used: f64 = others.map(|wire| wire.used).sum();
        std::hint::black_box(rates + used);
    }

    /// What the links of a flow beside this one have room for, as they stand. One that shares anew at the same moment makes
    /// room.
    fn fits(&self, flow: Flow, link: Link) -> f64 {
        let stream = &self.flows[flow as usize];
        let wires = stream.others(link).map(|other| &self.links[other as usize]).filter(|wire| !wire.dirty);
        wires.map(|wire| stream.rate + (wire.capacity - wire.used).max(0.0)).fold(f64::INFINITY, f64::min)
    }

    /// Gives a flow another rate and sees to it that its end is looked for.
    fn set(&mut self, flow: Flow, rate: f64, now: u64) {
        let stream = &mut self.flows[flow as usize];
        let more = rate - stream.rate;
        if more == 0.0 {
            return;
        }
        stream.left = (stream.left - stream.rate * (now - stream.since) as f64).max(0.0);
        (stream.since, stream.rate) = (now, rate);
        for link in &stream.links[..usize::from(stream.count)] {
            self.links[*link as usize].used += more;
        }
        let (end, first) = (stream.end().max(now), stream.links[0]);
        self.schedule(first, end);
    }

    fn schedule(&mut self, link: Link, end: u64) {
        let wire = &mut self.links[link as usize];
        // One that is looked for too early is looked for again.
        if end < wire.due {
            wire.due = end;
            self.looks.push((end, link));
        }
    }
}

impl Stream {
    fn others(&self, link: Link) -> impl Iterator<Item = Link> + '_ {
        self.links[..usize::from(self.count)].iter().copied().filter(move |other| *other != link)
    }

    fn end(&self) -> u64 {
        if self.left <= CRUMB {
            return self.since;
        }
        if self.rate <= 0.0 {
            return NEVER;
        }
        let lasts = (self.left - CRUMB) / self.rate;
        let whole = lasts as u64;
        self.since + whole + u64::from(lasts > whole as f64)
    }
}

/// What each unit of weight gets of `capacity`, when nobody gets more than its most; infinite when it is not used up.
fn water(capacity: f64, claims: &mut [Claim]) -> f64 {
    let (mut left, mut weight): (f64, f64) = (capacity, claims.iter().map(|claim| claim.weight).sum());
    loop {
        let level = left.max(0.0) / weight;
        let (before, mut open) = (weight, 0);
        for claim in claims.iter_mut().filter(|claim| !claim.capped) {
            if claim.most < claim.weight * level {
                claim.capped = true;
                left -= claim.most;
                weight -= claim.weight;
            } else {
                open += 1;
            }
        }
        if open == 0 {
            return f64::INFINITY;
        }
        if weight == before {
            return level;
        }
    }
}
