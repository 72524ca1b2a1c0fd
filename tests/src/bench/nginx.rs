//! nginx as Debian configures it, on one node, serving one directory over TLS.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::Pid;

use crate::fleet::process::Process;
use crate::fleet::{Fleet, Node, registry};
use crate::wait::eventually;

/// Where it listens inside the node: on loopback, as our proxy does, at a port that no registry uses.
pub(super) const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8443);

/// A running nginx. Dropping it stops it.
pub(super) struct Nginx {
    process: Process,
}

impl Nginx {
    /// Serves `root` from `node` with a certificate of the operator's authority for the registry's name, and waits until
    /// it listens.
    pub(super) async fn start(fleet: &Fleet, node: &Node, root: &Path) -> Result<Self> {
        let home = node.entry().make_dir("nginx")?;
        let leaf = fleet.authority().issue(registry::HOST)?;
        fs::write(home.join("leaf.pem"), &leaf.certificate).context("cannot write nginx's certificate")?;
        fs::write(home.join("leaf.key"), &leaf.key).context("cannot write nginx's key")?;
        let config = home.join("nginx.conf");
        fs::write(&config, configuration(&home, root)).context("cannot write nginx's configuration")?;
        let mut command = node.entry().command("nginx");
        command.arg("-c").arg(&config).arg("-e").arg("stderr");
        let started = node.entry().daemon("nginx", command).context("apt-get install nginx-light")?;
        let mut nginx = Self { process: started };
        eventually("nginx to listen", Duration::from_secs(10), async || {
            nginx.process.alive()?;
            Ok(node.namespace().connect(ADDRESS).ok().map(drop))
        })
        .await?;
        Ok(nginx)
    }

    /// The master process.
    pub(super) fn pid(&self) -> Pid {
        self.process.pid()
    }
}

/// What matters of Debian's /etc/nginx/nginx.conf: as many workers as processors, sendfile, tcp_nopush.
fn configuration(home: &Path, root: &Path) -> String {
    let (home, root) = (home.display(), root.display());
    format!(
        r"user root;
worker_processes auto;
daemon off;
pid {home}/pid;
events {{ worker_connections 768; }}
http {{
  sendfile on;
  tcp_nopush on;
  access_log off;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  server {{
    listen {ADDRESS} ssl;
    ssl_certificate {home}/leaf.pem;
    ssl_certificate_key {home}/leaf.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    root {root};
  }}
}}
"
    )
}
