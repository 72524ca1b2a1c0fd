//! Golden files: what commands really print, with what differs from run to run masked, kept in `tests/golden`. `UPDATE=1` in the
//! environment writes them anew instead of comparing; what changed is then in `git diff`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use regex::Regex;

use crate::fleet::Said;

/// What differs from run to run, and what stands for it. Tried in this order.
const USUAL: [(&str, &str); 23] = [
    (r"sha256:[0-9a-f]{64}", "sha256:DIGEST"),
    (r"sha256:[0-9a-f]{6,63}\b…?", "sha256:SHORT"),
    (r"\b[0-9a-f]{64}\b", "FINGERPRINT"),
    (r"\b[0-9a-f]{16}\b", "SHORT"),
    (r"\b[0-9a-f]{8}\.[0-9]\b", "HASH.0"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
    (r"\d{4}-\d\d-\d\d", "DAY"),
    (r#"":\d+"#, "\":N"),
    (r"\b\d+ bytes", "N bytes"),
    (r#"cgroup2 is at [^\s"]+"#, "cgroup2 is at /MOUNT"),
    (r"kernel +\d[^\s:]*:", "kernel  VERSION:"),
    (r"runtime +(\w+) \(([^)]*)\): .*", "runtime  $1 ($2): VERSION"),
    // A matter of the moment.
    (r"verified_before", "verified"),
    (r"\d+(\.\d+)? ([KMGT]i)?B/s", "RATE"),
    (r"\d+(\.\d+)? ([KMGT]i)?B\b", "SIZE"),
    (r"\b\d+(\.\d+)?/\d+(\.\d+)? (ms|s)\b", "N ms"),
    (r"\+?\b\d+(\.\d+)? (ms|s)\b", "N ms"),
    (r"for (\d+(s|m|h|days?|ms|us|ns) ?)+", "for N s "),
    (r"process \d+", "process PID"),
    (r"\b\d+ %", "N %"),
    (r"[▁▂▃▄▅▆▇█][ ▁▂▃▄▅▆▇█]*", "BAR"),
    // Columns are as wide as what stands in them.
    (r" {2,}", "  "),
    (r" +\n", "\n"),
];

/// What to mask.
#[derive(Debug)]
pub struct Masks {
    own: Vec<(String, String)>,
    usual: Vec<(Regex, &'static str)>,
}

impl Masks {
    /// The usual ones: digests, times, sizes, rates, process ids.
    ///
    /// # Errors
    /// None that a run could cause: the patterns are ours.
    pub fn usual() -> Result<Self> {
        let usual = USUAL.iter().map(|(pattern, name)| Ok((Regex::new(pattern)?, *name))).collect::<Result<_>>()?;
        Ok(Self { own: Vec::new(), usual })
    }

    /// And this text, before all others.
    #[must_use]
    pub fn and(mut self, text: &str, name: &str) -> Self {
        self.own.push((text.to_owned(), name.to_owned()));
        self
    }

    /// The text with only the latter masked: what was typed, which says sizes and times on purpose.
    #[must_use]
    pub fn own_on(&self, text: &str) -> String {
        self.own.iter().fold(text.to_owned(), |text, (wanted, name)| text.replace(wanted.as_str(), name))
    }

    /// The text with all that masked.
    #[must_use]
    pub fn on(&self, text: &str) -> String {
        let text = self.own_on(text);
        self.usual.iter().fold(text, |text, (wanted, name)| wanted.replace_all(&text, *name).into_owned())
    }
}

/// A command as it is typed and what it said, as golden files show it.
#[must_use]
pub fn session(line: &str, said: &Said, masks: &Masks) -> String {
    let line = masks.own_on(line);
    let status = if said.status == 0 { String::new() } else { format!("(exit status {})\n", said.status) };
    let ended =
        |text: &str| if text.is_empty() || text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") };
    format!("$ {line}\n{}", masks.on(&format!("{}{}{status}", ended(&said.out), ended(&said.err))))
}

/// Compares masked text with `tests/golden/NAME.txt`.
///
/// # Errors
/// When it differs, with both, or when there is no such file.
pub fn same(name: &str, text: &str) -> Result<()> {
    let path = directory().join(format!("{name}.txt"));
    if env::var_os("UPDATE").is_some() {
        fs::create_dir_all(directory())?;
        return fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()));
    }
    let wanted = fs::read_to_string(&path).with_context(|| format!("{}: UPDATE=1 writes it", path.display()))?;
    ensure!(
        wanted == text,
        "not as in {} (UPDATE=1 writes it anew):\n{text}\n--- instead of\n{wanted}",
        path.display()
    );
    Ok(())
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_masked_and_the_rest_stays() {
        let masks = Masks::usual().unwrap().and("/tmp/x", "DIR");
        for (text, masked) in [
            ("waylay  0.1.0, process 77, for 1m 3s\n", "waylay  0.1.0, process PID, for N s\n"),
            ("/tmp/x/a  12.3 MiB of 50.0 GiB", "DIR/a  SIZE of SIZE"),
            (&format!("sha256:{}", "a".repeat(64)), "sha256:DIGEST"),
            ("2026-01-02T03:04:05Z until 2026-01-02", "TIME until DAY"),
            ("registry.test:5000/debian/app:1", "registry.test:5000/debian/app:1"),
            ("runtime  dockerd (running): Docker version 20", "runtime  dockerd (running): VERSION"),
            ("+5 ms  1.5 MiB/s  99 %", "N ms  RATE  N %"),
            ("{\"size\":12,\"from\":\"10.0.0.1:4500\"}", "{\"size\":N,\"from\":\"10.0.0.1:4500\"}"),
        ] {
            assert_eq!(masks.on(text), masked);
        }
    }
}
