//! Frames survive the wire, and nothing unbounded is taken from it.

use proptest::prelude::*;

use super::*;

fn round_trip(answer: &Answer) -> Result<Answer, FrameError> {
    decode(&encode(answer).unwrap()[4..])
}

#[test]
fn a_frame_of_four_gibibytes_is_refused_by_its_length_alone() {
    assert!(matches!(bounded([0xff; 4]), Err(FrameError::TooLong(0xffff_ffff))));
    assert!(matches!(bounded([1, 0, 1, 0]), Err(FrameError::TooLong(65_537))));
    assert_eq!(bounded([0, 0, 1, 0]).unwrap(), MAX_FRAME);
}

#[test]
fn lists_and_sizes_beyond_their_bounds_are_refused() {
    let addr = "10.0.0.1:1".parse().unwrap();
    let provenance = vec![Provenance { registry: "r".into(), repository: "x".into() }; MAX_TOLD];
    let good = Record { size: 1, providers: vec![(addr, true); MAX_PROVIDERS], provenance };
    let answer = Answer::Located(Some(good.clone()));
    assert_eq!(round_trip(&answer).unwrap(), answer);
    let mut bad = vec![good; 4];
    bad[0].size = u64::MAX;
    bad[1].providers.push((addr, false));
    let one_more = bad[2].provenance[0].clone();
    bad[2].provenance.push(one_more);
    bad[3].provenance[0].registry = "r".repeat(256);
    for record in bad {
        assert!(matches!(round_trip(&Answer::Located(Some(record))), Err(FrameError::Malformed)));
    }
    let map = |size, words| Answer::Map(Some(Pieces { size, bits: Some(vec![1; words]) }));
    assert!(round_trip(&map(256 << 20, 16)).is_ok());
    assert!(round_trip(&map(256 << 20, 17)).is_err());
    assert!(round_trip(&map(u64::MAX, 1)).is_err());
    let card = |zone: usize| {
        let key = iroh::SecretKey::from_bytes(&[1; 32]);
        crate::swarm::news::Card::sign(&key, addr, 1, 1, &"z".repeat(zone), false)
    };
    let hello = |zone| Answer::Member(Word::Hello(Box::new(Hello { card: card(zone), of_you: None })));
    assert!(round_trip(&hello(MAX_ZONE)).is_ok());
    assert!(round_trip(&hello(MAX_ZONE + 1)).is_err());
    let differ = |news, buckets, next| {
        let news = vec![crate::swarm::news::News::Is(card(0)); news];
        Answer::Member(Word::Differ(Differ { buckets: vec![0; buckets], news, next }))
    };
    assert!(round_trip(&differ(MAX_NEWS, 256, 256)).is_ok());
    assert!(round_trip(&differ(MAX_NEWS + 1, 256, 256)).is_err());
    assert!(round_trip(&differ(1, 257, 256)).is_err());
    assert!(round_trip(&differ(1, 256, 257)).is_err());
    let failed = |length| Answer::Pulling(Pulling::Failed("ü".repeat(length)));
    assert!(round_trip(&failed(MAX_TEXT / 2)).is_ok());
    assert!(round_trip(&failed(MAX_TEXT / 2 + 1)).is_err());
    assert!(round_trip(&Answer::Pulling(Pulling::failed("ü".repeat(MAX_TEXT)))).is_ok(), "cut to what fits");
}

proptest! {
    #[test]
    fn noise_never_decodes_into_something_unbounded(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(request) = decode::<Request>(&bytes) {
            prop_assert!(request.is_bounded());
        }
        if let Ok(answer) = decode::<Answer>(&bytes) {
            prop_assert!(answer.is_bounded());
        }
    }

    #[test]
    fn a_set_of_pieces_survives_the_wire(size in 0..1u64 << 30, seed in any::<u64>()) {
        let count = Layout::new(size).unwrap().count() as usize;
        let mut set = FixedBitSet::with_capacity(count);
        for index in 0..count {
            set.set(index, seed.rotate_left(index as u32) & 3 == 1);
        }
        let answer = Answer::Map(Some(Pieces::some(size, &set)));
        let Answer::Map(Some(pieces)) = round_trip(&answer).unwrap() else { panic!() };
        prop_assert_eq!(pieces.to_set().unwrap(), set);
        prop_assert_eq!(Pieces::all(size).to_set().unwrap().count_ones(..), count);
    }
}

#[test]
fn no_frame_of_the_fuzzers_corpus_breaks_anything() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/frame");
    let frames: Vec<_> =
        std::fs::read_dir(corpus).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(!frames.is_empty());
    frames.iter().for_each(|frame| fuzz(frame));
}
