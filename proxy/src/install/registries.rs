//! Which registries this node pulls from: the public ones, those of the images that are already here, and those that its
//! runtimes are configured for. Only names that a TLS handshake can show are kept.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use waylay_certs::{RegistryName, publish::CERTS_D_FILE};

use super::host::Host;

/// Registries that many nodes pull from.
pub const PUBLIC: [&str; 12] = [
    "docker.io",
    "ghcr.io",
    "quay.io",
    "registry.k8s.io",
    "gcr.io",
    "public.ecr.aws",
    "mcr.microsoft.com",
    "registry.gitlab.com",
    "nvcr.io",
    "registry.access.redhat.com",
    "docker.elastic.co",
    "cgr.dev",
];

/// Directories with one directory for each registry.
pub const CERTS_D: [&str; 3] = ["/etc/docker/certs.d", "/etc/containers/certs.d", "/etc/containerd/certs.d"];

/// Where containerd answers, unless it was told otherwise.
const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// Where a registry was found, for the plan's reader.
pub type Found = BTreeMap<RegistryName, String>;

/// All registries of this node, each with the first place that named it, public ones aside.
pub fn found(host: &Host) -> Found {
    let mut found = Found::new();
    let mut add = |name: &str, place: &str| {
        // What logins to Docker Hub are filed under; nothing is pulled from there.
        let name = if name == "index.docker.io" { "docker.io" } else { name };
        if let Ok(name) = name.parse() {
            found.entry(name).or_insert_with(|| place.to_owned());
        }
    };
    for (image, place) in images(host) {
        if let Some(registry) = registry_of(&image) {
            add(registry, place);
        }
    }
    for dir in CERTS_D {
        // A directory that holds nothing but our certificate tells only what we knew.
        let theirs = |name: &String| host.list(format!("{dir}/{name}")).iter().any(|file| file != CERTS_D_FILE);
        for name in host.list(dir).iter().filter(|name| theirs(name)) {
            add(&without_underscores(name), dir);
        }
    }
    for (name, place) in configured(host) {
        add(&name, place);
    }
    found
}

/// References of images that runtimes hold.
fn images(host: &Host) -> Vec<(String, &'static str)> {
    let mut images = Vec::new();
    let mut add = |said: Option<String>, place: &'static str| {
        images.extend(said.iter().flat_map(|said| said.lines()).map(|line| (line.trim().to_owned(), place)));
    };
    // Without a daemon `ctr` tries for ten seconds.
    let containerd = host.path(CONTAINERD_SOCKET).exists();
    let namespaces =
        containerd.then(|| host.ask("ctr", &["namespaces", "list", "--quiet"])).flatten().unwrap_or_default();
    for namespace in namespaces.lines().map(str::trim).filter(|name| !name.is_empty()) {
        let said = host.ask("ctr", &["--namespace", namespace, "images", "list", "--quiet"]);
        add(said, "containerd's images");
    }
    add(host.ask("docker", &["images", "--format", "{{.Repository}}"]), "docker's images");
    add(host.ask("podman", &["images", "--format", "{{.Repository}}"]), "podman's images");
    images
}

/// The registry in a reference, by the rule that docker made and all follow: the part before the first slash, if it looks
/// like a host; else Docker Hub, which everybody has anyway.
fn registry_of(image: &str) -> Option<&str> {
    let (first, _) = image.split_once('/')?;
    let is_host = first.contains(['.', ':']) && !first.contains('@');
    is_host.then_some(first)
}

/// containerd's other spelling of `host:port`.
fn without_underscores(name: &str) -> String {
    match name.strip_suffix('_').and_then(|name| name.rsplit_once('_')) {
        Some((host, port)) => format!("{host}:{port}"),
        None => name.to_owned(),
    }
}

/// Names in the configuration files of the runtimes.
fn configured(host: &Host) -> Vec<(String, &'static str)> {
    const CONTAINERD: &str = "/etc/containerd/config.toml";
    const CONTAINERS: &str = "/etc/containers/registries.conf";
    const DOCKER: &str = "/etc/docker/daemon.json";
    const LOGINS: &str = "/root/.docker/config.json";
    let mut names = Vec::new();
    let mut add = |found: Vec<String>, place| names.extend(found.into_iter().map(|name| (name, place)));
    add(host.read(CONTAINERD).map(|text| containerd(&text)).unwrap_or_default(), CONTAINERD);
    add(host.read(CONTAINERS).map(|text| containers(&text)).unwrap_or_default(), CONTAINERS);
    let dropped = host.list(format!("{CONTAINERS}.d"));
    for file in dropped.iter().filter(|name| Path::new(name).extension().is_some_and(|end| end == "conf")) {
        add(host.read(format!("{CONTAINERS}.d/{file}")).map(|text| containers(&text)).unwrap_or_default(), CONTAINERS);
    }
    add(host.read(DOCKER).map(|text| mirrors(&text)).unwrap_or_default(), DOCKER);
    add(host.read(LOGINS).map(|text| logins(&text)).unwrap_or_default(), LOGINS);
    names
}

/// `registry.configs` of containerd's CRI plugin: hosts with their own TLS or credentials.
fn containerd(text: &str) -> Vec<String> {
    let Ok(table) = text.parse::<toml::Table>() else { return Vec::new() };
    let plugins = table.get("plugins").and_then(toml::Value::as_table);
    let registries = plugins.into_iter().flatten().filter_map(|(_, plugin)| plugin.get("registry"));
    let configs = registries.filter_map(|registry| registry.get("configs")?.as_table());
    configs.flat_map(|configs| configs.keys().cloned()).collect()
}

/// registries.conf(5): what images are looked up in, and what is said of single registries.
fn containers(text: &str) -> Vec<String> {
    #[derive(Deserialize, Default)]
    struct Conf {
        #[serde(default, rename = "unqualified-search-registries")]
        search: Vec<String>,
        #[serde(default)]
        registry: Vec<Registry>,
    }
    #[derive(Deserialize)]
    struct Registry {
        location: Option<String>,
        prefix: Option<String>,
        #[serde(default)]
        blocked: bool,
    }
    let conf: Conf = toml::from_str(text).unwrap_or_default();
    let of_one = conf.registry.into_iter().filter(|one| !one.blocked).filter_map(|one| one.location.or(one.prefix));
    let host = |name: String| name.split('/').next().map(str::to_owned);
    conf.search.into_iter().chain(of_one).filter_map(host).collect()
}

/// Docker's mirrors are registries that its pulls really go to.
fn mirrors(text: &str) -> Vec<String> {
    #[derive(Deserialize, Default)]
    struct Daemon {
        #[serde(default, rename = "registry-mirrors")]
        mirrors: Vec<String>,
    }
    let daemon: Daemon = serde_json::from_str(text).unwrap_or_default();
    let hosts = daemon.mirrors.iter().filter_map(|url| url.strip_prefix("https://")?.split('/').next());
    hosts.map(str::to_owned).collect()
}

/// Registries that somebody has logged in to. Only the names are read.
fn logins(text: &str) -> Vec<String> {
    #[derive(Deserialize, Default)]
    struct Config {
        #[serde(default)]
        auths: BTreeMap<String, serde::de::IgnoredAny>,
    }
    let config: Config = serde_json::from_str(text).unwrap_or_default();
    let host = |name: &String| Some(name.trim_start_matches("https://").split('/').next()?.to_owned());
    config.auths.keys().filter_map(host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_tells_its_registry() {
        for (image, registry) in [
            ("registry.test:5000/app/web:1", Some("registry.test:5000")),
            ("ghcr.io/a/b@sha256:00", Some("ghcr.io")),
            ("library/debian", None),
            ("debian:12", None),
            ("sha256:00", None),
        ] {
            assert_eq!(registry_of(image), registry, "{image}");
        }
        assert_eq!(without_underscores("registry.test_5000_"), "registry.test:5000");
        assert_eq!(without_underscores("ghcr.io"), "ghcr.io");
    }

    #[test]
    fn the_runtimes_own_files_are_understood() {
        let containerd_toml =
            "[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"a.test:5000\".tls]\nca_file = \"x\"";
        assert_eq!(containerd(containerd_toml), ["a.test:5000"]);
        let conf = "unqualified-search-registries = [\"docker.io\"]\n[[registry]]\nlocation = \"b.test/team\"\n\
                    [[registry]]\nprefix = \"c.test\"\nblocked = true\n";
        assert_eq!(containers(conf), ["docker.io", "b.test"]);
        assert_eq!(mirrors(r#"{"registry-mirrors": ["https://m.test/", "http://plain.test"]}"#), ["m.test"]);
        let config = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "c2VjcmV0"}, "d.test:5000": {}}}"#;
        assert_eq!(logins(config), ["d.test:5000", "index.docker.io"]);
    }

    #[test]
    fn nonsense_is_no_registry() {
        for text in ["", "{", "[[[", "\u{0}"] {
            assert!(containerd(text).is_empty() && containers(text).is_empty());
            assert!(mirrors(text).is_empty() && logins(text).is_empty());
        }
    }
}
