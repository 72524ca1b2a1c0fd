//! `cargo xtask dist`: what `deploy/install.sh` takes, with `--from` an address or with `--binary` a file: one program and its
//! SHA-256. It says which glibc the program needs, since that decides where it runs.

use std::collections::BTreeSet;
use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use object::elf::FileHeader64;
use object::read::elf::{FileHeader, SectionHeader};
use object::{Endianness, elf};

use crate::ci;
use crate::run::{cargo, read, run, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory to write to
    #[arg(long, default_value = "target/dist", value_name = "DIR")]
    out: PathBuf,
    /// Take this program instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

pub(crate) fn run_command(args: &Args) -> Result<()> {
    let program = program(&args.out, args.binary.as_deref())?;
    let sum = read(Command::new("sha256sum").arg(file_name()).current_dir(&args.out))?;
    let sum_file = args.out.join(format!("{}.sha256", file_name()));
    fs::write(&sum_file, &sum).with_context(|| format!("cannot write {}", sum_file.display()))?;
    let script = args.out.join("install.sh");
    fs::copy(workspace().join("deploy/install.sh"), &script)
        .with_context(|| format!("cannot write {}", script.display()))?;
    let size = fs::metadata(&program).context("the program is gone")?.len();
    println!("{}: {:.1} MiB, needs {}", program.display(), size as f64 / f64::from(1 << 20), needs(&program)?);
    print!("{}: {sum}", sum_file.display());
    println!("{}: put the three on a server, then: sh install.sh --from https://SERVER/DIRECTORY", script.display());
    Ok(())
}

/// What `install.sh` looks for on a machine of this kind.
fn file_name() -> String {
    format!("waylay-{ARCH}")
}

/// The program without what only a debugger reads, in `out`: built, unless it is `given`.
pub(crate) fn program(out: &Path, given: Option<&Path>) -> Result<PathBuf> {
    let built = match given {
        Some(given) => given.to_path_buf(),
        None => build()?,
    };
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let program = out.join(file_name());
    // Names of functions stay, for the backtraces of users.
    run(Command::new("strip").arg("--strip-debug").arg("-o").arg(&program).arg(&built))?;
    Ok(program)
}

/// A release build in which no path of this machine is left.
fn build() -> Result<PathBuf> {
    let home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| home + "/.cargo"));
    let flags = format!(
        "--remap-path-prefix={}=/cargo --remap-path-prefix={}=/waylay",
        home.context("neither CARGO_HOME nor HOME is set")?,
        workspace().display()
    );
    let arguments = ["build", "--release", "--locked", "--package", "waylay", "--bin", "waylay"];
    run(cargo(&arguments).env("RUSTFLAGS", &flags))?;
    // It is built by now; cargo tells once more where everything is.
    ci::check_kernel_program(
        cargo(&[&arguments[..], &["--message-format", "json"]].concat()).env("RUSTFLAGS", &flags),
    )?;
    Ok(ci::target_dir()?.join("release/waylay"))
}

/// The shared libraries that it names, and the newest version of glibc's interface that it uses.
fn needs(program: &Path) -> Result<String> {
    let data = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let versions = versions(&data).with_context(|| format!("cannot read {} as ELF", program.display()))?;
    let newest = versions.iter().filter_map(|name| numbers(name.strip_prefix("GLIBC_")?)).max();
    let newest = newest.map(|numbers| numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join("."));
    Ok(newest.map_or_else(|| "no glibc".to_owned(), |newest| format!("glibc {newest} or newer")))
}

fn numbers(version: &str) -> Option<Vec<u32>> {
    version.split('.').map(|number| number.parse().ok()).collect()
}

/// The names of all versions of interfaces that an ELF file needs (`.gnu.version_r`).
fn versions(data: &[u8]) -> Result<BTreeSet<String>> {
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    ensure!(header.e_type(endian) != elf::ET_REL, "it is not linked");
    let mut names = BTreeSet::new();
    for section in sections.iter() {
        let Some((mut needed, link)) = section.gnu_verneed(endian, data)? else { continue };
        let strings = sections.strings(endian, data, link)?;
        while let Some((_, mut of_file)) = needed.next()? {
            while let Some(version) = of_file.next()? {
                names.insert(String::from_utf8_lossy(version.name(endian, strings)?).into_owned());
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_program_needs_glibc_and_the_newest_version_counts() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let versions = versions(&own).unwrap();
        assert!(versions.iter().any(|name| name.starts_with("GLIBC_2.")), "{versions:?}");
        assert!(numbers("2.34") > numbers("2.9"));
        assert_eq!(numbers("PRIVATE"), None);
        assert!(super::versions(b"#!/bin/sh\n").is_err());
    }
}
