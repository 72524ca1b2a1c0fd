//! `waylay blobs`: what the store holds.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::bail;
use clap::Subcommand;
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use http::Method;
use serde_json::json;

use super::{Ask, size};
use crate::{
    admin::{
        client,
        status::{Blob, Verified},
    },
    oci::digest::Digest,
};

/// Look at what the store holds.
#[derive(Debug, Subcommand)]
pub(super) enum Blobs {
    /// List the complete blobs, the largest first.
    Ls(Ask),
    /// Show one blob.
    Show(OneBlob),
    /// Hash blobs again: those that are named, or all.
    Verify {
        /// Digests, `sha256:…`.
        #[arg(value_name = "DIGEST")]
        digests: Vec<Digest>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Throw a blob away; the next pull fetches it again.
    Rm(OneBlob),
}

/// Which blob.
#[derive(Debug, clap::Args)]
pub(super) struct OneBlob {
    /// Its digest, `sha256:…`.
    digest: Digest,
    #[command(flatten)]
    ask: Ask,
}

impl Blobs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Ls(ask) => list(&ask),
            Self::Show(one) => show(&one),
            Self::Verify { digests, ask } => verify(&digests, &ask),
            Self::Rm(one) => remove(&one),
        }
    }
}

fn held(socket: &Path) -> anyhow::Result<Vec<Blob>> {
    let body = super::ask(client::fetch(socket, Method::GET, "/blobs"))?;
    let mut blobs: Vec<Blob> = serde_json::from_slice(&body)?;
    blobs.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.digest.cmp(&b.digest)));
    Ok(blobs)
}

fn list(ask: &Ask) -> anyhow::Result<()> {
    let blobs = held(&ask.socket)?;
    if ask.json {
        println!("{}", serde_json::to_string(&blobs)?);
    } else {
        println!("{}", table(&blobs));
    }
    Ok(())
}

fn table(blobs: &[Blob]) -> String {
    if blobs.is_empty() {
        return "the store holds no complete blob".to_owned();
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["digest", "size", "from"]);
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for blob in blobs {
        let from = match blob.from.as_slice() {
            [] => "-".to_owned(),
            [one] => one.clone(),
            [first, rest @ ..] => format!("{first} and {} more", rest.len()),
        };
        table.add_row([blob.digest.clone(), size(blob.size), from]);
    }
    super::without_trailing_blanks(&table.to_string())
}

fn show(one: &OneBlob) -> anyhow::Result<()> {
    let body = super::ask(client::fetch(&one.ask.socket, Method::GET, &format!("/blobs/{}", one.digest)))?;
    if one.ask.json {
        println!("{}", String::from_utf8_lossy(&body));
        return Ok(());
    }
    let blob: Blob = serde_json::from_slice(&body)?;
    println!("digest   {}", blob.digest);
    println!("size     {} ({} bytes)", size(blob.size), blob.size);
    println!("type     {}", blob.media_type.as_deref().unwrap_or("a layer or a configuration"));
    println!(
        "since    {}",
        humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(blob.created))
    );
    println!("pinned   {}", if blob.pinned { "yes" } else { "no" });
    for from in &blob.from {
        println!("from     {from}");
    }
    Ok(())
}

fn verify(digests: &[Digest], ask: &Ask) -> anyhow::Result<()> {
    let digests = match digests {
        [] => held(&ask.socket)?.into_iter().map(|blob| blob.digest).collect(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>(),
    };
    let mut damaged = 0;
    for digest in &digests {
        let body = super::ask(client::fetch(&ask.socket, Method::POST, &format!("/blobs/{digest}/verify")))?;
        let Verified { intact } = serde_json::from_slice(&body)?;
        damaged += usize::from(!intact);
        if ask.json {
            println!("{}", json!({ "digest": digest, "intact": intact }));
        } else {
            println!("{digest}  {}", if intact { "intact" } else { "DAMAGED" });
        }
    }
    if damaged > 0 {
        bail!(
            "{damaged} of {} blobs are damaged; `waylay blobs rm DIGEST` removes one, and look at the disk",
            digests.len()
        );
    }
    Ok(())
}

fn remove(one: &OneBlob) -> anyhow::Result<()> {
    let body = super::ask(client::fetch(&one.ask.socket, Method::DELETE, &format!("/blobs/{}", one.digest)))?;
    if one.ask.json {
        println!("{}", String::from_utf8_lossy(&body));
    } else {
        println!("{} removed", one.digest);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_tells_size_and_source() {
        let blob = Blob {
            digest: format!("sha256:{}", "a".repeat(64)),
            size: 3 << 20,
            media_type: None,
            from: vec!["r.test/a".to_owned(), "r.test/b".to_owned()],
            pinned: false,
            created: 0,
        };
        let shown = table(&[blob]);
        let line = shown.lines().nth(1).unwrap();
        assert!(line.contains("3.0 MiB") && line.ends_with("r.test/a and 1 more"), "{shown}");
    }
}
