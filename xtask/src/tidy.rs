//! `cargo xtask tidy`: what compilers do not check. Module order, module docs, file length, committed keys, and that one
//! file opens TCP and one reads the environment.
//!
//! It reads what git knows or would add, so a file that is ignored is none of its business.

mod order;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run::{command, read, workspace};

/// A file longer than this is told, and longer than the second refused. Tests in files of their own do not count.
const LONG: usize = 300;
const TOO_LONG: usize = 400;

/// The packages with an order, by the directory of their `lib.rs`.
const ORDERED: [&str; 2] = ["proxy/src", "certs/src"];

/// Things that one place of the product does and no other: the place (a file, or a directory beside it), the signs of
/// it in code, and the rule.
const ONLY: [(&str, &[&str], &str); 2] = [
    (
        "proxy/src/dial",
        &["TcpStream::connect", "TcpSocket::new_v", "HttpConnector", "reqwest::"],
        "only proxy/src/dial.rs opens outgoing TCP",
    ),
    ("proxy/src/config", &["env::var", "env::vars"], "only proxy/src/config.rs reads the environment"),
];

/// Names of files that hold keys.
const KEY_FILES: [&str; 4] = ["key", "p12", "pfx", "p8"];

/// A file of the repository.
struct File {
    /// From the workspace's directory.
    path: PathBuf,
    text: String,
}

pub(crate) fn run_command() -> Result<()> {
    let files = files()?;
    let mut faults = Vec::new();
    let rust = || files.iter().filter(|file| file.path.extension().is_some_and(|extension| extension == "rs"));
    let sources = || rust().map(|file| (file.path.as_path(), file.text.as_str()));
    let tests = source::TestModules::find(sources());
    for file in rust() {
        faults.extend(without_doc(file));
        faults.extend(length(file));
        faults.extend(elsewhere(file, &tests));
    }
    for file in &files {
        faults.extend(key(file));
    }
    for dir in ORDERED {
        let sources: Vec<(&Path, &str)> = sources().filter(|(path, _)| path.starts_with(dir)).collect();
        faults.extend(order::check(Path::new(dir), &sources));
    }
    if faults.is_empty() {
        eprintln!("tidy: {} files are in order", files.len());
        return Ok(());
    }
    for fault in &faults {
        eprintln!("tidy: {fault}");
    }
    bail!("{} things are not tidy", faults.len())
}

/// Everything that is in git, and what is new and not ignored. Files that are no text are searched for keys as well.
fn files() -> Result<Vec<File>> {
    let listed = read(&mut command("git", &["ls-files", "-z", "--cached", "--others", "--exclude-standard"]))?;
    let mut files = Vec::new();
    for path in listed.split('\0').filter(|path| !path.is_empty()) {
        let full = workspace().join(path);
        // Deleted, but not yet for git; or a link, which is checked where it leads.
        if !fs::symlink_metadata(&full).is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        let content = fs::read(&full).with_context(|| format!("cannot read {path}"))?;
        files.push(File { path: path.into(), text: String::from_utf8_lossy(&content).into_owned() });
    }
    Ok(files)
}

fn without_doc(file: &File) -> Option<String> {
    let first = file.text.lines().find(|line| !line.trim().is_empty());
    let has = first.is_some_and(|line| line.starts_with("//!") && line.len() > 4);
    (!has).then(|| format!("{}: does not open with //! and what its job is", file.path.display()))
}

fn length(file: &File) -> Option<String> {
    let lines = file.text.lines().count();
    let shown = file.path.display();
    if file.path.file_name().is_some_and(|name| name == "tests.rs") || lines <= LONG {
        return None;
    }
    if lines <= TOO_LONG {
        eprintln!("tidy: note: {shown}: {lines} lines; think about a second file beyond {LONG}");
        return None;
    }
    Some(format!("{shown}: {lines} lines; split it, {TOO_LONG} is the limit"))
}

fn elsewhere(file: &File, tests: &source::TestModules) -> Vec<String> {
    let product = ["proxy/src", "certs/src", "ebpf/abi/src"].iter().any(|dir| file.path.starts_with(dir));
    if !product || tests.has(&file.path) {
        return Vec::new();
    }
    let code = source::code(&file.text);
    let at_home = |place: &str| file.path.starts_with(place) || file.path == Path::new(&format!("{place}.rs"));
    let broken = ONLY.iter().filter(|(place, ..)| !at_home(place)).filter_map(|(_, signs, rule)| {
        let sign = signs.iter().find(|sign| code.contains(*sign))?;
        Some(format!("{}: {sign}: {rule}", file.path.display()))
    });
    broken.collect()
}

fn key(file: &File) -> Option<String> {
    let name_of_key = file.path.extension().is_some_and(|own| KEY_FILES.iter().any(|key| own == *key));
    // Written apart, so that this line is not found.
    let (edge, kind) = ("-----", ["PRIVATE", "KEY"].join(" "));
    let holds = file.text.lines().any(|line| line.contains(&kind) && line.matches(edge).count() >= 2);
    (name_of_key || holds).then(|| format!("{}: a private key must not be committed", file.path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    #[test]
    fn each_fault_is_found_and_nothing_else() {
        assert!(without_doc(&file("a.rs", "//! Job.\nfn f() {}\n")).is_none());
        for text in ["", "fn f() {}\n", "//!\nfn f() {}\n", "// Job.\n", "#![x]\n//! Job.\n"] {
            assert!(without_doc(&file("a.rs", text)).is_some(), "{text:?}");
        }
        assert!(length(&file("a.rs", &"x\n".repeat(TOO_LONG))).is_none());
        assert!(length(&file("a.rs", &"x\n".repeat(TOO_LONG + 1))).is_some());
        assert!(length(&file("a/tests.rs", &"x\n".repeat(TOO_LONG + 1))).is_none());
    }

    #[test]
    fn what_one_place_does_is_found_elsewhere() {
        for (home, inside, code) in [
            ("proxy/src/dial.rs", "proxy/src/dial/mark.rs", "async fn f() { tokio::net::TcpStream::connect(a).await }"),
            ("proxy/src/config.rs", "proxy/src/config/file.rs", "fn f() { std::env::var_os(a); }"),
        ] {
            let tests =
                source::TestModules::find(std::iter::once((Path::new("proxy/src/tls.rs"), "#[cfg(test)] mod tests;")));
            let found = |path: &str, text: &str| !elsewhere(&file(path, text), &tests).is_empty();
            assert!(!found("proxy/src/tls/tests.rs", code));
            assert!(found("proxy/src/tls.rs", code) && found("certs/src/trust.rs", code));
            assert!(!found(home, code) && !found(inside, code));
            assert!(!found("tests/src/lib.rs", code), "the harness plays the client");
            assert!(!found("proxy/src/tls.rs", &format!("// {code}")));
            let tested = format!("fn g() {{}}\n#[cfg(test)]\nmod tests {{ {code} }}\n");
            assert!(!found("proxy/src/tls.rs", &tested));
        }
    }

    #[test]
    fn keys_are_found_in_every_spelling() {
        for kind in ["", "RSA ", "EC ", "ENCRYPTED ", "OPENSSH "] {
            let pem = ["-----BEGIN ", kind, "PRIVATE", " KEY-----\nMII\n"].concat();
            assert!(key(&file("x.pem", &pem)).is_some(), "{kind}");
        }
        assert!(key(&file("server.key", "")).is_some());
        assert!(key(&file("x.pem", "-----BEGIN CERTIFICATE-----\n")).is_none());
    }
}
