//! `waylay peers`: the other members, whether they answer, and what the members believe of them.

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
    table.load_style(NOTHING).set_header(["member", "answers", "standing"]);
    for peer in peers {
        let answers = match peer.reachable {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "not asked yet",
        };
        table.add_row([peer.address.as_str(), answers, &peer.standing]);
    }
    super::without_trailing_blanks(&table.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_does_not_answer_is_seen() {
        let peer = |address: &str, reachable, standing: &str| Peer {
            address: address.to_owned(),
            reachable,
            standing: standing.to_owned(),
        };
        let shown =
            shown(&[peer("10.0.0.2:4500", Some(true), "living"), peer("10.0.0.3:4500", Some(false), "suspect")]);
        let lines: Vec<_> = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
        assert_eq!(lines[0], ["member", "answers", "standing"]);
        assert_eq!(lines[1], ["10.0.0.2:4500", "yes", "living"]);
        assert_eq!(lines[2], ["10.0.0.3:4500", "NO", "suspect"]);
    }
}
