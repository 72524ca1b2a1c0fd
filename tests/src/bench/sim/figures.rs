//! From what happened to the report.

use std::time::Duration;

use super::{
    plot::{Frame, Line},
    preset::Targets,
    world::World,
};
use crate::bench::report::{Report, Target};

/// The report of a crowd that has ended, and how long that took on this machine.
pub(super) fn report(name: &str, seed: u64, world: &World, took: Duration) -> Report {
    let preset = &world.preset;
    let (tally, bytes) = (&world.tally, preset.bytes() as f64);
    let times = finish_times(world);
    let bound = preset.bound();
    let at = |share: f64| quantile(&times, share);
    let last = times.last().copied().unwrap_or(f64::INFINITY);
    let egress = tally.egress as f64 / bytes;
    let into_zone = tally.into_zones.iter().copied().max().unwrap_or_default() as f64 / bytes;
    let Targets { p50_s, p99_s, p999_s, eta_p99, egress_ratio, zone_ratio, measured_last_s } = preset.targets;
    let most = |most: Option<f64>| most.map(Target::AtMost);
    let figures = [
        ("p50_s", at(0.5), most(p50_s)),
        ("p99_s", at(0.99), most(p99_s)),
        ("p999_s", at(0.999), most(p999_s)),
        ("eta_p99", bound / at(0.99), eta_p99.map(Target::AtLeast)),
        ("egress_ratio", egress, most(egress_ratio)),
        ("zone_ratio", into_zone, most(zone_ratio)),
        ("unfinished", f64::from(world.unfinished), Some(Target::AtMost(0.0))),
        (
            "simulated_over_measured",
            measured_last_s.map_or(0.0, |measured| last / measured),
            measured_last_s.map(|_| Target::AtMost(1.1)),
        ),
    ];
    let mut report = Report::default();
    for (name, value, target) in figures {
        report = match target {
            Some(target) => report.judged(name, value, target),
            None => report.with(name, value),
        };
    }
    report
        .with("scenario", "sim")
        .with("preset", name)
        .with("nodes", preset.nodes)
        .with("seed", seed)
        .with("bound_s", bound)
        .with("last_s", last)
        .with("eta_last", bound / last)
        .with("measured_last_s", measured_last_s)
        .with("tracker_msgs_per_s_max", tally.asked_most())
        .with("control_bytes_share", tally.control_share())
        .with("control_messages", tally.control_messages())
        .with("peak_connections_per_node", tally.peak_connections())
        .with("registry_until_s", tally.registry_until as f64 / 1e9)
        .with("registry_requests", tally.requests)
        .with("crashed", tally.crashed)
        .with("refused_connections", tally.refused)
        .with("late_greetings", tally.late_greetings)
        .with("late_answers", tally.late_answers)
        .with("asked_next_owner", tally.next_owner)
        .with("own_owner", tally.alone)
        .with("stalled_requests", tally.stalls)
        .with("turned_away", tally.turned_away)
        .with("given_up_leases", tally.given_up)
        .with("unleased_requests", tally.unleased)
        .with("hopeless", tally.hopeless)
        .with("events", world.queue.made())
        .remark(format!("{}: {}", name, preset.about))
        .remark(format!(
            "Simulated in {:.1} s, of which owners' books took {:.1} s.",
            took.as_secs_f64(),
            tally.owners_took.as_secs_f64()
        ))
}

/// When each healthy node that lives had all, in seconds since the first could begin, or since its own beginning where they
/// come one after the other; sorted.
pub(super) fn finish_times(world: &World) -> Vec<f64> {
    let healthy = world.nodes.iter().filter(|node| !node.slow && node.alive);
    let mut times: Vec<f64> = healthy.map(|node| node.finished.map_or(f64::INFINITY, |at| at as f64 / 1e9)).collect();
    times.sort_unstable_by(f64::total_cmp);
    times
}

/// The least value that this share of all does not exceed.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied().unwrap_or(f64::INFINITY)
}

/// What a plot needs of a crowd that has ended.
pub(super) struct Sketch {
    nodes: f64,
    bound: f64,
    times: Vec<f64>,
    asked: f64,
    connections: f64,
}

impl Sketch {
    pub(super) fn of(world: &World) -> Self {
        Self {
            nodes: world.preset.nodes.into(),
            bound: world.preset.bound(),
            times: finish_times(world).into_iter().filter(|time| time.is_finite()).collect(),
            asked: world.tally.asked_most().into(),
            connections: world.tally.peak_connections().into(),
        }
    }
}

/// Of one crowd which share has finished by when; of several, how times and costs grow with the nodes.
pub(super) fn plotted(name: &str, sketches: &[Sketch]) -> (Frame, Vec<Line>) {
    if let [one] = sketches {
        let count = one.times.len().max(1) as f64;
        let steps = one.times.iter().zip(1..).map(|(time, at)| (*time, f64::from(at) / count));
        // Some hundred points are as good as all.
        let every = (one.times.len() / 400).max(1);
        let bound = (format!("least possible: {:.2} s", one.bound), vec![(one.bound, 0.0), (one.bound, 1.0)]);
        let frame = Frame {
            title: format!("{name}: {} nodes", one.nodes),
            x: "seconds",
            y: "share that has all",
            logarithmic: false,
        };
        return (frame, vec![("finished".to_owned(), steps.step_by(every).collect()), bound]);
    }
    let line = |name: &str, of: &dyn Fn(&Sketch) -> f64| {
        (name.to_owned(), sketches.iter().map(|sketch| (sketch.nodes, of(sketch))).collect())
    };
    let lines = vec![
        line("p50, s", &|sketch| quantile(&sketch.times, 0.5)),
        line("p99, s", &|sketch| quantile(&sketch.times, 0.99)),
        line("least possible, s", &|sketch| sketch.bound),
        line("questions to an owner, 1,000/s", &|sketch| sketch.asked / 1e3),
        line("connections of an owner, 1,000", &|sketch| sketch.connections / 1e3),
    ];
    (Frame { title: name.to_owned(), x: "nodes", y: "", logarithmic: true }, lines)
}
