//! What a run that died left behind, and what a run was asked to keep: found by name, ended by its control groups.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::cgroup::{self, Cgroup};
use super::namespace::Namespace;
use super::{KEPT, PREFIX};

/// Where fleets keep their files.
pub(super) fn home() -> PathBuf {
    env::temp_dir()
}

/// Removes the fleets of dead runs. Kept fleets, and those of runs that still live, stay.
pub(super) fn clean() {
    for fleet in names() {
        if !owner_lives(&fleet) && !home().join(&fleet).join(KEPT).exists() {
            eprintln!("removing what {fleet} left behind");
            sweep(&fleet);
        }
    }
}

/// The names of the fleets that were kept.
#[must_use]
pub fn kept() -> Vec<String> {
    names().into_iter().filter(|fleet| home().join(fleet).join(KEPT).exists()).collect()
}

/// Ends and removes the kept fleet called `fleet`.
///
/// # Errors
/// When no kept fleet is called so.
pub fn remove(fleet: &str) -> Result<()> {
    ensure!(kept().iter().any(|kept| kept == fleet), "no kept fleet is called {fleet}");
    sweep(fleet);
    Ok(())
}

/// Every fleet of which something is there: a directory, a control group, or a namespace.
fn names() -> Vec<String> {
    let cgroups = cgroup::mount().unwrap_or_default();
    let mut names: Vec<String> = [home(), cgroups, "/run/netns".into()]
        .iter()
        .flat_map(|dir| entries(dir))
        .filter_map(|name| fleet_of(&name))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// `waylay-PID-N` out of the name of a directory or a namespace of that fleet.
fn fleet_of(name: &str) -> Option<String> {
    let mut parts = name.strip_prefix(PREFIX)?.split('-');
    let (pid, count) = (parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?);
    Some(format!("{PREFIX}{pid}-{count}"))
}

fn owner_lives(fleet: &str) -> bool {
    let pid = fleet.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()).unwrap_or_default();
    Path::new("/proc").join(pid).exists()
}

fn sweep(fleet: &str) {
    if let Ok(mount) = cgroup::mount()
        && mount.join(fleet).exists()
    {
        drop(Cgroup::adopt(mount.join(fleet)));
    }
    let of_it = format!("{fleet}-");
    for name in entries(Path::new("/run/netns")).filter(|name| name.starts_with(&of_it)) {
        drop(Namespace::adopt(name));
    }
    if let Err(error) = fs::remove_dir_all(home().join(fleet))
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("left behind {}: {error}", home().join(fleet).display());
    }
}

fn entries(dir: &Path) -> impl Iterator<Item = String> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_fleet_by_the_names_of_its_parts() {
        assert_eq!(fleet_of("waylay-123-0-node1").as_deref(), Some("waylay-123-0"));
        assert_eq!(fleet_of("waylay-123-0").as_deref(), Some("waylay-123-0"));
        assert_eq!(fleet_of("waylay-images"), None);
        assert_eq!(fleet_of("somebody"), None);
    }
}
