//! dockerd with everything of its own and no network for containers, asked by `docker pull`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::super::command::run;
use super::super::node::{Entry, Node};
use super::super::process::Process;
use super::super::registry::{HOST, PORT};
use super::{Login, finish, home, same_layers};
use crate::image::Image;
use crate::wait::eventually;

/// A running dockerd.
#[derive(Debug)]
pub struct Docker {
    process: Process,
    entry: Entry,
    home: PathBuf,
}

impl Docker {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// With the end of its log when it does not.
    pub async fn start(node: &Node) -> Result<Self> {
        let home = home(node, "docker")?;
        let entry = node.entry().clone();
        let mut command = entry.command("dockerd");
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=overlay2"]);
        command.arg("--data-root").arg(home.join("data")).arg("--exec-root").arg(home.join("exec"));
        command.arg("--pidfile").arg(home.join("pid")).arg("--host").arg(format!("unix://{}/sock", home.display()));
        let process = entry.daemon("dockerd", command)?;
        let mut started = Self { process, entry, home };
        eventually("dockerd to answer", Duration::from_secs(30), async || {
            started.process.alive()?;
            Ok(run(started.client().args(["version", "--format", "{{.Server.Version}}"])).ok())
        })
        .await?;
        Ok(started)
    }

    pub(super) async fn pull(&self, reference: &str, login: Option<&Login>) -> Result<()> {
        let mut docker = self.client();
        if let Some(login) = login {
            // What `docker login` leaves behind.
            let auth = json!({"auths": {format!("{HOST}:{PORT}"): {"auth": STANDARD.encode(login.pair())}}});
            std::fs::write(self.home.join("config.json"), auth.to_string())
                .context("cannot write docker's credentials")?;
            docker.env("DOCKER_CONFIG", &self.home);
        }
        docker.args(["pull", reference]);
        finish(docker).await.map(drop)
    }

    pub(super) async fn save(&self, reference: &str, file: &Path) -> Result<()> {
        let mut docker = self.client();
        docker.args(["save", "--output"]).arg(file).arg(reference);
        finish(docker).await.map(drop)
    }

    pub(super) async fn forget(&self, reference: &str) -> Result<()> {
        let mut docker = self.client();
        docker.args(["image", "rm", "--force", reference]);
        finish(docker).await.map(drop)
    }

    pub(super) async fn holds(&self, image: &Image, reference: &str) -> Result<()> {
        let mut docker = self.client();
        docker.args(["image", "inspect", "--format", "{{json .RootFS.Layers}}", reference]);
        same_layers(&finish(docker).await?, image)
    }

    fn client(&self) -> Command {
        let mut docker = self.entry.command("docker");
        docker.arg("--host").arg(format!("unix://{}/sock", self.home.display()));
        docker
    }
}
