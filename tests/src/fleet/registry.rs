//! The registry: Debian's docker-registry on a machine of its own, with TLS by the operator's authority and, when asked,
//! behind a token server. What left it is read from its own access log, which nothing of ours can flatter.

mod log;
mod server;
mod storage;
mod token;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use serde_json::json;

pub use self::log::Served;
use self::server::Server;
pub use self::storage::Repository;
use self::token::Tokens;
use super::authority::{Authority, Leaf};
use super::node::{Entry, Node};
use super::process::Process;
use crate::image::Image;
use crate::wait::eventually;

/// The name by which every node knows it.
pub const HOST: &str = "registry.test";
/// Its port.
pub const PORT: u16 = 5000;
/// Where the token server listens, on the same machine.
const TOKEN_PORT: u16 = 5002;
/// `Login::right` as docker-registry wants it: bcrypt.
const HTPASSWD: &str = "alice:$2b$04$jF5IJXiRqcPhzkZoUIW83.QA2j.cLPLRm1F6HTQhg9Jj24ps2Rsl2\n";
/// A runtime that is not told otherwise finds the operator's authority here, inside a node.
const CERTS_D: &str = "/etc/docker/certs.d";
/// While this file is beside its configuration, it says that it is not well.
const UNWELL: &str = "unwell";
/// The operator's directory for `SSL_CERT_DIR`, inside a node.
const CA_DIR: &str = "/etc/operator/ca";

/// What kind of registry to start.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// Plain HTTP instead of TLS.
    pub plain: bool,
    /// Bearer tokens needed.
    pub tokens: bool,
    /// A password needed: that of `Login::right`.
    pub passwords: bool,
}

/// A running registry. Dropping it stops it.
#[derive(Debug)]
pub struct Registry {
    process: Process,
    tokens: Option<Tokens>,
    config: PathBuf,
    leaf: Leaf,
    /// What answers in its place.
    busy: Option<Server>,
    node: Node,
}

impl Registry {
    /// Starts it on `node` with `images` in its storage, and waits until it listens.
    pub(super) async fn start(
        node: Node,
        options: &Options,
        authority: &Authority,
        images: &[(Image, String, String)],
    ) -> Result<Self> {
        let entry = node.entry();
        let storage = entry.make_dir("storage")?;
        for (image, repository, tag) in images {
            storage::add(&Repository::new(&storage, repository), image, tag)?;
        }
        let leaf = authority.issue(HOST)?;
        let mut config = json!({
            "version": 0.1,
            "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": storage}, "delete": {"enabled": true}},
            "http": {"addr": format!("{}:{PORT}", node.address())},
            "health": {"file": [{"file": entry.dir().join(UNWELL), "interval": "1s"}]},
        });
        if !options.plain {
            config["http"]["tls"] = certificate_files(entry, &leaf)?;
        }
        let tokens = if options.tokens {
            let tokens = Tokens::start(node.listen(TOKEN_PORT)?, &leaf)?;
            config["auth"] = tokens.registry_config(HOST, TOKEN_PORT, &entry.dir().join("tokens.pem"))?;
            Some(tokens)
        } else {
            None
        };
        if options.passwords {
            let file = entry.dir().join("htpasswd");
            fs::write(&file, HTPASSWD).context("cannot write the registry's passwords")?;
            config["auth"] = json!({"htpasswd": {"realm": "the harness", "path": file}});
        }
        let path = entry.dir().join("registry.yml");
        // JSON is YAML.
        fs::write(&path, config.to_string()).context("cannot write the registry's configuration")?;
        let process = Self::launch(&node, &path).await?;
        Ok(Self { process, tokens, config: path, leaf, busy: None, node })
    }

    async fn launch(node: &Node, config: &PathBuf) -> Result<Process> {
        let mut command = node.entry().command("docker-registry");
        command.arg("serve").arg(config);
        let mut process = node.entry().daemon("registry", command)?;
        let address = SocketAddr::from((node.address(), PORT));
        eventually("the registry to listen", Duration::from_secs(10), async || {
            process.alive()?;
            Ok(node.namespace().connect(address).ok().map(drop))
        })
        .await?;
        Ok(process)
    }

    /// Stops it, as an outage would: connections break, new ones are refused.
    pub fn stop(&mut self) {
        self.process.kill();
    }

    /// Starts it again after [`Self::stop`]. Its log goes on where it ended.
    ///
    /// # Errors
    /// When it does not listen soon.
    pub async fn restart(&mut self) -> Result<()> {
        self.process = Self::launch(&self.node, &self.config).await?;
        Ok(())
    }

    /// Stops it, and answers 429 to everything in its place, with a `Retry-After` of so many seconds, until
    /// [`Self::calm`]: docker-registry has no limit of its own.
    ///
    /// # Errors
    /// When its port is not free.
    pub fn busy(&mut self, retry_after: u32) -> Result<()> {
        self.stop();
        self.busy = Some(Server::start(self.node.listen(PORT)?, &self.leaf, move |_| too_many(retry_after))?);
        Ok(())
    }

    /// Takes [`Self::busy`] back.
    ///
    /// # Errors
    /// As [`Self::restart`].
    pub async fn calm(&mut self) -> Result<()> {
        if let Some(server) = self.busy.take() {
            server.end().await;
        }
        self.restart().await
    }

    /// Starts it again with `leaf` as its certificate; its own comes back with [`Self::own_certificate`].
    ///
    /// # Errors
    /// As [`Self::restart`].
    pub async fn with_certificate(&mut self, leaf: &Leaf) -> Result<()> {
        self.stop();
        certificate_files(self.node.entry(), leaf)?;
        self.restart().await
    }

    /// Takes [`Self::with_certificate`] back.
    ///
    /// # Errors
    /// As [`Self::restart`].
    pub async fn own_certificate(&mut self) -> Result<()> {
        let leaf = self.leaf.clone();
        self.with_certificate(&leaf).await
    }

    /// Makes it answer 503 to everything, or no longer, within a second.
    ///
    /// # Errors
    /// When its mark cannot be made or removed.
    pub fn unwell(&self, unwell: bool) -> Result<()> {
        let mark = self.node.entry().dir().join(UNWELL);
        if unwell { fs::write(mark, "") } else { fs::remove_file(mark) }.context("the registry's health")
    }

    /// The machine it runs on.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// `HOST:PORT`, as in a reference.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{HOST}:{PORT}")
    }

    /// How an image is called by a client: `registry.test:5000/REPOSITORY:TAG`.
    #[must_use]
    pub fn reference(&self, repository: &str, tag: &str) -> String {
        format!("{HOST}:{PORT}/{repository}:{tag}")
    }

    /// Puts another image into its storage while it runs.
    ///
    /// # Errors
    /// When the files cannot be linked.
    pub fn add(&self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        storage::add(&self.repository(repository), image, tag)
    }

    /// A repository in its storage, to put things into while it runs.
    #[must_use]
    pub fn repository(&self, name: &str) -> Repository {
        Repository::new(&self.node.entry().dir().join("storage"), name)
    }

    /// What it has answered with success, in order, from its own log.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn served(&self) -> Result<Vec<Served>> {
        Ok(log::parse(&self.process.log()?))
    }

    /// Bytes of blobs that left it so far: what it wrote in answer to GETs of blobs, complete or cut.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn blob_bytes(&self) -> Result<u64> {
        Ok(self.served()?.iter().filter(|served| served.is_blob_get()).map(|served| served.written).sum())
    }

    /// A token for pulling from `repository`, good for `life` seconds from now; one below 0 is over already.
    ///
    /// # Errors
    /// Without a token server.
    pub fn token(&self, repository: &str, life: i64) -> Result<String> {
        self.tokens.as_ref().context("the registry has no token server")?.mint(repository, life)
    }

    /// How many tokens the token server has given; 0 without one.
    #[must_use]
    pub fn tokens_given(&self) -> usize {
        self.tokens.as_ref().map_or(0, Tokens::given)
    }
}

/// As the distribution specification has it.
fn too_many(retry_after: u32) -> Response<Full<Bytes>> {
    let body = json!({"errors": [{"code": "TOOMANYREQUESTS", "message": "too many requests"}]}).to_string();
    let mut reply = Response::new(Full::from(body));
    *reply.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    reply.headers_mut().insert(header::RETRY_AFTER, retry_after.into());
    reply
}

/// Tells every runtime of a node about the operator's authority, as the operator would. Nothing here knows of waylay.
pub(super) fn trust(entry: &Entry, authority: &Authority) -> Result<()> {
    entry.write(format!("{CERTS_D}/{HOST}:{PORT}/ca.crt"), authority.certificate())?;
    authority.publish(&entry.inside(CA_DIR))
}

/// `SSL_CERT_DIR` of a program that trusts this machine's authorities, the operator's, and what is in `more`.
pub(crate) fn ssl_cert_dir(more: Option<&std::path::Path>) -> String {
    let more = more.map(|dir| format!(":{}", dir.display())).unwrap_or_default();
    format!("/etc/ssl/certs:{CA_DIR}{more}")
}

fn certificate_files(entry: &Entry, leaf: &Leaf) -> Result<serde_json::Value> {
    let (certificate, key) = (entry.dir().join("leaf.pem"), entry.dir().join("leaf.key"));
    fs::write(&certificate, &leaf.certificate).context("cannot write the registry's certificate")?;
    fs::write(&key, &leaf.key).context("cannot write the registry's key")?;
    Ok(json!({"certificate": certificate, "key": key}))
}
