//! The wires: a namespace is the switch, each node hangs on it by a veth pair, and each pair can be shaped, cut and read.
//! Two switches can be joined by such a pair too.
//!
//! All addresses are inside namespaces; the machine's own network sees nothing of it.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::command::run;
use super::namespace::Namespace;

/// How the interfaces of a wire between two switches are called.
const TRUNK: &str = "trunk";
/// Length of the prefix of the fleet's network.
const PREFIX: u8 = 24;
/// TCP's congestion control on all wires: what Linux comes with, so that machines that are set otherwise measure the same. By route, because
/// a namespace may be set to the machine's own only.
const CONGESTION_CONTROL: &str = "cubic";

/// The address of the `host`-th machine, from 1 to 254.
#[must_use]
pub fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, host)
}

/// The switch: a bridge in a namespace of its own.
#[derive(Debug)]
pub struct Switch {
    namespace: Namespace,
}

impl Switch {
    /// Makes the switch `name` of the fleet called `fleet`.
    ///
    /// # Errors
    /// When the privilege is missing.
    pub fn create(fleet: &str, name: &str) -> Result<Self> {
        let namespace = Namespace::create(format!("{fleet}-{name}"))?;
        namespace.ip(&["link", "add", "br0", "type", "bridge"])?;
        namespace.ip(&["link", "set", "br0", "up"])?;
        Ok(Self { namespace })
    }

    /// Plugs `machine` in with `address`; the port at the switch bears the name `port` (at most 15 bytes).
    ///
    /// # Errors
    /// When the name or the address is taken.
    pub fn plug(&self, machine: &Namespace, port: &str, address: Ipv4Addr) -> Result<Link> {
        ensure!(port.len() <= 15, "{port} is too long for the name of an interface");
        let switch = self.namespace.name();
        // Both ends are born where they belong, so no name is ever taken in the machine's own namespace.
        machine.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", switch])?;
        machine.ip(&["address", "add", &format!("{address}/{PREFIX}"), "dev", "eth0"])?;
        machine.ip(&["link", "set", "eth0", "up"])?;
        let (network, own) = (format!("{}/{PREFIX}", self::address(0)), address.to_string());
        let route = ["route", "replace", &network, "dev", "eth0", "proto", "kernel", "scope", "link", "src", &own];
        machine.ip(&[&route[..], &["congctl", CONGESTION_CONTROL]].concat())?;
        self.namespace.ip(&["link", "set", port, "master", "br0", "up"])?;
        Ok(Link {
            machine: machine.name().to_owned(),
            interface: "eth0",
            switch: switch.to_owned(),
            port: port.to_owned(),
        })
    }

    /// Joins `other` to this one. To the wire between them, `other` is the machine.
    ///
    /// # Errors
    /// When they are joined already.
    pub fn join(&self, other: &Self) -> Result<Link> {
        let (here, there) = (&self.namespace, &other.namespace);
        there.ip(&["link", "add", TRUNK, "type", "veth", "peer", "name", TRUNK, "netns", here.name()])?;
        for end in [here, there] {
            end.ip(&["link", "set", TRUNK, "master", "br0", "up"])?;
        }
        let (machine, switch) = (there.name().to_owned(), here.name().to_owned());
        Ok(Link { machine, interface: TRUNK, switch, port: TRUNK.to_owned() })
    }
}

/// The wire between one machine, or another switch, and the switch. It goes away with either namespace.
#[derive(Debug, Clone)]
pub struct Link {
    machine: String,
    interface: &'static str,
    switch: String,
    port: String,
}

/// What went over a wire since it was made, in bytes with all headers, as the machine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Received by the machine.
    pub received: u64,
    /// Sent by the machine.
    pub sent: u64,
}

impl Traffic {
    /// What was added since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { received: self.received - earlier.received, sent: self.sent - earlier.sent }
    }
}

impl Link {
    /// Limits both directions to `rate`, in the notation of tc(8): `100mbit`, `1gbit`.
    ///
    /// # Errors
    /// When `tc` refuses.
    pub fn shape(&self, rate: &str) -> Result<()> {
        for (namespace, interface) in self.ends() {
            run(Command::new("tc")
                .args(["-n", namespace, "qdisc", "replace", "dev", interface, "root", "tbf"])
                .args(["rate", rate, "burst", "256k", "latency", "50ms"]))?;
        }
        Ok(())
    }

    /// Pulls the plug at the switch.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn cut(&self) -> Result<()> {
        self.set("down")
    }

    /// Puts it back.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn mend(&self) -> Result<()> {
        self.set("up")
    }

    /// The counters of the machine's interface.
    ///
    /// # Errors
    /// When `ip` refuses or speaks a tongue we don't know.
    pub fn traffic(&self) -> Result<Traffic> {
        let mut ip = Command::new("ip");
        let text = run(ip.args(["-n", &self.machine, "-s", "-j", "link", "show", "dev", self.interface]))?;
        parse(&text).with_context(|| format!("the counters of {}", self.machine))
    }

    /// What a shaped wire carried since it was shaped first. Unlike [`Self::traffic`], which takes a batch of packets
    /// that the kernel has not cut yet for one, this counts the headers of each.
    ///
    /// # Errors
    /// When the wire is not shaped.
    pub fn carried(&self) -> Result<Traffic> {
        let [sent, received] = self.ends().map(|(namespace, interface)| {
            let text = run(Command::new("tc").args(["-n", namespace, "-s", "-j", "qdisc", "show", "dev", interface]))?;
            through(&text).with_context(|| format!("the shaping of {interface} in {namespace}"))
        });
        Ok(Traffic { received: received?, sent: sent? })
    }

    /// The machine's end and the switch's.
    fn ends(&self) -> [(&str, &str); 2] {
        [(&self.machine, self.interface), (&self.switch, &self.port)]
    }

    fn set(&self, state: &str) -> Result<()> {
        run(Command::new("ip").args(["-n", &self.switch, "link", "set", &self.port, state])).map(drop)
    }
}

fn parse(json: &str) -> Result<Traffic> {
    #[derive(Deserialize)]
    struct Interface {
        stats64: Stats,
    }
    #[derive(Deserialize)]
    struct Stats {
        rx: Bytes,
        tx: Bytes,
    }
    #[derive(Deserialize)]
    struct Bytes {
        bytes: u64,
    }
    let interfaces: Vec<Interface> = serde_json::from_str(json).context("not what ip -j -s link says")?;
    let stats = &interfaces.first().context("no such interface")?.stats64;
    Ok(Traffic { received: stats.rx.bytes, sent: stats.tx.bytes })
}

/// What the token bucket in the output of `tc -s -j qdisc` has let through.
fn through(json: &str) -> Result<u64> {
    #[derive(Deserialize)]
    struct Qdisc {
        kind: String,
        bytes: u64,
    }
    let qdiscs: Vec<Qdisc> = serde_json::from_str(json).context("not what tc -s -j qdisc says")?;
    Ok(qdiscs.iter().find(|qdisc| qdisc.kind == "tbf").context("it is not shaped")?.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_counters_that_ip_prints() -> Result<()> {
        let json = r#"[{"ifname":"eth0","stats64":{"rx":{"bytes":7,"packets":1},"tx":{"bytes":9,"packets":2}}}]"#;
        let now = parse(json)?;
        assert_eq!(now, Traffic { received: 7, sent: 9 });
        assert_eq!(now.since(Traffic { received: 5, sent: 5 }), Traffic { received: 2, sent: 4 });
        Ok(())
    }

    #[test]
    fn reads_what_the_token_bucket_let_through() -> Result<()> {
        let json = r#"[{"kind":"tbf","handle":"8001:","root":true,"options":{},"bytes":42,"packets":3,"drops":0}]"#;
        assert_eq!(through(json)?, 42);
        assert!(through(r#"[{"kind":"noqueue","bytes":7}]"#).is_err());
        Ok(())
    }
}
