//! A small crowd, in seconds: the same twice, each piece once, and everybody in time.

use super::{World, figures, idle, preset::Preset};

fn simulated(name: &str, seed: u64) -> World {
    let mut world = World::new(Preset::named(name).unwrap(), seed, false).unwrap();
    world.run();
    world
}

#[test]
fn a_seed_decides_everything() {
    let times = |seed| figures::finish_times(&simulated("sixty-four", seed));
    let first = times(1);
    assert_eq!(first, times(1));
    assert_ne!(first, times(2));
}

#[test]
fn sixty_four_nodes_take_one_copy_and_not_much_longer_than_must_be() {
    let world = simulated("sixty-four", 3);
    assert_eq!(world.unfinished, 0);
    assert_eq!(world.tally.egress, world.preset.bytes());
    let times = figures::finish_times(&world);
    assert!(times[0] >= world.preset.bound(), "faster than can be: {}", times[0]);
    assert!(figures::quantile(&times, 0.99) < 2.5 * world.preset.bound(), "{times:?}");
}

#[test]
fn eight_nodes_take_as_long_as_was_measured() {
    let world = simulated("8x100", 1);
    let measured = world.preset.targets.measured_last_s.unwrap();
    let last = figures::finish_times(&world)[7];
    assert!((last / measured - 1.0).abs() < 0.1, "{last} s, measured {measured} s");
}

#[test]
fn crashes_end_nobody_elses_pull() {
    let mut preset = Preset::named("sixty-four").unwrap();
    preset.crashes = 0.1;
    let mut world = World::new(preset, 1, false).unwrap();
    world.run();
    assert!(world.tally.crashed > 0);
    assert_eq!(world.unfinished, 0);
}

#[test]
fn every_preset_can_be_read() {
    for name in Preset::names() {
        assert!(Preset::named(name).unwrap().bound() > 0.0, "{name}");
    }
}

#[test]
fn forty_nodes_at_rest_say_little_and_remember_what_all_hold() {
    let report = idle::run(1, Some(40)).unwrap();
    assert_eq!(report.missed(), <[&str; 0]>::default());
    let said: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    // Three neighbours every three seconds, and somebody every thirty.
    let pings = said["pings_per_s"].as_f64().unwrap();
    assert!((1.0..1.1).contains(&pings), "{pings}");
    // Each of the others tells again within an hour, a quarter sooner or later.
    let told = said["announcements_to_busiest_per_s"].as_f64().unwrap() * 3600.0;
    assert!((29.0..52.0).contains(&told), "{told}");
    let shards = said["shards_of_busiest"].as_f64().unwrap();
    let facts = said["facts_of_busiest"].as_f64().unwrap();
    assert!((facts / (40.0 * 2000.0 * shards / 256.0) - 1.0).abs() < 0.1, "{facts} of {shards} shards");
}
