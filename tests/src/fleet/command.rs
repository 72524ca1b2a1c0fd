//! Running a short command to its end and saying what failed: the whole command line and what it wrote.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// Runs `command` and returns what it wrote to standard output.
///
/// # Errors
/// When it cannot be started or ends with anything but success; the error holds the command line and its complaint.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {}", line(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}: {}", line(command), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as a person would type it.
#[must_use]
pub(super) fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}
