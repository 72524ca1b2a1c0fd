//! Whether anything that our daemons wrote on the nodes of a fleet holds a secret: the cluster's, a private key, a login, or a
//! token of the registry. Every scenario that goes well is looked at.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::runtime::Login;

/// What the daemon keeps that is secret, and what it keeps of others' bytes, below its state directory.
const NOT_LOOKED_AT: [&str; 3] = ["identities", "store/blobs", "store/partial"];
/// How each of the registry's tokens begins: `{"alg":` or `{"typ":` in base64.
const TOKENS: [&str; 2] = ["eyJhbGci", "eyJ0eXAi"];

/// Looks at everything in `node`'s directory that our daemon wrote, if one ran there.
///
/// # Errors
/// When a file holds a secret, or cannot be read.
pub(super) fn none_in(node: &Path) -> Result<()> {
    let home = node.join("waylay");
    let Ok(token) = fs::read_to_string(home.join("token")) else { return Ok(()) };
    let mut files = vec![node.join("waylay.log")];
    let left_out: Vec<PathBuf> = NOT_LOOKED_AT.iter().map(|part| home.join("state").join(part)).collect();
    list(&home.join("state"), &left_out, &mut files)?;
    let secrets = secrets(token.trim());
    for file in files {
        // Some come and go while the daemon runs.
        let Ok(content) = fs::read(&file) else { continue };
        for secret in &secrets {
            let found = content.windows(secret.len()).any(|window| window == secret.as_bytes());
            ensure!(!found, "{} holds a secret that begins with {:?}", file.display(), &secret[..8]);
        }
    }
    Ok(())
}

fn secrets(token: &str) -> Vec<String> {
    let mut secrets = vec![token.to_owned(), "PRIVATE KEY".to_owned()];
    for login in [Login::right(), Login::other(), Login::wrong()] {
        secrets.extend([BASE64_STANDARD.encode(login.pair()), login.password]);
    }
    secrets.extend(TOKENS.map(str::to_owned));
    secrets
}

fn list(dir: &Path, left_out: &[PathBuf], files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if left_out.contains(&path) {
            continue;
        }
        if path.is_dir() { list(&path, left_out, files)? } else { files.push(path) }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_wherever_the_daemon_wrote_it() {
        let node = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| {
            let path = node.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        none_in(node.path()).expect("no daemon ran here");
        write("waylay/token", "waylay1-abcdefghijklmnop\n");
        write("waylay.log", "started");
        write("waylay/state/journal/1", "{}");
        write("waylay/state/identities/a.test/1.pem", "a PRIVATE KEY");
        none_in(node.path()).unwrap();
        for (path, secret) in [
            ("waylay.log", "token=waylay1-abcdefghijklmnop"),
            ("waylay/state/journal/1", "Basic YWxpY2U6b3BlbiBzZXNhbWU="),
            ("waylay/state/trust/x.0", "a PRIVATE KEY"),
            ("waylay/state/index", "Bearer eyJhbGciOiJSUzI1NiJ9"),
        ] {
            write(path, secret);
            assert!(none_in(node.path()).is_err(), "{secret}");
            write(path, "");
        }
    }
}
