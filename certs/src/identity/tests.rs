//! Identities: what is in the certificate, when a successor is made, and what bad files on the disk do.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

const HOST: &str = "registry.test";

struct Held {
    dir: tempfile::TempDir,
    identities: Identities,
}

impl Held {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identities = Identities::open(dir.path().join("identities")).unwrap();
        Self { dir, identities }
    }

    fn ensure(&self) -> Arc<Identity> {
        self.identities.ensure(HOST, SystemTime::now()).unwrap()
    }

    /// The same directory, opened by a process that remembers nothing.
    fn reopened(&self) -> Identities {
        Identities::open(self.dir.path().join("identities")).unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        let dir = self.dir.path().join("identities").join(HOST);
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

#[test]
fn the_certificate_is_for_one_name_and_can_sign_nothing() {
    let held = Held::new();
    let now = SystemTime::now();
    let identity = held.ensure();
    let (_, parsed) = X509Certificate::from_der(identity.certificate()).unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    assert_eq!(format!("{:?}", names.value.general_names), format!("[DNSName({HOST:?})]"));
    let constraints = parsed.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth && !usage.any && usage.other.is_empty());
    assert!(!parsed.key_usage().unwrap().unwrap().value.key_cert_sign());
    assert_eq!(parsed.subject(), parsed.issuer());
    parsed.verify_signature(None).unwrap();
    assert!(identity.not_before() <= now - BACKDATE && identity.not_after() <= now + LIFE + Duration::from_secs(5));
    assert!(identity.is_valid(now) && !identity.wants_successor(now));
    identity.certified_key().keys_match().unwrap();
}

#[test]
fn openssl_agrees_with_the_subject_hash() {
    let held = Held::new();
    let long = format!("{}.{}.test", "a".repeat(60), "b".repeat(20));
    for host in [HOST, "localhost", "x-1.registry.example", &long] {
        let identity = held.identities.ensure(host, SystemTime::now()).unwrap();
        let file = held.dir.path().join("c.pem");
        fs::write(&file, identity.pem()).unwrap();
        let told =
            Command::new("openssl").args(["x509", "-noout", "-subject_hash", "-in"]).arg(&file).output().unwrap();
        assert_eq!(String::from_utf8(told.stdout).unwrap().trim(), identity.subject_hash(), "{host}");
    }
}

#[test]
fn keys_and_their_directories_are_closed_to_others() {
    let held = Held::new();
    held.ensure();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let dir = held.dir.path().join("identities");
    assert_eq!((mode(&dir), mode(&dir.join(HOST))), (0o700, 0o700));
    for file in held.files() {
        assert_eq!(mode(&file), 0o600);
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    held.reopened();
    assert_eq!(mode(&dir), 0o700, "an open directory is closed");
}

#[test]
fn the_same_identity_is_found_again() {
    let held = Held::new();
    let first = held.ensure();
    assert_eq!(first.fingerprint(), held.ensure().fingerprint());
    let again = held.reopened().ensure(HOST, SystemTime::now()).unwrap();
    assert_eq!(first.fingerprint(), again.fingerprint());
    assert_eq!(held.files().len(), 1);
}

#[test]
fn two_callers_at_once_make_one_identity() {
    let held = Held::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| held.ensure());
        }
    });
    assert_eq!(held.files().len(), 1);
}

#[test]
fn a_successor_is_made_in_the_last_third_and_both_are_kept() {
    let held = Held::new();
    let now = SystemTime::now();
    let day = Duration::from_secs(24 * 3600);
    let first = held.identities.ensure(HOST, now - LIFE * 2 / 3 + day).unwrap();
    assert_eq!(first.fingerprint(), held.ensure().fingerprint(), "its last third has not begun");
    let held = Held::new();
    let first = held.identities.ensure(HOST, now - LIFE * 2 / 3 - day).unwrap();
    let second = held.ensure();
    assert_ne!(first.fingerprint(), second.fingerprint());
    let all: Vec<_> = held.identities.all(HOST).iter().map(|identity| *identity.fingerprint()).collect();
    assert_eq!(all, [*second.fingerprint(), *first.fingerprint()]);
    assert!(first.is_valid(now));
}

#[test]
fn an_expired_or_future_identity_is_replaced_and_stays() {
    let held = Held::new();
    let now = SystemTime::now();
    held.identities.ensure(HOST, now - LIFE * 2).unwrap();
    held.identities.ensure(HOST, now + LIFE).unwrap();
    assert!(held.ensure().is_valid(now));
    assert_eq!(held.files().len(), 3);
}

#[test]
fn a_bad_file_is_not_used_and_not_lost() {
    type Spoil = fn(&Path);
    let spoil: [(&str, Spoil); 6] = [
        ("empty", |file| fs::write(file, "").unwrap()),
        ("cut", |file| {
            let pem = fs::read(file).unwrap();
            fs::write(file, &pem[..pem.len() - 100]).unwrap();
        }),
        ("no key", |file| {
            let pem = fs::read_to_string(file).unwrap();
            fs::write(file, &pem[..pem.find("-----BEGIN PRIVATE").unwrap()]).unwrap();
        }),
        ("another host's", |file| {
            let other = Held::new();
            other.identities.ensure("other.test", SystemTime::now()).unwrap();
            let dir = other.dir.path().join("identities/other.test");
            fs::copy(fs::read_dir(dir).unwrap().next().unwrap().unwrap().path(), file).unwrap();
        }),
        ("another's key", |file| {
            let other = Held::new();
            other.ensure();
            let (ours, theirs) = (fs::read_to_string(file).unwrap(), fs::read_to_string(&other.files()[0]).unwrap());
            let key = |pem: &str| pem.find("-----BEGIN PRIVATE").unwrap();
            fs::write(file, ours[..key(&ours)].to_string() + &theirs[key(&theirs)..]).unwrap();
        }),
        ("readable", |file| fs::set_permissions(file, fs::Permissions::from_mode(0o640)).unwrap()),
    ];
    for (what, spoil) in spoil {
        let held = Held::new();
        let first = held.ensure();
        let file = held.files()[0].clone();
        spoil(&file);
        let before = fs::read(&file).unwrap();
        let second = held.reopened().ensure(HOST, SystemTime::now()).unwrap();
        assert_ne!(first.fingerprint(), second.fingerprint(), "{what}");
        assert_eq!(fs::read(&file).unwrap(), before, "{what}: the file is untouched");
        assert_eq!(held.reopened().all(HOST).len(), 1, "{what}");
    }
}

#[test]
fn a_key_that_is_replaced_is_gone_whatever_was_wrong_with_it() {
    let held = Held::new();
    let first = held.ensure();
    let open = held.files()[0].clone();
    first.set_published(&Published { file: "/trust/a.0".into(), at: Moment::now().unwrap() }).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    held.identities.renew(HOST, SystemTime::now()).unwrap();
    assert_eq!(held.files().len(), 3, "two keys and a record");

    let last = held.identities.replace(HOST, SystemTime::now()).unwrap();

    let fingerprints = |identities: &Identities| -> Vec<[u8; 32]> {
        identities.all(HOST).iter().map(|identity| *identity.fingerprint()).collect()
    };
    assert_eq!(fingerprints(&held.identities), [*last.fingerprint()], "at once");
    assert_eq!(fingerprints(&held.reopened()), [*last.fingerprint()]);
    assert_eq!(held.files().len(), 1, "nothing is left of the others");
}

#[test]
fn a_foreign_owner_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        return; // only root can give a file away
    }
    let held = Held::new();
    let first = held.ensure();
    std::os::unix::fs::chown(&held.files()[0], Some(4711), None).unwrap();
    assert_ne!(held.reopened().ensure(HOST, SystemTime::now()).unwrap().fingerprint(), first.fingerprint());
    let dir = held.dir.path().join("identities");
    std::os::unix::fs::chown(&dir, Some(4711), None).unwrap();
    let error = Identities::open(&dir).unwrap_err();
    assert!(matches!(error, IdentityError::Owner { owner: 4711, .. }), "{error}");
}

#[test]
fn a_host_that_is_no_name_makes_nothing() {
    let held = Held::new();
    for host in ["", "..", "../x", "a/b", "Registry.Test", "registry.test.", "*.test", "a..b"] {
        let error = held.identities.ensure(host, SystemTime::now()).unwrap_err();
        assert!(matches!(error, IdentityError::Host(_)), "{host:?}: {error}");
        assert!(held.identities.all(host).is_empty());
    }
    assert_eq!(fs::read_dir(held.dir.path().join("identities")).unwrap().count(), 0);
}

#[test]
fn ours_are_recognised_whatever_their_host_and_age() {
    let held = Held::new();
    let ours = held.identities.ensure("other.test", SystemTime::now() - LIFE * 2).unwrap();
    assert!(held.identities.is_ours(ours.certificate()));
    assert!(!held.identities.is_ours(Held::new().ensure().certificate()));
    assert!(!held.identities.is_ours(&CertificateDer::from(vec![1, 2, 3])));
}

#[test]
fn debug_output_holds_no_key() {
    let held = Held::new();
    let shown = format!("{:?}", held.ensure());
    assert!(shown.starts_with("Identity(") && shown.len() < 40, "{shown}");
}
