//! The text of `/etc/waylay/config.toml`: a new one, or the operator's with what is missing added. What a person wrote there
//! stays as it is, comments included.

use std::{net::SocketAddr, path::PathBuf};

use bytesize::ByteSize;
use toml_edit::{Array, DocumentMut, Item, Table, value};
use waylay_certs::RegistryName;

/// How a file of ours begins.
const HEAD: &str = "\
# waylay's configuration, begun by `waylay install`; change it as you like. An upgrade adds and keeps.
# All keys: deploy/config.toml in the source. After a change: `waylay check`, then `systemctl restart waylay`.
";

/// What a configuration must say.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Registries that must be listed.
    pub registries: Vec<RegistryName>,
    /// Directories that certificates must be published in.
    pub certs_d: Vec<PathBuf>,
    /// The most bytes of blobs, if the default would be too many here; an operator's own number stays.
    pub quota: Option<ByteSize>,
    /// The peer network.
    pub swarm: Option<Swarm>,
    /// The node's zone; without one, an operator's own stays.
    pub zone: Option<String>,
}

/// This node's place in the peer network.
#[derive(Debug)]
pub(super) struct Swarm {
    /// The address that other members reach this node at.
    pub listen: SocketAddr,
    /// The token's file.
    pub token_file: PathBuf,
}

/// The file is not TOML.
#[derive(Debug, thiserror::Error)]
#[error("the configuration that is there cannot be read: {0}; mend it (`waylay check` shows the line) or move it away")]
pub struct Unreadable(#[from] toml_edit::TomlError);

/// The configuration that says what is `wanted`, made from the one that is there.
///
/// # Errors
/// When that is not TOML.
pub(super) fn configuration(there: Option<&str>, wanted: &Wanted) -> Result<String, Unreadable> {
    let mut document: DocumentMut = there.unwrap_or(HEAD).parse()?;
    let plain = listed(document.get("plain_http"));
    let names = wanted.registries.iter().filter(|name| !plain.contains(name)).map(written);
    add(&mut document, "registries", names.collect());
    if let Some(quota) = wanted.quota {
        table(&mut document, "store")
            .entry("quota")
            .or_insert_with(|| value(quota.display().iec().to_string().replace(' ', "")));
    }
    if let Some(swarm) = &wanted.swarm {
        let section = table(&mut document, "swarm");
        section.insert("listen", value(swarm.listen.to_string()));
        section.insert("token_file", value(swarm.token_file.display().to_string()));
    }
    if let Some(zone) = &wanted.zone {
        table(&mut document, "swarm").insert("zone", value(zone));
    }
    if !wanted.certs_d.is_empty() {
        add(
            table(&mut document, "trust"),
            "certs_d",
            wanted.certs_d.iter().map(|dir| dir.display().to_string()).collect(),
        );
    }
    Ok(document.to_string())
}

/// Which list of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// Registries that speak TLS.
    Tls,
    /// Those that speak plain HTTP.
    PlainHttp,
}

impl List {
    const fn key(self) -> &'static str {
        match self {
            Self::Tls => "registries",
            Self::PlainHttp => "plain_http",
        }
    }
}

/// The configuration `text` with a registry in a list.
///
/// # Errors
/// When it is not TOML.
pub fn listing(text: &str, list: List, name: &RegistryName) -> Result<String, Unreadable> {
    let mut document: DocumentMut = text.parse()?;
    add(&mut document, list.key(), vec![written(name)]);
    Ok(document.to_string())
}

/// The configuration `text` without a registry in a list.
///
/// # Errors
/// When it is not TOML.
pub fn unlisting(text: &str, list: List, name: &RegistryName) -> Result<String, Unreadable> {
    let mut document: DocumentMut = text.parse()?;
    if let Some(names) = document.get_mut(list.key()).and_then(Item::as_array_mut) {
        names.retain(|value| value.as_str().and_then(parsed).as_ref() != Some(name));
    }
    Ok(document.to_string())
}

/// A registry as people write it: `docker.io` for the host behind it.
fn written(name: &RegistryName) -> String {
    if name.is_docker_hub() { name.certs_d() } else { name.to_string() }
}

fn table<'a>(document: &'a mut DocumentMut, name: &str) -> &'a mut Table {
    let item = document.entry(name).or_insert_with(|| Item::Table(Table::new()));
    if !item.is_table() {
        // An inline table, or something that `Config` will refuse by name.
        let made = std::mem::take(item).into_table().unwrap_or_default();
        *item = Item::Table(made);
    }
    item.as_table_mut().unwrap_or_else(|| unreachable!("it was made a table above"))
}

/// Adds those of `names` that the list under `key` does not have.
fn add(table: &mut Table, key: &str, names: Vec<String>) {
    let item = table.entry(key).or_insert_with(|| value(Array::new()));
    let Some(list) = item.as_array_mut() else { return };
    let same = |a: &str, b: &str| a == b || parsed(a).is_some_and(|a| Some(a) == parsed(b));
    let fresh = list.is_empty();
    for name in names {
        if !list.iter().filter_map(|value| value.as_str()).any(|there| same(there, &name)) {
            list.push(name);
        }
    }
    // A long list of ours is written a line each; a list that a person began keeps its form.
    if fresh && list.len() > 4 {
        for value in list.iter_mut() {
            value.decor_mut().set_prefix("\n    ");
        }
        list.set_trailing("\n");
        list.set_trailing_comma(true);
    }
}

fn listed(item: Option<&Item>) -> Vec<RegistryName> {
    let names = item.and_then(Item::as_array).into_iter().flatten().filter_map(|value| value.as_str());
    names.filter_map(parsed).collect()
}

fn parsed(text: &str) -> Option<RegistryName> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(registries: &[&str]) -> Wanted {
        Wanted {
            registries: registries.iter().map(|name| name.parse().unwrap()).collect(),
            certs_d: vec!["/etc/docker/certs.d".into()],
            quota: Some(ByteSize::gib(3)),
            swarm: Some(Swarm { listen: "10.0.0.1:4500".parse().unwrap(), token_file: "/etc/waylay/token".into() }),
            zone: Some("rack-7".to_owned()),
        }
    }

    #[test]
    fn a_new_file_is_a_valid_configuration_and_a_second_run_changes_nothing() {
        let wanted = wanted(&["docker.io", "ghcr.io", "quay.io", "a.test:5000", "b.test"]);
        let text = configuration(None, &wanted).unwrap();
        let config = crate::config::Config::parse(&text).unwrap();
        assert_eq!(config.registries, wanted.registries);
        assert_eq!(config.trust.certs_d, wanted.certs_d);
        assert_eq!(config.store.quota, ByteSize::gib(3).as_u64());
        let swarm = config.swarm.unwrap();
        assert_eq!((swarm.listen, swarm.zone.as_str()), ("10.0.0.1:4500".parse().unwrap(), "rack-7"));
        assert!(text.contains("\"docker.io\""), "{text}");
        assert_eq!(configuration(Some(&text), &wanted).unwrap(), text);
    }

    #[test]
    fn what_a_person_wrote_stays() {
        let theirs = "# ours, do not touch\nregistries = [\"ghcr.io\"] # the team's\nplain_http = [\"p.test:5000\"]\n\n\
                      [store]\nquota = \"9GiB\"\n[swarm]\nlisten = \"10.0.0.9:4500\"\ntoken_file = \"/t\"\n\
                      members = [\"10.0.0.8:4500\"]\n";
        let mut wanted = wanted(&["ghcr.io", "b.test", "p.test:5000"]);
        (wanted.swarm, wanted.zone) = (None, None);
        let text = configuration(Some(theirs), &wanted).unwrap();
        assert!(
            text.starts_with("# ours, do not touch\nregistries = [\"ghcr.io\", \"b.test\"] # the team's\n"),
            "{text}"
        );
        assert!(text.contains("9GiB") && text.contains("10.0.0.9") && text.contains("10.0.0.8"), "{text}");
        crate::config::Config::parse(&text).unwrap();
    }

    #[test]
    fn a_registry_comes_and_goes_and_comments_stay() {
        let theirs =
            "# ours\nregistries = [\"docker.io\", \"ghcr.io\"] # the team's\n[store]\nquota = \"9GiB\" # enough\n";
        let name: RegistryName = "b.test:5000".parse().unwrap();
        let with = listing(theirs, List::Tls, &name).unwrap();
        assert!(with.contains("\"ghcr.io\", \"b.test:5000\"] # the team's"), "{with}");
        assert_eq!(listing(&with, List::Tls, &name).unwrap(), with);
        assert_eq!(unlisting(&with, List::Tls, &name).unwrap(), theirs);
        assert_eq!(unlisting(theirs, List::PlainHttp, &name).unwrap(), theirs);
        let plain = listing(theirs, List::PlainHttp, &name).unwrap();
        assert_eq!(crate::config::Config::parse(&plain).unwrap().plain_http, [name]);
        let without = unlisting(theirs, List::Tls, &"registry-1.docker.io".parse().unwrap()).unwrap();
        assert!(!without.contains("docker.io"), "{without}");
    }

    #[test]
    fn a_file_that_is_no_toml_is_not_replaced() {
        assert!(configuration(Some("registries = ["), &wanted(&[])).is_err());
    }
}
