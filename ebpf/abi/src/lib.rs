//! skeleton

/// The mark (SO_MARK) on every socket that waylay itself opens.
pub const OWN_MARK: u32 = 0x7761_796c;
