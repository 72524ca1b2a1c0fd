//! Publishing: the files that appear, the directories that are left alone, and that all of it can be taken back.

use super::*;
use crate::identity::LIFE;

struct Node {
    dir: tempfile::TempDir,
    identities: Identities,
    manifest: Manifest,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identities = Identities::open(dir.path().join("state/identities")).unwrap();
        let manifest = Manifest::open(dir.path().join("state/manifest.json")).unwrap();
        Self { dir, identities, manifest }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn publish(&mut self, registries: &[&str], certs_d: &[&str]) -> Report {
        let registries: Vec<RegistryName> = registries.iter().map(|name| name.parse().unwrap()).collect();
        let certs_d = certs_d.iter().map(|dir| self.at(dir)).collect();
        let to = Publish { trust_dir: self.at("trust"), certs_d };
        publish(&self.identities, &registries, &to, &mut self.manifest).unwrap()
    }

    fn user_file(&self, path: &str) -> PathBuf {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "the user's").unwrap();
        path
    }

    /// Everything but our own state.
    fn listing(&self) -> Vec<(PathBuf, Vec<u8>)> {
        fn walk(dir: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                    found.push((path, Vec::new()));
                } else {
                    let content = fs::read(&path).unwrap();
                    found.push((path, content));
                }
            }
        }
        let mut found = Vec::new();
        walk(self.dir.path(), &mut found);
        found.retain(|(path, _)| !path.starts_with(self.at("state")));
        found.sort();
        found
    }
}

#[test]
fn certificates_without_keys_stand_where_they_are_looked_for() {
    let mut node = Node::new();
    let report = node.publish(&["registry.test:5000", "docker.io"], &["etc/docker/certs.d"]);
    assert!(report.skipped.is_empty(), "{:?}", report.skipped);
    assert_eq!(report.written.len(), 4);
    let hub = node.identities.all("registry-1.docker.io")[0].clone();
    let pem = fs::read_to_string(node.at("etc/docker/certs.d/docker.io/waylay.crt")).unwrap();
    assert_eq!(pem, hub.pem());
    assert!(!pem.contains("PRIVATE"));
    assert!(node.at("etc/docker/certs.d/registry.test:5000/waylay.crt").exists());
    let published = hub.published_at().unwrap();
    assert_eq!(published.file, node.at(&format!("trust/{}.0", hub.subject_hash())));
    assert_eq!(fs::read_to_string(published.file).unwrap(), pem);
}

#[test]
fn a_clock_that_is_behind_takes_no_certificate_from_those_who_know_it() {
    let mut node = Node::new();
    // Made and published while the clock was right: three months ahead of what it says now.
    let ahead = SystemTime::now() + LIFE / 4;
    let known = node.identities.ensure("registry.test", ahead).unwrap();
    let wanted = node.at(&format!("trust/{}.0", known.subject_hash()));
    let published = Published { file: wanted.clone(), at: Moment::now().unwrap() };
    fs::create_dir_all(node.at("trust")).unwrap();
    fs::write(&wanted, known.pem()).unwrap();
    known.set_published(&published).unwrap();
    let report = node.publish(&["registry.test"], &["certs.d"]);
    // One that is valid by this clock was made, and stands beside it.
    assert!(report.withdrawn.is_empty());
    assert_eq!(known.published_at(), Some(published), "a runtime that read it still knows it");
    assert_eq!(node.identities.all("registry.test").len(), 2);
    let pem = fs::read_to_string(node.at("certs.d/registry.test/waylay.crt")).unwrap();
    assert!(pem.contains(&known.pem()) && pem.matches("BEGIN CERTIFICATE").count() == 2);
    assert!(wanted.exists());
}

#[test]
fn a_second_run_changes_nothing() {
    let mut node = Node::new();
    node.publish(&["registry.test"], &["certs.d"]);
    let published = node.identities.all("registry.test")[0].published_at();
    let report = node.publish(&["registry.test"], &["certs.d"]);
    assert!(report.written.is_empty() && report.withdrawn.is_empty() && report.skipped.is_empty());
    assert_eq!(node.identities.all("registry.test")[0].published_at(), published);
}

#[test]
fn a_file_that_was_deleted_is_published_at_a_new_moment() {
    let mut node = Node::new();
    node.publish(&["registry.test"], &[]);
    let identity = node.identities.all("registry.test")[0].clone();
    let first = identity.published_at().unwrap();
    fs::remove_file(&first.file).unwrap();
    // The clock of /proc moves in steps of 10 ms.
    while Moment::now().unwrap() == first.at {
        std::thread::yield_now();
    }
    node.publish(&["registry.test"], &[]);
    let second = identity.published_at().unwrap();
    assert!(second.file.exists() && !second.at.not_after(&first.at));
}

#[test]
fn uninstalling_leaves_the_node_as_it_was() {
    let mut node = Node::new();
    node.user_file("etc/docker/certs.d/registry.test:5000/ca.crt");
    node.user_file("etc/docker/certs.d/registry.test:5000/waylay.crt");
    let before = node.listing();
    node.publish(&["registry.test:5000", "ghcr.io"], &["etc/docker/certs.d", "etc/containers/certs.d"]);
    assert_ne!(node.listing(), before);
    node.manifest.undo().unwrap();
    assert_eq!(node.listing(), before);
}

#[test]
fn a_directory_of_dockers_is_not_hidden_from_podman() {
    for program in ["containers", "containerd"] {
        let mut node = Node::new();
        let theirs = node.user_file("etc/docker/certs.d/registry.test/ca.crt");
        let dir = format!("etc/{program}/certs.d");
        let report = node.publish(&["registry.test"], &[&dir]);
        let [Skipped { dir: skipped, why: Why::Hides(hidden) }] = &report.skipped[..] else { panic!("{report:?}") };
        assert_eq!((skipped, hidden.as_path()), (&node.at(&dir).join("registry.test"), theirs.parent().unwrap()));
        assert!(!skipped.exists());
        // The user's directory itself may get our file.
        let report = node.publish(&["registry.test"], &["etc/docker/certs.d"]);
        assert!(report.skipped.is_empty() && theirs.exists());
    }
}

#[test]
fn our_own_directory_of_dockers_does_not_stand_in_the_way() {
    let mut node = Node::new();
    let report = node.publish(&["registry.test"], &["etc/docker/certs.d", "etc/containers/certs.d"]);
    assert!(report.skipped.is_empty(), "{report:?}");
}

#[test]
fn a_directory_that_the_user_makes_later_is_uncovered() {
    let mut node = Node::new();
    node.publish(&["registry.test"], &["etc/containers/certs.d"]);
    let ours = node.at("etc/containers/certs.d/registry.test");
    assert!(ours.join("waylay.crt").exists());
    node.user_file("etc/docker/certs.d/registry.test/ca.crt");
    let report = node.publish(&["registry.test"], &["etc/containers/certs.d"]);
    assert_eq!((report.skipped.len(), report.withdrawn.len()), (1, 1));
    assert!(!ours.exists(), "it would hide the user's new one");
}

#[test]
fn containerds_default_is_not_hidden() {
    let mut node = Node::new();
    node.user_file("certs.d/_default/hosts.toml");
    let report = node.publish(&["registry.test"], &["certs.d"]);
    assert!(matches!(&report.skipped[..], [Skipped { why: Why::Hides(_), .. }]), "{report:?}");
    // A directory of the user for this registry hides it already, so our file may go there.
    node.user_file("certs.d/registry.test/ca.crt");
    assert!(node.publish(&["registry.test"], &["certs.d"]).skipped.is_empty());
}

#[test]
fn hosts_toml_decides_for_containerd_and_nobody_else() {
    let mut node = Node::new();
    node.user_file("etc/containerd/certs.d/registry.test/hosts.toml");
    node.user_file("etc/docker/certs.d/quay.test/hosts.toml");
    let report = node.publish(&["registry.test"], &["etc/containerd/certs.d"]);
    assert!(matches!(&report.skipped[..], [Skipped { why: Why::HostsToml(_), .. }]), "{report:?}");
    assert!(node.publish(&["quay.test"], &["etc/docker/certs.d"]).skipped.is_empty());
}

#[test]
fn containerds_other_spelling_gets_the_file_too() {
    let mut node = Node::new();
    node.user_file("certs.d/registry.test_5000_/ca.crt");
    node.publish(&["registry.test:5000"], &["certs.d"]);
    assert!(node.at("certs.d/registry.test_5000_/waylay.crt").exists());
    assert!(node.at("certs.d/registry.test:5000/waylay.crt").exists());
}

#[test]
fn a_registry_no_longer_listed_is_withdrawn() {
    let mut node = Node::new();
    node.publish(&["registry.test", "old.test"], &["certs.d"]);
    let report = node.publish(&["registry.test"], &["certs.d"]);
    assert_eq!(report.withdrawn.len(), 2);
    assert!(!node.at("certs.d/old.test").exists() && node.at("certs.d/registry.test/waylay.crt").exists());
    assert_eq!(fs::read_dir(node.at("trust")).unwrap().count(), 1);
}

#[test]
fn a_successor_stands_beside_its_predecessor_until_that_expires() {
    let mut node = Node::new();
    let now = SystemTime::now();
    let expired = node.identities.ensure("registry.test", now - LIFE * 2).unwrap();
    let old = node.identities.ensure("registry.test", now - LIFE * 3 / 4).unwrap();
    node.publish(&["registry.test"], &["certs.d"]);
    let all = node.identities.all("registry.test");
    assert_eq!(all.len(), 3);
    let pem = fs::read_to_string(node.at("certs.d/registry.test/waylay.crt")).unwrap();
    assert_eq!(pem, all[0].pem() + &old.pem(), "newest first");
    assert_eq!(fs::read_dir(node.at("trust")).unwrap().count(), 2);
    assert!(expired.published_at().is_none());
}

#[test]
fn a_certs_d_that_cannot_be_written_does_not_stop_the_others() {
    let mut node = Node::new();
    fs::write(node.at("file"), "").unwrap();
    let report = node.publish(&["registry.test"], &["file/certs.d", "certs.d"]);
    assert!(matches!(&report.skipped[..], [Skipped { why: Why::Failed(_), .. }]), "{report:?}");
    assert!(node.at("certs.d/registry.test/waylay.crt").exists());
}
