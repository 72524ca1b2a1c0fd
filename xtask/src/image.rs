//! `cargo xtask image`: an OCI image with the program, the libraries that it is linked with, and nothing else: no shell, no
//! package manager, no other user's file. Buildah makes it; no daemon is needed.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::dist;
use crate::run::{command, read, run};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Where the program is in the image, in its PATH.
const PROGRAM: &str = "usr/bin/waylay";
/// How glibc finds names: by /etc/hosts, which Kubernetes writes, and by DNS; both are in its libc.
const NSSWITCH: &str = "hosts: files dns\n";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The archive to write, as `podman load`, `skopeo copy` and `ctr images import` take it
    #[arg(long, default_value = "target/dist/waylay-image.tar", value_name = "FILE")]
    out: PathBuf,
    /// What the image is called in it
    #[arg(long, default_value_t = format!("localhost/waylay:{VERSION}"), value_name = "NAME:TAG")]
    name: String,
    /// Take this program instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

pub(crate) fn run_command(args: &Args) -> Result<()> {
    let work = WorkDir(env::temp_dir().join(format!("waylay-image-{}", std::process::id())));
    let program = dist::program(&work.0.join("dist"), args.binary.as_deref())?;
    let root = work.0.join("root");
    put(&program, &root.join(PROGRAM))?;
    for library in libraries(&program)? {
        put(&library, &root.join(library.strip_prefix("/").unwrap_or(&library)))?;
    }
    fs::create_dir_all(root.join("etc")).context("cannot make /etc of the image")?;
    fs::write(root.join("etc/nsswitch.conf"), NSSWITCH).context("cannot write nsswitch.conf of the image")?;
    commit(&work.0, &root, args)?;
    let size = fs::metadata(&args.out).context("buildah wrote no archive")?.len();
    println!("{}: {}, {:.1} MiB", args.out.display(), args.name, size as f64 / f64::from(1 << 20));
    Ok(())
}

/// The dynamic loader and every library that it loads, where they are on this machine; the image has them at the same paths, where
/// the loader looks.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let told = read(Command::new("ldd").arg(program))?;
    ensure!(!told.contains("not found"), "a library of the program is not here:\n{told}");
    let paths = told.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}

fn put(from: &Path, to: &Path) -> Result<()> {
    let dir = to.parent().context("the root is no file")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).with_context(|| format!("cannot open {}", to.display()))
}

fn commit(work: &Path, root: &Path, args: &Args) -> Result<()> {
    if let Some(dir) = args.out.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    // In storage of its own, so that nothing of it stays on this machine.
    let buildah = |arguments: &[&str]| {
        let mut buildah = Command::new("buildah");
        buildah.arg("--root").arg(work.join("storage")).arg("--runroot").arg(work.join("run"));
        buildah.args(["--storage-driver", "vfs"]).args(arguments);
        buildah
    };
    let revision = read(&mut command("git", &["rev-parse", "HEAD"]))?;
    // The moment of the commit, so that the same program makes the same image.
    let moment = read(&mut command("git", &["log", "-1", "--format=%ct"]))?;
    let container = read(&mut buildah(&["from", "scratch"]))?;
    let container = container.trim();
    run(buildah(&["copy", "--quiet", "--chown", "0:0", container]).arg(root).arg("/"))?;
    let labels = [
        ("title", "waylay"),
        ("description", "Peer-to-peer image pulls without touching the container runtime's configuration"),
        ("version", VERSION),
        ("revision", revision.trim()),
        ("licenses", "MIT OR Apache-2.0"),
    ];
    let mut config =
        buildah(&["config", "--entrypoint", r#"["/usr/bin/waylay"]"#, "--cmd", "", "--env", "PATH=/usr/bin"]);
    for (name, value) in labels {
        config.args(["--label", &format!("org.opencontainers.image.{name}={value}")]);
    }
    run(config.arg(container))?;
    let _ = fs::remove_file(&args.out);
    let to = format!("oci-archive:{}:{}", args.out.display(), args.name);
    run(&mut buildah(&["commit", "--quiet", "--rm", "--timestamp", moment.trim(), container, &to]))
}

/// A directory that goes with its owner.
struct WorkDir(PathBuf);

impl Drop for WorkDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
