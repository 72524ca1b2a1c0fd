//! `waylay peers`: the other members, and whether they answer.

use std::path::Path;

use comfy_table::{Table, presets::NOTHING};
use http::Method;

use crate::admin::{client, status::Peer};

/// Asks the daemon behind `socket` and prints what it says.
pub(super) fn peers(socket: &Path, json: bool) -> anyhow::Result<()> {
    let body = super::ask(client::fetch(socket, Method::GET, "/peers"))?;
    if json {
        println!("{}", String::from_utf8_lossy(&body));
    } else {
        println!("{}", shown(&serde_json::from_slice::<Vec<Peer>>(&body)?));
    }
    Ok(())
}

fn shown(peers: &[Peer]) -> String {
    if peers.is_empty() {
        return "no other member is known; `waylay install --join` on another node makes one".to_owned();
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["member", "answers"]);
    for peer in peers {
        let answers = match peer.reachable {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "not asked yet",
        };
        table.add_row([peer.address.as_str(), answers]);
    }
    super::without_trailing_blanks(&table.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_does_not_answer_is_seen() {
        let peer = |address: &str, reachable| Peer { address: address.to_owned(), reachable };
        let shown = shown(&[peer("10.0.0.2:4500", Some(true)), peer("10.0.0.3:4500", Some(false))]);
        assert_eq!(shown, " member         answers\n 10.0.0.2:4500  yes\n 10.0.0.3:4500  NO");
    }
}
