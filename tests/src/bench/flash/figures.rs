//! From what the rounds measured to the report: the median of each figure.

use serde_json::{Value, json};

use super::case::{Case, Setup};
use super::crowd::Crowd;
use super::round::Round;
use super::runtime::Runtime;
use crate::bench::measure::median;
use crate::bench::report::Report;

/// Below this the processors were the limit, and times say nothing of waylay.
const IDLE_ENOUGH: f64 = 0.2;
const GIB: f64 = (1_u64 << 30) as f64;

/// The report of `rounds` of `case` with `runtime`, run as `setup` says.
pub(super) fn report(case: Case, runtime: Runtime, setup: &Setup, rounds: &[Round]) -> Report {
    let over = |figure: &dyn Fn(&Round) -> f64| median(rounds.iter().map(figure));
    let bound = |round: &Round| setup.bound(round.image_bytes);
    let copies = |round: &Round| f64::from(setup.nodes) * round.image_bytes as f64;
    let own = |round: &Round| round.waylay.last_own() / setup.alone(round.image_bytes);
    // Of those that come one after the other, only the last one's bound is known.
    let together = setup.apart.is_zero();
    // What was measured in every round only.
    let all = |figure: &dyn Fn(&Round) -> Option<f64>| {
        let values: Option<Vec<f64>> = rounds.iter().map(figure).collect();
        values.map(median)
    };
    let direct = all(&|round| round.direct.as_ref().map(Crowd::last));
    let mirror = all(&|round| round.mirror.as_ref().map(Crowd::last));
    let last = over(&|round| round.waylay.last());
    let idle = over(&|round| round.idle);
    let figures = [
        ("bound_s", Some(over(&bound))),
        ("last_s", Some(last)),
        ("last_fetched_s", Some(over(&|round| round.waylay.last_fetched()))),
        ("p50_s", Some(over(&|round| round.waylay.p50()))),
        ("eta_last", Some(over(&|round| bound(round) / round.waylay.last()))),
        ("eta_p50", together.then(|| over(&|round| bound(round) / round.waylay.p50()))),
        ("egress_ratio", Some(over(&|round| round.egress as f64 / round.image_bytes as f64))),
        ("cross_zone_ratio", all(&|round| Some(round.crossed? as f64 / round.image_bytes as f64))),
        ("direct_last_s", direct),
        ("mirror_last_s", mirror),
        ("ratio_vs_direct", all(&|round| Some(round.waylay.last() / round.direct.as_ref()?.last()))),
        ("last_own_ratio", (!together).then(|| over(&own))),
        ("cpu_s_per_gib", Some(over(&|round| round.cpu / (copies(round) / GIB)))),
        ("peak_rss_mib", Some(rounds.iter().map(|round| round.peak_rss_mib).fold(0.0, f64::max))),
        ("failed", Some(rounds.iter().map(|round| round.waylay.failed as f64).sum())),
    ];
    let wanted = case.wanted(runtime);
    let mut report = Report::default();
    for (name, value) in figures {
        report = match (wanted.iter().find(|(wanted, _)| *wanted == name), value) {
            (Some((_, target)), Some(value)) => report.judged(name, value, *target),
            _ => report.with(name, value),
        };
    }
    let beside =
        direct.zip(mirror).map(|(direct, mirror)| format!("; directly {direct:.2} s, by a mirror {mirror:.2} s"));
    if idle < IDLE_ENOUGH {
        report = report.remark(format!(
            "The processors were short, {:.0} % of them with programs that yield: the times mean nothing.",
            over(&|round| round.yielding) * 100.0
        ));
    }
    report
        .with("scenario", "flash")
        .with("case", case.name())
        .with("runtime", format!("{runtime:?}").to_lowercase())
        .with("nodes", setup.nodes)
        .with("image_bytes", rounds.first().map(|round| round.image_bytes))
        .with("rounds", rounds.iter().map(raw).collect::<Vec<_>>())
        .remark(format!(
            "The last client ended after {last:.2} s, of {:.2} s that are the limit{}.",
            over(&bound),
            beside.unwrap_or_default()
        ))
        .idle(idle, "while the crowd pulled")
}

/// What one round measured, for whoever wants to know why.
fn raw(round: &Round) -> Value {
    json!({
        "fetched_s": round.waylay.whole.iter().map(|one| one.fetched).collect::<Vec<_>>(),
        "ended_s": round.waylay.whole.iter().map(|one| one.ended).collect::<Vec<_>>(),
        "direct_last_s": round.direct.as_ref().map(Crowd::last),
        "mirror_last_s": round.mirror.as_ref().map(Crowd::last),
        "failed": round.waylay.failed,
        "egress_bytes": round.egress,
        "egress_bytes_on_wire": round.egress_on_wire,
        "cross_zone_bytes": round.crossed,
        "idle_cpu_share": round.idle,
        "nice_cpu_share": round.yielding,
        "cpu_s": round.cpu,
        "peak_rss_mib": round.peak_rss_mib,
    })
}
