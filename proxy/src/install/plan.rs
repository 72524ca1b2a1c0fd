//! What would be done, as data: each step says in plain words what and why, so that it can be shown before anything is
//! touched, and is carried out by [`super::apply`] exactly as shown. Steps that would change nothing are left out.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;
use waylay_certs::RegistryName;
use zeroize::Zeroizing;

use crate::config::Config;

/// What will be done, in this order.
#[derive(Serialize)]
pub struct Plan {
    /// What was found and what follows from it, a line each.
    pub found: Vec<String>,
    /// The changes.
    pub steps: Vec<Step>,
    /// What will not work, or only later, each with what to do.
    pub warnings: Vec<String>,
}

/// One change.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Step {
    /// Put a file there.
    Write(File),
    /// Publish the certificates of these registries.
    Publish {
        /// Where `SSL_CERT_DIR` will point to.
        trust_dir: PathBuf,
        /// Directories of the kind of `/etc/docker/certs.d`.
        certs_d: Vec<PathBuf>,
        /// The registries.
        #[serde(serialize_with = "names")]
        registries: Vec<RegistryName>,
    },
    /// `systemctl ARGS`.
    Systemctl {
        /// The arguments.
        args: Vec<String>,
        /// What for.
        why: &'static str,
    },
    /// See a second daemon of this program prove itself beside the one that runs.
    Rehearse {
        /// The configuration that both will have.
        #[serde(skip)]
        config: Box<Config>,
    },
    /// Wait until the daemon has proven that it intercepts.
    Prove {
        /// Its control socket.
        socket: PathBuf,
    },
    /// Take back every file that the manifest lists.
    TakeBack {
        /// Published certificates.
        certificates: Vec<PathBuf>,
        /// The others.
        files: Vec<PathBuf>,
    },
    /// Remove what is ours in a directory, and the directory when nothing else is in it: an operator may have chosen one
    /// that holds other things.
    Remove {
        /// The directory.
        dir: PathBuf,
        /// Names of files and directories in it that are ours.
        own: &'static [&'static str],
    },
}

/// A file to be put somewhere.
#[derive(Serialize)]
pub struct File {
    /// Where, as the node sees it.
    pub path: PathBuf,
    /// Its permissions.
    pub mode: u32,
    /// What it is for.
    pub why: &'static str,
    /// Whether one is there that will be replaced.
    pub replaces: bool,
    /// Its content; never shown, since one of them is a secret.
    #[serde(skip)]
    pub content: Zeroizing<Vec<u8>>,
}

impl Plan {
    /// Whether everything is as it should be already.
    pub fn is_empty(&self) -> bool {
        !self.steps.iter().any(Step::changes)
    }
}

impl Step {
    /// Whether it changes the node; a proof does not.
    pub fn changes(&self) -> bool {
        !matches!(self, Self::Rehearse { .. } | Self::Prove { .. })
    }

    pub(super) fn systemctl(args: &[&str], why: &'static str) -> Self {
        Self::Systemctl { args: args.iter().map(|arg| (*arg).to_owned()).collect(), why }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.found {
            writeln!(f, "{line}")?;
        }
        if self.is_empty() {
            writeln!(f, "\nEverything is in place; nothing will be changed.")?;
        } else {
            writeln!(f, "\nWhat will be done:")?;
            for (number, step) in self.steps.iter().enumerate() {
                writeln!(f, "{:>3}. {step}", number + 1)?;
            }
        }
        if !self.warnings.is_empty() {
            writeln!(f, "\nTo know:")?;
        }
        for warning in &self.warnings {
            writeln!(f, "  ! {warning}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(File { path, mode, why, replaces, .. }) => {
                let verb = if *replaces { "replace" } else { "write" };
                write!(f, "{verb} {} (mode {mode:04o}): {why}", path.display())
            }
            Self::Publish { trust_dir, certs_d, registries } => {
                write!(
                    f,
                    "make a certificate for each of {} registries, and publish it in {}",
                    registries.len(),
                    shown([trust_dir].into_iter().chain(certs_d))
                )
            }
            Self::Systemctl { args, why } => write!(f, "systemctl {}: {why}", args.join(" ")),
            Self::Rehearse { .. } => write!(
                f,
                "rehearse: a second daemon, of this program, starts beside the one that runs and must prove itself before \
                 anything is changed"
            ),
            Self::Prove { .. } => write!(f, "see that connections are intercepted: the daemon's self-test"),
            Self::TakeBack { certificates, files } => {
                let all = certificates.len() + files.len();
                write!(
                    f,
                    "take back {all} files, each to what it was before waylay: {} certificates, and",
                    certificates.len()
                )?;
                files.iter().try_for_each(|file| write!(f, "\n       {}", file.display()))
            }
            Self::Remove { dir, own } => write!(f, "remove what is ours in {}: {}", dir.display(), own.join(", ")),
        }
    }
}

fn shown<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> String {
    paths.map(|path: &PathBuf| Path::display(path).to_string()).collect::<Vec<_>>().join(", ")
}

fn names<S: serde::Serializer>(names: &[RegistryName], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(names.iter().map(ToString::to_string))
}
