//! What to catch: whose connections, to which ports. The kernel takes too many on purpose; user space decides exactly.

use std::{collections::BTreeSet, os::unix::fs::MetadataExt as _, path::PathBuf};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use waylay_abi::{COMM_LEN, Comm, map};

use super::object;

/// The programs that pull images, by the name that the kernel knows them by (its first 15 bytes).
pub const RUNTIMES: [&str; 9] =
    ["containerd", "dockerd", "crio", "podman", "buildkitd", "buildah", "skopeo", "nerdctl", "ctr"];

/// The port of a registry that names none.
pub const HTTPS: u16 = 443;

/// Whose connections to which ports are caught.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// Names of programs; longer ones are compared by their first 15 bytes, as the kernel keeps no more.
    pub runtimes: Vec<String>,
    /// Destination ports.
    pub ports: BTreeSet<u16>,
    /// Directories of cgroups whose processes are caught whatever they are called, those of cgroups below included.
    pub cgroups: Vec<PathBuf>,
}

impl Default for Targets {
    fn default() -> Self {
        Self {
            runtimes: RUNTIMES.iter().map(|&name| name.to_owned()).collect(),
            ports: BTreeSet::from([HTTPS]),
            cgroups: Vec::new(),
        }
    }
}

impl Targets {
    /// The usual runtimes, on port 443 and on the ports of the listed registries.
    pub fn for_ports(ports: impl IntoIterator<Item = u16>) -> Self {
        let mut targets = Self::default();
        targets.ports.extend(ports);
        targets
    }

    /// Writes them into the kernel's maps, and returns that of the ports.
    pub(super) fn write(&self, ebpf: &mut Ebpf) -> Result<HashMap<MapData, u16, u8>, super::AttachError> {
        let mut runtimes: HashMap<_, Comm, u8> = HashMap::try_from(object::map(ebpf, map::RUNTIMES)?)?;
        for name in &self.runtimes {
            runtimes.insert(comm(name), 1, 0)?;
        }
        let mut ports: HashMap<_, u16, u8> = HashMap::try_from(object::map(ebpf, map::PORTS)?)?;
        for &port in &self.ports {
            ports.insert(port, 1, 0)?;
        }
        let mut cgroups: HashMap<_, u64, u8> = HashMap::try_from(object::map(ebpf, map::CGROUPS)?)?;
        for path in &self.cgroups {
            // A cgroup's id is its directory's inode number (64-bit hosts, since Linux 5.5).
            let directory = std::fs::metadata(path);
            let directory = directory.map_err(|source| super::AttachError::Cgroup { path: path.clone(), source })?;
            cgroups.insert(directory.ino(), 1, 0)?;
        }
        Ok(ports)
    }
}

/// A name as the kernel keeps it: at most 15 bytes, filled up with NULs.
fn comm(name: &str) -> Comm {
    let mut comm = [0; COMM_LEN];
    for (to, from) in comm.iter_mut().take(COMM_LEN - 1).zip(name.bytes()) {
        *to = from;
    }
    comm
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_are_443_and_those_of_the_registries() {
        assert_eq!(Targets::for_ports([5000, 443, 5001]).ports, BTreeSet::from([443, 5000, 5001]));
        assert!(Targets::default().runtimes.iter().any(|name| name == "containerd"));
    }

    #[test]
    fn a_long_name_is_cut_as_the_kernel_cuts_it() {
        assert_eq!(&comm("containerd-stargz-grpc"), b"containerd-star\0");
        assert_eq!(&comm("ctr"), b"ctr\0\0\0\0\0\0\0\0\0\0\0\0\0");
    }
}
