//! `waylay import`: images out of an archive into the store of a node that cannot reach their registry.

use std::{
    net::ToSocketAddrs as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use http::Method;
use http_body_util::BodyExt as _;
use indicatif::ProgressBar;
use serde::Serialize;

use super::{Ask, progress, size};
use crate::{
    admin::{
        client::{self, ClientError},
        status::Imported,
    },
    archive::{Archive, Image},
    oci::{Digest, image::ImageName},
};

/// An address of nobody (RFC 5737): connections to it are caught on their way out, and lead nowhere otherwise.
const NOBODY: &str = "192.0.2.1";

/// What to read.
#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// An OCI image layout in a tar archive, as these write it: `waylay export`, `skopeo copy … oci-archive:FILE:IMAGE`, `ctr
    /// images export`, and `podman save --format oci-archive`, whose layers are packed anew: pulls by digest do not find
    /// those. Not `docker save` before Docker 25.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The image's name, where the archive does not tell it.
    #[arg(long = "as", value_name = "IMAGE")]
    name: Option<ImageName>,
    #[command(flatten)]
    ask: Ask,
}

/// What became of one image.
#[derive(Debug, Serialize)]
struct Told {
    image: String,
    digest: Digest,
    blobs: usize,
    bytes: u64,
    absent: usize,
    /// Whether the registry's name has an address on this node.
    resolves: bool,
    /// Whether pulls from this registry are intercepted.
    listed: bool,
    #[serde(skip)]
    host: String,
    #[serde(skip)]
    registry: String,
}

impl Import {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let archive = Arc::new(Archive::open(&self.file)?);
        let named = self.names(&archive)?;
        let bytes = named.iter().flat_map(|(_, image)| &image.parts).map(|(_, size)| size).sum();
        let verifying = progress::bar("verifying", bytes);
        archive.verify(|read| verifying.inc(read))?;
        verifying.finish_and_clear();
        let bar = progress::bar("importing", bytes);
        let listed = super::ask(client::status(&self.ask.socket))?.registries;
        for (name, image) in &named {
            super::ask(import(&self.ask.socket, &archive, name, image, &bar))
                .with_context(|| format!("{name} was not imported; what was in the store before is as it was"))?;
        }
        bar.finish_and_clear();
        for (name, image) in named {
            let (host, port) = (name.registry.host.clone(), name.registry.port);
            let told = Told {
                image: name.to_string(),
                digest: image.top,
                blobs: image.parts.len(),
                bytes: image.parts.iter().map(|(_, size)| size).sum(),
                absent: image.absent,
                resolves: (host.as_str(), port).to_socket_addrs().is_ok_and(|mut found| found.next().is_some()),
                listed: listed.contains(&name.registry.to_string()),
                registry: name.registry.to_string(),
                host,
            };
            if self.ask.json {
                println!("{}", serde_json::to_string(&told)?);
            } else {
                print!("{}", shown(&told));
            }
        }
        Ok(())
    }

    fn names(&self, archive: &Archive) -> anyhow::Result<Vec<(ImageName, Image)>> {
        let images = archive.images.iter().cloned();
        match (&self.name, archive.images.len()) {
            (Some(name), 1) => Ok(images.map(|image| (name.clone(), image)).collect()),
            (Some(_), many) => bail!("the archive holds {many} images, and --as names one"),
            (None, _) => images
                .map(|image| {
                    let nameless = || {
                        let digest = image.top;
                        format!(
                            "the archive does not tell the whole name of {digest}; give it with --as REGISTRY/NAME:TAG"
                        )
                    };
                    Ok((image.name.clone().with_context(nameless)?, image))
                })
                .collect(),
        }
    }
}

async fn import(
    socket: &Path,
    archive: &Arc<Archive>,
    name: &ImageName,
    image: &Image,
    bar: &ProgressBar,
) -> Result<(), ClientError> {
    for (digest, size) in image.parts.iter().copied() {
        let (archive, told) = (archive.clone(), bar.clone());
        let chunks = futures_util::stream::try_unfold(0, move |at| {
            let chunk = archive.chunk(&digest, at).map_err(std::io::Error::other);
            std::future::ready(chunk.map(|chunk| {
                let next = at + chunk.len() as u64;
                told.inc(chunk.len() as u64);
                (!chunk.is_empty()).then(|| (chunk.freeze(), next))
            }))
        });
        client::upload(socket, &format!("/blobs/{digest}"), size, chunks.boxed()).await?.into_body().collect().await?;
    }
    let (target, words) = (format!("/images/{name}"), Imported { digest: image.top });
    client::order(socket, Method::PUT, &target, &words).await?.into_body().collect().await?;
    Ok(())
}

fn shown(told: &Told) -> String {
    let Told { image, digest, blobs, bytes, absent, resolves, listed, host, registry } = told;
    let mut text = format!("{image} is here: {blobs} blobs, {}, pinned\ndigest  {digest}\n", size(*bytes));
    if *absent > 0 {
        text.push_str(&format!(
            "without {absent} more manifests of its index, such as other platforms: not in the archive\n"
        ));
    }
    if !listed {
        text.push_str(&format!(
            "warning: {registry} is not listed, so pulls from it are not intercepted; `waylay registry add {registry}` lists it\n"
        ));
    }
    if !resolves {
        text.push_str(&format!(
            "warning: {host} has no address on this node, so no runtime will ask for it. This line in /etc/hosts gives it one\n\
             that leads nowhere, which is enough while waylay intercepts:\n\n    {NOBODY} {host}\n\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_to_pull_it_is_told() {
        let told = |there: bool| Told {
            image: "docker.io/library/debian:12".to_owned(),
            digest: Digest::of(b"top"),
            blobs: 3,
            bytes: 5 << 20,
            absent: usize::from(!there),
            resolves: there,
            listed: there,
            host: "registry-1.docker.io".to_owned(),
            registry: "registry-1.docker.io".to_owned(),
        };
        super::super::golden::same("import/shown.txt", &(shown(&told(true)) + "--\n" + &shown(&told(false))));
    }
}
