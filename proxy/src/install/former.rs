//! The way back of an upgrade: what was replaced is kept until the new daemon has proven itself, and put back when it does not.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use waylay_certs::manifest::Purpose;
use zeroize::Zeroizing;

use super::{
    SERVICE,
    apply::{ApplyError, manifest, prove},
    host::Host,
    plan::{File, Plan, Step},
};
use crate::admin::client;

/// The files of an installation that works.
pub(super) struct Former {
    /// The control socket of the daemon that worked when we came; `None` when none did: then there is nothing to go back to.
    socket: Option<PathBuf>,
    files: Vec<FormerFile>,
    restarted: bool,
}

struct FormerFile {
    path: PathBuf,
    content: Zeroizing<Vec<u8>>,
    mode: u32,
}

impl Former {
    /// Asks the daemon that runs, if one does.
    pub(super) fn of(host: &Host, plan: &Plan) -> Self {
        let mut sockets = plan.steps.iter().filter_map(|step| match step {
            Step::Prove { socket } => Some(host.path(socket)),
            _ => None,
        });
        let works = |socket: &PathBuf| {
            let status = client::ask(socket, client::status(socket));
            status.is_ok_and(|status| status.intercept.effective || status.intercept.off)
        };
        Self { socket: sockets.next_back().filter(works), files: Vec::new(), restarted: false }
    }

    /// Keeps what `step` will replace, before it does.
    pub(super) fn keep(&mut self, host: &Host, step: &Step) {
        match step {
            Step::Write(File { path, replaces: true, .. }) => {
                let path = host.path(path);
                if let (Ok(content), Ok(metadata)) = (fs::read(&path), fs::metadata(&path)) {
                    let mode = metadata.permissions().mode() & 0o7777;
                    self.files.push(FormerFile { path, content: Zeroizing::new(content), mode });
                }
            }
            Step::Systemctl { args, .. } if args.iter().any(|arg| arg == SERVICE) => self.restarted = true,
            _ => {}
        }
    }

    /// The new daemon has proven itself.
    pub(super) fn forget(&mut self) {
        self.socket = None;
    }

    /// Puts everything back because of `why`, and says what came of it.
    pub(super) fn put_back(self, host: &Host, state_dir: &Path, why: ApplyError) -> ApplyError {
        let Some(socket) = self.socket.as_deref().filter(|_| !self.files.is_empty()) else { return why };
        let why = Box::new(why);
        match self.restore(host, state_dir, socket) {
            Ok(()) => ApplyError::PutBack(why),
            Err(then) => ApplyError::NotPutBack { why, then: Box::new(then) },
        }
    }

    fn restore(&self, host: &Host, state_dir: &Path, socket: &Path) -> Result<(), ApplyError> {
        for FormerFile { path, content, mode } in &self.files {
            manifest(host, state_dir)?.write(path, content, *mode, Purpose::Installation)?;
        }
        if self.restarted {
            host.systemctl(&["daemon-reload".to_owned()])?;
            host.systemctl(&["restart".to_owned(), SERVICE.to_owned()])?;
        }
        prove(socket)
    }
}
