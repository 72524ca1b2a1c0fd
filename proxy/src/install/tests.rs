//! Installing a node that is a directory with scripts in it: nothing of this machine is touched.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::{apply, host::Host, plan::Step, probe::Facts, *};
use crate::admin::status;

/// Answers what a booted machine with containerd answers, and notes what it is told.
const SYSTEMCTL: &str = r#"#!/bin/sh
echo "$*" >> "$(dirname "$0")/../../var/log/systemctl"
case "$*" in
"show containerd.service --property=LoadState,MainPID") printf 'LoadState=loaded\nMainPID=0\n' ;;
"show containerd.service --property=FragmentPath,DropInPaths")
    printf 'FragmentPath=/lib/systemd/system/containerd.service\nDropInPaths=\n' ;;
show*) printf 'LoadState=not-found\n' ;;
is-enabled*|is-active*) exit 3 ;;
"restart waylay.service") ! grep -q broken "$(dirname "$0")/../local/bin/waylay" ;;
esac
"#;

struct Node {
    dir: tempfile::TempDir,
    host: Host,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Self { host: Host::at(dir.path()), dir };
        node.script("/usr/bin/systemctl", SYSTEMCTL);
        node.script("/usr/bin/containerd", "#!/bin/sh\necho containerd 1.6.20\n");
        node.script(
            "/usr/bin/podman",
            "#!/bin/sh\ncase $1 in images) echo mine.test:5000/app ;; *) echo podman 4 ;; esac\n",
        );
        node.script("/root/waylay", "#!/bin/sh\n");
        node.write("/lib/systemd/system/containerd.service", "[Service]\nEnvironment=SSL_CERT_DIR=/theirs\n");
        node.write("/etc/containers/certs.d/kept.test/ca.crt", "theirs");
        for dir in ["/etc/systemd/system", "/run/systemd/system", "/var/lib", "/var/log", "/usr/local/bin"] {
            fs::create_dir_all(node.host.path(dir)).unwrap();
        }
        node
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.host.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn script(&self, path: &str, text: &str) {
        self.write(path, text);
        fs::set_permissions(self.host.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn facts(&self) -> Facts {
        Facts { address: Some([10, 0, 0, 1].into()), free: 500 << 30, ..probe::probe(&self.host, None) }
    }

    fn prepare(&self, options: &Options) -> Prepared {
        prepare(&self.host, &self.facts(), options, &self.host.path("/root/waylay")).unwrap()
    }

    /// Applies all but the proof, which needs a kernel.
    fn install(&self, options: &Options) -> Prepared {
        let mut prepared = self.prepare(options);
        prepared.plan.steps.retain(Step::changes);
        apply::apply(&self.host, &prepared.plan, Path::new("/var/lib/waylay"), &mut |_| ()).unwrap();
        prepared
    }

    fn uninstall(&self, keep_cache: bool) {
        let plan = undo::plan(&self.host, &undo::Options { keep_cache, restart_runtime: false }).unwrap();
        let left = apply::apply(&self.host, &plan, Path::new("/var/lib/waylay"), &mut |_| ()).unwrap();
        assert_eq!(left.len(), usize::from(keep_cache), "the cache that stays is told of: {left:?}");
    }

    /// Everything but what systemctl noted: path to mode and content.
    fn tree(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut tree = BTreeMap::new();
        let mut dirs = vec![self.dir.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                let (path, metadata) = (entry.path(), entry.metadata().unwrap());
                if metadata.is_dir() {
                    dirs.push(path.clone());
                }
                tree.insert(path.clone(), (metadata.mode(), fs::read(&path).unwrap_or_default()));
            }
        }
        tree.remove(&self.host.path("/var/log/systemctl"));
        tree
    }

    fn told(&self) -> Vec<String> {
        let told = self.host.read("/var/log/systemctl").unwrap_or_default();
        let asked = ["show", "is-"];
        told.lines().filter(|line| !asked.iter().any(|word| line.starts_with(word))).map(str::to_owned).collect()
    }
}

fn options() -> Options {
    Options {
        join: None,
        registries: vec!["extra.test:5000".parse().unwrap()],
        address: None,
        trust: Trust::Runtime,
        restart_runtime: false,
        zone: None,
    }
}

#[test]
fn uninstalling_leaves_every_byte_as_it_was() {
    let node = Node::new();
    let before = node.tree();
    node.install(&options());
    assert!(node.host.path("/var/lib/waylay/manifest.json").exists());
    node.uninstall(false);
    let after = node.tree();
    for path in before.keys().chain(after.keys()) {
        assert_eq!(before.get(path), after.get(path), "{}", path.display());
    }
}

#[test]
fn planning_changes_nothing() {
    let node = Node::new();
    let before = node.tree();
    let plan = node.prepare(&options()).plan;
    assert!(!plan.is_empty());
    assert_eq!(node.tree(), before);
    assert_eq!(node.told(), Vec::<String>::new());
}

#[test]
fn a_second_run_has_nothing_to_write_and_keeps_token_and_registries() {
    let node = Node::new();
    let first = node.install(&options());
    let token = node.host.read(TOKEN).unwrap();
    let second = node.prepare(&Options { registries: Vec::new(), ..options() });
    let writes = second.plan.steps.iter().filter(|step| matches!(step, Step::Write(_) | Step::Publish { .. })).count();
    assert_eq!(writes, 0, "{}", second.plan);
    assert_eq!(second.config.registries, first.config.registries);
    assert_eq!(node.host.read(TOKEN).unwrap(), token);
}

#[test]
fn a_second_run_repairs_what_is_damaged() {
    let node = Node::new();
    node.install(&options());
    fs::remove_file(node.host.path(runtimes::drop_in("containerd.service"))).unwrap();
    node.write("/etc/systemd/system/waylay.service", "[Unit]\n");
    node.install(&options());
    assert!(node.host.read("/etc/systemd/system/waylay.service").unwrap().contains("Type=notify"));
    assert!(node.host.path(runtimes::drop_in("containerd.service")).exists());
}

#[test]
fn registries_come_from_images_from_configuration_and_from_the_operator() {
    let node = Node::new();
    let config = node.prepare(&options()).config;
    for wanted in ["docker.io", "mine.test:5000", "kept.test", "extra.test:5000"] {
        assert!(config.registries.contains(&wanted.parse().unwrap()), "{wanted} is not in {:?}", config.registries);
    }
}

#[test]
fn a_runtime_keeps_whom_it_trusted() {
    let node = Node::new();
    node.install(&options());
    let drop_in = node.host.read(runtimes::drop_in("containerd.service")).unwrap();
    assert!(drop_in.contains("Environment=SSL_CERT_DIR=/theirs:/var/lib/waylay/trust\n"), "{drop_in}");
    let certs_d = node.host.path("/etc/containers/certs.d/kept.test");
    assert_eq!(fs::read_to_string(certs_d.join("ca.crt")).unwrap(), "theirs");
    assert!(certs_d.join("waylay.crt").exists());
}

#[test]
fn trust_by_certs_d_alone_writes_no_drop_in() {
    let node = Node::new();
    node.install(&Options { trust: Trust::CertsD, ..options() });
    assert!(!node.host.path(runtimes::drop_in("containerd.service")).exists());
}

#[test]
fn a_joining_node_can_be_joined_through() {
    let (first, second) = (Node::new(), Node::new());
    first.install(&options());
    let token = JoinToken::parse(&first.host.read(TOKEN).unwrap()).unwrap();
    let facts = Facts { address: Some([10, 0, 0, 2].into()), ..second.facts() };
    let joining = Options { join: Some(token.clone()), ..options() };
    let prepared = prepare(&second.host, &facts, &joining, &second.host.path("/root/waylay")).unwrap();
    let written = prepared.plan.steps.iter().find_map(|step| match step {
        Step::Write(file) if file.path == Path::new(TOKEN) => Some((file.mode, file.content.clone())),
        _ => None,
    });
    let (mode, content) = written.unwrap();
    let joined = JoinToken::parse(std::str::from_utf8(&content).unwrap()).unwrap();
    assert_eq!(mode, 0o600);
    assert_eq!(joined.secret, token.secret);
    assert_eq!(joined.addresses, ["10.0.0.1:4500".parse().unwrap(), "10.0.0.2:4500".parse().unwrap()]);
    assert!(!prepared.plan.to_string().contains("waylay1-"), "the token is not shown");
    assert!(!serde_json::to_string(&prepared.plan).unwrap().contains("waylay1-"), "nor in JSON");
}

/// Says that it intercepts to whoever asks, until dropped.
fn working_daemon(socket: &Path) -> std::thread::JoinHandle<()> {
    use std::io::{Read as _, Write as _};
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    let intercept =
        status::Intercept { effective: true, off: false, off_until: None, cgroup: "/sys/fs/cgroup".to_owned() };
    let status = status::Status {
        version: "1".to_owned(),
        pid: 1,
        since_ms: 0,
        intercept,
        registries: Vec::new(),
        store: status::Store { blobs: 0, bytes: 0, quota: 0, lent: 0 },
        peers: None,
        bytes: status::Bytes { store: 0, peer: 0, registry: 0 },
        bypass: Vec::new(),
        warnings: Vec::new(),
    };
    let body = serde_json::to_string(&status).unwrap();
    std::thread::spawn(move || {
        // Asked twice: before the upgrade, and after it was taken back.
        for stream in listener.incoming().take(2) {
            let (mut stream, mut request) = (stream.unwrap(), [0; 4096]);
            assert!(stream.read(&mut request).unwrap() > 0);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).unwrap();
        }
    })
}

#[test]
fn an_upgrade_that_does_not_start_is_taken_back() {
    let node = Node::new();
    node.install(&options());
    node.write("/etc/systemd/system/waylay.service", "[Unit]\n# of the release before\n");
    let before = node.tree();
    let daemon = working_daemon(&node.host.path("/run/waylay/control.sock"));

    node.script("/root/waylay", "#!/bin/sh\n# broken\n");
    let Prepared { plan, config } = node.prepare(&options());
    let told = node.told().len();
    let failed = apply::apply(&node.host, &plan, &config.state_dir, &mut |_| ()).unwrap_err();

    let said = failed.to_string();
    assert!(matches!(failed, apply::ApplyError::PutBack(_)) && said.contains("The former program"), "{said}");
    assert!(said.contains("`systemctl restart waylay.service` failed"), "{said}");
    let (after, own) = (node.tree(), ["/root/waylay", "/var/lib/waylay/manifest.json", "/run/waylay/control.sock"]);
    for path in before.keys().filter(|path| !own.iter().any(|own| **path == node.host.path(own))) {
        assert_eq!(before.get(path), after.get(path), "{}", path.display());
    }
    let restart = "restart waylay.service";
    assert_eq!(node.told()[told..].iter().filter(|line| *line == restart).count(), 2, "{:?}", node.told());
    daemon.join().unwrap();
}

#[test]
fn with_no_daemon_that_works_there_is_no_way_back() {
    let node = Node::new();
    node.install(&options());
    node.script("/root/waylay", "#!/bin/sh\n# broken\n");
    let Prepared { plan, config } = node.prepare(&options());
    let failed = apply::apply(&node.host, &plan, &config.state_dir, &mut |_| ()).unwrap_err();
    assert!(matches!(failed, apply::ApplyError::Command(_)), "{failed}");
    assert!(node.host.read(PROGRAM).unwrap().contains("broken"));
}

#[test]
fn a_program_that_replaces_one_that_runs_is_rehearsed_first() {
    let node = Node::new();
    node.install(&options());
    let rehearses = |node: &Node| matches!(node.prepare(&options()).plan.steps.first(), Some(Step::Rehearse { .. }));
    assert!(!rehearses(&node), "the same program");
    node.script("/root/waylay", "#!/bin/sh\n# the next release\n");
    assert!(!rehearses(&node), "no daemon runs");
    node.script("/usr/bin/systemctl", &SYSTEMCTL.replace("is-enabled*|is-active*) exit 3", "is-active*) exit 0"));
    assert!(rehearses(&node));
    node.install(&options());
    assert!(!rehearses(&node), "it is in place");
}

#[test]
fn a_cache_that_is_kept_is_all_that_is_kept() {
    let node = Node::new();
    let before = node.tree();
    node.install(&options());
    node.write("/var/lib/waylay/store/blobs/sha256/00", "blob");
    node.uninstall(true);
    let more: Vec<_> = node.tree().into_keys().filter(|path| !before.contains_key(path)).collect();
    assert!(node.host.path("/var/lib/waylay/store/blobs/sha256/00").exists());
    assert!(
        more.iter().all(|path| path == &node.host.path("/var/lib/waylay")
            || path.starts_with(node.host.path("/var/lib/waylay/store"))),
        "{more:?}"
    );
}

#[test]
fn a_configuration_that_cannot_be_read_stops_it() {
    let node = Node::new();
    node.write(CONFIG, "registries = [\"a b\"]\n");
    let prepared = prepare(&node.host, &node.facts(), &options(), &node.host.path("/root/waylay"));
    assert!(prepared.is_err_and(|error| error.to_string().contains("registries")));
}
