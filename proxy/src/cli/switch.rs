//! `waylay off` and `waylay on`: the operator's switch, at once and without a restart.

use std::path::Path;

use http::Method;

use crate::admin::{client, status::Switched};

/// Switches the daemon behind `socket`.
pub(super) fn switch(socket: &Path, json: bool, off: bool) -> anyhow::Result<()> {
    let order = if off { "/off" } else { "/on" };
    let body = super::ask(client::fetch(socket, Method::POST, order))?;
    let Switched { off } = serde_json::from_slice(&body)?;
    match (json, off) {
        (true, _) => println!("{}", String::from_utf8_lossy(&body)),
        (false, true) => {
            println!("off: new connections go directly to their registry, also after a restart, until `waylay on`")
        }
        (false, false) => println!("on: new connections of runtimes that trust waylay are intercepted"),
    }
    Ok(())
}
