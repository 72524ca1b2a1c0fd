//! `waylay registry`: whose pulls are intercepted, and what a registry says.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use comfy_table::{Table, presets::NOTHING};
use http::Method;
use serde::Serialize;
use waylay_certs::{RegistryName, durable};

use super::Ask;
use crate::{
    admin::{
        client::{self, ClientError},
        status::Reloaded,
    },
    config::Config,
    install::{
        host::Host,
        registries,
        settings::{self, List},
    },
    preheat::Probed,
};

/// Look at and change whose pulls are intercepted.
#[derive(Debug, Subcommand)]
pub(super) enum Registry {
    /// List the registries, where each entry came from, and those that this node pulls from without being listed.
    Ls(Place),
    /// List a registry: in the configuration, and at once.
    Add {
        #[command(flatten)]
        one: One,
        /// It speaks plain HTTP.
        #[arg(long)]
        plain: bool,
    },
    /// Take a registry off the list: new connections to it go directly.
    Rm(One),
    /// Connect to a registry, as a pull on this node would, and tell what it says.
    Test {
        /// The registry.
        #[arg(value_name = "HOST[:PORT]")]
        name: RegistryName,
        /// Ask over plain HTTP, if it is not listed.
        #[arg(long)]
        plain: bool,
        #[command(flatten)]
        ask: Ask,
    },
}

/// The configuration and the daemon.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// The configuration file.
    #[arg(long, default_value = "/etc/waylay/config.toml", value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    ask: Ask,
}

/// One registry.
#[derive(Debug, clap::Args)]
pub(super) struct One {
    /// The registry, such as ghcr.io or registry.example:5000.
    #[arg(value_name = "HOST[:PORT]")]
    name: RegistryName,
    #[command(flatten)]
    place: Place,
}

/// A line of the list.
#[derive(Debug, Serialize)]
struct Entry {
    registry: String,
    /// `tls` or `http`.
    speaks: &'static str,
    /// Where the entry came from.
    origin: String,
    /// Whether the configuration lists it.
    listed: bool,
    /// Whether the daemon intercepts it; `None` when none answers.
    intercepted: Option<bool>,
}

impl Registry {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Ls(place) => list(&place),
            Self::Add { one, plain } => {
                let (list, other) = if plain { (List::PlainHttp, List::Tls) } else { (List::Tls, List::PlainHttp) };
                change(&one, true, |text| {
                    settings::listing(&settings::unlisting(text, other, &one.name)?, list, &one.name)
                })
            }
            Self::Rm(one) => change(&one, false, |text| {
                settings::unlisting(&settings::unlisting(text, List::Tls, &one.name)?, List::PlainHttp, &one.name)
            }),
            Self::Test { name, plain, ask } => test(&name, plain, &ask),
        }
    }
}

fn list(place: &Place) -> anyhow::Result<()> {
    let config = super::load(&place.config)?;
    let running = match super::ask(client::status(&place.ask.socket)) {
        Ok(status) => Some(status.registries),
        Err(error) if matches!(error.downcast_ref(), Some(ClientError::NotRunning { .. })) => None,
        Err(error) => return Err(error),
    };
    let entries = entries(&config, &registries::found(&Host::this()), running.as_deref());
    if place.ask.json {
        println!("{}", serde_json::to_string(&entries)?);
    } else {
        print!("{}", shown(&entries, &place.config));
    }
    Ok(())
}

fn entries(config: &Config, found: &registries::Found, running: Option<&[String]>) -> Vec<Entry> {
    let public =
        |name: &RegistryName| registries::PUBLIC.iter().any(|public| public.parse().is_ok_and(|it| *name == it));
    let entry = |name: &RegistryName, speaks, listed| Entry {
        registry: name.to_string(),
        speaks,
        origin: match found.get(name) {
            _ if public(name) => "built-in list".to_owned(),
            Some(place) => place.clone(),
            None => "configuration".to_owned(),
        },
        listed,
        intercepted: running.map(|running| running.contains(&name.to_string())),
    };
    let tls = config.registries.iter().map(|name| entry(name, "tls", true));
    let plain = config.plain_http.iter().map(|name| entry(name, "http", true));
    let known = |name: &&RegistryName| config.registries.contains(name) || config.plain_http.contains(name);
    let others = found.keys().filter(|name| !known(name)).map(|name| entry(name, "tls", false));
    tls.chain(plain).chain(others).collect()
}

fn shown(entries: &[Entry], config: &Path) -> String {
    if entries.is_empty() {
        return format!("no registry is listed in {}; `waylay registry add HOST` lists one\n", config.display());
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["registry", "speaks", "came from", "intercepted"]);
    for entry in entries {
        let intercepted = match (entry.listed, entry.intercepted) {
            (false, Some(true)) => "until `waylay registry rm`",
            (false, _) => "NO, not listed",
            (true, Some(true)) => "yes",
            (true, Some(false)) => "NO, listed after the daemon started",
            (true, None) => "when the daemon runs",
        };
        table.add_row([entry.registry.as_str(), entry.speaks, &entry.origin, intercepted]);
    }
    super::without_trailing_blanks(&table.to_string()) + "\n"
}

/// Changes the configuration, checks it, and lets the daemon read it again.
fn change(one: &One, add: bool, edit: impl FnOnce(&str) -> Result<String, settings::Unreadable>) -> anyhow::Result<()> {
    let One { name, place: Place { config, ask } } = one;
    let there = fs::read_to_string(config).with_context(|| format!("cannot read {}", config.display()))?;
    let text = edit(&there)?;
    Config::parse(&text)?;
    let changed = text != there;
    if changed {
        replace(config, &text).with_context(|| format!("cannot write {}", config.display()))?;
    }
    let reloaded = match super::ask(client::fetch(&ask.socket, Method::POST, "/reload")) {
        Ok(body) => Some(serde_json::from_slice::<Reloaded>(&body)?),
        Err(error) if matches!(error.downcast_ref(), Some(ClientError::NotRunning { .. })) => None,
        Err(error) => return Err(error.context("the configuration is changed, but the daemon did not take it")),
    };
    if ask.json {
        let told = serde_json::json!({ "registry": name.to_string(), "listed": add, "changed": changed,
            "reloaded": reloaded });
        println!("{told}");
    } else {
        print!("{}", changes(&name.to_string(), add, changed, reloaded.as_ref()));
    }
    Ok(())
}

fn changes(name: &str, add: bool, changed: bool, reloaded: Option<&Reloaded>) -> String {
    let mut text = match (add, changed) {
        (true, true) => format!("{name} is listed\n"),
        (true, false) => format!("{name} was listed already\n"),
        (false, true) => format!("{name} is no longer listed\n"),
        (false, false) => format!("{name} was not listed\n"),
    };
    match reloaded {
        None => text.push_str("no daemon runs; it counts from the next start on\n"),
        Some(_) if !add => text.push_str("new connections to it go directly; those that are open go on\n"),
        Some(_) => text.push_str(
            "its connections are intercepted for runtimes that read a certs.d directory from now on, for those that read\n\
             SSL_CERT_DIR from their next start on; `waylay doctor` shows which runtime is which\n",
        ),
    }
    if let Some(reloaded) = reloaded.filter(|reloaded| !reloaded.restart.is_empty()) {
        let sections = reloaded.restart.join(", ");
        text.push_str(&format!("also changed, and read only by a restart: {sections}; `systemctl restart waylay`\n"));
    }
    text
}

/// The file is there whole at all times, and as open as it was.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let path = fs::canonicalize(path)?;
    let mode = fs::metadata(&path)?.permissions().mode() & 0o7777;
    durable::write(&path, text.as_bytes(), mode)
}

fn test(name: &RegistryName, plain: bool, ask: &Ask) -> anyhow::Result<()> {
    let target = format!("/registries/{name}{}", if plain { "?plain" } else { "" });
    let body = super::ask(client::fetch(&ask.socket, Method::GET, &target))?;
    let probed: Probed = serde_json::from_slice(&body)?;
    if ask.json {
        println!("{}", String::from_utf8_lossy(&body));
    } else {
        print!("{}", seen(&probed));
    }
    if !probed.is_registry() {
        bail!("{name} did not answer as a registry does");
    }
    Ok(())
}

fn seen(probed: &Probed) -> String {
    let mut text = format!("registry   {}\n", probed.registry);
    let mut row = |name: &str, value: String| text.push_str(&format!("{name:<11}{value}\n"));
    row("listed", if probed.listed { "yes" } else { "no: its pulls are passed through" }.to_owned());
    if let Some(address) = &probed.address {
        row("address", address.clone());
    }
    if let Some(ms) = probed.connect_ms {
        let how = if probed.plain { "plain HTTP" } else { "TLS, certificate verified" };
        row("connected", format!("{how}, after {ms} ms"));
    }
    match (probed.status, &probed.challenge) {
        (Some(401), Some(challenge)) => row("/v2/", format!("401, wants a login: {challenge}")),
        (Some(status), _) => row("/v2/", status.to_string()),
        (None, _) => {}
    }
    if let Some(problem) = &probed.problem {
        row("problem", problem.clone());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_says_where_it_came_from_and_whether_it_counts() {
        let config = "registries = [\"docker.io\", \"a.test:5000\", \"b.test\"]\nplain_http = [\"p.test:5000\"]\n";
        let config = Config::parse(config).unwrap();
        let found = [("a.test:5000", "docker's images"), ("c.test", "/etc/docker/daemon.json")];
        let found = found.into_iter().map(|(name, place)| (name.parse().unwrap(), place.to_owned())).collect();
        let running = ["registry-1.docker.io", "a.test:5000"].map(str::to_owned);
        let all = shown(&entries(&config, &found, Some(&running)), Path::new("c.toml"));
        let probed = Probed {
            registry: "a.test:5000".to_owned(),
            listed: true,
            address: Some("10.0.0.9:5000".to_owned()),
            connect_ms: Some(12),
            status: Some(401),
            challenge: Some("Basic realm=\"a\"".to_owned()),
            ..Probed::default()
        };
        let broken =
            Probed { listed: false, status: None, connect_ms: None, problem: Some("…".to_owned()), ..probed.clone() };
        let reloaded = Reloaded { registries: Vec::new(), restart: vec!["store".to_owned()] };
        let text = [
            all,
            changes("a.test", true, true, Some(&reloaded)),
            changes("a.test", false, true, None),
            seen(&probed),
            seen(&broken),
        ];
        super::super::golden::same("registry/shown.txt", &text.join("--\n"));
    }

    #[test]
    fn the_configuration_stays_as_open_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, "a").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&path, "b").unwrap();
        assert_eq!(
            (fs::read_to_string(&path).unwrap().as_str(), fs::metadata(&path).unwrap().permissions().mode() & 0o777),
            ("b", 0o640)
        );
    }
}
