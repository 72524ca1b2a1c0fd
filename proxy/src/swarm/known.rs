//! Whom this node knew before it was restarted: the addresses of its table, one a line, in a file of their own. Where all
//! that the operator named is gone by now, and all nodes start again at once, they would not find each other without it.
//! An address is no secret and no claim: who answers there must have the key that belongs to it.

use std::{
    fs::File,
    io::{self, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tokio::time::MissedTickBehavior;
use waylay_certs::durable;

use super::{frame::MAX_MEMBERS, members::Members};

/// No address is written longer than this.
const LONGEST_LINE: u64 = 64;

/// The addresses in the file, as far as there are any. That it cannot be read costs what it would have helped with.
pub(super) fn read(path: &Path) -> Vec<SocketAddr> {
    let mut text = String::new();
    let file = File::open(path);
    let read = file.and_then(|file| file.take(MAX_MEMBERS as u64 * LONGEST_LINE).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot read which members there were; those that are named are asked");
        }
        _ => {}
    }
    text.lines().filter_map(|line| line.parse().ok()).take(MAX_MEMBERS).collect()
}

/// Writes whom we know whenever that changed, until dropped.
pub(super) async fn keep(path: PathBuf, members: Members) {
    let (mut written, mut warned) = (None, false);
    // Changes come in crowds.
    let mut tick = tokio::time::interval(members.pace().ping);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = members.changes();
    loop {
        tick.tick().await;
        let known: Vec<_> = members.status().into_iter().map(|member| member.addr).collect();
        if written.as_ref() != Some(&known) {
            let (at, text) = (path.clone(), known.iter().map(|addr| format!("{addr}\n")).collect::<String>());
            match tokio::task::spawn_blocking(move || durable::write(&at, text.as_bytes(), 0o600)).await {
                Ok(Ok(())) => (written, warned) = (Some(known), false),
                Ok(Err(error)) if !warned => {
                    warned = true;
                    tracing::warn!(path = %path.display(), %error, "cannot write which members there are; after a restart those that are named are asked");
                }
                _ => {}
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_passed_over_and_no_file_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("members");
        assert_eq!(read(&path), []);
        let addrs: Vec<SocketAddr> = vec!["10.0.0.1:4500".parse().unwrap(), "[fd00::1]:4500".parse().unwrap()];
        std::fs::write(&path, format!("{}\nnonsense\n\n{}\n", addrs[0], addrs[1])).unwrap();
        assert_eq!(read(&path), addrs);
        std::fs::write(&path, [0xff; 64]).unwrap();
        assert_eq!(read(&path), []);
    }
}
