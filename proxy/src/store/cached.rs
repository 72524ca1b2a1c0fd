//! Reading what is in the page cache without ever waiting for the disk (preadv2(2), `RWF_NOWAIT`).

use std::{fs::File, io::IoSliceMut};

use rustix::io::{ReadWriteFlags, preadv2};

/// How many bytes at `offset` were there at once; `None` when none were, or when this file system cannot tell, or when
/// reading fails: whoever reads with patience then finds out why.
pub(super) fn read(file: &File, offset: u64, buffer: &mut [u8]) -> Option<usize> {
    let read = preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT);
    read.ok().filter(|&read| read > 0)
}
