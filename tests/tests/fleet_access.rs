//! A cache is no way round a registry's access control: what a client may have is what the registry would give it.

use anyhow::{Result, ensure};
use waylay_tests::fleet::{Daemon, Fleet, Kind, Login, Runtime};
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
