//! Many rosters in virtual time: whatever was lost, said wrongly or cut apart, in the end all agree on who lives.

use std::time::Duration;

use proptest::prelude::*;
use waylay_certs::cluster::ClusterSecret;

use super::*;
use crate::swarm::frame::MAX_MEMBERS;

const TICK: Duration = Duration::from_millis(250);

fn addr(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 4500))
}

fn key(n: usize) -> SecretKey {
    ClusterSecret::new([1; 32], 0).node_key(addr(n))
}

/// What reaches a node later.
enum Late {
    Silent(SocketAddr),
    Confirmed(SocketAddr, bool),
    News(Box<News>),
}

struct World {
    start: Instant,
    now: Instant,
    nodes: Vec<Option<Roster>>,
    /// What each has on its disk: whom it knew.
    known: Vec<Vec<SocketAddr>>,
    /// Nodes reach each other when they are on one side.
    side: Vec<bool>,
    late: Vec<(Instant, usize, Late)>,
    /// Of a hundred messages, so many are lost.
    loss: u32,
    rng: StdRng,
    /// Questions asked.
    asked: usize,
    /// News told to everybody.
    told: usize,
}

impl World {
    /// All know the first only, which is enough.
    fn new(count: usize, seed: u64) -> Self {
        let start = Instant::now();
        let mut world = Self {
            start,
            now: start,
            nodes: Vec::new(),
            known: vec![Vec::new(); count],
            side: vec![true; count],
            late: Vec::new(),
            loss: 0,
            rng: StdRng::seed_from_u64(seed),
            asked: 0,
            told: 0,
        };
        for n in 0..count {
            world.nodes.push(None);
            world.boot(n, 1000);
        }
        world
    }

    fn boot(&mut self, n: usize, count: u64) {
        let boot = self.rng.random();
        let mut roster = Roster::new(key(n), addr(n), boot, count, "", Pace::default(), self.now);
        roster.add(addr(0), true, self.now);
        self.end(n);
        self.known[n].iter().for_each(|addr| roster.add(*addr, false, self.now));
        self.nodes[n] = Some(roster);
    }

    /// What it knew is on its disk.
    fn end(&mut self, n: usize) -> Option<Roster> {
        let roster = self.nodes[n].take()?;
        self.known[n] = roster.members().map(|(addr, _)| addr).collect();
        Some(roster)
    }

    fn number(&self, of: SocketAddr) -> usize {
        (0..self.nodes.len()).find(|n| addr(*n) == of).unwrap()
    }

    fn reaches(&mut self, from: usize, to: usize) -> bool {
        self.nodes[to].is_some() && self.side[from] == self.side[to] && self.rng.random_range(0..100) >= self.loss
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += TICK;
            self.step();
        }
    }

    fn step(&mut self) {
        let now = self.now;
        let (due, late): (Vec<_>, Vec<_>) = std::mem::take(&mut self.late).into_iter().partition(|(at, ..)| *at <= now);
        self.late = late;
        for (_, n, what) in due {
            let Some(node) = &mut self.nodes[n] else { continue };
            match what {
                Late::Silent(of) => node.silent(of, now),
                Late::Confirmed(of, lives) => node.confirmed(of, lives, now),
                Late::News(news) => {
                    node.learn(*news, Heard::Gossip, now);
                }
            }
        }
        for n in 0..self.nodes.len() {
            let Some(acts) = self.nodes[n].as_mut().map(|node| node.tick(now)) else { continue };
            for act in acts {
                self.act(n, act);
            }
            while let Some(news) = self.nodes[n].as_mut().and_then(Roster::say) {
                self.tell(n, &news);
            }
        }
    }

    /// To everybody within a second, in any order.
    fn tell(&mut self, from: usize, news: &News) {
        self.told += 1;
        for to in 0..self.nodes.len() {
            if to != from && self.reaches(from, to) {
                let at = self.now + TICK * self.rng.random_range(0..4);
                self.late.push((at, to, Late::News(Box::new(news.clone()))));
            }
        }
    }

    fn both(&mut self, a: usize, b: usize, what: impl FnOnce(&mut Roster, &mut Roster)) {
        let (mut one, mut other) = (self.nodes[a].take().unwrap(), self.nodes[b].take().unwrap());
        what(&mut one, &mut other);
        (self.nodes[a], self.nodes[b]) = (Some(one), Some(other));
    }

    fn act(&mut self, n: usize, act: Act) {
        let (now, later) = (self.now, self.now + 6 * TICK);
        if let Act::Ping { to, .. } | Act::Greet(to) = act {
            self.asked += 1;
            if !self.reaches(n, self.number(to)) {
                return self.late.push((later, n, Late::Silent(to)));
            }
        }
        match act {
            Act::Ping { to, .. } => self.both(n, self.number(to), |one, other| {
                other.alive(one.card().addr);
                one.agreed(to, one.digest() == other.digest());
            }),
            Act::Greet(to) => self.both(n, self.number(to), |one, other| {
                let hello = |from: &Roster, to, shown| {
                    [Some(News::Is(from.card().clone())), from.rumour(to, shown)]
                        .into_iter()
                        .flatten()
                        .collect::<Vec<_>>()
                };
                let (me, shown) = (one.card().addr, one.card().version());
                hello(one, to, None).into_iter().for_each(|news| {
                    other.learn(news, Heard::Told, now);
                });
                let answer = hello(other, me, Some(shown));
                let before = one.standing(to);
                answer.into_iter().for_each(|news| {
                    one.learn(news, Heard::Told, now);
                });
                one.answered(to);
                if before != Some(Standing::Suspect) {
                    one.found(to);
                }
            }),
            Act::Confirm { of, witnesses } => {
                let suspect = self.number(of);
                let mut lives = self.reaches(n, suspect);
                for witness in witnesses {
                    let witness = self.number(witness);
                    lives |= self.reaches(n, witness) && self.reaches(witness, suspect);
                }
                self.late.push((later, n, Late::Confirmed(of, lives)));
            }
            Act::Compare(with) => {
                let other = self.number(with);
                let reached = self.reaches(n, other);
                if reached {
                    self.both(n, other, |one, other| {
                        let mut compare = one.compare(0);
                        while usize::from(compare.from) < BUCKETS {
                            let differ = other.differ(&compare);
                            assert!(differ.next > compare.from);
                            compare.from = differ.next;
                            one.lacking(&differ).into_iter().for_each(|news| {
                                other.learn(news, Heard::Hearsay, now);
                            });
                            differ.news.into_iter().for_each(|news| {
                                one.learn(news, Heard::Hearsay, now);
                            });
                        }
                    });
                }
                self.nodes[n].as_mut().unwrap().compared(with, reached);
            }
        }
    }

    fn living(&self) -> Vec<SocketAddr> {
        (0..self.nodes.len()).filter(|n| self.nodes[*n].is_some()).map(addr).collect()
    }

    /// Whom a node believes to live, itself among them.
    fn believed(&self, n: usize) -> Vec<SocketAddr> {
        let node = self.nodes[n].as_ref().unwrap();
        let living = node.members().filter(|(_, standing)| standing.is_watched()).map(|(addr, _)| addr);
        let mut living: Vec<_> = living.chain([addr(n)]).collect();
        living.sort_unstable();
        living
    }

    fn disagreement(&self) -> Option<String> {
        let living = self.living();
        let mut digests = BTreeSet::new();
        for n in 0..self.nodes.len() {
            let Some(node) = &self.nodes[n] else { continue };
            digests.insert(node.digest());
            if self.believed(n) != living {
                return Some(format!("{n} believes {:?}, living are {living:?}", self.believed(n)));
            }
        }
        (digests.len() > 1).then(|| "the digests differ".to_owned())
    }
}

#[derive(Debug, Clone)]
enum Trouble {
    Vanish(usize),
    Leave(usize),
    /// With a clock that may have gone backwards.
    Restart(usize, u64),
    Cut(u16),
    Heal,
    Loss(u32),
    /// Somebody says that a living member is gone.
    Slander {
        by: usize,
        of: usize,
    },
    Wait(u8),
}

fn trouble(nodes: usize) -> impl Strategy<Value = Trouble> {
    let node = move || 0..nodes;
    prop_oneof![
        node().prop_map(Trouble::Vanish),
        node().prop_map(Trouble::Leave),
        (node(), 0..3000u64).prop_map(|(node, count)| Trouble::Restart(node, count)),
        any::<u16>().prop_map(Trouble::Cut),
        Just(Trouble::Heal),
        (0..60u32).prop_map(Trouble::Loss),
        (node(), node()).prop_map(|(by, of)| Trouble::Slander { by, of }),
        (0..80u8).prop_map(Trouble::Wait),
        (0..80u8).prop_map(Trouble::Wait),
    ]
}

fn happen(world: &mut World, trouble: Trouble) {
    match trouble {
        Trouble::Vanish(n) => drop(world.end(n)),
        Trouble::Leave(n) => {
            if let Some(mut node) = world.end(n) {
                let goodbye = node.leave();
                world.tell(n, &goodbye);
            }
        }
        Trouble::Restart(n, count) => world.boot(n, count),
        Trouble::Cut(sides) => (0..world.side.len()).for_each(|n| world.side[n] = sides >> (n % 16) & 1 == 1),
        Trouble::Heal => world.side.fill(true),
        Trouble::Loss(loss) => world.loss = loss,
        Trouble::Slander { by, of } => {
            let card = world.nodes[by].as_ref().and_then(|node| node.card_of(addr(of)).cloned());
            if let Some(card) = card {
                world.tell(by, &News::Gone(Gone::sign(&key(by), addr(by), card)));
            }
        }
        Trouble::Wait(ticks) => world.run(TICK * ticks.into()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_in_the_end_all_agree_on_who_lives(
        seed in any::<u64>(),
        troubles in proptest::collection::vec(trouble(9), 0..30),
    ) {
        let mut world = World::new(9, seed);
        world.run(Duration::from_secs(30));
        prop_assert_eq!(world.disagreement(), None, "one living member is enough");
        let shown = format!("{troubles:?}");
        for trouble in troubles {
            happen(&mut world, trouble);
        }
        (world.loss, world.side) = (0, vec![true; 9]);
        world.run(Duration::from_secs(240));
        prop_assert_eq!(world.disagreement(), None, "{}", shown);
    }
}

/// As when the power comes back, and the one in everybody's token was taken out of service long ago.
#[test]
fn all_that_start_again_at_once_find_each_other_without_the_one_that_was_named() {
    let mut world = World::new(9, 7);
    world.run(Duration::from_secs(30));
    happen(&mut world, Trouble::Leave(0));
    world.run(Duration::from_secs(30));
    happen(&mut world, Trouble::Cut(0b1111_0000));
    (1..9).for_each(|n| world.boot(n, 5000));
    world.run(Duration::from_secs(5));
    happen(&mut world, Trouble::Heal);
    world.run(Duration::from_secs(60));
    assert_eq!(world.disagreement(), None);
}

#[test]
fn one_that_vanishes_is_gone_for_its_neighbours_in_ten_seconds_and_for_all_in_twenty() {
    for seed in 0..20 {
        let mut world = World::new(24, seed);
        world.run(Duration::from_secs(40));
        assert_eq!(world.disagreement(), None);
        let victim = 5;
        let watchers: Vec<_> =
            (0..24).filter(|n| world.nodes[*n].as_ref().unwrap().watched().contains(&addr(victim))).collect();
        assert_eq!(watchers.len(), WATCHED);
        world.nodes[victim] = None;
        world.run(Duration::from_secs(10));
        assert!(watchers.iter().all(|n| !world.believed(*n).contains(&addr(victim))), "seed {seed}");
        world.run(Duration::from_secs(10));
        assert_eq!(world.disagreement(), None, "seed {seed}");
    }
}

#[test]
fn half_of_a_cluster_that_was_cut_off_is_found_again_and_nobody_is_lost() {
    let mut world = World::new(40, 1);
    world.run(Duration::from_secs(40));
    (0..40).for_each(|n| world.side[n] = n % 2 == 0);
    world.run(Duration::from_secs(300));
    assert!((0..40).all(|n| world.believed(n).len() == 20), "each half by itself");
    world.side.fill(true);
    world.run(Duration::from_secs(60));
    assert_eq!(world.disagreement(), None);
}

#[test]
fn one_that_says_goodbye_is_not_waited_for() {
    let mut world = World::new(12, 3);
    world.run(Duration::from_secs(30));
    happen(&mut world, Trouble::Leave(4));
    world.run(Duration::from_secs(2));
    assert_eq!(world.disagreement(), None);
    // And it is welcome again.
    world.boot(4, 5000);
    world.run(Duration::from_secs(10));
    assert_eq!(world.disagreement(), None);
}

#[test]
fn the_first_that_said_goodbye_and_comes_back_knowing_nobody_is_found() {
    let mut world = World::new(12, 6);
    world.run(Duration::from_secs(30));
    happen(&mut world, Trouble::Leave(0));
    world.run(Duration::from_secs(30));
    world.boot(0, 5000);
    world.run(Duration::from_secs(20));
    assert_eq!(world.disagreement(), None);
}

#[test]
fn one_that_is_slandered_again_and_again_lives_on() {
    let mut world = World::new(8, 4);
    world.run(Duration::from_secs(30));
    for _ in 0..50 {
        happen(&mut world, Trouble::Slander { by: 2, of: 3 });
        world.run(Duration::from_secs(4));
    }
    world.run(Duration::from_secs(10));
    assert_eq!(world.disagreement(), None);
}

#[test]
fn what_is_not_signed_by_the_address_makes_no_member_and_the_table_is_bounded() {
    let now = Instant::now();
    let mut roster = Roster::new(key(0), addr(0), 1, 1, "", Pace::default(), now);
    for n in 1..MAX_MEMBERS + 100 {
        roster.add(addr(n), false, now);
    }
    assert_eq!(roster.members().count(), MAX_MEMBERS);
    // Those who never answered are given up, and then make room.
    for n in 1..=MAX_MEMBERS {
        (0..MISSES).for_each(|_| roster.silent(addr(n), now));
    }
    let newcomer = addr(MAX_MEMBERS + 7);
    assert!(roster.learn(News::Is(Card::sign(&key(7), newcomer, 1, 1, "", false)), Heard::Gossip, now));
    assert_eq!(roster.standing(newcomer), Some(Standing::Living));
    assert_eq!(roster.members().count(), MAX_MEMBERS);
    let _ = roster.tick(now + Duration::from_secs(3601));
    assert_eq!(roster.members().count(), 1, "addresses at which nobody ever answered are forgotten");
}

/// What the arithmetic in `herald`'s documentation stands on.
#[test]
fn at_rest_a_member_asks_once_a_second_and_has_nothing_to_tell() {
    let mut world = World::new(50, 5);
    world.run(Duration::from_secs(60));
    (world.asked, world.told) = (0, 0);
    world.run(Duration::from_secs(600));
    let each = world.asked as f64 / 50.0 / 600.0;
    assert!((0.9..=1.04).contains(&each), "{each} questions a second");
    assert_eq!(world.told, 0);
    assert!(world.start < world.now);
}

#[test]
fn one_that_has_no_time_is_asked_later_and_is_never_thought_gone() {
    let mut now = Instant::now();
    let pace = Pace::default();
    let mut roster = Roster::new(key(0), addr(0), 1, 1, "", pace, now);
    roster.add(addr(1), false, now);
    for _ in 0..10 {
        assert_eq!(roster.tick(now), [Act::Greet(addr(1))]);
        roster.put_off(addr(1), now);
        assert_eq!(roster.tick(now + pace.retry / 2), [], "not before its time");
        now += pace.retry;
    }
    assert_eq!(roster.standing(addr(1)), Some(Standing::Unasked));
    for _ in 0..MISSES {
        roster.silent(addr(1), now);
    }
    assert_eq!(roster.standing(addr(1)), Some(Standing::Gone), "silence is another thing");
}
