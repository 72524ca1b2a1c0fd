//! `waylay status`: the daemon's own word on how it is.

use std::{path::Path, time::SystemTime};

use comfy_table::{Table, presets::NOTHING};
use http::Method;

use super::size;
use crate::{
    admin::{
        bypass::moment,
        client,
        status::{Intercept, Status},
    },
    telemetry::millis,
};

/// Asks the daemon behind `socket` and prints what it says.
pub(super) fn status(socket: &Path, json: bool) -> anyhow::Result<()> {
    let body = super::ask(client::fetch(socket, Method::GET, "/status"))?;
    if json {
        println!("{}", String::from_utf8_lossy(&body));
    } else {
        print(&serde_json::from_slice(&body)?);
    }
    Ok(())
}

fn print(status: &Status) {
    let since = std::time::Duration::from_millis(millis(SystemTime::now()).saturating_sub(status.since_ms));
    let since = std::time::Duration::from_secs(since.as_secs());
    let effective = match &status.intercept {
        Intercept { off: true, off_until: Some(until), .. } => &format!("NO, switched off until {}", moment(*until)),
        intercept if intercept.off => "NO, switched off",
        intercept if intercept.effective => "yes, proven by self-test",
        _ => "NO",
    };
    let mut table = Table::new();
    table.load_style(NOTHING);
    let mut row = |name: &str, value: String| {
        table.add_row([name, &value]);
    };
    row("waylay", format!("{}, process {}, for {}", status.version, status.pid, humantime::format_duration(since)));
    row("intercepting", format!("{effective}, at {}", status.intercept.cgroup));
    row("registries", or_none(&status.registries));
    if !status.bypass.is_empty() {
        let bypassed: Vec<String> = status.bypass.iter().map(|one| one.destination.clone()).collect();
        row("bypassed", bypassed.join(", "));
    }
    let store = &status.store;
    let lent = if store.lent > 0 { format!(", and {} kept by containerd", size(store.lent)) } else { String::new() };
    row("store", format!("{} blobs, {} of {}{lent}", store.blobs, size(store.bytes), size(store.quota)));
    match &status.peers {
        Some(peers) => {
            let (suspect, gone) = (peers.suspect, peers.gone);
            let count = format!("{} of {} answer", peers.reachable, peers.members.len());
            row("peers", format!("{count}, {suspect} suspect, {gone} gone: {}", or_none(&peers.members)));
            row("own address", peers.address.clone());
        }
        None => row("peers", "none: this node keeps to itself".to_owned()),
    }
    let bytes = &status.bytes;
    let from = format!("{} store, {} peers, {} registry", size(bytes.store), size(bytes.peer), size(bytes.registry));
    row("served from", from);
    println!("{}", super::without_trailing_blanks(&table.to_string()));
    for warning in &status.warnings {
        println!("warning: {warning}");
    }
}

fn or_none(list: &[String]) -> String {
    if list.is_empty() { "none".to_owned() } else { list.join(", ") }
}
