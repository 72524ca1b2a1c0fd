//! Real clients against our certificates: each accepts one for its name, refuses it for another name, and refuses what
//! its key has signed. While a client connects, the evidence about its process must say the same.
//!
//! The containerd and dockerd daemons are shown in the fleet tests. A program that is not installed is skipped loudly,
//! and fails the test where `CI` is set.

#![allow(clippy::unwrap_used, reason = "in a test a broken assumption is a failure")]

#[path = "clients/server.rs"]
mod server;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use server::Server;
use waylay_certs::{How, Identities, Manifest, Publish, RegistryName, evidence, publish};

/// The name that every client asks for: it needs no resolver.
const NAME: &str = "localhost";
const OTHER: &str = "other.test";

/// A client, and where it looks for trust.
#[derive(Clone, Copy, Debug)]
enum Client {
    Curl,
    OpenSsl,
    Go,
    SkopeoByDir,
    SkopeoByEnviron,
    PodmanByDir,
    PodmanByEnviron,
}

const ALL: [Client; 7] = [
    Client::Curl,
    Client::OpenSsl,
    Client::Go,
    Client::SkopeoByDir,
    Client::SkopeoByEnviron,
    Client::PodmanByDir,
    Client::PodmanByEnviron,
];

impl Client {
    fn by_dir(self) -> bool {
        matches!(self, Client::SkopeoByDir | Client::PodmanByDir)
    }

    /// The command that asks the server at `port`; `None` when the program is not there.
    fn command(self, node: &Node, port: u16) -> Option<Command> {
        let url = format!("https://{NAME}:{port}/v2/");
        let image = format!("{NAME}:{port}/x");
        let mut command = match self {
            Client::Curl => with_args("curl", &["--silent", "--show-error", "--fail", &url]),
            Client::OpenSsl => {
                let target = format!("{NAME}:{port}");
                let connect = ["s_client", "-connect", &target, "-servername", NAME];
                let verify = ["-verify_return_error", "-verify_hostname", NAME, "-quiet"];
                with_args("openssl", &[&connect[..], &verify[..]].concat())
            }
            Client::Go => go_client().map(|program| {
                let mut command = Command::new(program);
                command.arg(&url);
                command
            }),
            Client::SkopeoByDir | Client::SkopeoByEnviron => {
                with_args("skopeo", &["inspect", "--raw", &format!("docker://{image}:1")])
            }
            Client::PodmanByDir | Client::PodmanByEnviron => {
                let (root, run) = (node.at("podman/root"), node.at("podman/run"));
                let place = ["--storage-driver", "vfs", "--root", &root, "--runroot", &run];
                with_args("podman", &[&place[..], &["search", "--list-tags", &image]].concat())
            }
        }?;
        command.env("HOME", node.at(if self.by_dir() { "home" } else { "empty" }));
        for variable in ["SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "XDG_CONFIG_HOME"] {
            command.env_remove(variable);
        }
        command.env("NO_PROXY", "*").env("no_proxy", "*");
        if !self.by_dir() {
            command.env("SSL_CERT_DIR", node.at("trust"));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Some(command)
    }
}

/// A node with published identities for [`NAME`] and [`OTHER`].
struct Node {
    dir: tempfile::TempDir,
    identities: Arc<Identities>,
    listener: TcpListener,
    registry: RegistryName,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let registry = RegistryName::new(NAME, port).unwrap();
        fs::create_dir(dir.path().join("empty")).unwrap();
        let identities = Arc::new(Identities::open(dir.path().join("identities")).unwrap());
        let mut manifest = Manifest::open(dir.path().join("manifest.json")).unwrap();
        let to = Publish {
            trust_dir: dir.path().join("trust"),
            certs_d: vec![dir.path().join("home/.config/containers/certs.d")],
        };
        let registries = [registry.clone(), RegistryName::new(OTHER, port).unwrap()];
        let report = publish(&identities, &registries, &to, &mut manifest).unwrap();
        assert!(report.skipped.is_empty(), "{report:?}");
        // The clients shall trust the other name's certificate as much as this one's, wherever they look.
        let certs_d = dir.path().join("home/.config/containers/certs.d").join(registry.certs_d());
        fs::write(certs_d.join("other.crt"), identities.all(OTHER)[0].pem()).unwrap();
        Self { dir, identities, listener, registry }
    }

    fn at(&self, path: &str) -> String {
        self.dir.path().join(path).to_str().unwrap().to_string()
    }

    fn key(&self, host: &str) -> Arc<CertifiedKey> {
        self.identities.ensure(host, SystemTime::now()).unwrap().certified_key()
    }

    /// A certificate for [`NAME`] that the identity of [`OTHER`] has signed, as a thief of its key would make it.
    fn forged(&self) -> Arc<CertifiedKey> {
        let dir = self.dir.path().join("identities").join(OTHER);
        let file = files(&dir).into_iter().find(|file| file.extension().unwrap() == "pem").unwrap();
        let pem = fs::read_to_string(file).unwrap();
        let stolen = KeyPair::from_pem(&pem[pem.find("-----BEGIN PRIVATE").unwrap()..]).unwrap();
        let signer = self.identities.all(OTHER)[0].certificate().clone();
        let issuer = Issuer::from_ca_cert_der(&signer, stolen).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![NAME.to_string()]).unwrap().signed_by(&key, &issuer).unwrap();
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
        let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der).unwrap();
        Arc::new(CertifiedKey::new(vec![leaf.der().clone(), signer], key))
    }

    /// Runs one client against a server that presents `key`.
    fn run(self, client: Client, key: Arc<CertifiedKey>) -> Option<Outcome> {
        let port = self.registry.port;
        let mut command = client.command(&self, port)?;
        let (identities, trust_dir) = (self.identities.clone(), PathBuf::from(self.at("trust")));
        let (listener, registry) = (self.listener.try_clone().unwrap(), self.registry.clone());
        let look = move |process: &_| evidence(&identities, &trust_dir, process, &registry);
        let server = Server::start(listener, key, look);
        let mut child = command.spawn().unwrap();
        server.expect(child.id());
        // openssl sends what it reads; the others read nothing, and may be gone already.
        let _ = child.stdin.take().unwrap().write_all(b"GET / HTTP/1.0\r\n\r\n");
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Some(Outcome { success: output.status.success(), said, server, node: self })
    }
}

struct Outcome {
    success: bool,
    said: String,
    server: Server,
    node: Node,
}

impl Outcome {
    fn assert_refused(&self, client: Client) {
        assert!(!self.success, "{client:?} accepted");
        assert!(self.server.requests().is_empty(), "{client:?} sent a request: {:?}", self.server.requests());
        let about_trust = ["certificate", "x509", "verify"].iter().any(|word| self.said.contains(word));
        assert!(about_trust, "{client:?} failed for another reason: {}", self.said);
        assert!(!self.server.evidence().is_empty(), "{client:?} never connected: {}", self.said);
    }
}

#[test]
fn every_client_accepts_the_certificate_for_its_name() {
    for client in ALL {
        let node = Node::new();
        let key = node.key(NAME);
        let Some(outcome) = node.run(client, key) else { continue };
        assert!(outcome.success, "{client:?}: {}", outcome.said);
        assert!(!outcome.server.requests().is_empty(), "{client:?}");
        let expected = outcome.node.identities.all(NAME)[0].fingerprint().to_owned();
        for found in outcome.server.evidence() {
            let found = found.unwrap_or_else(|| panic!("no evidence for {client:?}, which trusts us"));
            assert_eq!(found.identity.fingerprint(), &expected);
            assert_eq!(matches!(found.how, How::CertsD(_)), client.by_dir(), "{client:?}: {:?}", found.how);
        }
    }
}

#[test]
fn every_client_refuses_the_certificate_of_another_name() {
    for client in ALL {
        let node = Node::new();
        let key = node.key(OTHER);
        let Some(outcome) = node.run(client, key) else { continue };
        outcome.assert_refused(client);
    }
}

#[test]
fn every_client_refuses_what_a_stolen_key_has_signed() {
    for client in ALL {
        let node = Node::new();
        let key = node.forged();
        let Some(outcome) = node.run(client, key) else { continue };
        outcome.assert_refused(client);
    }
}

#[test]
fn a_client_without_our_certificate_refuses_and_there_is_no_evidence() {
    for client in ALL {
        let node = Node::new();
        let key = node.key(NAME);
        fs::remove_dir_all(node.at("home")).unwrap();
        for file in files(Path::new(&node.at("trust"))) {
            fs::remove_file(file).unwrap();
        }
        let Some(outcome) = node.run(client, key) else { continue };
        outcome.assert_refused(client);
        assert!(outcome.server.evidence().iter().all(Option::is_none), "{client:?}");
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn with_args(program: &str, args: &[&str]) -> Option<Command> {
    require(program)?;
    let mut command = Command::new(program);
    command.args(args);
    Some(command)
}

/// Builds the Go client, once for all tests.
fn go_client() -> Option<PathBuf> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        require("go")?;
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fetch");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/fetch.go");
        let mut go = Command::new("go");
        go.args(["build", "-o"]).arg(&program).arg(source).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=mod");
        assert!(go.status().unwrap().success(), "go build failed");
        Some(program)
    };
    BUILT.get_or_init(build).clone()
}

/// Whether a program is there. One that is missing is told, and is a failure where nothing may be skipped.
fn require(program: &str) -> Option<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
        return Some(());
    }
    assert!(std::env::var_os("CI").is_none(), "{program} is not installed, and CI may skip nothing");
    eprintln!("SKIPPED: {program} is not installed, so it proves nothing here (cargo xtask setup installs it)");
    None
}
