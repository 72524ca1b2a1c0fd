//! What is on this node, before anything is changed. Asking changes nothing: the kernel program is loaded and let go, never
//! attached.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
};

use nix::{
    ifaddrs::getifaddrs,
    sys::{statvfs::statvfs, utsname::uname},
    unistd::Uid,
};
use serde::Serialize;

use super::{
    host::Host,
    registries,
    runtimes::{self, Runtime},
};
use crate::intercept::{self, cgroup};

/// How the names of interfaces begin that lead to containers and virtual machines.
const INNER: [&str; 9] = ["docker", "br-", "veth", "cni", "flannel", "cali", "cilium", "virbr", "podman"];

/// The facts that a plan is made from.
#[derive(Debug, Serialize)]
pub struct Facts {
    /// Whether we may change the node.
    pub root: bool,
    /// Whether systemd runs it.
    pub systemd: bool,
    /// The kernel's release.
    pub kernel: String,
    /// Why the kernel does not take our program; `None` when it does.
    pub refused: Option<String>,
    /// Where connections are caught; `None` when there is no cgroup2 file system.
    pub cgroup: Option<PathBuf>,
    /// Bytes free where blobs will be kept.
    pub free: u64,
    /// The address that other nodes most likely reach this one at.
    pub address: Option<IpAddr>,
    /// The runtimes.
    pub runtimes: Vec<Runtime>,
    /// containerd's own directory of certificates, when it is configured to read exactly one.
    pub containerd_certs_d: Option<PathBuf>,
    /// Registries that images or configuration name, with where; the public ones aside.
    #[serde(serialize_with = "names")]
    pub registries: registries::Found,
}

/// Looks at the node. `towards` is a member whose side of the network counts for our own address.
pub fn probe(host: &Host, towards: Option<SocketAddr>) -> Facts {
    Facts {
        root: Uid::effective().is_root(),
        systemd: host.path("/run/systemd/system").is_dir(),
        kernel: uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default(),
        refused: intercept::try_load().err().map(|error| chain(&error)),
        cgroup: cgroup::find().ok(),
        free: free(&host.path("/var/lib")),
        address: address(towards),
        runtimes: runtimes::found(host),
        containerd_certs_d: host.read("/etc/containerd/config.toml").and_then(|text| config_path(&text)),
        registries: registries::found(host),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Bytes that an ordinary user may still write to the file system of `path`; 0 when it cannot be asked.
pub fn free(path: &Path) -> u64 {
    statvfs(path).map_or(0, |stat| stat.blocks_available() * stat.fragment_size())
}

/// The address from which a packet to `towards` would leave, or to anywhere. Nothing is sent: a UDP socket that is
/// connected only asks for the route.
fn address(towards: Option<SocketAddr>) -> Option<IpAddr> {
    // TEST-NET-1 (RFC 5737): whatever route there is to the world.
    let to = towards.unwrap_or_else(|| ([192, 0, 2, 1], 9).into());
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 8], 0).into() };
    let routed = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(to)?;
        socket.local_addr()
    });
    routed.map(|address| address.ip()).ok().filter(is_ours_alone).or_else(first_address)
}

/// A node without a default route: the first address of its interfaces.
fn first_address() -> Option<IpAddr> {
    let interfaces = getifaddrs().ok()?;
    // What container networks are made of: every node has the same ones.
    let inner = |name: &str| INNER.iter().any(|prefix| name.starts_with(prefix));
    let addresses = interfaces.filter(|one| !inner(&one.interface_name)).filter_map(|one| {
        let address = one.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    addresses.filter(is_ours_alone).min_by_key(IpAddr::is_ipv6)
}

/// Whether other nodes can mean us by it.
fn is_ours_alone(address: &IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(local || address.is_loopback() || address.is_unspecified())
}

/// `config_path` of containerd's CRI plugin, when it is one path: a list is taken for one strange path by the releases
/// that pull through the transfer service.
fn config_path(text: &str) -> Option<PathBuf> {
    let table: toml::Table = text.parse().ok()?;
    let plugins = table.get("plugins")?.as_table()?;
    let plugin =
        ["io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri"].iter().find_map(|name| plugins.get(*name))?;
    let path = plugin.get("registry")?.get("config_path")?.as_str()?;
    (path.starts_with('/') && !path.contains(':')).then(|| PathBuf::from(path))
}

fn names<S: serde::Serializer>(found: &registries::Found, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(found.iter().map(|(name, place)| (name.to_string(), place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_single_config_path_counts() {
        let with = |path: &str| {
            config_path(&format!("[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"{path}\""))
        };
        assert_eq!(with("/etc/containerd/certs.d").as_deref(), Some(Path::new("/etc/containerd/certs.d")));
        assert_eq!(with("/etc/containerd/certs.d:/etc/docker/certs.d"), None);
        assert_eq!(with(""), None);
        assert_eq!(config_path("version = 2"), None);
    }

    #[test]
    fn an_address_that_others_cannot_mean_us_by_is_none() {
        for (address, ours) in
            [("10.0.0.1", true), ("fd00::1", true), ("127.0.0.1", false), ("169.254.1.1", false), ("fe80::1", false)]
        {
            assert_eq!(is_ours_alone(&address.parse().unwrap()), ours, "{address}");
        }
    }
}
