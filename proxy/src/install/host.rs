//! The node's files and programs as the installer reaches them: below one root directory, so that a directory with
//! scripts in it is a node too.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{process::Command, time::timeout};

/// Where programs are looked for, in this order.
const BIN: [&str; 6] = ["usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"];
/// How long a program may take that is only asked something.
const ANSWER: Duration = Duration::from_secs(10);
/// How long systemd may take for a change: a daemon drains for up to a minute before it stops.
const CHANGE: Duration = Duration::from_secs(150);

/// A node.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

/// Why a program did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It is not installed.
    #[error("{0} is not installed")]
    Missing(String),
    /// It could not be run, or not in time.
    #[error("cannot run `{line}`")]
    Run {
        /// The command as one would type it.
        line: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("`{line}` failed: {said}")]
    Failed {
        /// The command as one would type it.
        line: String,
        /// What it wrote to standard error.
        said: String,
    },
}

impl Host {
    /// This machine.
    pub fn this() -> Self {
        Self::at("/")
    }

    /// The node whose root directory is `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where the node's absolute `path` is for us.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path.as_ref().strip_prefix("/").unwrap_or(path.as_ref()))
    }

    /// The text of a file; `None` when there is none or it cannot be read.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(self.path(path)).ok()
    }

    /// The names in a directory, sorted; none when it cannot be read.
    pub fn list(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Where a program is installed.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        BIN.iter().map(|dir| self.root.join(dir).join(name)).find(|path| path.is_file())
    }

    /// What a program says when asked; `None` when it is missing, fails or takes too long.
    pub fn ask(&self, program: &str, args: &[&str]) -> Option<String> {
        self.run(program, args, ANSWER).ok()
    }

    /// Tells systemd to do something.
    ///
    /// # Errors
    /// When it is not there or does not do it.
    pub fn systemctl(&self, args: &[String]) -> Result<(), CommandError> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.run("systemctl", &args, CHANGE).map(drop)
    }

    fn run(&self, program: &str, args: &[&str], limit: Duration) -> Result<String, CommandError> {
        let line = [&[program], args].concat().join(" ");
        let path = self.program(program).ok_or_else(|| CommandError::Missing(program.to_owned()))?;
        let output = output(&path, args, limit).map_err(|source| CommandError::Run { line: line.clone(), source })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(CommandError::Failed { line, said });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn output(program: &Path, args: &[&str], limit: Duration) -> io::Result<Output> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async { timeout(limit, command.output()).await });
    ended.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("no end within {limit:?}"))))
}
