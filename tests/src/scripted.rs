//! A registry in this process that does what a test's script says: serve, be slow, break off, lie, refuse; and a client
//! that pulls from it as the runtimes do. No runtime, no privilege and no disk is needed.
//!
//! ```no_run
//! # async fn example() {
//! use waylay_tests::scripted::{Fault, MIB, Registry, blobs, layers};
//! let registry = Registry::new().image("app:1", layers([8 * MIB])).start().await;
//! registry.fault(blobs().gets().first(1), Fault::CutAfter(MIB));
//! registry.client().pull("app:1").await.unwrap_err();
//! registry.client().pull("app:1").await.unwrap();
//! assert_eq!(registry.blob_gets(), 1 + 2);
//! # }
//! ```
//!
//! The servers are real ones, hyper over rustls on a free port of loopback. A panic inside one fails the test when the
//! server is dropped. Nothing here sleeps: a test stops an answer at a [`Gate`] and waits for what it wants to see.
#![allow(clippy::expect_used, reason = "this is code of tests: what it expects is the test's own doing")]

mod access;
mod authority;
mod cdn;
mod client;
mod cluster;
mod content;
mod door;
mod image;
mod log;
mod node;
mod place;
mod reply;
mod script;
mod server;
mod site;
mod wire;
mod witness;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use rustls::RootCertStore;
use waylay::oci::Digest;

pub use authority::{Authority, Identity, trusting};
pub use cdn::{Cdn, RunningCdn, Signer};
pub use client::{Client, ClientError, Pulled, Reply, Sending, request, request_with};
pub use cluster::Cluster;
pub use image::{Built, Image, KIB, MIB, Piece, layers, noise};
pub use log::Seen;
pub use node::{Node, Plan};
pub use place::{Kind, Place};
pub use script::{Fault, Gate, When, any, blob, blobs, manifests, repository, tags, tokens, when};
pub use server::Server;
pub use wire::Wire;

use access::{Access, Mode};
use content::Content;
use door::Doorway;
use script::Script;

/// A registry to be started. Without further words it is `registry.test`, over TLS, open to everyone, and empty.
pub struct Registry {
    doorway: Doorway,
    authority: Arc<Authority>,
    images: Vec<Built>,
    access: Access,
    script: Script,
    listen: SocketAddr,
}

/// A registry that listens, until it is dropped.
pub struct Running {
    server: Server,
    doorway: Doorway,
    authority: Arc<Authority>,
    content: Arc<Mutex<Content>>,
    access: Arc<Access>,
    images: Mutex<HashMap<String, Built>>,
}

impl Registry {
    /// An empty registry, `registry.test`.
    #[expect(clippy::new_without_default, reason = "a registry is begun with new and told more")]
    pub fn new() -> Self {
        Self {
            doorway: Doorway::new("registry.test"),
            authority: Arc::new(Authority::new()),
            images: Vec::new(),
            access: Access::new(),
            script: Script::default(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        }
    }

    /// At this address instead of a free port of 127.0.0.1.
    pub fn at(mut self, listen: SocketAddr) -> Self {
        self.listen = listen;
        self
    }

    /// Under another name.
    pub fn named(mut self, host: &str) -> Self {
        host.clone_into(&mut self.doorway.host);
        self
    }

    /// Certified by this authority instead of one of its own.
    pub fn certified_by(mut self, authority: Arc<Authority>) -> Self {
        self.authority = authority;
        self
    }

    /// Holding an image, named `repository:tag`.
    pub fn image(mut self, reference: &str, image: Image) -> Self {
        self.images.push(image.build(reference));
        self
    }

    /// With this fault from the start.
    pub fn with(self, when: When, fault: Fault) -> Self {
        self.script.add(when, fault);
        self
    }

    /// Speaking plain HTTP.
    pub fn plain_http(mut self) -> Self {
        self.doorway.plain = true;
        self.access.scheme = "http";
        self
    }

    /// Offering HTTP/1.1 alone.
    pub fn http1_only(mut self) -> Self {
        self.doorway.http1_only = true;
        self
    }

    /// With a certificate that was good until 2020.
    pub fn expired(mut self) -> Self {
        self.doorway.expired = true;
        self
    }

    /// With a certificate that signs itself.
    pub fn self_signed(mut self) -> Self {
        self.doorway.self_signed = true;
        self
    }

    /// Refusing clients without a certificate of its authority.
    pub fn wants_client_certificate(mut self) -> Self {
        self.doorway.client_certificate = true;
        self
    }

    /// Asking for a password (`Basic`).
    pub fn basic_auth(mut self) -> Self {
        self.access.mode = Mode::Basic;
        self
    }

    /// Asking for a token (`Bearer`), which its own `/token` hands out.
    pub fn token_auth(mut self) -> Self {
        self.access.mode = Mode::Bearer;
        self
    }

    /// With a user who may pull from these repositories.
    pub fn user<const N: usize>(mut self, name: &str, password: &str, repositories: [&str; N]) -> Self {
        let may = repositories.into_iter().map(str::to_owned).collect();
        self.access.users.insert(name.to_owned(), (password.to_owned(), may));
        self
    }

    /// With a repository that everyone may pull from, in spite of tokens or passwords.
    pub fn open(mut self, repository: &str) -> Self {
        self.access.open.insert(repository.to_owned());
        self
    }

    /// Starts it.
    pub async fn start(self) -> Running {
        let content = Arc::new(Mutex::new(Content::default()));
        let access = Arc::new(self.access);
        let site = site::Registry { content: content.clone(), access: access.clone() };
        let door = self.doorway.door(&self.authority);
        let server = Server::start("registry", self.listen, Box::new(site), self.script, door).await;
        let images = Mutex::default();
        let running = Running { server, doorway: self.doorway, authority: self.authority, content, access, images };
        self.images.into_iter().for_each(|image| running.insert(image));
        running
    }
}

impl Running {
    /// Its DNS name.
    pub fn host(&self) -> &str {
        &self.doorway.host
    }

    /// Its name as in an image reference, with the port.
    pub fn name(&self) -> String {
        format!("{}:{}", self.host(), self.addr().port())
    }

    /// Whether it speaks plain HTTP.
    pub fn is_plain(&self) -> bool {
        self.doorway.plain
    }

    /// What certified it.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A store that trusts its authority and nothing else.
    pub fn roots(&self) -> Arc<RootCertStore> {
        self.authority.roots()
    }

    /// A client that goes straight to it.
    pub fn client(&self) -> Client {
        Client::new(self.addr(), self.host(), self.addr().port(), (!self.is_plain()).then(|| self.roots()))
    }

    /// An image that it was given under this name.
    pub fn image(&self, reference: &str) -> Built {
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.get(reference).cloned().unwrap_or_else(|| panic!("the script has no image {reference}"))
    }

    /// Puts an image in, or another one under a name that is there.
    pub fn push(&self, reference: &str, image: Image) -> Built {
        let built = image.build(reference);
        self.insert(built.clone());
        built
    }

    /// Lets a tag name what another tag of the repository names.
    pub fn retag(&self, repository: &str, tag: &str, manifest: Piece) {
        self.content.lock().unwrap_or_else(PoisonError::into_inner).put_manifest(repository, tag, manifest);
    }

    /// Puts a blob in.
    pub fn put_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> Digest {
        self.content.lock().unwrap_or_else(PoisonError::into_inner).put_blob(repository, bytes.into())
    }

    /// Puts bytes in under a digest that is not theirs.
    pub fn put_blob_as(&self, repository: &str, digest: Digest, bytes: impl Into<Bytes>) {
        self.content.lock().unwrap_or_else(PoisonError::into_inner).put_blob_as(repository, digest, bytes.into());
    }

    /// A blob as it is held, to see what was pushed.
    pub fn held(&self, repository: &str, digest: &Digest) -> Option<Bytes> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner).blob(repository, digest)
    }

    /// Takes a blob or manifest out.
    pub fn remove(&self, repository: &str, digest: &Digest) {
        self.content.lock().unwrap_or_else(PoisonError::into_inner).remove(repository, digest);
    }

    /// A token for these repositories, without asking for it.
    pub fn token<const N: usize>(&self, repositories: [&str; N]) -> String {
        self.access.mint(repositories.into_iter().map(str::to_owned))
    }

    /// Makes all tokens so far worthless.
    pub fn revoke_tokens(&self) {
        self.access.revoke();
    }

    /// Meets new connections as a registry of this kind would: `|it| it` is as good as new. Only TLS or not and the
    /// certificates count.
    pub fn becomes(&self, change: impl FnOnce(Registry) -> Registry) {
        let doorway = change(Registry { doorway: self.doorway.clone(), ..Registry::new() }).doorway;
        self.server.set_door(doorway.door(&self.authority));
    }

    fn insert(&self, image: Built) {
        self.content.lock().unwrap_or_else(PoisonError::into_inner).put_image(&image);
        let reference = format!("{}:{}", image.repository, image.tag);
        self.images.lock().unwrap_or_else(PoisonError::into_inner).insert(reference, image);
    }
}

impl Deref for Running {
    type Target = Server;

    /// All that every scripted server counts and suffers.
    fn deref(&self) -> &Server {
        &self.server
    }
}

#[cfg(test)]
mod tests;
