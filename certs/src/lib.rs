//! All private-key handling of waylay, and nothing else: one self-signed identity per registry name, where each
//! runtime looks for it, and the secret of the cluster.
//!
//! There is no certificate authority here. A runtime that trusts one of these certificates trusts it for exactly one
//! name, and the certificate can sign nothing. No private key leaves this crate except inside a
//! [`rustls::sign::CertifiedKey`] or an [`iroh_base::SecretKey`], both of which can be used but not read by accident.
//!
//! Modules stand in the order of use: a module uses only what stands below it.

pub mod publish;
pub mod trust;

pub mod identity;
pub mod manifest;

pub mod cluster;
pub mod durable;
pub mod moment;
pub mod name;

pub use cluster::{ClusterSecret, JoinToken, TokenError, node_key};
pub use identity::{Identities, Identity, IdentityError};
pub use manifest::{Manifest, ManifestError, Purpose};
pub use name::{NameError, RegistryName};
pub use publish::{Publish, publish};
pub use trust::{Evidence, How, Process, evidence, runtime_roots};
