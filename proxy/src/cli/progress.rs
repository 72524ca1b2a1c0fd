//! Progress bars, on a terminal and nowhere else.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over so many bytes; nothing where standard error is no terminal.
pub(super) fn bar(name: &str, bytes: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix:<19} {bar:30} {binary_bytes:>11} of {binary_total_bytes:<11} {msg}");
    let bar = ProgressBar::new(bytes).with_prefix(name.to_owned());
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// A bar over so many things; nothing where standard error is no terminal.
pub(super) fn count(name: &str, things: u64) -> ProgressBar {
    let bar = ProgressBar::new(things).with_prefix(name.to_owned());
    match ProgressStyle::with_template("{prefix:<19} {bar:30} {pos:>11} of {len:<11}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
