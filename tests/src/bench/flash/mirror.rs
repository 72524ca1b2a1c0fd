//! What operators use today: one docker-registry as a pull-through mirror, on a node of its own, with nothing in it.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::fleet::process::Process;
use crate::fleet::registry::{self, HOST, PORT};
use crate::fleet::{Fleet, Node};
use crate::wait::eventually;

/// A running mirror. Dropping it stops it.
pub(super) struct Mirror {
    _process: Process,
    address: SocketAddr,
}

impl Mirror {
    /// Starts one on `node` whose storage, called `name`, is empty, and waits until it listens.
    pub(super) async fn start(fleet: &Fleet, node: &Node, name: &str) -> Result<Self> {
        let home = node.entry().make_dir(name)?;
        let address = SocketAddr::from((node.address(), PORT));
        let leaf = fleet.authority().issue(HOST)?;
        let (certificate, key) = (home.join("leaf.pem"), home.join("leaf.key"));
        fs::write(&certificate, &leaf.certificate).context("cannot write the mirror's certificate")?;
        fs::write(&key, &leaf.key).context("cannot write the mirror's key")?;
        let config = json!({
            "version": 0.1,
            "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": home.join("storage")}},
            "http": {"addr": address, "tls": {"certificate": certificate, "key": key}},
            "proxy": {"remoteurl": format!("https://{}", fleet.registry().name())},
        });
        let path = home.join("mirror.yml");
        // JSON is YAML.
        fs::write(&path, config.to_string()).context("cannot write the mirror's configuration")?;
        let mut command = node.entry().command("docker-registry");
        command.arg("serve").arg(&path).env("SSL_CERT_DIR", registry::ssl_cert_dir(None));
        let mut process = node.entry().daemon(name, command)?;
        eventually("the mirror to listen", Duration::from_secs(10), async || {
            process.alive()?;
            Ok(node.namespace().connect(address).ok().map(drop))
        })
        .await?;
        Ok(Self { _process: process, address })
    }

    /// Where clients reach it, as `HOST:PORT`.
    pub(super) fn at(&self) -> String {
        self.address.to_string()
    }
}
