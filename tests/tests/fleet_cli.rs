//! Every command as an operator meets it: what it really prints on a node of a fleet is in `tests/golden`, with what differs
//! from run to run masked. `UPDATE=1` writes those files anew.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;
use waylay_tests::fleet::{Daemon, Fleet, Kind, Node, Runtime, Said};
use waylay_tests::golden::{self, Masks};
use waylay_tests::image;
use waylay_tests::privilege::needed;
use waylay_tests::wait::eventually;

/// A node's operator, and what was typed so far.
struct Operator<'a> {
    daemon: &'a Daemon,
    masks: Masks,
}

/// Which options a command needs to find a daemon that is not in the usual place. An operator types none of them.
#[derive(Clone, Copy)]
enum Where {
    Socket,
    Config,
    Both,
    Neither,
}

impl Operator<'_> {
    fn types(&self, args: &[&str], place: Where) -> Result<String> {
        let mut command = self.daemon.command(args)?;
        if matches!(place, Where::Socket | Where::Both) {
            command.arg("--socket").arg(self.daemon.socket());
        }
        if matches!(place, Where::Config | Where::Both) {
            command.arg("--config").arg(self.daemon.config());
        }
        let said = Said::of(&command.output()?);
        Ok(golden::session(&format!("waylay {}", args.join(" ")), &said, &self.masks))
    }

    /// The commands one after the other are one golden file.
    fn shows(&self, name: &str, lines: &[(&[&str], Where)]) -> Result<()> {
        let said = lines.iter().map(|(args, place)| self.types(args, *place)).collect::<Result<Vec<_>>>()?;
        golden::same(name, &said.join("\n"))
    }
}

#[tokio::test]
async fn each_command_prints_what_its_golden_file_shows() -> Result<()> {
    if !needed("each_command_prints_what_its_golden_file_shows") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let mut fleet = Fleet::of(2).image(&image, "debian/app", "1").start().await?;
    let reference = fleet.registry().reference("debian/app", "1");
    let daemons = Daemon::on_all(fleet.nodes()).await?;
    let node = &fleet.nodes()[1];
    let runtime = Runtime::start(Kind::Containerd, node, Some(&daemons[1].trust_dir())).await?;
    let _first = Runtime::start(Kind::Containerd, &fleet.nodes()[0], Some(&daemons[0].trust_dir())).await?;
    let dir = fleet.dir().display().to_string();
    let masks = Masks::usual()?
        .and(&daemons[1].entry().dir().display().to_string(), "/NODE")
        .and(&node.cgroup().path().display().to_string(), "/CGROUP")
        .and(&dir, "/FLEET")
        .and(env!("CARGO_PKG_VERSION"), "VERSION");
    let operator = Operator { daemon: &daemons[1], masks };
    use Where::{Both, Config, Neither, Socket};

    large_buffers(node)?;
    daemons[0].says(&["pull", &reference])?;
    operator.shows("peers", &[(&["peers"], Socket)])?;
    operator
        .shows("pull", &[(&["pull", &reference], Socket), (&["pull", "registry.test:5000/debian/none:1"], Socket)])?;
    // In the order in which the nodes happened to end.
    let everywhere = operator.types(&["pull", "--all-nodes", &reference], Socket)?;
    let mut lines: Vec<&str> = everywhere.lines().collect();
    lines[1..].sort_unstable();
    golden::same("pull-all-nodes", &format!("{}\n", lines.join("\n")))?;
    operator.shows("cert", &[(&["cert", "ls"], Socket)])?;

    // What a runtime pulls is followed and explained.
    let (trace, record) = (fleet.dir().join("trace.txt"), fleet.dir().join("record.jsonl"));
    let mut command = operator.daemon.command(&["trace"])?;
    command.arg("--record").arg(&record).arg("--socket").arg(operator.daemon.socket());
    let mut following = command.stdout(fs::File::create(&trace)?).stdin(Stdio::null()).spawn()?;
    let followed = async || {
        // A request of the operator's own shows that somebody listens.
        let _ = operator.daemon.says(&["pull", "registry.test:5000/debian/none:1"]);
        Ok((fs::metadata(&trace)?.len() > 0).then_some(()))
    };
    eventually("the trace to be followed", Duration::from_secs(20), followed).await?;
    runtime.pull(&reference).await?;
    eventually("the pull to be seen", Duration::from_secs(20), async || {
        let seen = fs::read_to_string(&trace)?;
        let blobs = seen.lines().filter(|line| line.contains("containerd") && line.contains("GET blob")).count();
        Ok((blobs > image.layers().len()).then_some(()))
    })
    .await?;
    following.kill()?;
    following.wait()?;
    let text = fs::read_to_string(&trace)?;
    let mut lines: Vec<String> = text.lines().map(|line| operator.masks.on(line)).collect();
    // Requests only: connections are told when they end, and some outlast the pull.
    lines.retain(|line| line.contains("containerd") && line.contains("registry.test:5000/"));
    // In the order in which three layers happened to end.
    lines.sort();
    lines.dedup();
    golden::same("trace", &format!("$ waylay trace\n{}\n", lines.join("\n")))?;
    eventually("all of it to be in the journal", Duration::from_secs(20), async || {
        let told: serde_json::Value = serde_json::from_str(&operator.daemon.says(&["explain", "--json", &reference])?)?;
        Ok(told.to_string().contains("\"containerd\"").then_some(()))
    })
    .await?;
    explained(&operator, &reference)?;

    let digest = &image.layers()[0].digest;
    operator.shows(
        "blobs",
        &[
            (&["blobs", "show", digest], Socket),
            (&["blobs", "verify", digest], Socket),
            (&["blobs", "pin", &reference], Socket),
            (&["blobs", "unpin", &reference], Socket),
            (&["blobs", "gc", "--dry-run"], Socket),
            (&["blobs", "gc"], Socket),
            (&["blobs", "ls"], Socket),
            (&["blobs", "rm", digest], Socket),
            (&["blobs", "show", digest], Socket),
        ],
    )?;
    daemons[1].says(&["pull", &reference])?;
    let file = fleet.dir().join("app.tar").display().to_string();
    operator.shows(
        "export-import",
        &[
            (&["export", &reference, "-o", &file], Socket),
            (&["import", &file], Socket),
            (&["import", &file, "--as", "nowhere.test/app:1"], Socket),
            (&["import", &record.display().to_string()], Socket),
        ],
    )?;
    operator.shows(
        "registry",
        &[
            (&["registry", "ls"], Both),
            (&["registry", "add", "other.test"], Both),
            (&["registry", "add", "other.test"], Both),
            (&["registry", "ls"], Both),
            (&["registry", "rm", "other.test"], Both),
            (&["registry", "test", "registry.test:5000"], Socket),
            (&["registry", "test", "other.test"], Socket),
        ],
    )?;
    operator.shows(
        "off-on",
        &[
            (&["off"], Socket),
            (&["status"], Socket),
            (&["off", "--for", "1h"], Socket),
            (&["doctor"], Config),
            (&["on"], Socket),
            (&["off", "--for", "0s"], Socket),
        ],
    )?;
    operator.shows(
        "bypass",
        &[
            (&["bypass", "ls"], Socket),
            (&["bypass", "add", "192.0.2.1"], Socket),
            (&["bypass", "add", "registry.example.com:5000", "--for", "1h"], Socket),
            (&["bypass", "ls"], Socket),
            (&["status"], Socket),
            (&["bypass", "rm", "192.0.2.1"], Socket),
            (&["bypass", "rm", "192.0.2.1"], Socket),
            (&["bypass", "rm", "registry.example.com:5000"], Socket),
        ],
    )?;
    operator.shows("status", &[(&["status"], Socket), (&["status", "--json"], Socket)])?;
    operator.shows("doctor", &[(&["doctor"], Config), (&["doctor", "--json"], Config)])?;
    operator.shows("cert-rotate", &[(&["cert", "rotate"], Socket)])?;
    operator.shows("config", &[(&["config", "show"], Config), (&["check"], Config)])?;
    let token = fleet.dir().join("new-token").display().to_string();
    operator.shows(
        "token",
        &[
            (&["token", "new", "--addr", "192.0.2.11:4500", "--out", &token], Neither),
            (&["token", "show", &token], Neither),
            (&["token", "show", &record.display().to_string()], Neither),
        ],
    )?;
    operator.shows(
        "help",
        &[(&["--help"], Neither), (&["bypass", "add", "--help"], Neither), (&["completions", "none"], Neither)],
    )?;
    operator.shows("man", &[(&["man"], Neither)])?;

    fleet.registry_mut().stop();
    operator.shows("registry-away", &[(&["registry", "test", "registry.test:5000"], Socket)])?;
    operator.daemon.process().signal(nix::sys::signal::Signal::SIGKILL)?;
    eventually("nobody to answer", Duration::from_secs(10), async || {
        Ok((operator.daemon.told(&["status"])?.status == 69).then_some(()))
    })
    .await?;
    operator.shows(
        "no-daemon",
        &[(&["status"], Socket), (&["off"], Socket), (&["doctor"], Config), (&["registry", "ls"], Both)],
    )?;
    fleet.passed()
}

/// A kernel as `doctor` likes it, whatever this machine's is set to: files in the place of the figures.
fn large_buffers(node: &Node) -> Result<()> {
    let figure = node.entry().make_dir("large")?.join("figure");
    fs::write(&figure, "4194304\n")?;
    for name in ["rmem_max", "wmem_max"] {
        let mut mount = node.entry().command("mount");
        let done = mount.arg("--bind").arg(&figure).arg(format!("/proc/sys/net/core/{name}")).output()?;
        anyhow::ensure!(done.status.success(), "{done:?}");
    }
    Ok(())
}

/// Layers come in the order in which they ended, and reasons are told where something was slow: the lines that are always there.
fn explained(operator: &Operator, reference: &str) -> Result<()> {
    let text = operator.types(&["explain", reference], Where::Socket)?;
    let head = text.lines().take(4).collect::<Vec<_>>().join("\n");
    let mut rest: Vec<&str> =
        text.lines().skip(4).filter(|line| line.contains("blob  ") || line.contains(":4500  ")).collect();
    rest.sort_unstable();
    rest.dedup();
    golden::same("explain", &format!("{head}\n{}\n", rest.join("\n")))
}
