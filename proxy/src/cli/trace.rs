//! `waylay trace`: connections and requests as they happen, a line each.

use std::{fs::File, io::Write as _, path::PathBuf, time::Duration};

use anyhow::Context as _;

use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;

use super::{Ask, size};
use crate::{
    admin::client::{self, ClientError},
    telemetry::{ConnectionEvent, Event, FlightEvent, RequestEvent},
};

/// What to follow.
#[derive(Debug, clap::Args)]
pub(super) struct Trace {
    /// Only what this program does, such as containerd.
    #[arg(long, value_name = "PROGRAM")]
    runtime: Option<String>,
    /// Only what concerns this registry.
    #[arg(long, value_name = "HOST")]
    registry: Option<String>,
    /// Only what took a second and more, or went wrong.
    #[arg(long)]
    slow: bool,
    /// Write all events to this file as well, for `waylay explain --from`.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    #[command(flatten)]
    ask: Ask,
}

/// This long, in milliseconds, is slow.
const SLOW: u64 = 1_000;

impl Trace {
    /// Follows the daemon until it stops or the reader goes away.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let record = self
            .record
            .as_ref()
            .map(|file| File::create(file).with_context(|| format!("cannot write the record {}", file.display())));
        let record = record.transpose()?;
        super::ask(self.follow(record))
    }

    async fn follow(&self, mut record: Option<File>) -> Result<(), ClientError> {
        let mut stream = client::get(&self.ask.socket, "/trace").await?.into_body().into_data_stream();
        let mut pending = Vec::new();
        while let Some(data) = stream.next().await {
            pending.extend_from_slice(&data?);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                if let Some(file) = &mut record {
                    file.write_all(&line).map_err(ClientError::Record)?;
                }
                let text = String::from_utf8_lossy(&line);
                // The reader has gone, as `head` does.
                if self.show(text.trim_end()).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn show(&self, line: &str) -> std::io::Result<()> {
        let event = serde_json::from_str(line).ok();
        if event.as_ref().is_some_and(|event| !self.wants(event)) {
            return Ok(());
        }
        let text = if self.ask.json { line.to_owned() } else { readable(line, event) };
        writeln!(std::io::stdout(), "{text}")
    }

    fn wants(&self, event: &Event) -> bool {
        let (program, registry, slow) = match event {
            Event::Connection(event) => (Some(&event.program), event.name.as_ref(), event.decision != "terminate"),
            Event::Request(event) => {
                let failed = !event.faults.is_empty() || event.status >= 400;
                (Some(&event.program), Some(&event.registry), failed || event.ms >= SLOW)
            }
            Event::Flight(event) => (None, None, !event.verified || event.ms >= SLOW),
        };
        let is = |wanted: &Option<String>, given: Option<&String>| {
            wanted.as_ref().is_none_or(|wanted| given.is_some_and(|given| given.starts_with(wanted.as_str())))
        };
        is(&self.runtime, program) && is(&self.registry, registry) && (slow || !self.slow)
    }
}

fn readable(line: &str, event: Option<Event>) -> String {
    match event {
        Some(Event::Connection(event)) => connection(&event),
        Some(Event::Request(event)) => request(&event),
        Some(Event::Flight(event)) => flight(&event),
        // A newer daemon's events, or how many were missed.
        None => line.to_owned(),
    }
}

fn flight(event: &FlightEvent) -> String {
    let FlightEvent { at_ms, digest, verified, ms, parts, .. } = event;
    let parts: Vec<String> = parts.iter().map(|part| format!("{} {}", size(part.bytes), part.from)).collect();
    let (parts, end) = (parts.join(" + "), if *verified { "here" } else { "given up" });
    format!("{} {:<12} {digest} {end} after {ms} ms  {parts}", time(*at_ms), "flight")
}

fn connection(event: &ConnectionEvent) -> String {
    let ConnectionEvent { at_ms, program, destination, name, decision, reason, ms } = event;
    let name = name.as_deref().unwrap_or("-");
    format!("{} {program:<12} {decision:<9} {reason:<18} {name} ({destination}) {ms} ms", time(*at_ms))
}

fn request(event: &RequestEvent) -> String {
    let RequestEvent { at_ms, program, registry, method, route, status, first_ms, ms, .. } = event;
    let what = match (&event.repository, &event.reference) {
        (Some(repository), Some(reference)) => format!("{registry}/{repository} {reference}"),
        _ => registry.clone(),
    };
    let mut sources = Vec::new();
    for (source, bytes) in
        [("store", event.store_bytes), ("peers", event.peer_bytes), ("registry", event.registry_bytes)]
    {
        if bytes > 0 {
            sources.push(format!("{} {source}", size(bytes)));
        }
    }
    let sources = if sources.is_empty() { "no body".to_owned() } else { sources.join(" + ") };
    let faults = if event.faults.is_empty() { String::new() } else { format!("  faults {}", event.faults.join(",")) };
    let time = time(*at_ms);
    format!("{time} {program:<12} {method} {route:<9} {status} {what}  {sources}  {first_ms}/{ms} ms{faults}")
}

/// A time as RFC 3339 writes it.
pub(super) fn time(at_ms: u64) -> String {
    let at = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(at_ms);
    humantime::format_rfc3339_millis(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_where_the_bytes_came_from() {
        let line = r#"{"event":"request","at_ms":0,"program":"containerd","registry":"r.test:5000","method":"GET",
            "route":"blob","repository":"a/b","reference":"sha256:00","status":200,"sent":3145728,"store_bytes":0,
            "peer_bytes":2097152,"registry_bytes":1048576,"first_ms":3,"ms":40,"faults":["peer:cut@192.0.2.1:1"]}"#;
        let wanted = "1970-01-01T00:00:00.000Z containerd   GET blob      200 r.test:5000/a/b sha256:00  \
                      2.0 MiB peers + 1.0 MiB registry  3/40 ms  faults peer:cut@192.0.2.1:1";
        assert_eq!(readable(line, serde_json::from_str(line).ok()), wanted);
    }

    #[test]
    fn what_is_not_understood_is_shown_as_it_came() {
        assert_eq!(readable("{\"event\":\"missed\",\"count\":3}", None), "{\"event\":\"missed\",\"count\":3}");
    }
}
