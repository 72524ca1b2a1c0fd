//! Evidence from made-up processes: each runtime's rule, and everything that must not count.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::fixture::{Node, publish_into};
use super::*;
use crate::identity::LIFE;

const NAME: &str = "registry.test:5000";

fn name() -> RegistryName {
    NAME.parse().unwrap()
}

struct Setting {
    node: Node,
    identities: Identities,
    identity: Arc<Identity>,
    trust_dir: PathBuf,
}

impl Setting {
    fn new() -> Self {
        let node = Node::new();
        let identities = node.identities();
        let identity = identities.ensure("registry.test", SystemTime::now()).unwrap();
        // Inside the root of the processes, so that they can reach it as /trust.
        let trust_dir = node.root().join("trust");
        fs::create_dir_all(&trust_dir).unwrap();
        Self { node, identities, identity, trust_dir }
    }

    fn evidence(&self, process: &Process) -> Option<How> {
        evidence(&self.identities, &self.trust_dir, process, &name()).map(|evidence| evidence.how)
    }

    /// Two valid identities, the older one first.
    fn with_successor(&self) -> (Arc<Identity>, Arc<Identity>) {
        let now = SystemTime::now();
        let dir = self.node.state().join("identities/other.test");
        let old = self.identities.ensure("other.test", now - LIFE * 3 / 4).unwrap();
        let new = self.identities.ensure("other.test", now).unwrap();
        assert_eq!(fs::read_dir(dir).unwrap().count(), 2);
        assert!(old.is_valid(now) && new.is_valid(now) && old.fingerprint() != new.fingerprint());
        (old, new)
    }
}

#[test]
fn ssl_cert_dir_counts_when_published_before_the_start() {
    let s = Setting::new();
    publish_into(&s.trust_dir, &s.identity);
    let process = s.node.started("containerd", &["SSL_CERT_DIR=/etc/ssl/certs:/trust"]);
    assert_eq!(s.evidence(&process), Some(How::SslCertDir("/trust".into())));
    let ours = evidence(&s.identities, &s.trust_dir, &process, &name()).unwrap().identity;
    assert_eq!(ours.fingerprint(), s.identity.fingerprint());
}

#[test]
fn a_process_older_than_the_publication_does_not_know_it() {
    let s = Setting::new();
    s.node.process(7, "/usr/bin/containerd", "containerd").environ(&["SSL_CERT_DIR=/trust"]).started(1);
    publish_into(&s.trust_dir, &s.identity);
    assert_eq!(s.evidence(&s.node.read()), None);
}

#[test]
fn other_directories_missing_files_and_other_names_do_not_count() {
    let s = Setting::new();
    let process = s.node.started("containerd", &["SSL_CERT_DIR=/trust"]);
    assert_eq!(s.evidence(&process), None, "never published");
    publish_into(&s.trust_dir, &s.identity);
    let process = s.node.started("containerd", &["SSL_CERT_DIR=/etc/ssl/certs"]);
    assert_eq!(s.evidence(&process), None, "our directory is not in the list");
    let process = s.node.started("containerd", &[]);
    assert_eq!(s.evidence(&process), None, "no list");
    let process = s.node.started("containerd", &["SSL_CERT_DIR=trust"]);
    assert_eq!(s.evidence(&process), None, "a relative path");
    let process = s.node.started("containerd", &["SSL_CERT_DIR=/trust"]);
    assert!(s.evidence(&process).is_some());
    let other = "elsewhere.test".parse().unwrap();
    assert!(evidence(&s.identities, &s.trust_dir, &process, &other).is_none(), "another name");
    fs::remove_dir_all(&s.trust_dir).unwrap();
    fs::create_dir(&s.trust_dir).unwrap();
    assert_eq!(s.evidence(&process), None, "the file is gone");
}

#[test]
fn curl_prefers_a_bundle_of_its_own() {
    let s = Setting::new();
    publish_into(&s.trust_dir, &s.identity);
    assert!(s.evidence(&s.node.started("curl", &["SSL_CERT_DIR=/trust"])).is_some());
    let bundle = ["SSL_CERT_DIR=/trust", "CURL_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt"];
    assert_eq!(s.evidence(&s.node.started("curl", &bundle)), None);
    assert!(s.evidence(&s.node.started("containerd", &bundle)).is_some());
}

#[test]
fn the_directory_is_recognised_through_links() {
    let s = Setting::new();
    publish_into(&s.trust_dir, &s.identity);
    std::os::unix::fs::symlink("/trust", s.node.root().join("link")).unwrap();
    let process = s.node.started("containerd", &["SSL_CERT_DIR=/link"]);
    assert_eq!(s.evidence(&process), Some(How::SslCertDir("/link".into())));
}

#[test]
fn a_user_who_cannot_read_the_file_does_not_trust_it() {
    use std::os::unix::fs::PermissionsExt;
    let s = Setting::new();
    publish_into(&s.trust_dir, &s.identity);
    s.node.process(7, "/usr/bin/containerd", "containerd").environ(&["SSL_CERT_DIR=/trust"]).uid(4711);
    for dir in [s.node.root(), s.trust_dir.clone()] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert!(s.evidence(&s.node.read()).is_some());
    fs::set_permissions(&s.trust_dir, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(s.evidence(&s.node.read()), None);
}

#[test]
fn the_newest_identity_that_a_process_can_know_is_served() {
    let s = Setting::new();
    let (old, new) = s.with_successor();
    let other: RegistryName = "other.test".parse().unwrap();
    let served = |process: &Process| {
        let evidence = evidence(&s.identities, &s.trust_dir, process, &other).unwrap();
        *evidence.identity.fingerprint()
    };
    publish_into(&s.trust_dir, &old);
    let early = s.node.started("containerd", &["SSL_CERT_DIR=/trust"]);
    assert_eq!(&served(&early), old.fingerprint());
    // Starts are known to the tick: the successor is published in a later one.
    let ticks = s.node.now_ticks();
    s.node.process(7, "/usr/bin/containerd", "containerd").environ(&["SSL_CERT_DIR=/trust"]).started(ticks);
    while s.node.now_ticks() <= ticks {
        std::thread::yield_now();
    }
    publish_into(&s.trust_dir, &new);
    assert_eq!(&served(&s.node.read()), old.fingerprint(), "started before the successor was there");
    let late = s.node.started("containerd", &["SSL_CERT_DIR=/trust"]);
    assert_eq!(&served(&late), new.fingerprint());
}

#[test]
fn an_expired_identity_is_no_evidence() {
    let s = Setting::new();
    let expired = s.identities.ensure("other.test", SystemTime::now() - LIFE - Duration::from_secs(7200)).unwrap();
    publish_into(&s.trust_dir, &expired);
    let process = s.node.started("containerd", &["SSL_CERT_DIR=/trust"]);
    assert!(evidence(&s.identities, &s.trust_dir, &process, &"other.test".parse().unwrap()).is_none());
}

#[test]
fn containers_image_uses_the_first_directory_that_exists() {
    let s = Setting::new();
    for program in ["podman", "skopeo", "buildah", "crio"] {
        let found = || s.evidence(&s.node.started(program, &["HOME=/root"]));
        let _ = fs::remove_dir_all(s.node.root());
        fs::create_dir_all(s.node.root()).unwrap();
        assert_eq!(found(), None);
        s.node.file(&format!("/etc/docker/certs.d/{NAME}/waylay.crt"), s.identity.pem());
        assert_eq!(found(), Some(How::CertsD(format!("/etc/docker/certs.d/{NAME}/waylay.crt").into())));
        let empty = s.node.file(&format!("/etc/containers/certs.d/{NAME}/x"), "");
        assert_eq!(found(), None, "an empty directory before it hides it");
        fs::write(empty.with_file_name("a.crt"), s.identity.pem()).unwrap();
        assert_eq!(found(), Some(How::CertsD(format!("/etc/containers/certs.d/{NAME}/a.crt").into())));
        s.node.file(&format!("/root/.config/containers/certs.d/{NAME}/b.cert"), s.identity.pem());
        assert_eq!(found(), None, "only *.crt is read, and the home directory comes first");
    }
}

#[test]
fn an_option_that_names_another_directory_ends_our_knowledge() {
    let s = Setting::new();
    s.node.file(&format!("/etc/docker/certs.d/{NAME}/waylay.crt"), s.identity.pem());
    for args in [&["skopeo", "copy", "--src-cert-dir=/x"][..], &["podman", "pull", "--cert-dir", "/x"][..]] {
        s.node.process(7, &format!("/usr/bin/{}", args[0]), args[0]).args(args);
        assert_eq!(s.evidence(&s.node.read()), None, "{args:?}");
    }
}

#[test]
fn dockerd_reads_its_own_directory_and_never_for_docker_hub() {
    let s = Setting::new();
    let process = s.node.started("dockerd", &[]);
    s.node.file(&format!("/etc/containers/certs.d/{NAME}/waylay.crt"), s.identity.pem());
    assert_eq!(s.evidence(&process), None, "that is podman's");
    s.node.file(&format!("/etc/docker/certs.d/{NAME}/waylay.crt"), s.identity.pem());
    assert!(s.evidence(&process).is_some());
    s.node.file("/etc/docker/certs.d/registry.test_5000_/hosts.toml", "");
    assert_eq!(s.evidence(&process), None, "which of the two it reads depends on its store");

    let hub: RegistryName = "docker.io".parse().unwrap();
    let identity = s.identities.ensure(&hub.host, SystemTime::now()).unwrap();
    s.node.file("/etc/docker/certs.d/docker.io/waylay.crt", identity.pem());
    assert!(evidence(&s.identities, &s.trust_dir, &process, &hub).is_none());
    let podman = s.node.started("podman", &[]);
    assert!(evidence(&s.identities, &s.trust_dir, &podman, &hub).is_some());
}

#[test]
fn containerd_reads_a_single_config_path_of_either_version() {
    let s = Setting::new();
    s.node.file(&format!("/certs/{NAME}/waylay.crt"), s.identity.pem());
    let config = |plugin: &str, path: &str| format!("[plugins.\"{plugin}\".registry]\nconfig_path = \"{path}\"\n");
    let v2 = "io.containerd.grpc.v1.cri";
    let v3 = "io.containerd.cri.v1.images";
    for (text, counts) in [
        (config(v2, "/certs"), true),
        (config(v3, "/certs"), true),
        (config(v2, ""), false),
        (config(v2, "/certs:/etc/docker/certs.d"), false),
        (config("io.containerd.other", "/certs"), false),
        (String::new(), false),
        ("not toml [".to_string(), false),
    ] {
        for (path, args) in [
            ("/etc/containerd/config.toml", &["containerd"][..]),
            ("/x.toml", &["containerd", "--log-level", "info", "-c", "/x.toml"][..]),
            ("/y.toml", &["containerd", "--config=/y.toml"][..]),
        ] {
            s.node.file(path, &text);
            s.node.process(7, "/usr/bin/containerd", "containerd").args(args).started(s.node.now_ticks() + 100);
            assert_eq!(s.evidence(&s.node.read()).is_some(), counts, "{text} at {path}");
        }
    }
}

#[test]
fn a_configuration_newer_than_the_daemon_says_nothing() {
    let s = Setting::new();
    s.node.file(&format!("/certs/{NAME}/waylay.crt"), s.identity.pem());
    s.node.file(
        "/etc/containerd/config.toml",
        "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/certs\"\n",
    );
    s.node.process(7, "/usr/bin/containerd", "containerd").started(1);
    assert_eq!(s.evidence(&s.node.read()), None);
}

#[test]
fn containerds_host_directories_have_an_order() {
    let s = Setting::new();
    let pem = s.identity.pem();
    s.node.process(7, "/usr/bin/ctr", "ctr").args(&["ctr", "images", "pull", "--hosts-dir", "/h", "x"]);
    let found = || s.evidence(&s.node.read());
    assert_eq!(found(), None);
    s.node.file("/h/_default/waylay.crt", &pem);
    assert_eq!(found(), Some(How::CertsD("/h/_default/waylay.crt".into())));
    s.node.file(&format!("/h/{NAME}/waylay.crt"), &pem);
    assert_eq!(found(), Some(How::CertsD(format!("/h/{NAME}/waylay.crt").into())));
    s.node.file("/h/registry.test_5000_/waylay.crt", &pem);
    assert_eq!(found(), Some(How::CertsD("/h/registry.test_5000_/waylay.crt".into())));
    s.node.file("/h/registry.test_5000_/hosts.toml", "server = \"https://registry.test:5000\"\n");
    assert_eq!(found(), None, "hosts.toml names no ca");
    s.node.file("/h/registry.test_5000_/hosts.toml", "ca = [\"other.crt\", \"waylay.crt\"]\n");
    assert_eq!(found(), Some(How::CertsD("/h/registry.test_5000_/waylay.crt".into())));
    s.node.file("/h/registry.test_5000_/hosts.toml", "ca = \"/h/_default/waylay.crt\"\n");
    assert_eq!(found(), Some(How::CertsD("/h/_default/waylay.crt".into())));
}

#[test]
fn an_unknown_program_reads_no_certs_d() {
    let s = Setting::new();
    s.node.file(&format!("/etc/docker/certs.d/{NAME}/waylay.crt"), s.identity.pem());
    assert_eq!(s.evidence(&s.node.started("curl", &[])), None);
}

#[test]
fn a_certificate_of_another_key_in_the_directory_is_not_ours() {
    let s = Setting::new();
    let stranger = Node::new();
    let theirs = stranger.identities().ensure("registry.test", SystemTime::now()).unwrap();
    s.node.file(&format!("/etc/docker/certs.d/{NAME}/waylay.crt"), theirs.pem());
    assert_eq!(s.evidence(&s.node.started("dockerd", &[])), None);
    s.node.file(&format!("/etc/docker/certs.d/{NAME}/waylay.crt"), "damaged");
    assert_eq!(s.evidence(&s.node.started("dockerd", &[])), None);
}

#[test]
fn a_successor_just_added_to_a_file_is_served_only_to_new_processes() {
    let s = Setting::new();
    let (old, new) = s.with_successor();
    let other: RegistryName = "other.test".parse().unwrap();
    let served = || {
        let evidence = evidence(&s.identities, &s.trust_dir, &s.node.read(), &other).unwrap();
        *evidence.identity.fingerprint()
    };
    let file = s.node.file("/etc/docker/certs.d/other.test/waylay.crt", new.pem() + &old.pem());
    s.node.process(7, "/usr/bin/dockerd", "dockerd").started(1);
    assert_eq!(&served(), old.fingerprint(), "a pull may have read the file before");
    s.node.process(7, "/usr/bin/podman", "podman").started(s.node.now_ticks() + 100);
    assert_eq!(&served(), new.fingerprint(), "started since");
    s.node.process(7, "/usr/bin/dockerd", "dockerd").started(1);
    let settled = SystemTime::now() - SETTLE * 2;
    fs::File::options().write(true).open(file).unwrap().set_modified(settled).unwrap();
    assert_eq!(&served(), new.fingerprint(), "it has been there for long enough");
}

#[test]
fn a_process_that_goes_away_is_no_evidence() {
    let s = Setting::new();
    publish_into(&s.trust_dir, &s.identity);
    let process = s.node.started("containerd", &["SSL_CERT_DIR=/trust"]);
    fs::remove_dir_all(s.node.proc().join("7")).unwrap();
    assert_eq!(s.evidence(&process), None);
    assert!(runtime_roots(&process, &name(), &s.identities).is_empty());
}

#[test]
fn runtime_roots_are_what_the_runtime_adds_without_ours() {
    let s = Setting::new();
    let stranger = Node::new();
    let theirs = stranger.identities();
    let pem = |host: &str| theirs.ensure(host, SystemTime::now()).unwrap();
    let (in_file, in_dir, in_certs_d) = (pem("a.test"), pem("b.test"), pem("c.test"));
    s.node.file("/bundle.pem", in_file.pem());
    s.node.file("/more/b.pem", in_dir.pem() + &in_dir.pem());
    s.node.file(&format!("/etc/docker/certs.d/{NAME}/user.crt"), in_certs_d.pem() + &s.identity.pem());
    // Ours for another host: its key must not become an authority for this one.
    publish_into(&s.trust_dir, &s.identities.ensure("other.test", SystemTime::now()).unwrap());
    let environ = ["SSL_CERT_FILE=/bundle.pem", "SSL_CERT_DIR=/more:/trust:/missing"];
    let process = s.node.started("dockerd", &environ);
    let expected: Vec<_> =
        [in_certs_d, in_file, in_dir].iter().map(|identity| identity.certificate().clone()).collect();
    assert_eq!(runtime_roots(&process, &name(), &s.identities), expected);
}

#[test]
fn the_systems_own_roots_are_left_to_the_caller() {
    let s = Setting::new();
    s.node.process(7, "/usr/bin/dockerd", "dockerd").environ(&["SSL_CERT_DIR=/etc/ssl/certs"]);
    // This process shares the root of the machine.
    let root = s.node.proc().join("7/root");
    fs::remove_file(&root).unwrap();
    std::os::unix::fs::symlink("/", root).unwrap();
    assert!(runtime_roots(&s.node.read(), &name(), &s.identities).is_empty());
    // In another root, the same path holds somebody else's roots.
    let theirs = Node::new().identities().ensure("a.test", SystemTime::now()).unwrap();
    s.node.file("/etc/ssl/certs/a.pem", theirs.pem());
    let process = s.node.started("dockerd", &["SSL_CERT_DIR=/etc/ssl/certs"]);
    assert_eq!(runtime_roots(&process, &name(), &s.identities), [theirs.certificate().clone()]);
}
