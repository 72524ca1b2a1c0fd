//! What commands print in rare cases, compared with files beside them. `UPDATE=1` in the environment writes those anew.

use std::{fs, path::Path};

/// Compares with `file` in this directory.
pub(super) fn same(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli").join(file);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, text).unwrap();
        return;
    }
    assert_eq!(text, fs::read_to_string(path).unwrap(), "UPDATE=1 writes {file} anew");
}
