//! From the configuration to the peer network: the token's file, read once, and refused where others could read it.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use waylay_certs::{JoinToken, TokenError};
use zeroize::Zeroizing;

use crate::{config, swarm};

/// A token is far shorter.
const LONGEST: u64 = 16 << 10;
/// The token of today and the one of before or after it.
const MOST: usize = 2;

/// Why the join token cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenFileError {
    /// It cannot be read.
    #[error("cannot read the join token {} (swarm.token_file); `waylay token new --out FILE` makes one", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read it.
    #[error("{} (swarm.token_file) holds the cluster's secret and has mode {mode:03o}; run `chmod 600` on it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds no token.
    #[error("{} (swarm.token_file) holds no usable token", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenError,
    },
}

/// The swarm's part of the configuration, with the token read. `known` is where members are remembered.
///
/// # Errors
/// When the token's file cannot be used.
pub(super) fn resolve(config: &config::Swarm, known: PathBuf) -> Result<swarm::Config, TokenFileError> {
    let tokens = read(&config.token_file)?;
    let (mut members, mut names) = (Vec::new(), Vec::new());
    for member in &config.members {
        match member {
            config::Member::At(address) => members.push(*address),
            config::Member::Named(name) => names.push(name.clone()),
        }
    }
    for address in tokens.iter().flat_map(|token| &token.addresses) {
        if !members.contains(address) {
            members.push(*address);
        }
    }
    members.retain(|address| *address != config.listen);
    Ok(swarm::Config {
        listen: config.listen,
        advertise: None,
        secrets: tokens.into_iter().map(|token| token.secret).collect(),
        zone: config.zone.clone(),
        members,
        names,
        known: Some(known),
        upload: config.upload_rate,
        download: config.download_rate,
        pace: swarm::Pace::default(),
    })
}

/// One token a line: the first makes us who we are, members by another are known too while the secret is rotated.
fn read(path: &Path) -> Result<Vec<JoinToken>, TokenFileError> {
    let unreadable = |source| TokenFileError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(TokenFileError::Open { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(LONGEST).read_to_string(&mut text).map_err(unreadable)?;
    let bad = |source| TokenFileError::Bad { path: path.to_owned(), source };
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() || lines.len() > MOST {
        return Err(bad(TokenError::NotAToken));
    }
    lines.into_iter().map(|line| JoinToken::parse(line).map_err(bad)).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_token_that_others_may_read_is_refused_with_the_command_that_mends_it() {
        let (_dir, path) = file("waylay1-x", 0o640);
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("640") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn two_tokens_are_two_secrets_the_first_is_ours() {
        let token = |n: u8, port: u16| {
            let secret = waylay_certs::ClusterSecret::new([n; 32], n.into());
            JoinToken::new(secret, vec![([10, 0, 0, 1], port).into()]).unwrap()
        };
        let (old, new) = (token(1, 1), token(2, 2));
        let (_dir, path) = file(&format!("{}\n\n{}\n", *new.encode(), *old.encode()), 0o600);
        let swarm = config::Swarm {
            listen: ([10, 0, 0, 1], 1).into(),
            token_file: path,
            members: vec![config::Member::At(([10, 0, 0, 1], 2).into())],
            zone: String::new(),
            upload_rate: None,
            download_rate: None,
        };
        let resolved = resolve(&swarm, PathBuf::from("known")).unwrap();
        assert_eq!(resolved.secrets, [new.secret.clone(), old.secret]);
        assert_eq!(resolved.members, [([10, 0, 0, 1], 2).into()], "each once, without ourselves");
        for text in ["", "\n \n", &format!("{0}\n{0}\n{0}\n", *new.encode())] {
            assert!(read(&file(text, 0o600).1).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_damaged_token_is_named_and_not_repeated() {
        let (_dir, path) = file("waylay1-c2VjcmV0", 0o600);
        let error = format!("{:#}", anyhow::Error::new(read(&path).unwrap_err()));
        assert!(error.contains("damaged") && !error.contains("c2VjcmV0"), "{error}");
    }
}
