//! Carrying out a plan, step by step, each told before it is done. Every file goes through the manifest, which is on the disk
//! before the file is: whatever happens in between, `waylay uninstall` knows what to take back.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use waylay_certs::{
    Identities, IdentityError, Manifest, ManifestError, Publish, manifest::Purpose, publish::PublishError,
};

use super::{
    former::Former,
    host::{CommandError, Host},
    plan::{Plan, Step},
};
use crate::{
    admin::client::{self, ClientError},
    rehearsal::{self, RehearsalError},
};

/// How long a daemon may take from its start to its proof.
const PROOF: Duration = Duration::from_secs(30);
/// How often it is asked meanwhile.
const ASK: Duration = Duration::from_millis(200);

/// Why a step was not done. Those before it are; those after it are not.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A file could not be written or taken back.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A directory of ours could not be made or removed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No identity could be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A certificate could not be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A program did not do its part.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The daemon was started, but does not answer.
    #[error("the daemon does not answer: {0}; `journalctl -u waylay` says why. Pulls go directly meanwhile")]
    Silent(ClientError),
    /// The daemon answers, but intercepts nothing.
    #[error("the daemon runs, but intercepts nothing: {0}. Pulls go directly meanwhile; `waylay doctor` looks closer")]
    Ineffective(String),
    /// A second daemon of this program does not do what it should.
    #[error("the rehearsal failed, and nothing was changed: {0}")]
    Rehearsal(#[from] RehearsalError),
    /// The new daemon did not do what it should, and the former one is back.
    #[error(
        "the new waylay did not prove itself: {0}. The former program and its files are back, and it intercepts again"
    )]
    PutBack(Box<ApplyError>),
    /// The same, but it is not.
    #[error("the new waylay did not prove itself: {why}. Going back to the former one failed, too: {then}")]
    NotPutBack {
        /// What was wrong with the new one.
        why: Box<ApplyError>,
        /// What was wrong then.
        then: Box<ApplyError>,
    },
}

/// What was left as it is, and why.
pub type Left = Vec<String>;

/// Does everything in `plan`; `tell` hears of each step before it is done. When an upgrade fails before the new daemon has
/// proven itself, what it replaced is put back.
///
/// # Errors
/// At the first step that fails.
pub fn apply(host: &Host, plan: &Plan, state_dir: &Path, tell: &mut dyn FnMut(&Step)) -> Result<Left, ApplyError> {
    let (mut left, mut former) = (Left::new(), Former::of(host, plan));
    for step in &plan.steps {
        tell(step);
        former.keep(host, step);
        if let Err(why) = perform(host, step, state_dir, &mut left) {
            return Err(former.put_back(host, state_dir, why));
        }
        if matches!(step, Step::Prove { .. }) {
            former.forget();
        }
    }
    Ok(left)
}

fn perform(host: &Host, step: &Step, state_dir: &Path, left: &mut Left) -> Result<(), ApplyError> {
    match step {
        Step::Write(file) => {
            let path = host.path(&file.path);
            let mut manifest = manifest(host, state_dir)?;
            if let Some(dir) = path.parent() {
                manifest.make_dirs(dir, 0o755)?;
            }
            manifest.write(&path, &file.content, file.mode, Purpose::Installation)?;
        }
        Step::Publish { trust_dir, certs_d, registries } => {
            let identities = Identities::open(host.path(state_dir).join("identities"))?;
            let certs_d = certs_d.iter().map(|dir| host.path(dir)).collect();
            let to = Publish { trust_dir: host.path(trust_dir), certs_d };
            let report = waylay_certs::publish(&identities, registries, &to, &mut manifest(host, state_dir)?)?;
            left.extend(report.skipped.iter().map(|skipped| format!("{}: {}", skipped.dir.display(), skipped.why)));
        }
        Step::Systemctl { args, .. } => host.systemctl(args)?,
        Step::Rehearse { config } => rehearsal::rehearse(config)?,
        Step::Prove { socket } => prove(&host.path(socket))?,
        Step::TakeBack { .. } => {
            // Which files is the manifest's to say, at the time when it is done.
            let stays = manifest(host, state_dir)?.undo()?;
            left.extend(stays.iter().map(|path| format!("{}: somebody else changed or uses it", path.display())));
        }
        Step::Remove { dir, own } => left.extend(remove(&host.path(dir), own)?),
    }
    Ok(())
}

pub(super) fn manifest(host: &Host, state_dir: &Path) -> Result<Manifest, ApplyError> {
    let dir = host.path(state_dir);
    // systemd's StateDirectory= would make it like this.
    fs::create_dir_all(&dir).map_err(|source| ApplyError::Io { path: dir.clone(), source })?;
    Ok(Manifest::open(dir.join("manifest.json"))?)
}

/// Waits until the daemon says that a connection of its own came back to it.
pub(super) fn prove(socket: &Path) -> Result<(), ApplyError> {
    let until = Instant::now() + PROOF;
    loop {
        let answer = client::ask(socket, client::status(socket));
        match &answer {
            Ok(status) if status.intercept.effective || status.intercept.off => return Ok(()),
            _ if Instant::now() < until => thread::sleep(ASK),
            Ok(status) => return Err(ApplyError::Ineffective(status.warnings.join("; "))),
            Err(_) => return answer.map(drop).map_err(ApplyError::Silent),
        }
    }
}

/// Removes what is ours; what is left when it is not all.
fn remove(dir: &Path, own: &[&str]) -> Result<Option<String>, ApplyError> {
    for path in own.iter().map(|name| dir.join(name)) {
        let removed = match path.symlink_metadata() {
            Ok(entry) if entry.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ApplyError::Io { path, source: error });
            }
            _ => {}
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            Ok(Some(format!("{}: it holds other things", dir.display())))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ApplyError::Io { path: dir.to_owned(), source: error })
        }
        _ => Ok(None),
    }
}
