//! When a fetch asks for leases.

use super::*;

#[test]
fn a_node_in_company_has_one_lease_and_a_starving_blob_another() {
    let now = Instant::now();
    let layout = Layout::new(64 << 20).unwrap();
    let held = FixedBitSet::with_capacity(layout.count() as usize);
    let course = || Course::new(layout, &held, 0..layout.count(), 1, now);
    let mut alone = course();
    assert!(alone.has_room(&held, 0, now) && !alone.has_room(&held, 1, now), "it may not be alone");
    alone.owner.epoch = 1;
    assert!(alone.has_room(&held, 0, now) && alone.has_room(&held, 1, now), "another blob's lease is no hindrance");
    assert_eq!(alone.leased(0..1, now), Some(0..1));
    assert!(alone.has_room(&held, 1, now), "the last one has nearly come");
    alone.leased(1..8, now);
    assert!(!alone.has_room(&held, 2, now), "two are under way");

    let mut among = course();
    among.meet(([10, 0, 0, 1], 4500).into());
    assert!(among.has_room(&held, 0, now) && !among.has_room(&held, 1, now));
    let later = now + STARVING * 2;
    assert!(among.has_room(&held, 1, later), "it starves");
    assert!(!among.has_room(&held, LEASES_IN_ALL, later));
    among.leased(0..1, later);
    assert!(!among.has_room(&held, 2, later), "it has one");
}

#[test]
fn an_owner_that_was_not_asked_for_a_lease_is_as_soon_as_there_is_room() {
    let now = Instant::now();
    let layout = Layout::new(64 << 20).unwrap();
    let held = FixedBitSet::with_capacity(layout.count() as usize);
    let mut course = Course::new(layout, &held, 0..layout.count(), 1, now);
    let nothing = Joined { lease: None, imports: None, neighbours: Vec::new(), again: 10_000, owner: 1 };
    // An earlier lease showed how fast the registry is.
    course.leased(4..8, now);
    course.lease_ended(&(4..8), Duration::from_secs(1), Ok(()), now);
    let rate = 1 << 20;
    course.meet(([10, 0, 0, 1], 4500).into());
    assert_eq!(course.join(&held, 1, now), Some(Reach::No), "another blob has a lease");
    course.joined(Some(&nothing), now);
    let soon = now + MIN_PAUSE;
    assert_eq!(course.join(&held, 1, soon), None);
    assert_eq!(course.join(&held, 0, soon), Some(Reach::Ranges { rate }), "it has ended");
    course.joined(Some(&nothing), soon);
    let then = soon + MIN_PAUSE;
    assert_eq!(course.join(&held, 0, then), None, "it had none");
    // It is told something meanwhile, and is not asked again for that.
    course.owner.due = then;
    assert_eq!(course.join(&held, 1, then), Some(Reach::No));
    course.joined(Some(&nothing), then);
    let then = then + MIN_PAUSE;
    assert_eq!(course.join(&held, 0, then), None);
    // It is asked because it is time, gives one, and the next one is asked for when that has ended.
    course.owner.due = then;
    assert_eq!(course.join(&held, 0, then), Some(Reach::Ranges { rate }));
    assert_eq!(course.joined(Some(&Joined { lease: Some(0..1), ..nothing }), then), Some(0..1));
    course.lease_ended(&(0..1), Duration::from_millis(10), Ok(()), then);
    assert!(matches!(course.join(&held, 0, then + MIN_PAUSE), Some(Reach::Ranges { .. })));
}

#[test]
fn a_lease_that_is_refused_is_no_word_on_imports_nor_the_other_way_round() {
    let now = Instant::now();
    let layout = Layout::new(64 << 20).unwrap();
    let held = FixedBitSet::with_capacity(layout.count() as usize);
    let mut course = Course::new(layout, &held, 0..layout.count(), 1, now);
    let answer = |lease, imports| Joined { lease, imports, neighbours: Vec::new(), again: 10_000, owner: 1 };
    course.meet(([10, 0, 0, 1], 4500).into());
    course.join(&held, 0, now);
    course.joined(Some(&answer(None, Some(0..1))), now);
    let soon = now + MIN_PAUSE;
    assert_eq!(course.join(&held, 1, soon), Some(Reach::No), "the next import");
    course.joined(Some(&answer(None, None)), soon);
    assert_eq!(course.join(&held, 0, soon + MIN_PAUSE), None, "neither a lease nor an import");
    course.came(0, soon);
    assert_eq!(course.join(&held, 1, soon + MIN_PAUSE), Some(Reach::No), "a piece came");
    course.joined(Some(&answer(None, None)), soon + MIN_PAUSE);
    assert_eq!(course.join(&held, 0, soon + MIN_PAUSE * 2), None, "still no lease");
}

#[test]
fn one_to_whom_nothing_comes_tells_its_owner_before_it_is_time() {
    let now = Instant::now();
    let layout = Layout::new(64 << 20).unwrap();
    let held = FixedBitSet::with_capacity(layout.count() as usize);
    let mut course = Course::new(layout, &held, 0..layout.count(), 1, now);
    let again = 10_000;
    let answer = Joined { lease: None, imports: None, neighbours: Vec::new(), again, owner: 1 };
    assert!(course.join(&held, 0, now).is_some());
    course.joined(Some(&answer), now);
    course.look(&held, 0, now + NEED / 2);
    assert!(course.join(&held, 0, now + NEED / 2).is_none());
    assert_eq!(course.wake(now + NEED / 2), now + NEED);
    course.look(&held, 0, now + NEED);
    assert!(course.join(&held, 0, now + NEED).is_some());
    course.joined(Some(&answer), now + NEED);
    let soon = now + NEED + NEED / 2;
    course.look(&held, 0, soon);
    assert!(course.join(&held, 0, soon).is_none(), "not all the time");
}

#[test]
fn members_are_met_at_random_as_long_as_neighbours_are_few_and_not_for_ever() {
    let now = Instant::now();
    let layout = Layout::new(64 << 20).unwrap();
    let held = FixedBitSet::with_capacity(layout.count() as usize);
    let mut course = Course::new(layout, &held, 0..layout.count(), 1, now);
    course.meet(([10, 0, 0, 1], 4500).into());
    assert_eq!(course.at_random(), LINKS - 1);
    // Nobody of those pulls it, the next time either.
    let more: Vec<_> = std::iter::repeat_with(|| course.at_random()).take_while(|more| *more > 0).collect();
    assert_eq!(more.iter().sum::<usize>(), AT_RANDOM - (LINKS - 1));
    let mut course = Course::new(layout, &held, 0..layout.count(), 1, now);
    for n in 0..LINKS as u16 {
        course.meet(([10, 0, 0, 1], 4500 + n).into());
    }
    assert_eq!(course.at_random(), 0, "it knows enough");
}

#[test]
fn a_piece_that_came_at_once_does_not_make_a_registry_fast() {
    let (mut pace, piece) = (Pace::default(), 256 << 10);
    assert_eq!(pace.rate(), 0, "before the first");
    pace.add(piece, Duration::from_millis(25));
    assert_eq!(pace.rate(), 40 * piece);
    pace.add(piece, Duration::from_millis(500));
    let both = 1.75 / (0.75 * 0.025 + 0.5);
    assert_eq!(pace.rate(), (piece as f64 * both) as u64, "a quarter of the first is forgotten");
}

#[test]
fn what_is_known_of_a_registry_is_told_with_the_first_question() {
    let now = Instant::now();
    let layout = Layout::new(64 << 20).unwrap();
    let held = FixedBitSet::with_capacity(layout.count() as usize);
    let mut first = Course::new(layout, &held, 0..layout.count(), 1, now);
    first.leased(0..4, now);
    first.lease_ended(&(0..4), Duration::from_secs(1), Ok(()), now);
    let mut next = Course::new(layout, &held, 0..layout.count(), 1, now);
    next.recall(first.pace());
    assert_eq!(next.join(&held, 0, now), Some(Reach::Ranges { rate: 1 << 20 }));
}
