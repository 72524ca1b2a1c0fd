//! A rehearsal: a second daemon of this program beside the one that runs, which must prove that it intercepts before anybody
//! relies on it. Everything that could meet the first one is its own: state, certificates, ports, control group. It
//! catches nobody's connections but its own, and nothing is left of it.
//!
//! What it does not try is what there is only one of: the store with its blobs, and the address that members know. Whoever
//! replaces a daemon keeps the former program until the new one has proven itself in its place.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    admin::client,
    config::{Config, Containerd},
    intercept::cgroup::{self, MountError},
};

/// How long it may take from its start to its proof.
const PROOF: Duration = Duration::from_secs(30);
/// How long it may take to end.
const END: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(50);
/// Joins the control group `$0` and becomes the rest of the arguments.
const JOIN: &str = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;
/// What it may store: nothing comes to it.
const QUOTA: u64 = 64 << 20;

/// Why the program should not be relied on.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// No control group to attach to.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Something for it could not be made.
    #[error("cannot prepare a rehearsal: {}: {source}", path.display())]
    Prepare {
        /// What could not be made.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration cannot be written down.
    #[error("cannot write the rehearsal's configuration: {0}")]
    Config(#[from] toml::ser::Error),
    /// It ended by itself.
    #[error("a daemon of this program ended with {status}: {said}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// The last line of its log.
        said: String,
    },
    /// It runs, but intercepts nothing.
    #[error("a daemon of this program did not prove within {PROOF:?} that it intercepts: {said}")]
    Unproven {
        /// The last line of its log.
        said: String,
    },
    /// It had to be killed.
    #[error("a daemon of this program did not end within {END:?} of being told to")]
    Endless,
}

/// Starts a daemon with this `config`, sees it prove itself, and ends it. Takes a few seconds; needs root.
///
/// # Errors
/// When it does not start, prove itself and end as it should.
pub fn rehearse(config: &Config) -> Result<(), RehearsalError> {
    let parent = match &config.intercept.cgroup {
        Some(cgroup) => cgroup.clone(),
        None => cgroup::find()?,
    };
    let home = tempfile::Builder::new().prefix("waylay-rehearsal-").tempdir();
    let home = home.map_err(prepare(&std::env::temp_dir()))?;
    let group = Group::below(&parent)?;
    let config = own(config, home.path(), &group.0);
    let mut daemon = Daemon::start(&config, home.path(), &group.0)?;
    daemon.prove(&config.admin.socket)?;
    daemon.end()
}

/// The same configuration with everything of its own.
fn own(config: &Config, home: &Path, group: &Path) -> Config {
    let mut own = config.clone();
    own.state_dir = home.join("state");
    own.store.dir = home.join("store");
    (own.store.quota, own.store.low_disk, own.store.containerd) = (QUOTA, 0, Containerd::Never);
    own.trust.directory = home.join("trust");
    own.trust.certs_d = Vec::new();
    own.intercept.cgroup = Some(group.to_owned());
    own.proxy.listen.iter_mut().for_each(|address| address.set_port(0));
    own.admin.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    own.admin.metrics = None;
    own.admin.socket = home.join("control.sock");
    own.pull.logins = Vec::new();
    own.swarm = None;
    own
}

fn prepare(path: &Path) -> impl FnOnce(io::Error) -> RehearsalError {
    move |source| RehearsalError::Prepare { path: path.to_owned(), source }
}

/// A control group of its own. Dropping it ends whatever is still in it.
struct Group(PathBuf);

impl Group {
    fn below(parent: &Path) -> Result<Self, RehearsalError> {
        let path = parent.join(format!("waylay-rehearsal-{}", std::process::id()));
        fs::create_dir(&path).map_err(prepare(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The stand-in needs a moment to hear the goodbye. A kernel before 5.14 has no cgroup.kill.
        let until = Instant::now() + END;
        while fs::remove_dir(&self.0).is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
            if Instant::now() > until {
                let _ = fs::write(self.0.join("cgroup.kill"), "1");
                tracing::warn!(cgroup = %self.0.display(), "cannot remove a rehearsal's control group");
                return;
            }
            thread::sleep(LOOK);
        }
    }
}

/// The daemon. Dropping it kills it.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn start(config: &Config, home: &Path, group: &Path) -> Result<Self, RehearsalError> {
        let (file, log) = (home.join("config.toml"), home.join("log"));
        fs::write(&file, toml::to_string(config)?).map_err(prepare(&file))?;
        let said = File::create(&log).map_err(prepare(&log))?;
        let program = std::env::current_exe().map_err(prepare(Path::new("/proc/self/exe")))?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", JOIN]).arg(group).arg(&program).arg("run").arg("--config").arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        // Whoever manages this process is not told of it.
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        let child = command.spawn().map_err(prepare(&program))?;
        Ok(Self { child, log })
    }

    fn prove(&mut self, socket: &Path) -> Result<(), RehearsalError> {
        let until = Instant::now() + PROOF;
        loop {
            // No error: what cannot be asked about is asked again.
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(RehearsalError::Ended { status, said: self.said() });
            }
            if client::ask(socket, client::status(socket)).is_ok_and(|status| status.intercept.effective) {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(RehearsalError::Unproven { said: self.said() });
            }
            thread::sleep(LOOK);
        }
    }

    fn end(&mut self) -> Result<(), RehearsalError> {
        self.signal(Signal::SIGTERM);
        let until = Instant::now() + END;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(RehearsalError::Ended { status, said: self.said() }),
                _ if Instant::now() > until => return Err(RehearsalError::Endless),
                _ => thread::sleep(LOOK),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // Gone already.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// The last line of its log.
    fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().next_back().unwrap_or("it said nothing").to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal(Signal::SIGKILL);
        }
        // Nothing more can be done about it.
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_it_can_meet_the_one_that_runs() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config.toml")).unwrap();
        let config = Config::parse(&text.replace("127.0.0.1:0", "127.0.0.1:4444")).unwrap();
        let own = toml::to_string(&own(&config, Path::new("/REHEARSAL"), Path::new("/REHEARSAL/group"))).unwrap();
        let again = Config::parse(&own).unwrap();
        assert_eq!(again.registries, config.registries);
        assert!(again.swarm.is_none() && again.trust.certs_d.is_empty() && again.admin.metrics.is_none());
        assert!(again.proxy.listen.iter().chain([&again.admin.listen]).all(|address| address.port() == 0));
        let absolute = |line: &&str| line.contains("\"/");
        let elsewhere: Vec<&str> = own.lines().filter(absolute).filter(|line| !line.contains("\"/REHEARSAL")).collect();
        assert_eq!(elsewhere, Vec::<&str>::new());
    }
}
