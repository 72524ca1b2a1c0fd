//! Nodes that are each other's peers, in this process: one secret, and an address of loopback for each.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::atomic::{AtomicU8, Ordering::Relaxed},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use tempfile::TempDir;
use waylay_certs::{ClusterSecret, JoinToken};

/// The port of every node's peer network. A node's identity follows from its address, so the port must be known before it
/// starts; the addresses are this process's own, so it is free.
const PORT: u16 = 4500;

/// A secret and the addresses of those who share it.
pub struct Cluster {
    addresses: Vec<SocketAddr>,
    dir: TempDir,
}

impl Cluster {
    /// A cluster of `count` nodes, which are still to be started: [`super::Plan::member`].
    pub fn of(count: usize) -> Self {
        let addresses: Vec<SocketAddr> = (0..count).map(|_| SocketAddr::new(own_address(), PORT)).collect();
        let secret = ClusterSecret::generate(1).expect("the system has randomness");
        let token = JoinToken::new(secret, addresses.clone()).expect("a cluster has a few nodes");
        let dir = tempfile::tempdir().expect("there is room for a directory");
        let file = dir.path().join("token");
        fs::write(&file, token.encode().as_str()).expect("the directory is ours");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        Self { addresses, dir }
    }

    /// The addresses of the nodes.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Its secret in every way in which it might be written somewhere.
    pub fn secret(&self) -> Vec<Vec<u8>> {
        let text = fs::read_to_string(self.token()).expect("the token was written");
        let body = text.trim().strip_prefix("waylay1-").expect("a token begins so");
        let payload = URL_SAFE_NO_PAD.decode(body).expect("a token is base64");
        // Version and generation stand before it.
        let secret = &payload[5..37];
        let forms =
            [URL_SAFE_NO_PAD.encode(secret), STANDARD.encode(secret), hex::encode(secret), format!("{secret:?}")];
        forms.into_iter().map(String::into_bytes).chain([secret.to_vec(), body.as_bytes().to_vec()]).collect()
    }

    fn token(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    /// The configuration of one node.
    pub(super) fn settings(&self, node: usize) -> String {
        format!("[swarm]\nlisten = \"{}\"\ntoken_file = \"{}\"\n", self.addresses[node], self.token().display())
    }
}

/// An address of loopback that no other test uses: 127/8 is all ours, so processes and calls are counted in it.
fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    // Not 127.0, where everything else listens.
    Ipv4Addr::new(127, high | 0x80, low, NEXT.fetch_add(1, Relaxed)).into()
}
