//! What can go wrong in the store, as values: a full or broken disk must never take a pull with it.

use std::{io, path::Path, sync::Arc};

use super::piece::Statement;
use crate::oci::digest::Digest;

/// Why the store could not do what was asked. Clonable, because every reader of an unfinished blob gets the same answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// The file or directory.
        path: Arc<Path>,
        /// What the system answered.
        source: Arc<io::Error>,
    },
    /// The quota or the low-disk watermark leaves no room: serve this blob without storing it.
    #[error("no room for {needed} bytes: {used} of {quota} are used and {free} bytes are free on the disk")]
    Full {
        /// Bytes asked for.
        needed: u64,
        /// Bytes that blobs and begun blobs already take.
        used: u64,
        /// The operator's limit.
        quota: u64,
        /// Bytes that the file system still has.
        free: u64,
    },
    /// The directory was written by a later version of this program. Nothing in it was touched.
    #[error(
        "the store in {dir} has format {found}, this program knows {known}: install the newer waylay, or name another directory"
    )]
    Newer {
        /// The store's directory.
        dir: Arc<Path>,
        /// What its version file says.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// The version file is not a number, so this may not be a store at all. Nothing was touched.
    #[error("{path} does not hold a format number: is this directory a waylay store?")]
    NotAStore {
        /// The version file.
        path: Arc<Path>,
    },
    /// Another process owns this directory.
    #[error("another process uses the store in {dir}: stop it, or name another directory")]
    Locked {
        /// The store's directory.
        dir: Arc<Path>,
    },
    /// The blob is already complete; `get` it.
    #[error("{0} is already held")]
    AlreadyHeld(Digest),
    /// Somebody reads or writes this blob under another size. One of the two was told a lie.
    #[error("{digest} is being fetched with {known} bytes, not {asked}")]
    SizeConflict {
        /// Which blob.
        digest: Digest,
        /// The size it was begun with.
        known: u64,
        /// The size asked for now.
        asked: u64,
    },
    /// Beyond what a piece map can describe.
    #[error("a blob of {0} bytes is larger than the store takes")]
    TooLarge(u64),
    /// There is no piece of that number.
    #[error("piece {0} is beyond the end of the blob")]
    NoSuchPiece(u32),
    /// The piece is present, or somebody else is writing it: wait for it.
    #[error("piece {0} is present or being written")]
    Taken(u32),
    /// More bytes than the piece has, or fewer when it was to be finished.
    #[error("piece {index} has {expected} bytes, not {got}")]
    Length {
        /// Which piece.
        index: u32,
        /// Its length.
        expected: u64,
        /// What was offered.
        got: u64,
    },
    /// The bytes are not those that the statement speaks of, or it speaks of something else.
    #[error("piece {index} of {digest} does not match its statement")]
    WrongPiece {
        /// Which blob.
        digest: Digest,
        /// Which piece.
        index: u32,
    },
    /// The bytes asked for are not there yet.
    #[error("bytes {offset}.. are not held yet")]
    Missing {
        /// The first of them.
        offset: u64,
    },
    /// All pieces came and the whole is not the blob. Its pieces are gone.
    #[error("the bytes do not add up to {digest}")]
    Mismatch {
        /// Which blob.
        digest: Digest,
        /// What had been stated about them.
        stated: Arc<[Statement]>,
    },
    /// The unfinished blob was thrown away by somebody else.
    #[error("{0} was discarded")]
    Discarded(Digest),
}

impl StoreError {
    /// For `map_err`: names the operation and the file. A full disk stays recognisable by [`is_full`](Self::is_full).
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, path: path.into(), source: Arc::new(source) }
    }

    /// Whether there was no room, by our own limits or by the disk's: pass through without storing.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}
