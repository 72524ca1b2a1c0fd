//! Whom runtimes trust, by the only full proof: the TLS handshakes that they themselves have made with the daemon, as its
//! journal has them. A trial by another process would show what that one was started with.

use std::{collections::BTreeMap, time::SystemTime};

use waylay_certs::RegistryName;

use super::{Check, daemon::LATELY};
use crate::{
    config::Config,
    telemetry::{ConnectionEvent, Event, millis},
    tls::{Decision, Reason},
};

/// Whether the last handshake of a program for a registry ended well, by both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Handshakes(BTreeMap<(String, RegistryName), bool>);

impl Handshakes {
    /// Those with listed registries that the journal holds.
    pub(super) fn read(config: &Config, journal: &[u8]) -> Self {
        const NOT_ENDED: [Reason; 3] = [Reason::ClientRefused, Reason::ClientIncompatible, Reason::ClientStalled];
        let since = millis(SystemTime::now() - LATELY);
        let mut last = BTreeMap::new();
        for line in journal.split(|byte| *byte == b'\n') {
            let Ok(Event::Connection(event)) = serde_json::from_slice(line) else { continue };
            let ConnectionEvent { at_ms, program, destination, name: Some(host), decision, reason, .. } = event else {
                continue;
            };
            let port = destination.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
            let Some(Ok(name)) = port.map(|port| RegistryName::new(&host, port)) else { continue };
            if at_ms < since || decision != Decision::Terminate.name() || !config.registries.contains(&name) {
                continue;
            }
            let well = !NOT_ENDED.iter().any(|bad| bad.name() == reason);
            let newest = last.entry((program, name)).or_insert((at_ms, well));
            if newest.0 <= at_ms {
                *newest = (at_ms, well);
            }
        }
        Self(last.into_iter().map(|(whose, (_, well))| (whose, well)).collect())
    }

    pub(super) fn check(&self) -> Check {
        const NAME: &str = "handshakes";
        let refused: Vec<String> = self
            .0
            .iter()
            .filter(|(_, well)| !**well)
            .map(|((program, name), _)| format!("{program} for {name}"))
            .collect();
        if !refused.is_empty() {
            let saw = format!("our certificate was refused by {}; such pulls pass through", refused.join(", "));
            let fix = "restart the runtime, if it is one with a daemon, so that it reads whom it trusts again; if it refuses \
                       again, `waylay bypass add REGISTRY` spares it the trial, and please report it";
            return Check::fail(NAME, saw, fix);
        }
        // Connections are told when they end: that one was accepted may not be known yet.
        Check::pass(NAME, "no runtime has refused our certificate in a day")
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Outcome, *};

    #[test]
    fn the_last_handshake_of_each_decides() {
        let config = Config::parse("registries = [\"a.test\", \"b.test:5000\"]").unwrap();
        let now = millis(SystemTime::now());
        let line = |at: u64, program: &str, name: &str, port: u16, reason: &str| {
            let decision = Reason::ALL.iter().find(|known| known.name() == reason).unwrap().decision().name();
            format!(
                "{{\"event\":\"connection\",\"at_ms\":{at},\"program\":\"{program}\",\"destination\":\"10.0.0.9:{port}\",\
                 \"name\":{name:?},\"decision\":\"{decision}\",\"reason\":{reason:?},\"ms\":1}}\n"
            )
        };
        let check = |lines: &[String]| Handshakes::read(&config, lines.concat().as_bytes()).check();
        let mut lines = vec![
            line(now - 9, "podman", "a.test", 443, "client_refused"),
            line(now - 25 * 3600 * 1000, "ctr", "a.test", 443, "client_refused"),
            line(now, "curl", "other.test", 443, "client_refused"),
            line(now, "dockerd", "a.test", 443, "untrusted"),
            "cut by a cra".to_owned(),
        ];
        let refused = check(&lines);
        assert_eq!(refused.outcome, Outcome::Fail);
        assert!(refused.saw.contains("refused by podman for a.test;"), "{}", refused.saw);
        lines.insert(1, line(now, "podman", "a.test", 443, "verified"));
        lines.push("\n".to_owned() + &line(now, "containerd", "b.test", 5000, "last_good"));
        let accepted = check(&lines);
        assert_eq!(accepted.outcome, Outcome::Pass);
        lines.push(line(now + 1, "containerd", "b.test", 5000, "client_incompatible"));
        assert_eq!(check(&lines).outcome, Outcome::Fail);
        assert_eq!(check(&[]).outcome, Outcome::Pass);
    }
}
