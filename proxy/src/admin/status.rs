//! The state of a daemon as `waylay status` shows it.

use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// A daemon's state at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// waylay's version.
    pub version: String,
    /// The daemon's process id.
    pub pid: u32,
    /// When it started, in milliseconds since 1970.
    pub since_ms: u64,
    /// Whether connections are intercepted.
    pub intercept: Intercept,
    /// Registries that are terminated where the caller trusts us.
    pub registries: Vec<String>,
    /// The store.
    pub store: Store,
    /// The peer network; `None` when this node keeps to itself.
    pub peers: Option<Peers>,
    /// Body bytes sent to runtimes since the start.
    pub bytes: Bytes,
    /// Destinations whose connections go directly.
    #[serde(default)]
    pub bypass: Vec<Bypassed>,
    /// What an operator should look at, each with what to do.
    pub warnings: Vec<String>,
}

/// Whether connections are intercepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intercept {
    /// A self-test of the last minute came through the kernel hooks.
    pub effective: bool,
    /// The operator has switched it off.
    pub off: bool,
    /// When it comes on again by itself, in seconds since 1970; `None` while on, and when only the operator's word ends it.
    #[serde(default)]
    pub off_until: Option<u64>,
    /// Where the hooks are attached.
    pub cgroup: String,
}

/// The store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// Complete blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The most bytes kept.
    pub quota: u64,
    /// Bytes of complete blobs besides, which containerd keeps.
    #[serde(default)]
    pub lent: u64,
}

/// The peer network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    /// This node's address.
    pub address: String,
    /// Other members that are known.
    pub members: Vec<String>,
    /// How many of them live and can be reached from here.
    pub reachable: u64,
    /// How many do not answer, and others are asked about them.
    pub suspect: u64,
    /// How many are gone, or said goodbye.
    pub gone: u64,
}

/// Bytes by where they came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// This node's store.
    pub store: u64,
    /// Other members.
    pub peer: u64,
    /// The registry.
    pub registry: u64,
}

/// Another member, as `waylay peers` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Where it listens.
    pub address: String,
    /// Whether it can be reached from here; `None` when it was not asked yet.
    pub reachable: Option<bool>,
    /// What the members believe of it: `unasked`, `living`, `suspect`, `gone` or `left`.
    pub standing: String,
}

/// A complete blob in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Its digest.
    pub digest: String,
    /// Its length in bytes.
    pub size: u64,
    /// The media type, for manifests.
    pub media_type: Option<String>,
    /// Where a registry has served it, as `registry/repository`.
    pub from: Vec<String>,
    /// Whether eviction leaves it alone.
    pub pinned: bool,
    /// Whose file holds its bytes; `None` when it is the store's own.
    #[serde(default)]
    pub lent_to: Option<String>,
    /// When it was first asked for, in seconds since 1970.
    pub created: u64,
}

/// What hashing a blob again has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Whether it is what its name says.
    pub intact: bool,
}

/// What an archive brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// The manifest that the image's name means, or the blob.
    pub digest: Digest,
}

/// What eviction leaves alone from now on, or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// Whether it does.
    pub pinned: bool,
    /// How many blobs.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// What eviction by the operator's word has removed, or would remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freed {
    /// Nothing was removed, it is only said what would be.
    pub dry_run: bool,
    /// The blobs, least recently used first.
    pub removed: Vec<Removed>,
    /// Bytes by which the store stays above its limits, because the rest is pinned or being written.
    pub above: u64,
}

/// A blob that eviction takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// Whether connections are intercepted, as the operator wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switched {
    /// New connections go directly to their registry, until `waylay on`.
    pub off: bool,
    /// When it comes on again by itself, in seconds since 1970; `None` when it does not.
    #[serde(default)]
    pub until: Option<u64>,
}

/// A destination whose connections go directly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bypassed {
    /// An address and port, or a registry's name.
    pub destination: String,
    /// `operator`, or `configuration` where only an edit and a restart change it.
    pub origin: String,
    /// When it ends by itself, in seconds since 1970; `None` when it does not.
    pub until: Option<u64>,
}

/// What became of the list of registries when the configuration was read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Those that are in force.
    pub registries: Vec<String>,
    /// Sections of the configuration that have changed, and that only a restart reads.
    pub restart: Vec<String>,
}

/// One of our certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The host that it is for.
    pub host: String,
    /// SHA-256 of it, in hexadecimal digits.
    pub fingerprint: String,
    /// From when it is valid, in seconds since 1970.
    pub not_before: u64,
    /// Until when it is valid, in seconds since 1970.
    pub not_after: u64,
    /// The files in which it stands, where runtimes look.
    pub files: Vec<String>,
}
