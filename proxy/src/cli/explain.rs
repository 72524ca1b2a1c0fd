//! `waylay explain`: the last pull of an image or a digest, where each byte came from, and what made it slow.

mod picture;

use std::{fmt::Write as _, path::PathBuf};

use anyhow::{Context as _, bail};
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use http::Method;

use super::{size, trace::time, without_trailing_blanks};
use crate::{
    admin::client,
    explain::{self, Asked, COLUMNS, Explained, Source, Subject, rate, seconds, short},
    telemetry::Event,
};

/// What to explain.
#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    /// An image as it was pulled, such as docker.io/library/debian:12, or a digest, sha256:….
    #[arg(value_name = "IMAGE|DIGEST")]
    subject: Subject,
    /// A record of `waylay trace --record` instead of what the daemon remembers.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Draw the pull's time into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    ask: super::Ask,
}

impl Explain {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let record = match &self.from {
            Some(file) => std::fs::read(file).with_context(|| format!("cannot read the record {}", file.display()))?,
            None => super::ask(client::fetch(&self.ask.socket, Method::GET, "/journal"))?.to_vec(),
        };
        let Some(explained) = explain::explain(&events(&record), &self.subject) else {
            bail!(
                "no pull of that is known here. Is it the name that was pulled? A runtime that has an image does not ask again, \
                 and `waylay status` shows whether connections are intercepted"
            );
        };
        if let Some(file) = &self.svg {
            svg::save(file, &picture::draw(&explained)).with_context(|| format!("cannot write {}", file.display()))?;
        }
        if self.ask.json {
            println!("{}", serde_json::to_string(&explained)?);
        } else {
            print!("{}", shown(&explained));
        }
        Ok(())
    }
}

/// The events of a record. Lines that are none, of a newer daemon or cut by a crash, are left out.
fn events(record: &[u8]) -> Vec<Event> {
    String::from_utf8_lossy(record).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn shown(pull: &Explained) -> String {
    let Explained { program, registry, repository, reference, .. } = pull;
    let mut text = String::new();
    let separator = if reference.starts_with("sha256:") { '@' } else { ':' };
    let _ = writeln!(text, "{registry}/{repository}{separator}{reference}");
    if let Some(meant) = &pull.meant {
        let _ = writeln!(text, "  which was {meant}");
    }
    let _ = writeln!(text, "  pulled by {program} at {}, took {}\n", time(pull.at_ms), seconds(pull.ms));
    let _ = writeln!(text, "{}\n", asked(&pull.pieces));
    if pull.sources.is_empty() {
        text.push_str("No bytes went to the runtime.\n");
    } else {
        let _ = writeln!(text, "{}\n", sources(pull));
    }
    if pull.findings.is_empty() {
        text.push_str("Nothing made it slow.\n");
    } else {
        text.push_str("What took the time:\n");
        for finding in &pull.findings {
            let _ = writeln!(text, "- {finding}");
        }
    }
    text
}

fn asked(pieces: &[Asked]) -> String {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_header(["what", "", "status", "store", "peers", "registry", "began", "answer", "end", "rate"]);
    let bytes = |bytes| if bytes == 0 { "-".to_owned() } else { size(bytes) };
    for asked in pieces {
        table.add_row([
            asked.what.clone(),
            short(&asked.reference).to_owned(),
            asked.status.to_string(),
            bytes(asked.store_bytes),
            bytes(asked.peer_bytes),
            bytes(asked.registry_bytes),
            format!("+{}", seconds(asked.began_ms)),
            format!("+{}", seconds(asked.began_ms + asked.first_ms)),
            format!("+{}", seconds(asked.began_ms + asked.ms)),
            if asked.bytes == 0 { "-".to_owned() } else { rate(asked.bytes, asked.ms) },
        ]);
    }
    for column in 3..10 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    without_trailing_blanks(&table.to_string())
}

/// The bytes of each source, and when they came: the width of the last column is the time of the pull.
fn sources(pull: &Explained) -> String {
    let all: u64 = pull.sources.iter().map(|source| source.bytes).sum();
    let most = pull.sources.iter().flat_map(|source| &source.curve).copied().max().unwrap_or_default();
    let mut table = Table::new();
    let axis = format!("0 s{:>width$}", seconds(pull.ms), width = COLUMNS - 3);
    table.load_style(NOTHING).set_header(["from", "bytes", "share", axis.as_str()]);
    for source in &pull.sources {
        let share = format!("{} %", source.bytes * 100 / all.max(1));
        table.add_row([source.from.clone(), size(source.bytes), share, curve(source, most)]);
    }
    for column in 1..3 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    without_trailing_blanks(&table.to_string())
}

fn curve(source: &Source, most: u64) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let level = |bytes: u64| match bytes {
        0 => ' ',
        bytes => LEVELS[((bytes * 8 / most.max(1)) as usize).min(7)],
    };
    source.curve.iter().map(|bytes| level(*bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained() -> Explained {
        let record = r#"
{"event":"request","at_ms":1000,"program":"containerd","registry":"r.test","method":"GET","route":"tag","repository":"a/b","reference":"v1","meant":"sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","status":200,"sent":500,"store_bytes":0,"peer_bytes":0,"registry_bytes":500,"first_ms":5,"ms":6,"faults":[]}
{"event":"request","at_ms":1010,"program":"containerd","registry":"r.test","method":"GET","route":"blob","repository":"a/b","reference":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","status":200,"sent":3145728,"store_bytes":0,"peer_bytes":2097152,"registry_bytes":1048576,"first_ms":20,"ms":1990,"faults":[]}
{"event":"flight","at_ms":1010,"digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","size":3145728,"held":0,"verified":true,"ms":1900,"step_ms":500,"parts":[{"from":"registry","bytes":1048576,"first_ms":50,"last_ms":400,"curve":[1048576]},{"from":"10.0.0.2:4500","bytes":2097152,"first_ms":1000,"last_ms":1900,"curve":[0,0,1048576,1048576]}]}
{"event":"of a newer daemon"}
"#;
        explain::explain(&events(record.as_bytes()), &"r.test/a/b:v1".parse().unwrap()).unwrap()
    }

    #[test]
    fn a_pull_is_told_on_one_screen() {
        super::super::golden::same("explain/shown.txt", &shown(&explained()));
    }

    #[test]
    fn a_picture_has_a_row_for_each_source() {
        let drawn = picture::draw(&explained()).to_string();
        for name in ["registry", "10.0.0.2:4500", "blob sha256:aaaaaaaaaaaa"] {
            assert!(drawn.contains(name), "{name} is not in {drawn}");
        }
    }
}
