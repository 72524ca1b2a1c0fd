//! What made a pull slow, in words an operator can act on.

use std::collections::BTreeMap;

use bytesize::ByteSize;

use super::{Asked, COLUMNS, Explained, Source};

/// Less than this, in milliseconds, is not worth a word.
const NOTICED: u64 = 250;
/// A member that was given up cost about so long before it was, in milliseconds.
const GIVEN_UP: u64 = 2_000;

/// The findings, that which cost most first.
pub(super) fn slow(pull: &Explained) -> Vec<String> {
    let mut findings = Vec::new();
    for asked in &pull.pieces {
        refused(asked, &mut findings);
    }
    faults(pull, &mut findings);
    if let Some(slowest) = pull.pieces.iter().max_by_key(|asked| asked.ms) {
        slowest_of(slowest, pull, &mut findings);
    }
    if let Some(source) = pull.sources.iter().max_by_key(|source| active(source)) {
        longest(source, pull, &mut findings);
    }
    passed(pull, &mut findings);
    findings.sort_by_key(|(cost, _): &(u64, String)| std::cmp::Reverse(*cost));
    findings.into_iter().map(|(_, text)| text).collect()
}

/// A time for people.
pub fn seconds(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        // A tenth of a second is exact enough, and no pull takes 2^53 milliseconds.
        #[expect(clippy::cast_precision_loss, reason = "times of pulls")]
        _ => format!("{:.1} s", ms as f64 / 1_000.0),
    }
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// Bytes in a time, for people.
pub fn rate(bytes: u64, ms: u64) -> String {
    format!("{}/s", size(bytes.saturating_mul(1_000) / ms.max(1)))
}

fn refused(asked: &Asked, findings: &mut Vec<(u64, String)>) {
    let status = asked.status;
    let what = format!("{} {}", asked.what, short(&asked.reference));
    // 401 asks for a credential, and the client comes again with one.
    if status < 400 || status == 401 {
        return;
    }
    let text = match status {
        403 | 404 => format!("the registry refused {what} with {status}: it is not there, or not for this credential"),
        429 => format!("the registry answered {what} with 429: its limit of requests is reached"),
        _ => format!("{what} was answered with {status}"),
    };
    findings.push((u64::MAX, text));
}

fn faults(pull: &Explained, findings: &mut Vec<(u64, String)>) {
    let mut counted = BTreeMap::<&str, u64>::new();
    for fault in pull.pieces.iter().flat_map(|asked| &asked.faults) {
        *counted.entry(fault).or_default() += 1;
    }
    for (fault, times) in counted {
        let (what, who) = fault.split_once('@').unwrap_or((fault, ""));
        let text = match what {
            "peer:stalled" => format!("member {who} was silent and was given up: is its link or its node overloaded?"),
            "peer:cut" => format!("member {who} went away; `waylay peers` shows whether it is back"),
            "peer:corrupt" => {
                format!("member {who} gave damaged bytes, which nobody got; run `waylay blobs verify` on that node")
            }
            "peer:gone" => format!("member {who} no longer had what it had told of"),
            "registry:status" => "the registry refused requests that this node made for it, such as 429 or 5xx".into(),
            "registry:stalled" => "the registry sent nothing for a long time".into(),
            "registry:cut" => "the registry broke an answer off".into(),
            "registry:unreachable" => "the registry could not be reached".into(),
            "registry:corrupt" => "the registry's bytes were not what their digest says".into(),
            "ours:full" => "the store had no room: raise store.quota, or free disk space".into(),
            "ours:disk" => "the store could not be read or written; the daemon's log has the error".into(),
            _ => format!("{fault} happened"),
        };
        let times = if times > 1 { format!(" ({times} times)") } else { String::new() };
        findings.push((GIVEN_UP, format!("{text}{times}")));
    }
}

fn slowest_of(asked: &Asked, pull: &Explained, findings: &mut Vec<(u64, String)>) {
    let name = format!("{} {} ({})", asked.what, short(&asked.reference), size(asked.bytes));
    if asked.ms >= NOTICED {
        let share = asked.ms * 100 / pull.ms.max(1);
        let text = format!("{name} took longest: {}, {share} % of the pull", seconds(asked.ms));
        findings.push((asked.ms, text));
    }
    if asked.first_ms >= NOTICED {
        let waited = seconds(asked.first_ms);
        let text = format!(
            "its answer began after {waited}: the registry was asked whether this client may have it, and members whether they \
             have it"
        );
        findings.push((asked.first_ms, text));
    }
    let end = asked.began_ms + asked.ms;
    let lag = end.saturating_sub(asked.here_ms.unwrap_or(end));
    if lag >= NOTICED && lag * 4 >= asked.ms {
        let text = format!(
            "all of it was on this node {} before the runtime had taken it: unpacking or the runtime's disk is slower than \
             the network",
            seconds(lag)
        );
        findings.push((lag, text));
    }
    if asked.requests > 1 {
        let text =
            format!("{} was asked for {} times: in ranges, or tried again", short(&asked.reference), asked.requests);
        findings.push((NOTICED, text));
    }
}

/// Columns in which a source gave anything.
fn active(source: &Source) -> usize {
    source.curve.iter().filter(|bytes| **bytes > 0).count()
}

fn longest(source: &Source, pull: &Explained, findings: &mut Vec<(u64, String)>) {
    let during = pull.ms * active(source) as u64 / COLUMNS as u64;
    if during < NOTICED {
        return;
    }
    let (bytes, speed) = (size(source.bytes), rate(source.bytes, during));
    let text = match source.from.as_str() {
        "store" => format!("this node's store gave {bytes} in {}: the runtime took {speed}", seconds(during)),
        "registry" if pull.sources.len() == 1 => format!(
            "all of it came from the registry, at {speed}: no member had any of it or was asked; `waylay peers` shows them"
        ),
        "registry" => format!("the registry gave {bytes} at {speed}"),
        peer => format!("of the members, {peer} gave for longest: {bytes} at {speed}"),
    };
    findings.push((during.saturating_sub(1), text));
}

fn passed(pull: &Explained, findings: &mut Vec<(u64, String)>) {
    for (reason, number) in &pull.passed {
        let text = format!(
            "{number} connections of {} went past us ({reason}), and nothing is known of their bytes; `waylay doctor` says \
             what to do",
            pull.program
        );
        findings.push((GIVEN_UP, text));
    }
}

/// A digest as people compare it.
pub fn short(reference: &str) -> &str {
    match reference.strip_prefix("sha256:") {
        Some(_) => reference.get(..19).unwrap_or(reference),
        None => reference,
    }
}
