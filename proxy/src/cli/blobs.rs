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
        status::{Blob, Freed, Pinned, Removed, Verified},
    },
    oci::{digest::Digest, image::ImageName},
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
    /// Protect a blob, or all of an image that is here, from eviction. A restart does not change it.
    Pin(Pinning),
    /// Let eviction have it again.
    Unpin(Pinning),
    /// Evict to the store's limits now, the least recently used first.
    Gc {
        /// Only say what would go.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        ask: Ask,
    },
}

/// What to pin.
#[derive(Debug, clap::Args)]
pub(super) struct Pinning {
    /// A digest, `sha256:…`, or an image, such as docker.io/library/debian:12.
    #[arg(value_name = "DIGEST|IMAGE")]
    what: String,
    #[command(flatten)]
    ask: Ask,
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
            Self::Pin(pinning) => pin(&pinning, Method::PUT),
            Self::Unpin(pinning) => pin(&pinning, Method::DELETE),
            Self::Gc { dry_run, ask } => collect(dry_run, &ask),
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
    if let Some(file) = &blob.lent_to {
        println!("kept by  containerd, as {file}");
    }
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

fn pin(pinning: &Pinning, method: Method) -> anyhow::Result<()> {
    // An image's name is completed here, so that the daemon gets it whole.
    let what = match pinning.what.parse::<Digest>() {
        Ok(digest) => digest.to_string(),
        Err(_) => pinning.what.parse::<ImageName>()?.to_string(),
    };
    let body = super::ask(client::fetch(&pinning.ask.socket, method, &format!("/pins/{what}")))?;
    if pinning.ask.json {
        println!("{}", String::from_utf8_lossy(&body));
    } else {
        println!("{}", pinned(&what, &serde_json::from_slice(&body)?));
    }
    Ok(())
}

fn pinned(what: &str, done: &Pinned) -> String {
    let (word, bytes) = (if done.pinned { "pinned" } else { "no longer pinned" }, size(done.bytes));
    if done.blobs == 1 {
        format!("{what} is {word}: {bytes}")
    } else {
        format!("{what} is {word}: {} blobs, {bytes}", done.blobs)
    }
}

fn collect(dry_run: bool, ask: &Ask) -> anyhow::Result<()> {
    let method = if dry_run { Method::GET } else { Method::POST };
    let body = super::ask(client::fetch(&ask.socket, method, "/gc"))?;
    if ask.json {
        println!("{}", String::from_utf8_lossy(&body));
    } else {
        print!("{}", freed(&serde_json::from_slice(&body)?));
    }
    Ok(())
}

fn freed(done: &Freed) -> String {
    let (bytes, blobs) = (size(done.removed.iter().map(|one| one.size).sum()), done.removed.len());
    let mut text = match (blobs, done.dry_run) {
        (0, _) if done.above == 0 => "the store is within its limits, nothing has to go\n".to_owned(),
        (_, true) => format!("would free {bytes}: {blobs} blobs\n"),
        (_, false) => format!("freed {bytes}: {blobs} blobs\n"),
    };
    for Removed { digest, size: bytes } in &done.removed {
        text.push_str(&format!("  {digest}  {:>10}\n", size(*bytes)));
    }
    if done.above > 0 {
        text.push_str(&format!(
            "still {} above the limits: all else is pinned or being pulled; `waylay blobs unpin` lets pinned blobs go\n",
            size(done.above)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_and_what_was_freed_are_told() {
        let removed = vec![Removed { digest: Digest::of(b"layer"), size: 3 << 20 }];
        let text = [
            pinned("r.test/a:1", &Pinned { pinned: true, blobs: 3, bytes: 5 << 20 }) + "\n",
            pinned("sha256:…", &Pinned { pinned: false, blobs: 1, bytes: 5 }) + "\n",
            freed(&Freed { dry_run: false, removed: Vec::new(), above: 0 }),
            freed(&Freed { dry_run: true, removed: removed.clone(), above: 0 }),
            freed(&Freed { dry_run: false, removed, above: 1 << 20 }),
        ];
        super::super::golden::same("blobs/shown.txt", &text.concat());
    }

    #[test]
    fn the_list_tells_size_and_source() {
        let blob = Blob {
            digest: format!("sha256:{}", "a".repeat(64)),
            size: 3 << 20,
            media_type: None,
            from: vec!["r.test/a".to_owned(), "r.test/b".to_owned()],
            pinned: false,
            lent_to: None,
            created: 0,
        };
        let shown = table(&[blob]);
        let line = shown.lines().nth(1).unwrap();
        assert!(line.contains("3.0 MiB") && line.ends_with("r.test/a and 1 more"), "{shown}");
    }
}
