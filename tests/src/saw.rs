//! What a client saw, for the table of `cargo xtask test --tier faults`: a line on standard output, where that tier asks for it.

use std::{env, fmt::Display};

/// How such a line begins; `xtask/src/faults.rs` looks for it.
const SIGN: &str = "saw:";
/// The tier sets it.
const ASKED: &str = "WAYLAY_SAW";

/// Says that the client `who` saw `what`.
pub fn saw(who: impl Display, what: impl Display) {
    if env::var_os(ASKED).is_some() {
        println!("{SIGN} {who}: {what}");
    }
}

/// The same for a pull, whichever way it ended.
pub(crate) fn saw_pull<T, E: Display>(who: impl Display, image: &str, pulled: &Result<T, E>) {
    match pulled {
        Ok(_) => saw(who, format_args!("pulled {image}")),
        Err(error) => {
            saw(who, format_args!("{image} failed: {}", error.to_string().lines().next().unwrap_or_default()))
        }
    }
}
