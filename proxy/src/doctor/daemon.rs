//! What the daemon says of itself: whether it answers, intercepts, reaches its peers, and what it passed through.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use http::Method;
use tokio::time::timeout;
use waylay_certs::RegistryName;

use super::{Check, handshakes::Handshakes};
use crate::{
    admin::{
        bypass::moment,
        client::{self, ClientError},
        status::{Peer, Status},
    },
    config::Config,
    preheat::Probed,
    telemetry::{ConnectionEvent, Event, millis},
    tls::Reason,
};

/// One that does not answer for so long is stopped or stuck. Its own proof of the hooks takes two seconds at most.
const PATIENCE: Duration = Duration::from_secs(5);
/// What was passed through longer ago does not matter now.
pub(super) const LATELY: Duration = Duration::from_secs(24 * 3600);
/// So many names that were passed through are asked whether they are registries.
const MOST: usize = 8;

/// What a daemon says.
pub(super) struct Said {
    status: Status,
    peers: Vec<Peer>,
    /// Why a connection of its own did not come back to it just now.
    unproven: Option<String>,
    /// Registries that are not listed and that runtimes pulled from lately, with whose pulls they were.
    passed: BTreeMap<RegistryName, String>,
    /// Those that runtimes have made with it lately.
    pub(super) handshakes: Handshakes,
}

impl Said {
    /// Registries that are not listed and that runtimes pulled from lately, with whose pulls they were; and the members.
    pub(super) fn seen(self) -> (BTreeMap<RegistryName, String>, Vec<SocketAddr>) {
        let members = self.peers.iter().filter(|peer| peer.standing != "left");
        (self.passed, members.filter_map(|peer| peer.address.parse().ok()).collect())
    }
}

/// Why there is no daemon to speak of.
#[derive(Debug, thiserror::Error)]
pub(super) enum Silence {
    #[error(transparent)]
    Asking(#[from] ClientError),
    #[error("it does not answer within {} s: it is stopped or stuck, and new connections go around it", PATIENCE.as_secs())]
    Stuck,
}

pub(super) fn ask(config: &Config) -> Result<Said, Silence> {
    client::ask(&config.admin.socket, async { Ok(said(config).await) })?
}

async fn said(config: &Config) -> Result<Said, Silence> {
    let socket = &config.admin.socket;
    let in_time = async {
        let peers = client::fetch(socket, Method::GET, "/peers").await?;
        let peers = serde_json::from_slice(&peers)?;
        let unproven = match client::fetch(socket, Method::POST, "/prove").await {
            Err(ClientError::Refused(why)) => Some(why),
            other => other.map(|_| None)?,
        };
        let journal = client::fetch(socket, Method::GET, "/journal").await?;
        Ok::<_, ClientError>((client::status(socket).await?, peers, unproven, journal))
    };
    let (status, peers, unproven, journal) = timeout(PATIENCE, in_time).await.map_err(|_| Silence::Stuck)??;
    let passed = registries(config, passed(config, &journal)).await;
    let handshakes = Handshakes::read(config, &journal);
    Ok(Said { status, peers, unproven, passed, handshakes })
}

/// Names that are not listed and that runtimes connected to lately.
fn passed(config: &Config, journal: &[u8]) -> BTreeMap<RegistryName, String> {
    let since = millis(SystemTime::now() - LATELY);
    let mut found = BTreeMap::new();
    for line in journal.split(|byte| *byte == b'\n') {
        let Ok(Event::Connection(event)) = serde_json::from_slice(line) else { continue };
        let ConnectionEvent { at_ms, program, destination, name: Some(host), reason, .. } = event else { continue };
        let port = destination.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let Some(Ok(name)) = port.map(|port| RegistryName::new(&host, port)) else { continue };
        if at_ms >= since && reason == Reason::Unlisted.name() && !config.registries.contains(&name) {
            found.insert(name, format!("pulls of {program}"));
        }
    }
    found
}

/// Those of them that answer as registries do: runtimes connect to token services and stores of blobs, too.
async fn registries(config: &Config, passed: BTreeMap<RegistryName, String>) -> BTreeMap<RegistryName, String> {
    let asked = passed.into_iter().take(MOST).map(|(name, whose)| async move {
        let target = format!("/registries/{name}");
        let probed = timeout(PATIENCE, client::fetch(&config.admin.socket, Method::GET, &target)).await.ok()?.ok()?;
        serde_json::from_slice::<Probed>(&probed).ok()?.is_registry().then_some((name, whose))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

pub(super) fn checks(asked: &Result<Said, Silence>) -> Vec<Check> {
    match asked {
        Ok(Said { status, peers, unproven, .. }) => {
            let mut checks = vec![Check::pass("daemon", format!("{} runs as process {}", status.version, status.pid))];
            checks.push(intercepting(status, unproven.as_deref()));
            checks.push(bypassed(status));
            if status.peers.is_some() {
                checks.push(reached(peers));
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

fn intercepting(status: &Status, unproven: Option<&str>) -> Check {
    const NAME: &str = "intercepting";
    let intercept = &status.intercept;
    match (intercept.off, unproven) {
        (true, _) => {
            let until = intercept.off_until.map_or_else(String::new, |until| format!(" until {}", moment(until)));
            Check::warn(NAME, format!("switched off by the operator{until}"), "`waylay on`")
        }
        (false, None) => Check::pass(
            NAME,
            format!("a connection of the daemon's own came back to it just now, at {}", intercept.cgroup),
        ),
        (false, Some(why)) => {
            let fix = "`systemctl restart waylay` attaches the hooks anew; if that does not mend it: a cgroup program of \
                       somebody else (`bpftool cgroup tree`), or a daemon outside the root cgroup?";
            Check::fail(NAME, format!("{why} (at {})", intercept.cgroup), fix)
        }
    }
}

/// What the configuration bypasses was meant to stay so; what an operator did in the night may have been forgotten.
fn bypassed(status: &Status) -> Check {
    const NAME: &str = "bypass";
    let theirs: Vec<_> = status.bypass.iter().filter(|one| one.origin == "operator").collect();
    if theirs.is_empty() {
        return Check::pass(NAME, "no destination is left alone by an operator's word");
    }
    let until = |until: Option<u64>| until.map_or_else(String::new, |until| format!(" until {}", moment(until)));
    let saw: Vec<String> = theirs.iter().map(|one| one.destination.clone() + &until(one.until)).collect();
    let fix: Vec<String> = theirs.iter().map(|one| format!("`waylay bypass rm {}`", one.destination)).collect();
    Check::warn(NAME, format!("left alone by an operator's word: {}", saw.join(", ")), fix.join(", "))
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

    #[test]
    fn only_what_is_not_listed_and_was_passed_lately_counts() {
        let config = Config::parse("registries = [\"listed.test\"]").unwrap();
        let now = millis(SystemTime::now());
        let line = |at: u64, name: &str, reason: &str| {
            format!(
                "{{\"event\":\"connection\",\"at_ms\":{at},\"program\":\"containerd\",\"destination\":\"10.0.0.9:443\",\
                 \"name\":{name:?},\"decision\":\"splice\",\"reason\":{reason:?},\"ms\":1}}\n"
            )
        };
        let journal = [
            line(now, "new.test", "unlisted"),
            line(now, "listed.test", "unlisted"),
            line(now, "trusts-us-not.test", "untrusted"),
            line(now - 25 * 3600 * 1000, "yesterday.test", "unlisted"),
            "cut by a cra".to_owned(),
        ];
        let found = passed(&config, journal.concat().as_bytes());
        let wanted = BTreeMap::from([("new.test".parse().unwrap(), "pulls of containerd".to_owned())]);
        assert_eq!(found, wanted);
    }
}
