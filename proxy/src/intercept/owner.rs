//! Which process a connection on this node belongs to, by its socket's inode: the slow way, for kernels and namespaces
//! where the hook can't tell.

use std::net::SocketAddr;

use procfs::{
    net::{tcp, tcp6},
    process::{FDTarget, all_processes},
};

/// The process that holds the client's end of the connection from `client` to `local`; `None` when it is not visible to
/// us. Reads the whole of /proc: milliseconds, and it blocks.
pub(super) fn find(client: SocketAddr, local: SocketAddr) -> Option<u32> {
    let inode = inode(client, local)?;
    let holds = |process: &procfs::process::Process| {
        process.fd().is_ok_and(|fds| fds.flatten().any(|fd| fd.target == FDTarget::Socket(inode)))
    };
    let process = all_processes().ok()?.flatten().find(holds)?;
    u32::try_from(process.pid()).ok()
}

/// The inode of the client's socket. A v4-mapped client stands in the IPv6 table.
fn inode(client: SocketAddr, local: SocketAddr) -> Option<u64> {
    let same = |seen: SocketAddr, wanted: SocketAddr| {
        (seen.ip().to_canonical(), seen.port()) == (wanted.ip().to_canonical(), wanted.port())
    };
    let tables = [tcp().unwrap_or_default(), tcp6().unwrap_or_default()];
    let entries = tables.into_iter().flatten();
    let mut ours = entries.filter(|entry| same(entry.local_address, client) && same(entry.remote_address, local));
    // A socket in TIME_WAIT has no inode.
    ours.find(|entry| entry.inode != 0).map(|entry| entry.inode)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the client's side of the test")]
    fn finds_the_process_behind_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let local = listener.local_addr().expect("bound");
        let client = TcpStream::connect(local).expect("listening");
        let (_accepted, peer) = listener.accept().expect("connected");
        assert_eq!(find(peer, local), Some(std::process::id()));
        drop(client);
        let nobody = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 1);
        assert_eq!(find(nobody, local), None);
    }
}
