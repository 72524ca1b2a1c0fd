//! `waylay trace`: connections and requests as they happen, a line each.

use std::{io::Write as _, path::Path, time::Duration};

use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;

use super::size;
use crate::{
    admin::client::{self, ClientError},
    telemetry::{ConnectionEvent, Event, RequestEvent},
};

/// Follows the daemon behind `socket` until it stops or the reader goes away.
pub(super) fn trace(socket: &Path, json: bool) -> anyhow::Result<()> {
    super::ask(follow(socket, json))
}

async fn follow(socket: &Path, json: bool) -> Result<(), ClientError> {
    let mut stream = client::get(socket, "/trace").await?.into_body().into_data_stream();
    let mut pending = Vec::new();
    while let Some(data) = stream.next().await {
        pending.extend_from_slice(&data?);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let text = String::from_utf8_lossy(&line);
            let text = if json { text.trim_end().to_owned() } else { readable(text.trim_end()) };
            // The reader has gone, as `head` does.
            if writeln!(std::io::stdout(), "{text}").is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn readable(line: &str) -> String {
    match serde_json::from_str(line) {
        Ok(Event::Connection(event)) => connection(&event),
        Ok(Event::Request(event)) => request(&event),
        // A newer daemon's events, or how many were missed.
        Err(_) => line.to_owned(),
    }
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

fn time(at_ms: u64) -> String {
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
        assert_eq!(readable(line), wanted);
    }

    #[test]
    fn what_is_not_understood_is_shown_as_it_came() {
        assert_eq!(readable("{\"event\":\"missed\",\"count\":3}"), "{\"event\":\"missed\",\"count\":3}");
    }
}
