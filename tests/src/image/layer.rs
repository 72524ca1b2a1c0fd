//! One layer: the files of some packages as a tar, packed and hashed while it is written.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// gzip, at its fastest level.
    Gzip,
    /// zstd, likewise.
    Zstd,
}

impl Packing {
    /// The media type of such a layer (OCI image spec, "layer media types").
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// A layer as written.
pub(super) struct Layer {
    /// `sha256:HEX` of the packed bytes.
    pub(super) digest: String,
    /// Length of the packed bytes.
    pub(super) size: u64,
    /// `sha256:HEX` of the tar inside.
    pub(super) diff_id: String,
}

/// Writes the files of `packages` to `to`.
pub(super) fn write(to: &Path, packages: &[&str], packing: Packing) -> Result<Layer> {
    let files = files_of(packages)?;
    let out = Hashing::new(BufWriter::new(File::create(to).with_context(|| format!("cannot make {}", to.display()))?));
    let (out, diff_id) = match packing {
        Packing::Gzip => {
            let packed = archive(Hashing::new(GzEncoder::new(out, Compression::fast())), &files)?;
            let diff_id = packed.digest();
            (packed.to.finish()?, diff_id)
        }
        Packing::Zstd => {
            let packed = archive(Hashing::new(zstd::Encoder::new(out, 1)?), &files)?;
            let diff_id = packed.digest();
            (packed.to.finish()?, diff_id)
        }
    };
    let (digest, size) = (out.digest(), out.written);
    out.to.into_inner().context("cannot write the layer")?;
    Ok(Layer { digest, size, diff_id })
}

/// The regular files and links of installed packages, each under its true path and in order.
fn files_of(packages: &[&str]) -> Result<BTreeSet<PathBuf>> {
    let listed =
        Command::new("dpkg-query").args(["--listfiles", "--"]).args(packages).output().context("dpkg-query")?;
    ensure!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let mut files = BTreeSet::new();
    for line in String::from_utf8(listed.stdout).context("a file name that is not text")?.lines() {
        let path = Path::new(line);
        // Some listed files are not there (an image of Debian without documentation), and /lib is a link to /usr/lib.
        let (Ok(meta), Some(Ok(parent)), Some(name)) =
            (path.symlink_metadata(), path.parent().map(Path::canonicalize), path.file_name())
        else {
            continue;
        };
        if meta.is_file() || meta.is_symlink() {
            files.insert(parent.join(name));
        }
    }
    ensure!(!files.is_empty(), "{packages:?} have no files");
    Ok(files)
}

fn archive<W: Write>(to: W, files: &BTreeSet<PathBuf>) -> Result<W> {
    let mut tar = Builder::new(to);
    let mut made = BTreeSet::new();
    for path in files {
        for dir in path.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            if dir != Path::new("/") && made.insert(dir.to_owned()) {
                let mut header = header(EntryType::Directory, 0, 0o755);
                tar.append_data(&mut header, relative(dir), io::empty())?;
            }
        }
        append(&mut tar, path).with_context(|| format!("cannot archive {}", path.display()))?;
    }
    Ok(tar.into_inner()?)
}

fn append<W: Write>(tar: &mut Builder<W>, path: &Path) -> io::Result<()> {
    let meta = path.symlink_metadata()?;
    if meta.is_symlink() {
        return tar.append_link(&mut header(EntryType::Symlink, 0, 0o777), relative(path), fs::read_link(path)?);
    }
    let mut header = header(EntryType::Regular, meta.len(), meta.permissions().mode() & 0o7777);
    tar.append_data(&mut header, relative(path), File::open(path)?)
}

/// A header without time and owner, so that equal packages make equal layers.
fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Passes bytes on, hashing and counting them.
struct Hashing<W> {
    to: W,
    hash: Sha256,
    written: u64,
}

impl<W> Hashing<W> {
    fn new(to: W) -> Self {
        Self { to, hash: Sha256::new(), written: 0 }
    }

    fn digest(&self) -> String {
        format!("sha256:{}", hex::encode(self.hash.clone().finalize()))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
