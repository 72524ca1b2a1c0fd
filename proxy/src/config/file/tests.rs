//! What a configuration may say, and what the error says when it may not.

use super::*;

#[test]
fn an_empty_file_is_a_whole_configuration() {
    let config = resolve("", None).unwrap();
    assert_eq!(config.store.dir, Path::new("/var/lib/waylay/store"));
    assert_eq!(config.trust.directory, Path::new("/var/lib/waylay/trust"));
    assert!(config.swarm.is_none());
    assert!(config.proxy.listen.iter().all(|address| address.ip().is_loopback()));
}

#[test]
fn the_shipped_file_is_valid() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config.toml")).unwrap();
    resolve(&text, None).unwrap();
}

#[test]
fn errors_name_the_key_the_value_and_the_reason() {
    for (text, wanted) in [
        ("quota = \"1GiB\"", "quota"),
        ("[store]\nqouta = \"1GiB\"", "qouta"),
        ("[store]\nquota = \"1MiB\"", "store.quota = \"1.0 MiB\": must be at least 64MiB"),
        ("[store]\nquota = \"much\"", "quota"),
        ("[pull]\nregistry_rate = \"1MiB\"", "pull.registry_rate = \"1.0 MiB\": must be at least 4MiB"),
        ("[pull]\nregistry_rate = \"4GiB\"", "and less than 4GiB"),
        ("registries = [\"a b\"]", "registries = \"a b\""),
        ("state_dir = \"here\"", "state_dir = \"here\": must be an absolute path"),
        ("[proxy]\nlisten = [\"0.0.0.0:0\"]", "proxy.listen = \"0.0.0.0:0\": must be a loopback address"),
        ("[proxy]\nlisten = [\"[::1]:0\"]", "needs an IPv4 loopback address"),
        ("[proxy]\nmax_connections = 0", "must be at least 1"),
        ("[proxy]\nmax_memory = \"8MiB\"", "proxy.max_memory = \"8.0 MiB\": must be at least 64MiB"),
        ("[admin]\nlisten = \"192.0.2.1:1\"", "must be a loopback address"),
        ("[swarm]\nlisten = \"0.0.0.0:1\"\ntoken_file = \"/t\"", "swarm.listen"),
        ("[swarm]\nlisten = \"192.0.2.1:0\"\ntoken_file = \"/t\"", "needs a fixed port"),
        (
            "[swarm]\nlisten = \"192.0.2.1:1\"\ntoken_file = \"/t\"\nmembers = [\"waylay:1\"]",
            "swarm.members = \"waylay:1\": is neither IP:PORT nor dns:NAME:PORT",
        ),
        ("[store]\ncontainerd = \"yes\"", "store.containerd = \"yes\": must be \"found\""),
        ("[intercept]\nruntimes = [\"a-program-of-16-b\"]", "intercept.runtimes"),
        ("[log]\nfilter = \"a=b=c\"", "log.filter"),
        ("registries = [\"a.test\"]\nplain_http = [\"a.test\"]", "plain_http = \"a.test\""),
    ] {
        let error = resolve(text, None).unwrap_err().in_file(Path::new("/etc/waylay/config.toml")).to_string();
        assert!(error.contains(wanted) && error.contains("/etc/waylay/config.toml"), "{text}: {error}");
    }
}

#[test]
fn one_configuration_serves_many_nodes() {
    let listen = |text: &str, node_ip| {
        let text = format!("[swarm]\nlisten = \"{text}\"\ntoken_file = \"/t\"");
        resolve(&text, node_ip).map(|config| config.swarm.unwrap().listen.to_string())
    };
    assert_eq!(listen("0.0.0.0:4500", Some("192.0.2.7")).unwrap(), "192.0.2.7:4500");
    assert_eq!(listen("[::]:4500", Some("2001:db8::7")).unwrap(), "[2001:db8::7]:4500");
    assert_eq!(listen("192.0.2.1:4500", Some("192.0.2.7")).unwrap(), "192.0.2.1:4500", "what is written counts");
    for (node_ip, wanted) in [(None, "WAYLAY_NODE_IP"), (Some("node-7"), "WAYLAY_NODE_IP = \"node-7\"")] {
        let error = listen("0.0.0.0:4500", node_ip).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn what_is_shown_is_a_configuration_and_means_the_same() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config.toml")).unwrap();
    for text in ["", &text] {
        let config = resolve(text, None).unwrap();
        let shown = toml::to_string_pretty(&config).unwrap();
        let again = resolve(&shown, None).unwrap_or_else(|error| panic!("{error} in\n{shown}"));
        assert_eq!(format!("{again:?}"), format!("{config:?}"), "{shown}");
    }
}
