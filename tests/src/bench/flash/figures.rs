//! From what the rounds measured to the report: the median of each figure.

use serde_json::{Value, json};

use super::case::{Case, Setup};
use super::crowd::Crowd;
use super::round::Round;
use crate::bench::measure::median;
use crate::bench::report::Report;

/// Below this the processors were the limit, and times say nothing of waylay.
const IDLE_ENOUGH: f64 = 0.2;
const GIB: f64 = (1_u64 << 30) as f64;

/// The report of `rounds` of `case`, which was run as `setup` says.
pub(super) fn report(case: Case, setup: &Setup, rounds: &[Round]) -> Report {
    let over = |figure: &dyn Fn(&Round) -> f64| median(rounds.iter().map(figure));
    let bound = |round: &Round| setup.bound(round.image_bytes);
    let copies = |round: &Round| f64::from(setup.nodes) * round.image_bytes as f64;
    let compared = |side: fn(&Round) -> Option<&Crowd>| {
        rounds.iter().all(|round| side(round).is_some()).then(|| over(&|round| side(round).map_or(0.0, Crowd::last)))
    };
    let (direct, mirror) = (compared(|round| round.direct.as_ref()), compared(|round| round.mirror.as_ref()));
    let last = over(&|round| round.waylay.last());
    let idle = over(&|round| round.idle);
    let figures = [
        ("bound_s", Some(over(&bound))),
        ("last_s", Some(last)),
        ("p50_s", Some(over(&|round| round.waylay.p50()))),
        ("eta_last", Some(over(&|round| bound(round) / round.waylay.last()))),
        ("eta_p50", Some(over(&|round| bound(round) / round.waylay.p50()))),
        ("egress_ratio", Some(over(&|round| round.egress as f64 / round.image_bytes as f64))),
        ("direct_last_s", direct),
        ("mirror_last_s", mirror),
        ("ratio_vs_direct", compared(|round| round.direct.as_ref()).map(|direct| last / direct)),
        ("last_own_ratio", Some(over(&|round| round.waylay.last_own() / setup.alone(round.image_bytes)))),
        ("cpu_s_per_gib", Some(over(&|round| round.cpu / (copies(round) / GIB)))),
        ("peak_rss_mib", Some(rounds.iter().map(|round| round.peak_rss_mib).fold(0.0, f64::max))),
        ("failed", Some(rounds.iter().map(|round| round.waylay.failed as f64).sum())),
    ];
    let wanted = case.wanted();
    let mut report = Report::default();
    for (name, value) in figures {
        report = match (wanted.iter().find(|(wanted, _)| *wanted == name), value) {
            (Some((_, target)), Some(value)) => report.judged(name, value, *target),
            _ => report.with(name, value),
        };
    }
    let seconds = |value: Option<f64>| value.map_or("not measured".to_owned(), |value| format!("{value:.2} s"));
    if idle < IDLE_ENOUGH {
        report = report.remark("The processors were the limit: the times mean nothing.".to_owned());
    }
    report
        .with("scenario", "flash")
        .with("case", case.name())
        .with("nodes", setup.nodes)
        .with("image_bytes", rounds.first().map(|round| round.image_bytes))
        .with("rounds", rounds.iter().map(raw).collect::<Vec<_>>())
        .remark(format!(
            "the last client ended after {last:.2} s, of {:.2} s that are the limit; directly {}, by a mirror {}",
            over(&bound),
            seconds(direct),
            seconds(mirror)
        ))
        .idle(idle, "while the crowd pulled")
}

/// What one round measured, for whoever wants to know why.
fn raw(round: &Round) -> Value {
    json!({
        "ended_s": round.waylay.whole.iter().map(|one| one.ended).collect::<Vec<_>>(),
        "direct_last_s": round.direct.as_ref().map(Crowd::last),
        "mirror_last_s": round.mirror.as_ref().map(Crowd::last),
        "failed": round.waylay.failed,
        "egress_bytes": round.egress,
        "egress_bytes_on_wire": round.egress_on_wire,
        "idle_cpu_share": round.idle,
        "cpu_s": round.cpu,
        "peak_rss_mib": round.peak_rss_mib,
    })
}
