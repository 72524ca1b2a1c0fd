//! `waylay export`: an image out of the store into an archive.

use std::{
    io::{self, Read},
    path::PathBuf,
};

use bytes::{Buf as _, Bytes};
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::json;
use tokio::runtime::Runtime;

use super::{Ask, progress, size};
use crate::{
    admin::client,
    archive,
    content::image::Held,
    oci::{Digest, image::ImageName},
};

/// What to write where.
#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// The image, such as docker.io/library/debian:12. It must have been pulled through this node, or imported.
    image: ImageName,
    /// The archive to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    ask: Ask,
}

impl Export {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let target = format!("/images/{}", self.image);
        let held: Held = serde_json::from_slice(&super::ask(client::fetch(&self.ask.socket, Method::GET, &target))?)?;
        let bytes = held.parts.iter().map(|part| part.size).sum();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let bar = progress::bar("exporting", bytes);
        let mut source = Daemon { runtime, export: &self, bar: bar.clone() };
        archive::write(&self.output, &self.image, &held, &mut source)?;
        bar.finish_and_clear();
        if self.ask.json {
            let (image, digest) = (self.image.to_string(), held.top.digest);
            let told = json!({ "image": image, "digest": digest, "blobs": held.parts.len(), "bytes": bytes,
                "absent": held.absent, "file": self.output });
            println!("{told}");
        } else {
            print!("{}", shown(&self.image, &held, &self.output.display().to_string()));
        }
        Ok(())
    }
}

fn shown(image: &ImageName, held: &Held, file: &str) -> String {
    let bytes = held.parts.iter().map(|part| part.size).sum();
    let mut text = format!("{image} is in {file}: {} blobs, {}\n", held.parts.len(), size(bytes));
    text.push_str(&format!("digest  {}\n", held.top.digest));
    if !held.absent.is_empty() {
        let many = held.absent.len();
        text.push_str(&format!(
            "without {many} more manifests of its index, such as other platforms: not in the store\n"
        ));
    }
    text
}

/// The daemon's store, read blob by blob.
struct Daemon<'a> {
    runtime: Runtime,
    export: &'a Export,
    bar: indicatif::ProgressBar,
}

impl archive::Bytes for Daemon<'_> {
    fn open(&mut self, digest: &Digest) -> io::Result<impl Read> {
        let target = format!("/blobs/{digest}/bytes");
        let answer = self.runtime.block_on(client::get(&self.export.ask.socket, &target)).map_err(io::Error::other)?;
        Ok(Blob { runtime: &self.runtime, body: answer.into_body(), chunk: Bytes::new(), bar: self.bar.clone() })
    }
}

struct Blob<'a> {
    runtime: &'a Runtime,
    body: Incoming,
    chunk: Bytes,
    bar: indicatif::ProgressBar,
}

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.runtime.block_on(self.body.frame()) {
                None => return Ok(0),
                Some(frame) => self.chunk = frame.map_err(io::Error::other)?.into_data().unwrap_or_default(),
            }
        }
        let length = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..length]);
        self.bar.inc(length as u64);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::image::Part;

    #[test]
    fn what_was_left_out_is_told() {
        let part = |name: &[u8], size| Part { digest: Digest::of(name), size, media_type: None };
        let top = part(b"top", 500);
        let mut held = Held { top: top.clone(), parts: vec![top, part(b"layer", 3 << 20)], absent: Vec::new() };
        let image = "r.test/a:1".parse().unwrap();
        let all = shown(&image, &held, "a.tar");
        held.absent.push(Digest::of(b"other"));
        super::super::golden::same("export/shown.txt", &(all + "--\n" + &shown(&image, &held, "a.tar")));
    }
}
