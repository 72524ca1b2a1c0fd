//! `overhead`: what a manifest costs more through waylay than straight from the registry, and what connect() costs a
//! process that is no runtime.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use serde_json::json;

use super::client::{self, As, Task};
use super::measure::{median, quantile};
use super::report::{Report, Target};
use crate::fleet::{Daemon, Fleet};
use crate::image;

const REPOSITORY: &str = "debian/app";
const TAG: &str = "1";
const ROUNDS: usize = 5;
/// Requests of one round on one connection, and on new ones.
const WARM: usize = 1000;
const NEW: usize = 100;
const BATCHES: u32 = 500;
/// Both at a port that registries use, so that the whole match is run: nobody listens at one, nobody reaches the other.
const NOWHERE: [SocketAddr; 2] = [
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 443),
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 443),
];

/// Milliseconds through waylay and straight, of the rounds of one kind of request.
struct Both {
    through: Vec<Vec<f64>>,
    direct: Vec<Vec<f64>>,
}

impl Both {
    /// What waylay adds to the time within which `share` of the requests were answered: the median of the rounds.
    fn added(&self, share: f64) -> f64 {
        let at = |times: &Vec<f64>| quantile(times.iter().copied(), share);
        median(self.through.iter().zip(&self.direct).map(|(through, direct)| at(through) - at(direct)))
    }

    fn raw(&self) -> serde_json::Value {
        let all = |rounds: &[Vec<f64>], share| quantile(rounds.iter().flatten().copied(), share);
        json!({
            "waylay_p50_ms": all(&self.through, 0.5), "waylay_p99_ms": all(&self.through, 0.99),
            "direct_p50_ms": all(&self.direct, 0.5), "direct_p99_ms": all(&self.direct, 0.99),
            "p50_ms_added": self.added(0.5), "p99_ms_added": self.added(0.99),
        })
    }
}

pub(super) async fn run() -> Result<Report> {
    eprintln!("starting a registry and two nodes, waylay on the first only");
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(2).image(&image, REPOSITORY, TAG).start().await?;
    let daemons = Daemon::on_all(&fleet.nodes()[..1]).await?;
    let trust = daemons.first().context("one daemon was asked for")?.trust_dir();
    let digest = &image.manifests().first().context("an image without a manifest")?.digest;
    let ask = async |reference: &str, times, anew| -> Result<Both> {
        let path = format!("/v2/{REPOSITORY}/manifests/{reference}");
        let mut both = Both { through: Vec::new(), direct: Vec::new() };
        for _ in 0..ROUNDS {
            let task = Task::Ask { at: fleet.registry().name(), path: path.clone(), times, anew };
            both.direct.push(client::on(&fleet.nodes()[0], As::Stranger, task.clone()).await?);
            both.through.push(client::on(&fleet.nodes()[0], As::Runtime(&trust), task).await?);
        }
        Ok(both)
    };
    eprintln!("asking for manifests");
    let kinds = [
        ("tag", ask(TAG, WARM, false).await?),
        ("digest", ask(digest, WARM, false).await?),
        ("tag_new", ask(TAG, NEW, true).await?),
        ("digest_new", ask(digest, NEW, true).await?),
    ];
    let worse =
        |from: usize, share| kinds[from..from + 2].iter().map(|(_, both)| both.added(share)).fold(f64::MIN, f64::max);
    eprintln!("calling connect()");
    let mut connect = Vec::new();
    for to in NOWHERE {
        let (mut with, mut without) = (u64::MAX, u64::MAX);
        for _ in 0..ROUNDS {
            let task = Task::Connect { to, batches: BATCHES };
            without = without.min(client::on(&fleet.nodes()[1], As::Stranger, task.clone()).await?);
            with = with.min(client::on(&fleet.nodes()[0], As::Stranger, task).await?);
        }
        connect.push((to, with, without));
    }
    let added = connect.iter().map(|(_, with, without)| with.saturating_sub(*without)).max().unwrap_or_default();
    let raw: Vec<_> = connect
        .iter()
        .map(|(to, with, without)| json!({"to": to, "ns_with_hooks": with, "ns_without": without}))
        .collect();
    let mut report = Report::default()
        .judged("manifest_p50_ms_added", worse(0, 0.5), Target::AtMost(1.0))
        .judged("manifest_p99_ms_added", worse(0, 0.99), Target::AtMost(5.0))
        .judged("manifest_new_p50_ms_added", worse(2, 0.5), Target::AtMost(5.0))
        .judged("connect_ns_added", added as f64, Target::AtMost(1000.0))
        .with("connect", raw);
    for (name, both) in &kinds {
        report = report.with(&format!("manifest_by_{name}"), both.raw());
        let (p50, p99) = (both.added(0.5), both.added(0.99));
        report = report
            .remark(format!("manifest by {name}: {p50:+.2} ms at the median, {p99:+.2} ms at the 99th percentile"));
    }
    Ok(report)
}
