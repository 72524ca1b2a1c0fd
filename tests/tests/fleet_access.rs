//! A cache is no way round a registry's access control: what a client may have is what the registry would give it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use waylay::oci::Digest;
use waylay_tests::fleet::{Daemon, Fleet, Kind, Login, Node, Runtime};
use waylay_tests::image;
use waylay_tests::privilege::needed;

#[tokio::test]
async fn only_the_right_credential_opens_what_is_cached() -> Result<()> {
    if !needed("only_the_right_credential_opens_what_is_cached") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(2).image(&image, "team/app", "1").with_tokens().start().await?;
    let daemons = Daemon::on_all(fleet.nodes()).await?;
    let reference = fleet.registry().reference("team/app", "1");
    let [one, two] = fleet.nodes() else { anyhow::bail!("two nodes were asked for") };

    let containerd = Runtime::start(Kind::Containerd, one, Some(&daemons[0].trust_dir())).await?;
    containerd.pull_as(&reference, Some(&Login::right())).await?;
    containerd.holds(&image, &reference).await?;
    let egress = fleet.registry().blob_bytes()?;
    ensure!(daemons[0].counters().await?.bytes("registry") >= image.bytes(), "node1 did not pull through the daemon");

    for node in [one, two] {
        for kind in [Kind::Docker, Kind::Podman, Kind::Skopeo] {
            let runtime = Runtime::start(kind, node, None).await?;
            for login in [None, Some(Login::wrong())] {
                let sent: u64 = blob_bytes(&daemons, &image)?;
                let refused = runtime.pull_as(&reference, login.as_ref()).await;
                ensure!(refused.is_err(), "{kind} on {} pulled as {login:?}", node.name());
                assert_eq!(blob_bytes(&daemons, &image)?, sent, "{kind} on {} got bytes as {login:?}", node.name());
            }
        }
    }

    let skopeo = Runtime::start(Kind::Skopeo, two, None).await?;
    skopeo.pull_as(&reference, Some(&Login::right())).await?;
    skopeo.holds(&image, &reference).await?;
    let left = fleet.registry().blob_bytes()?;
    ensure!(left == egress, "the right user's second pull took {} bytes more from the registry", left - egress);
    fleet.passed()
}

/// Bytes of blobs that all daemons together have sent to clients, by their access lines.
fn blob_bytes(daemons: &[Daemon], image: &image::Image) -> Result<u64> {
    let mut sent = 0;
    for daemon in daemons {
        let lines = daemon.access()?;
        sent += lines
            .iter()
            .filter(|line| image.blobs().iter().any(|blob| blob.digest == line.digest))
            .map(|line| line.size)
            .sum::<u64>();
    }
    Ok(sent)
}

/// curl under a runtime's name, so that its requests are answered by the daemon, and under its own, so that they are not.
struct Curl<'a> {
    node: &'a Node,
    disguised: PathBuf,
    daemon: &'a Daemon,
}

/// What curl got.
#[derive(Debug, PartialEq, Eq)]
struct Got {
    status: u16,
    body: Vec<u8>,
}

impl<'a> Curl<'a> {
    fn on(node: &'a Node, daemon: &'a Daemon) -> Result<Self> {
        let disguised = node.entry().make_dir("tools")?.join("podman");
        fs::copy("/usr/bin/curl", &disguised).context("cannot copy curl")?;
        Ok(Self { node, disguised, daemon })
    }

    async fn by_way_of_us(&self, path: &str, arguments: &[&str]) -> Result<Got> {
        let mut command = self.node.entry().command(&self.disguised);
        command.env("SSL_CERT_DIR", format!("/etc/ssl/certs:{}", self.daemon.trust_dir().display()));
        Self::ask(command, path, arguments).await
    }

    async fn directly(&self, path: &str, arguments: &[&str]) -> Result<Got> {
        Self::ask(self.node.entry().command("curl"), path, arguments).await
    }

    async fn ask(mut command: std::process::Command, path: &str, arguments: &[&str]) -> Result<Got> {
        // Whom it trusts is not what is tested here.
        command.args(["--silent", "--show-error", "--insecure", "--path-as-is", "--max-time", "30"]);
        command.args(["--write-out", "%{stderr}%{http_code}"]).args(arguments);
        command.arg(format!("https://registry.test:5000{path}"));
        let output = tokio::process::Command::from(command).kill_on_drop(true).output().await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let status =
            said.trim().rsplit('\n').next().and_then(|last| last.get(last.len().checked_sub(3)?..)?.parse().ok());
        Ok(Got { status: status.with_context(|| format!("curl says {said:?}"))?, body: output.stdout })
    }
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

#[tokio::test]
async fn each_way_to_a_foreign_layer_ends_at_the_registrys_own_answer() -> Result<()> {
    if !needed("each_way_to_a_foreign_layer_ends_at_the_registrys_own_answer") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(2).image(&image, "team/app", "1").with_tokens().start().await?;
    let daemons = Daemon::on_all(fleet.nodes()).await?;
    let [one, two] = fleet.nodes() else { anyhow::bail!("two nodes were asked for") };
    let reference = fleet.registry().reference("team/app", "1");
    let skopeo = Runtime::start(Kind::Skopeo, one, None).await?;
    skopeo.pull_as(&reference, Some(&Login::right())).await?;

    // Bob has a repository, where he put a manifest that lists Alice's layer, as a registry that validates nothing lets him.
    let layer = image.layers().last().context("an image has layers")?;
    let listing = |urls: serde_json::Value| {
        let mut listed = json!({"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size});
        if !urls.is_null() {
            listed["urls"] = urls;
        }
        json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": image.blobs()[0].digest, "size": image.blobs()[0].size},
            "layers": [listed],
        })
    };
    let repository = fleet.registry().repository("other/home");
    for (tag, urls) in [("plain", json!(null)), ("urls", json!(["https://registry.test:5000/"]))] {
        let body = listing(urls).to_string();
        let file = fleet.dir().join(format!("{tag}.json"));
        fs::write(&file, &body)?;
        let hex = Digest::of(body.as_bytes()).hex();
        repository.manifest(&hex, &file)?;
        repository.tag(tag, &hex)?;
    }

    let tokens = |repository: &str, life| fleet.registry().token(repository, life);
    let (alice, bob, expired) = (tokens("team/app", 300)?, tokens("other/home", 300)?, tokens("team/app", -300)?);
    let digest = &layer.digest;
    let home = format!("/v2/other/home/blobs/{digest}");
    let path = format!("/v2/team/app/blobs/{digest}");
    for (node, daemon) in [one, two].into_iter().zip(&daemons) {
        let curl = Curl::on(node, daemon)?;
        for tag in ["plain", "urls"] {
            // Bob may read his manifests.
            let manifest = format!("/v2/other/home/manifests/{tag}");
            let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
            let got = curl.by_way_of_us(&manifest, &["-H", accept, "-H", &bearer(&bob)]).await?;
            ensure!(got.status == 200, "Bob's manifest: {}", got.status);
        }
        let (bearer_alice, bearer_bob, bearer_expired) = (bearer(&alice), bearer(&bob), bearer(&expired));
        let basic = format!("{}:{}", Login::other().user, Login::other().password);
        let dots = format!("/v2/other/home/../../team/app/blobs/{digest}");
        let coded = format!("/v2/other/home/%2e%2e/%2e%2e/team/app/blobs/{digest}");
        let doubled = format!("/v2//team/app/blobs/{digest}");
        let mount = format!("/v2/other/home/blobs/uploads/?mount={digest}&from=team/app");
        let attacks: &[(&str, &str, &[&str])] = &[
            ("nobody", &path, &[]),
            ("Bob at Alice's", &path, &["-H", &bearer_bob]),
            ("Bob at home", &home, &["-H", &bearer_bob]),
            ("Bob's part", &home, &["-H", &bearer_bob, "-r", "0-99"]),
            ("an expired token", &path, &["-H", &bearer_expired]),
            ("a password", &path, &["-u", &basic]),
            ("a made-up token", &path, &["-H", "Authorization: Bearer e30.e30.x"]),
            ("dots", &dots, &["-H", &bearer_bob]),
            ("dots in code", &coded, &["-H", &bearer_bob]),
            ("two slashes", &doubled, &["-H", &bearer_bob]),
            ("a mount", &mount, &["-H", &bearer_bob, "-X", "POST"]),
            ("two hosts", &path, &["-H", &bearer_bob, "-H", "Host: elsewhere.test"]),
            ("a cached answer", &path, &["-H", &bearer_bob, "-H", &format!("If-None-Match: \"{digest}\"")]),
        ];
        for (what, path, arguments) in attacks {
            let before = blob_bytes(&daemons, &image)?;
            let (ours, theirs) = (curl.by_way_of_us(path, arguments).await?, curl.directly(path, arguments).await?);
            ensure!(
                ours.status == theirs.status,
                "{what} on {}: {} and not {}",
                node.name(),
                ours.status,
                theirs.status
            );
            // The registry sends dots and slashes to the path that they mean, where Bob is refused.
            ensure!(ours.status >= 300 || *what == "a mount", "{what} on {}: {}", node.name(), ours.status);
            ensure!(ours.body.len() < 1024, "{what} on {}: {} bytes", node.name(), ours.body.len());
            let sent = blob_bytes(&daemons, &image)? - before;
            ensure!(sent < 1024, "{what} on {}: {sent} bytes of a blob", node.name());
        }
        // The same way is open to Alice: it was the daemon that answered all of them.
        let got = curl.by_way_of_us(&path, &["-H", &bearer_alice]).await?;
        ensure!(got.status == 200 && got.body.len() as u64 == layer.size, "Alice got {}", got.status);
        let by_curl = daemon.access()?.into_iter().filter(|line| line.program == "podman").collect::<Vec<_>>();
        ensure!(by_curl.len() >= 8, "not answered by the daemon: {by_curl:#?}");
        let last = by_curl.last().context("there are eight")?;
        ensure!(last.registry_bytes == 0 && last.status == 200, "Alice's was not from near: {last:#?}");
    }
    fleet.passed()
}

#[tokio::test]
async fn a_password_opens_what_it_opens_at_the_registry() -> Result<()> {
    if !needed("a_password_opens_what_it_opens_at_the_registry") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(1).image(&image, "team/app", "1").with_passwords().start().await?;
    let daemons = Daemon::on_all(fleet.nodes()).await?;
    let node = &fleet.nodes()[0];
    let skopeo = Runtime::start(Kind::Skopeo, node, None).await?;
    skopeo.pull_as(&fleet.registry().reference("team/app", "1"), Some(&Login::right())).await?;
    let curl = Curl::on(node, &daemons[0])?;
    let layer = image.layers().last().context("an image has layers")?;
    let path = format!("/v2/team/app/blobs/{}", layer.digest);
    for login in [Some(Login::wrong()), Some(Login::other()), None] {
        let pair = login.as_ref().map(Login::pair);
        let arguments: Vec<&str> = pair.iter().flat_map(|pair| ["-u", pair]).collect();
        let (ours, theirs) = (curl.by_way_of_us(&path, &arguments).await?, curl.directly(&path, &arguments).await?);
        ensure!(ours.status == 401 && theirs.status == 401 && ours.body.len() < 1024, "{login:?}: {}", ours.status);
    }
    let (pair, egress) = (Login::right().pair(), fleet.registry().blob_bytes()?);
    let got = curl.by_way_of_us(&path, &["-u", &pair]).await?;
    ensure!(got.status == 200 && got.body.len() as u64 == layer.size, "the right one: {}", got.status);
    ensure!(fleet.registry().blob_bytes()? == egress, "it came from the registry");
    fleet.passed()
}

#[tokio::test]
async fn nothing_listens_beyond_loopback_but_the_socket_for_members() -> Result<()> {
    if !needed("nothing_listens_beyond_loopback_but_the_socket_for_members") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(2).image(&image, "team/app", "1").start().await?;
    let _daemons = Daemon::on_all(fleet.nodes()).await?;
    for node in fleet.nodes() {
        let mut ss = node.entry().command("ss");
        ss.args(["-H", "-l", "-n", "-t", "-u", "-p"]);
        let told = String::from_utf8(ss.output()?.stdout)?;
        let ours: Vec<(&str, &str)> = told
            .lines()
            .filter(|line| line.contains("\"waylay\""))
            .filter_map(|line| {
                let mut fields = line.split_whitespace();
                Some((fields.next()?, fields.nth(3)?))
            })
            .collect();
        let is_loopback = |at: &str| at.starts_with("127.") || at.starts_with("[::1]");
        let open: Vec<_> = ours.iter().filter(|(_, at)| !is_loopback(at)).collect();
        ensure!(ours.iter().filter(|(kind, at)| *kind == "tcp" && is_loopback(at)).count() >= 3, "too few: {told}");
        ensure!(matches!(open[..], [("udp", _)]), "{} listens at {open:?}", node.name());
    }
    fleet.passed()
}
