//! What the daemon says of itself: whether it answers, intercepts, and reaches its peers.

use super::Check;
use crate::{
    admin::{
        client::{self, ClientError},
        status::{Peer, Status},
    },
    config::Config,
};

pub(super) fn checks(config: &Config) -> Vec<Check> {
    match ask(config) {
        Ok((status, peers)) => {
            let mut checks = vec![Check::pass("daemon", format!("{} runs as process {}", status.version, status.pid))];
            checks.push(intercepting(&status));
            if status.peers.is_some() {
                checks.push(reached(&peers));
            }
            checks
        }
        Err(error) => {
            let fix =
                "`systemctl restart waylay`; `journalctl -u waylay` says why it ended. Pulls go directly meanwhile";
            vec![Check::fail("daemon", error.to_string(), fix)]
        }
    }
}

fn ask(config: &Config) -> Result<(Status, Vec<Peer>), ClientError> {
    let socket = &config.admin.socket;
    client::ask(socket, async {
        let peers = client::fetch(socket, http::Method::GET, "/peers").await?;
        Ok((client::status(socket).await?, serde_json::from_slice(&peers)?))
    })
}

fn intercepting(status: &Status) -> Check {
    const NAME: &str = "intercepting";
    let intercept = &status.intercept;
    if intercept.off {
        Check::warn(NAME, "switched off by the operator", "`waylay on`")
    } else if intercept.effective {
        Check::pass(NAME, format!("a connection of the daemon's own came back to it, at {}", intercept.cgroup))
    } else {
        let saw = format!("a connection of the daemon's own did not come back to it, at {}", intercept.cgroup);
        let fix =
            "`journalctl -u waylay` says why; a cgroup program of somebody else, or a daemon outside the root cgroup?";
        Check::fail(NAME, saw, fix)
    }
}

fn reached(peers: &[Peer]) -> Check {
    const NAME: &str = "peers";
    // Who said goodbye is not expected to answer.
    let peers: Vec<_> = peers.iter().filter(|peer| peer.standing != "left").collect();
    let silent: Vec<&str> =
        peers.iter().filter(|peer| peer.reachable == Some(false)).map(|peer| peer.address.as_str()).collect();
    let count = peers.len();
    if count == 0 {
        let fix = "join another node with this one's token (`waylay install --join` there), or leave it at that";
        return Check::warn(NAME, "no other member is known", fix);
    }
    if silent.is_empty() {
        return Check::pass(NAME, format!("{count} known, none silent"));
    }
    let saw = format!("{} of {count} do not answer: {}", silent.len(), silent.join(", "));
    let fix = "see that waylay runs there with the same token, and that UDP to that port passes in both directions";
    if silent.len() == count { Check::fail(NAME, saw, fix) } else { Check::warn(NAME, saw, fix) }
}

#[cfg(test)]
mod tests {
    use super::{super::Outcome, *};

    #[test]
    fn one_silent_peer_is_a_warning_and_all_of_them_a_failure() {
        let peer = |reachable| Peer { address: "10.0.0.2:4500".to_owned(), reachable, standing: "living".to_owned() };
        assert_eq!(reached(&[peer(Some(true)), peer(None)]).outcome, Outcome::Pass);
        assert_eq!(reached(&[peer(Some(true)), peer(Some(false))]).outcome, Outcome::Warn);
        assert_eq!(reached(&[peer(Some(false))]).outcome, Outcome::Fail);
        assert_eq!(reached(&[]).outcome, Outcome::Warn);
    }
}
