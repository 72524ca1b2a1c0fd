//! `waylay pull`: brings images here before a runtime asks for them.

use std::{collections::HashMap, net::SocketAddr, path::PathBuf};

use anyhow::bail;
use futures_util::StreamExt as _;
use http::Method;
use http_body_util::BodyExt as _;
use indicatif::{MultiProgress, ProgressBar};

use super::{Ask, progress, size};
use crate::{
    admin::client::{self, ClientError},
    explain::{seconds, short},
    oci::{Digest, image::ImageName},
    preheat::{Login, Progress, kept},
    swarm::Pulling,
};

/// What to pull.
#[derive(Debug, clap::Args)]
pub(super) struct Pull {
    /// The images, such as docker.io/library/debian:12.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<ImageName>,
    /// Take logins from this file instead of where `podman login` and `docker login` leave them.
    #[arg(long, value_name = "FILE")]
    auth_file: Option<PathBuf>,
    /// Let all other members pull it at the same time, each with the login that it keeps itself (`pull.logins`).
    #[arg(long)]
    all_nodes: bool,
    #[command(flatten)]
    ask: Ask,
}

impl Pull {
    /// One image after the other; what failed is told at the end.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let (mut failed, mut unreached) = (0, 0);
        for image in &self.images {
            let login = match &self.auth_file {
                Some(file) => kept::in_file(&image.registry, file)?,
                None => kept::of_user(&image.registry)?,
            };
            let mut shown = Shown::default();
            super::ask(self.pull(image, login, &mut shown))?;
            if self.all_nodes && shown.members.is_none() && shown.done {
                bail!("the daemon asked no other member: it is older than this program, restart it");
            }
            failed += usize::from(!shown.done);
            unreached += shown.failed;
        }
        match (failed, unreached) {
            (0, 0) => Ok(()),
            (0, _) => bail!("{unreached} pulls by other members failed"),
            _ => bail!("{failed} of {} images were not pulled", self.images.len()),
        }
    }

    async fn pull(&self, image: &ImageName, login: Option<Login>, shown: &mut Shown) -> Result<(), ClientError> {
        let everywhere = if self.all_nodes { "?everywhere" } else { "" };
        let path = format!("/pulls/{image}{everywhere}");
        let answer = client::order(&self.ask.socket, Method::POST, &path, &login).await?;
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
}

/// A pull as people see it: bars on a terminal, and a line for what is done.
#[derive(Default)]
struct Shown {
    bars: MultiProgress,
    blobs: HashMap<Digest, (u64, ProgressBar)>,
    /// Members that were asked to pull it as well, those that have ended.
    members: Option<ProgressBar>,
    /// What the name means here.
    digest: Option<Digest>,
    done: bool,
    /// Members that failed.
    failed: usize,
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
                self.digest = Some(*digest);
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
                let from = sources(*store, *peer, *registry);
                Some(format!("{}  {:>10}  from {from}", short(&digest.to_string()), size(*bytes)))
            }
            Progress::Ordered { members } => {
                self.members = Some(self.bars.add(progress::count("members", *members)));
                Some(match members {
                    0 => "there are no other members".to_owned(),
                    _ => format!("other members that pull it, too: {members}"),
                })
            }
            Progress::Elsewhere { pulling: Pulling::Going { .. }, .. } => None,
            Progress::Elsewhere { member, pulling } => {
                self.members.iter().for_each(|bar| bar.inc(1));
                Some(self.elsewhere(*member, pulling))
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

    fn elsewhere(&mut self, member: SocketAddr, end: &Pulling) -> String {
        match end {
            Pulling::Done { digest, .. } if self.digest.is_some_and(|own| own != *digest) => {
                self.failed += 1;
                format!("{member} FAILED: there the name means {digest}; has the tag moved, or is its registry away?")
            }
            Pulling::Done { store, peer, registry, ms, .. } => {
                let from = sources(*store, *peer, *registry);
                format!("{member} has it after {}, from {from}", seconds(*ms))
            }
            Pulling::Failed(why) => {
                self.failed += 1;
                format!("{member} FAILED: {why}")
            }
            Pulling::Going { done, total } => format!("{member} has {} of {}", size(*done), size(*total)),
        }
    }

    /// Above the bars, on standard output.
    fn say(&self, text: &str) {
        self.bars.suspend(|| println!("{text}"));
    }
}

/// Who gave how much.
fn sources(store: u64, peer: u64, registry: u64) -> String {
    let given = [("store", store), ("peers", peer), ("registry", registry)];
    let given = given.into_iter().filter(|(_, bytes)| *bytes > 0);
    given.map(|(name, bytes)| format!("{} {name}", size(bytes))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_told_in_lines() {
        let (config, layer) = (Digest::of(b"config"), Digest::of(b"layer"));
        let image = "r.test/a:1".to_owned();
        let mut shown = Shown::default();
        let elsewhere = |n, pulling| Progress::Elsewhere { member: SocketAddr::from(([192, 0, 2, n], 4500)), pulling };
        let events = [
            Progress::Resolved {
                image: image.clone(),
                digest: Digest::of(b"top"),
                blobs: vec![(config, 500), (layer, 3 << 20)],
            },
            Progress::Bytes { digest: layer, done: 1 << 20 },
            Progress::Blob { digest: config, store: 500, peer: 0, registry: 0 },
            Progress::Blob { digest: layer, store: 0, peer: 1 << 20, registry: 2 << 20 },
            Progress::Ordered { members: 2 },
            elsewhere(2, Pulling::Going { done: 1 << 20, total: 3 << 20 }),
            elsewhere(
                2,
                Pulling::Done { digest: Digest::of(b"top"), store: 500, peer: 3 << 20, registry: 0, ms: 4321 },
            ),
            elsewhere(4, Pulling::Done { digest: layer, store: 500, peer: 0, registry: 0, ms: 1 }),
            elsewhere(3, Pulling::failed("r.test is not listed")),
            Progress::Done { image: image.clone(), digest: Digest::of(b"top"), ms: 1234 },
            Progress::Failed { image, why: "no such image".to_owned() },
        ];
        let lines: Vec<String> = events.iter().filter_map(|event| shown.next(event)).collect();
        super::super::golden::same("pull/shown.txt", &(lines.join("\n") + "\n"));
    }
}
