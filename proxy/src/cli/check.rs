//! `waylay check`: would this configuration do?

use std::path::Path;

/// Validates the file and shows what it resolves to; nothing is started or changed.
pub(super) fn check(path: &Path) -> anyhow::Result<()> {
    let config = super::load(path)?;
    println!("{config:#?}");
    println!("{}: valid", path.display());
    Ok(())
}
