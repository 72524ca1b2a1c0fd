//! At its limit the daemon steps aside: what comes then goes directly to the registry, and later pulls are caught again,
//! without anybody's help.

use std::time::Duration;

use anyhow::{Result, ensure};
use waylay_tests::fleet::daemon::Settings;
use waylay_tests::fleet::{Daemon, Fleet, Kind, Runtime};
use waylay_tests::image;
use waylay_tests::privilege::needed;
use waylay_tests::wait::eventually;

#[tokio::test]
async fn a_daemon_at_its_limit_of_connections_fails_no_pull_and_comes_back() -> Result<()> {
    at_the_limit("max_connections = 1").await
}

/// Three pulls at once with this in the section `[proxy]`, and then one of each that is caught again.
async fn at_the_limit(limit: &str) -> Result<()> {
    if !needed(&format!("at_the_limit({limit})")) {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(1).links("400mbit").image(&image, "debian/app", "1").start().await?;
    let node = &fleet.nodes()[0];
    let reference = fleet.registry().reference("debian/app", "1");
    let settings = Settings { more: format!("[proxy]\n{limit}\n"), ..Settings::default() };
    let daemons = Daemon::on_all_with(fleet.nodes(), &settings).await?;
    let daemon = &daemons[0];
    let mut runtimes = Vec::new();
    for kind in Kind::THREE {
        runtimes.push(Runtime::start(kind, node, Some(&daemon.trust_dir())).await?);
    }

    let [one, two, three] = &runtimes[..] else { anyhow::bail!("not three runtimes") };
    tokio::try_join!(one.pull(&reference), two.pull(&reference), three.pull(&reference))?;
    let stepped = |aside: bool| Ok::<_, anyhow::Error>(daemon.process().log()?.contains(&format!("\"aside\":{aside}")));
    ensure!(stepped(true)?, "it never stepped aside:\n{}", daemon.process().tail(20));

    for runtime in &runtimes {
        runtime.holds(&image, &reference).await?;
        runtime.forget(&reference).await?;
        let before = daemon.counters().await?.connections("terminate");
        // Connections that a runtime keeps open for later are among those that count.
        eventually("a pull that is caught again", Duration::from_secs(120), async || {
            runtime.pull(&reference).await?;
            runtime.forget(&reference).await?;
            Ok((daemon.counters().await?.connections("terminate") > before).then_some(()))
        })
        .await?;
    }
    ensure!(stepped(false)?, "it never came back");
    drop((runtimes, daemons));
    fleet.passed()
}
