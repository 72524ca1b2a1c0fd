//! What `cargo xtask dist` makes runs on a machine that has nothing else: a Debian of essential packages only, and no network.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use waylay_tests::fleet::daemon;
use waylay_tests::machine::minimal;
use waylay_tests::privilege::needed_for_machines;

#[test]
fn the_artefact_runs_on_a_debian_that_has_nothing_else() -> Result<()> {
    if !needed_for_machines("the_artefact_runs_on_a_debian_that_has_nothing_else") {
        return Ok(());
    }
    let out = tempfile::tempdir()?;
    let mut dist = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    dist.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).args(["xtask", "dist", "--out"]).arg(out.path());
    let said = run(dist.arg("--binary").arg(daemon::binary()?))?;
    ensure!(said.contains("needs glibc 2."), "it does not say which glibc the program needs:\n{said}");
    let name = format!("waylay-{}", env::consts::ARCH);
    run(Command::new("sha256sum").args(["--check", "--strict"]).arg(format!("{name}.sha256")).current_dir(&out))?;

    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config.toml");
    std::fs::copy(config, out.path().join("config.toml")).context("cannot copy the configuration")?;
    let program = format!("/mnt/{name}");
    let version = inside(out.path(), &[&program, "--version"])?;
    ensure!(version.starts_with("waylay "), "{version}");
    let checked = inside(out.path(), &[&program, "check", "--config", "/mnt/config.toml"])?;
    ensure!(checked.contains("/mnt/config.toml: valid"), "{checked}");
    Ok(())
}

/// Runs a command in the minimal Debian, which sees `dir` as its /mnt.
fn inside(dir: &Path, command: &[&str]) -> Result<String> {
    let mut nspawn = Command::new("systemd-nspawn");
    nspawn.args(["--quiet", "--register=no", "--keep-unit", "--private-network", "--read-only", "--pipe"]);
    nspawn.arg("--directory").arg(minimal()?).arg(format!("--bind-ro={}:/mnt", dir.display()));
    nspawn.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
    run(nspawn.arg("--").args(command))
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
