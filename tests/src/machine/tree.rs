//! What a machine's system consists of: every file, directory and link of /etc, /usr and /var/lib with its owner, permissions and
//! content, but for the data that runtimes and systemd keep for themselves.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// What is looked at.
const LOOKED_AT: [&str; 3] = ["etc", "usr", "var/lib"];
/// Data that changes by the work of others: pulled images, random seeds, time stamps.
const OTHERS: [&str; 6] = [
    "var/lib/containerd",
    "var/lib/docker",
    "var/lib/containers",
    "var/lib/systemd",
    "var/lib/private",
    "var/lib/buildkit",
];

/// A system as it was at one moment.
#[derive(Debug)]
pub struct Tree(BTreeMap<PathBuf, String>);

impl Tree {
    pub(super) fn of(root: &Path) -> Result<Self> {
        let mut tree = BTreeMap::new();
        let mut open: Vec<PathBuf> = LOOKED_AT.iter().map(PathBuf::from).collect();
        while let Some(path) = open.pop() {
            if OTHERS.iter().any(|other| path == Path::new(other)) {
                continue;
            }
            let full = root.join(&path);
            let metadata = fs::symlink_metadata(&full).with_context(|| format!("cannot look at {}", full.display()))?;
            let what = if metadata.is_symlink() {
                format!("link to {}", fs::read_link(&full)?.display())
            } else if metadata.is_dir() {
                for entry in fs::read_dir(&full).with_context(|| format!("cannot list {}", full.display()))? {
                    open.push(path.join(entry?.file_name()));
                }
                "directory".to_owned()
            } else {
                let content = fs::read(&full).with_context(|| format!("cannot read {}", full.display()))?;
                hex::encode(Sha256::digest(&content))
            };
            let line = format!("{:o} {}:{} {what}", metadata.mode(), metadata.uid(), metadata.gid());
            tree.insert(path, line);
        }
        Ok(Self(tree))
    }

    /// What is different in `later`, a line each; none when all is the same.
    #[must_use]
    pub fn changes(&self, later: &Self) -> Vec<String> {
        let gone = self.0.iter().filter(|(path, _)| !later.0.contains_key(*path));
        let mut changes: Vec<String> = gone.map(|(path, _)| format!("gone: /{}", path.display())).collect();
        for (path, now) in &later.0 {
            match self.0.get(path) {
                None => changes.push(format!("new: /{}", path.display())),
                Some(before) if before != now => changes.push(format!("/{}: {before} -> {now}", path.display())),
                Some(_) => {}
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn every_kind_of_change_is_told() -> Result<()> {
        let dir = tempfile::tempdir()?;
        for path in LOOKED_AT.iter().chain(&OTHERS) {
            fs::create_dir_all(dir.path().join(path))?;
        }
        let file = |name: &str| dir.path().join(name);
        fs::write(file("etc/changed"), "a")?;
        fs::write(file("etc/opened"), "a")?;
        fs::write(file("etc/gone"), "a")?;
        let before = Tree::of(dir.path())?;
        assert_eq!(before.changes(&Tree::of(dir.path())?), Vec::<String>::new());
        fs::write(file("etc/changed"), "b")?;
        fs::set_permissions(file("etc/opened"), fs::Permissions::from_mode(0o666))?;
        fs::remove_file(file("etc/gone"))?;
        fs::write(file("usr/new"), "a")?;
        fs::write(file("var/lib/docker/image"), "a")?;
        let changes = before.changes(&Tree::of(dir.path())?);
        assert_eq!(changes.len(), 4, "{changes:?}");
        Ok(())
    }
}
