//! `waylay pull`: brings images here before a runtime asks for them.

use std::{collections::HashMap, fs::File, path::PathBuf};

use anyhow::{Context as _, bail};
use docker_credential::{CredentialRetrievalError, DockerCredential};
use futures_util::StreamExt as _;
use http::Method;
use http_body_util::BodyExt as _;
use indicatif::{MultiProgress, ProgressBar};

use super::{Ask, progress, size};
use crate::{
    admin::client::{self, ClientError},
    explain::{seconds, short},
    oci::{Digest, image::ImageName},
    preheat::{Login, Progress},
};

/// What Docker Hub's logins are filed under.
const HUB: [&str; 2] = ["https://index.docker.io/v1/", "docker.io"];

/// What to pull.
#[derive(Debug, clap::Args)]
pub(super) struct Pull {
    /// The images, such as docker.io/library/debian:12.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<ImageName>,
    /// Take logins from this file instead of where `podman login` and `docker login` leave them.
    #[arg(long, value_name = "FILE")]
    auth_file: Option<PathBuf>,
    #[command(flatten)]
    ask: Ask,
}

impl Pull {
    /// One image after the other; what failed is told at the end.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut failed = 0;
        for image in &self.images {
            let login = self.login(image)?;
            let mut shown = Shown::default();
            super::ask(self.pull(image, login, &mut shown))?;
            failed += usize::from(!shown.done);
        }
        if failed > 0 {
            bail!("{failed} of {} images were not pulled", self.images.len());
        }
        Ok(())
    }

    async fn pull(&self, image: &ImageName, login: Option<Login>, shown: &mut Shown) -> Result<(), ClientError> {
        let answer = client::order(&self.ask.socket, Method::POST, &format!("/pulls/{image}"), &login).await?;
        let (mut body, mut pending) = (answer.into_body().into_data_stream(), Vec::new());
        while let Some(data) = body.next().await {
            pending.extend_from_slice(&data?);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let progress: Progress = serde_json::from_slice(&line)?;
                let text = shown.next(&progress);
                if self.ask.json {
                    print!("{}", String::from_utf8_lossy(&line));
                } else if let Some(text) = text {
                    shown.say(&text);
                }
            }
        }
        Ok(())
    }

    /// What the node's own runtime would show to the registry.
    fn login(&self, image: &ImageName) -> anyhow::Result<Option<Login>> {
        let name = image.registry.to_string();
        let keys = if image.registry.is_docker_hub() { HUB.map(str::to_owned).to_vec() } else { vec![name] };
        for key in keys {
            let found = match &self.auth_file {
                Some(path) => {
                    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
                    docker_credential::get_credential_from_reader(file, &key)
                }
                None => {
                    docker_credential::get_podman_credential(&key).or_else(|_| docker_credential::get_credential(&key))
                }
            };
            match found {
                Ok(DockerCredential::UsernamePassword(user, password)) => return Ok(Some(Login { user, password })),
                Ok(DockerCredential::IdentityToken(_)) => bail!(
                    "the login for {key} is an identity token, which is not supported; log in with a password or an access token"
                ),
                Err(CredentialRetrievalError::HelperFailure { helper, .. }) => {
                    bail!("the credential helper {helper} failed for {key}; try it by hand")
                }
                // No file, or nothing in it for this registry.
                Err(_) => {}
            }
        }
        Ok(None)
    }
}

/// A pull as people see it: bars on a terminal, and a line for what is done.
#[derive(Default)]
struct Shown {
    bars: MultiProgress,
    blobs: HashMap<Digest, (u64, ProgressBar)>,
    done: bool,
}

impl Shown {
    /// Moves the bars; the line that says what has come to an end.
    fn next(&mut self, progress: &Progress) -> Option<String> {
        match progress {
            Progress::Resolved { image, digest, blobs } => {
                for (digest, size) in blobs {
                    let bar = self.bars.add(progress::bar(short(&digest.to_string()), *size));
                    self.blobs.insert(*digest, (*size, bar));
                }
                Some(format!("{image} is {digest}"))
            }
            Progress::Bytes { digest, done } => {
                if let Some((_, bar)) = self.blobs.get(digest) {
                    bar.set_position(*done);
                }
                None
            }
            Progress::Blob { digest, store, peer, registry } => {
                let (bytes, bar) = self.blobs.get(digest)?;
                bar.finish_and_clear();
                let from = [("store", store), ("peers", peer), ("registry", registry)];
                let from: Vec<String> = from
                    .into_iter()
                    .filter(|(_, bytes)| **bytes > 0)
                    .map(|(name, bytes)| format!("{} {name}", size(*bytes)))
                    .collect();
                Some(format!("{}  {:>10}  from {}", short(&digest.to_string()), size(*bytes), from.join(", ")))
            }
            Progress::Done { image, ms, .. } => {
                self.done = true;
                Some(format!("{image} is here after {}", seconds(*ms)))
            }
            Progress::Failed { image, why } => {
                self.blobs.values().for_each(|(_, bar)| bar.finish_and_clear());
                Some(format!("{image} FAILED: {why}"))
            }
        }
    }

    /// Above the bars, on standard output.
    fn say(&self, text: &str) {
        self.bars.suspend(|| println!("{text}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_told_in_lines() {
        let (config, layer) = (Digest::of(b"config"), Digest::of(b"layer"));
        let image = "r.test/a:1".to_owned();
        let mut shown = Shown::default();
        let events = [
            Progress::Resolved {
                image: image.clone(),
                digest: Digest::of(b"top"),
                blobs: vec![(config, 500), (layer, 3 << 20)],
            },
            Progress::Bytes { digest: layer, done: 1 << 20 },
            Progress::Blob { digest: config, store: 500, peer: 0, registry: 0 },
            Progress::Blob { digest: layer, store: 0, peer: 1 << 20, registry: 2 << 20 },
            Progress::Done { image: image.clone(), digest: Digest::of(b"top"), ms: 1234 },
            Progress::Failed { image, why: "no such image".to_owned() },
        ];
        let lines: Vec<String> = events.iter().filter_map(|event| shown.next(event)).collect();
        super::super::golden::same("pull/shown.txt", &(lines.join("\n") + "\n"));
    }

    #[test]
    fn a_login_is_found_where_it_was_left_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        // "alice:secret"
        std::fs::write(&path, r#"{"auths":{"r.test:5000":{"auth":"YWxpY2U6c2VjcmV0"}}}"#).unwrap();
        let pull = |image: &str| Pull {
            images: vec![image.parse().unwrap()],
            auth_file: Some(path.clone()),
            ask: Ask { socket: PathBuf::new(), json: false },
        };
        let login = |image: &str| pull(image).login(&image.parse().unwrap()).unwrap();
        let found = login("r.test:5000/a:1").unwrap();
        assert_eq!((found.user.as_str(), found.password.as_str()), ("alice", "secret"));
        assert!(!format!("{found:?}").contains("secret"));
        assert!(login("other.test/a:1").is_none());
    }
}
