//! When a fetch asks for leases.

use super::*;

/// A fetch of 64 MiB, of which nothing is here.
fn begun(now: Instant) -> (FixedBitSet, Course) {
    let layout = Layout::new(64 << 20).unwrap();
    let held = FixedBitSet::with_capacity(layout.count() as usize);
    let course = Course::new(layout, &held, 0..layout.count(), 1, now);
    (held, course)
}

#[test]
fn a_node_in_company_has_one_lease_and_a_starving_blob_another() {
    let now = Instant::now();
    let (held, mut alone) = begun(now);
    assert!(alone.has_room(&held, 0, now) && !alone.has_room(&held, 1, now), "it may not be alone");
    alone.owner.epoch = 1;
    assert!(alone.has_room(&held, 0, now) && alone.has_room(&held, 1, now), "another blob's lease is no hindrance");
    assert_eq!(alone.leased(0..1, now), Some(0..1));
    assert!(alone.has_room(&held, 1, now), "the last one has nearly come");
    alone.leased(1..8, now);
    assert!(!alone.has_room(&held, 2, now), "two are under way");

    let (_, mut among) = begun(now);
    among.meet(([10, 0, 0, 1], 4500).into());
    assert!(among.has_room(&held, 0, now) && !among.has_room(&held, 1, now));
    let later = now + STARVING * 2;
    assert!(among.has_room(&held, 1, later), "it starves");
    assert!(!among.has_room(&held, LEASES_IN_ALL, later));
    among.leased(0..1, later);
    assert!(!among.has_room(&held, 2, later), "it has one");
}

#[test]
fn one_to_whom_nothing_comes_tells_its_owner_before_it_is_time() {
    let now = Instant::now();
    let (held, mut course) = begun(now);
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
fn the_next_lease_is_asked_for_when_one_has_ended_whatever_the_owner_said_meanwhile() {
    let now = Instant::now();
    let (held, mut course) = begun(now);
    course.meet(([10, 0, 0, 1], 4500).into());
    let answer = |lease| Joined { lease, imports: None, neighbours: Vec::new(), again: 10_000, owner: 1 };
    // Not the first one alone.
    for n in 0..2 {
        let at = now + NEED * 11 * n;
        assert!(matches!(course.join(&held, 0, at), Some(Reach::Ranges { .. })));
        assert_eq!(course.joined(Some(&answer(Some(n..n + 1))), at), Some(n..n + 1));
        let later = at + Duration::from_secs(10);
        assert_eq!(course.join(&held, 1, later), Some(Reach::No), "it is time, and one lease is under way");
        course.joined(Some(&answer(None)), later);
        assert_eq!(course.join(&held, 0, later + MIN_PAUSE), None);
        course.lease_ended(&(n..n + 1), Duration::from_secs(10), Ok(()), later);
    }
    let later = now + NEED * 30;
    assert!(matches!(course.join(&held, 0, later), Some(Reach::Ranges { .. })));
    course.joined(Some(&answer(None)), later);
    assert_eq!(course.join(&held, 0, later + MIN_PAUSE), None, "it has refused");
}

#[test]
fn a_registry_that_wants_to_be_asked_again_at_once_is_not() {
    let now = Instant::now();
    let (_, mut course) = begun(now);
    course.leased(0..1, now);
    course.lease_ended(&(0..1), Duration::ZERO, Err(Declined::Later(Duration::ZERO)), now);
    assert!(!course.may_ask_registry(now + RETRY / 2));
    assert!(course.may_ask_registry(now + RETRY));
}

#[test]
fn members_are_met_at_random_as_long_as_neighbours_are_few_and_not_for_ever() {
    let now = Instant::now();
    let (_, mut course) = begun(now);
    course.meet(([10, 0, 0, 1], 4500).into());
    assert_eq!(course.at_random(), LINKS - 1);
    // Nobody of those pulls it, the next time either.
    let more: Vec<_> = std::iter::repeat_with(|| course.at_random()).take_while(|more| *more > 0).collect();
    assert_eq!(more.iter().sum::<usize>(), AT_RANDOM - (LINKS - 1));
    let (_, mut course) = begun(now);
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
    let (held, mut first) = begun(now);
    first.leased(0..4, now);
    first.lease_ended(&(0..4), Duration::from_secs(1), Ok(()), now);
    let (_, mut next) = begun(now);
    next.recall(first.pace());
    assert_eq!(next.join(&held, 0, now), Some(Reach::Ranges { rate: 1 << 20 }));
}
