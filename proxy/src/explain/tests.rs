//! Pulls as a daemon tells of them, explained.

use super::*;
use crate::telemetry::{ConnectionEvent, FlightEvent, FlightPart, RequestEvent};

const LAYER: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const MANIFEST: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const MIB: u64 = 1 << 20;

fn request(at_ms: u64, route: &str, reference: &str, ms: u64) -> RequestEvent {
    RequestEvent {
        at_ms,
        program: "containerd".into(),
        registry: "r.test:5000".into(),
        method: "GET".into(),
        route: route.into(),
        repository: Some("team/app".into()),
        reference: Some(reference.into()),
        meant: None,
        status: 200,
        sent: 0,
        store_bytes: 0,
        peer_bytes: 0,
        registry_bytes: 0,
        first_ms: 5,
        ms,
        faults: Vec::new(),
    }
}

fn part(from: &str, first_ms: u64, last_ms: u64, curve: &[u64]) -> FlightPart {
    FlightPart { from: from.into(), bytes: curve.iter().sum(), first_ms, last_ms, curve: curve.to_vec() }
}

/// A pull at `at` of a layer of 40 MiB: 30 from a member, 10 from the registry; another member was silent.
fn pull(at: u64) -> Vec<Event> {
    let tag =
        RequestEvent { meant: Some(MANIFEST.into()), registry_bytes: 500, sent: 500, ..request(at, "tag", "v1", 20) };
    let layer = RequestEvent {
        sent: 40 * MIB,
        peer_bytes: 30 * MIB,
        registry_bytes: 10 * MIB,
        faults: vec!["peer:stalled@10.0.0.3:4500".into()],
        ..request(at + 30, "blob", LAYER, 6_000)
    };
    let flight = FlightEvent {
        at_ms: at + 35,
        digest: LAYER.into(),
        size: 40 * MIB,
        held: 0,
        verified: true,
        ms: 3_900,
        step_ms: 1_000,
        parts: vec![
            part("registry", 100, 1_900, &[5 * MIB, 5 * MIB]),
            part("10.0.0.2:4500", 400, 3_900, &[5 * MIB, 5 * MIB, 10 * MIB, 10 * MIB]),
        ],
    };
    vec![Event::Flight(flight), Event::Request(layer), Event::Request(tag)]
}

fn image(text: &str) -> Subject {
    text.parse().unwrap()
}

#[test]
fn the_last_pull_is_explained_to_the_last_byte() {
    let events: Vec<Event> = [pull(1_000_000), pull(2_000_000)].concat();
    let explained = explain(&events, &image("r.test:5000/team/app:v1")).unwrap();
    assert_eq!((explained.at_ms, explained.ms), (2_000_000, 6_030));
    assert_eq!(explained.meant.as_deref(), Some(MANIFEST));
    let asked: Vec<_> = explained.pieces.iter().map(|asked| (asked.what.as_str(), asked.bytes)).collect();
    assert_eq!(asked, [("tag", 500), ("blob", 40 * MIB)]);
    let sources: Vec<_> = explained.sources.iter().map(|source| (source.from.as_str(), source.bytes)).collect();
    assert_eq!(sources, [("10.0.0.2:4500", 30 * MIB), ("registry", 10 * MIB + 500)]);
    for source in &explained.sources {
        assert_eq!(source.curve.iter().sum::<u64>(), source.bytes, "each byte is in one column");
    }
}

#[test]
fn what_comes_evenly_is_drawn_evenly() {
    let mut events = pull(0);
    let Event::Flight(flight) = &mut events[0] else { panic!("a flight comes first") };
    // Until the end of the pull, in steps that are not as long as columns.
    (flight.at_ms, flight.ms, flight.step_ms) = (30, 6_000, 100);
    flight.parts = vec![part("10.0.0.2:4500", 0, 5_999, &[MIB; 60])];
    let explained = explain(&events, &image("r.test:5000/team/app:v1")).unwrap();
    let curve = &explained.sources.iter().find(|source| source.from == "10.0.0.2:4500").unwrap().curve;
    let whole = &curve[1..curve.len() - 1];
    assert!(whole.iter().max().unwrap() - whole.iter().min().unwrap() < MIB / 64, "{curve:?}");
}

#[test]
fn what_cost_most_is_said_first() {
    let explained = explain(&pull(0), &image("r.test:5000/team/app:v1")).unwrap();
    let found = |text: &str| explained.findings.iter().position(|finding| finding.contains(text));
    assert_eq!(found("took longest: 6.0 s, 99 % of the pull"), Some(0), "{:#?}", explained.findings);
    assert!(found("member 10.0.0.3:4500 was silent").is_some(), "{:#?}", explained.findings);
    // The flight was over after 3.9 of 6 seconds.
    assert!(found("all of it was on this node 2.1 s before the runtime had taken it").is_some());
}

#[test]
fn names_are_read_as_runtimes_read_them() {
    let debian = image("debian");
    let wanted = Subject::Image {
        registry: "registry-1.docker.io".into(),
        repository: "library/debian".into(),
        reference: "latest".into(),
    };
    assert_eq!(debian, wanted);
    assert_eq!(image("docker.io/library/debian:latest"), wanted);
    assert_eq!(image(LAYER), Subject::Digest(LAYER.parse().unwrap()));
    let by_digest = image(&format!("r.test:5000/team/app@{MANIFEST}"));
    assert!(explain(&pull(0), &by_digest).is_some(), "a tag that meant it was a pull of it");
    assert!("Not An Image".parse::<Subject>().is_err());
}

#[test]
fn a_digest_is_explained_alone() {
    let explained = explain(&pull(0), &image(LAYER)).unwrap();
    assert_eq!(explained.pieces.len(), 1);
    assert_eq!(explained.sources.iter().map(|source| source.bytes).sum::<u64>(), 40 * MIB);
}

#[test]
fn a_mirror_was_asked_for_another_registry() {
    let mut events = pull(0);
    for event in &mut events {
        if let Event::Request(request) = event {
            request.registry = "mirror.test".into();
        }
    }
    let explained = explain(&events, &image("r.test:5000/team/app:v1")).unwrap();
    assert_eq!(explained.registry, "mirror.test");
}

#[test]
fn what_went_past_us_is_said() {
    let mut events = pull(0);
    events.push(Event::Connection(ConnectionEvent {
        at_ms: 10,
        program: "containerd".into(),
        destination: "192.0.2.9:5000".into(),
        name: Some("r.test".into()),
        decision: "splice".into(),
        reason: "untrusted".into(),
        ms: 50,
    }));
    let explained = explain(&events, &image("r.test:5000/team/app:v1")).unwrap();
    assert_eq!(explained.passed, [("untrusted".to_owned(), 1)]);
    assert!(explained.findings.iter().any(|finding| finding.contains("(untrusted)")), "{:#?}", explained.findings);
}

#[test]
fn nothing_is_made_up() {
    assert_eq!(explain(&[], &image("debian")), None);
    assert_eq!(explain(&pull(0), &image("r.test:5000/team/app:v2")), None);
}

proptest::proptest! {
    /// Records may be of any daemon, clock and age.
    #[test]
    fn no_record_makes_it_panic(times in proptest::collection::vec((0u64..1 << 40, 0u64..1 << 30), 1..20)) {
        let mut events = Vec::new();
        for (at, ms) in times {
            events.push(Event::Request(RequestEvent { ms, sent: ms, store_bytes: ms, ..request(at, "blob", LAYER, ms) }));
            let flight = FlightEvent {
                at_ms: at, digest: LAYER.into(), size: 1, held: 0, verified: true, ms, step_ms: ms,
                parts: vec![part("registry", ms, at, &[1, 2, 3])],
            };
            events.push(Event::Flight(flight));
        }
        let explained = explain(&events, &image(LAYER)).unwrap();
        for source in &explained.sources {
            proptest::prop_assert_eq!(source.curve.iter().sum::<u64>(), source.bytes);
        }
    }
}

#[test]
fn what_came_just_before_belongs_to_another_image_of_the_repository() {
    let mut before = pull(1_000_000);
    for event in &mut before {
        if let Event::Request(request) = event {
            request.reference = request.reference.take().map(|name| if name == "v1" { "v0".to_owned() } else { name });
            request.meant = None;
        }
    }
    let events: Vec<Event> = [before, pull(1_010_000)].concat();
    let explained = explain(&events, &image("r.test:5000/team/app:v1")).unwrap();
    assert_eq!((explained.at_ms, explained.ms), (1_010_000, 6_030));
}
