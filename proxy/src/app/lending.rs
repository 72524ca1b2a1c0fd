//! Not keeping twice what containerd keeps: where its content store is, and a look at both now and then.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use crate::{
    config::Containerd,
    store::{Lender, Store, Swept},
};

/// How often both are compared. A look costs a few system calls for each blob.
const LOOK: Duration = Duration::from_secs(15);
/// So long containerd must have kept a blob. One that it only unpacks (`discard_unpacked_layers`), or whose image is removed at
/// once, is gone by then, and our copy is the one that peers can have.
const SETTLED: Duration = Duration::from_secs(600);
/// Its configuration, and its root when that names none (containerd's `defaults` package).
const CONFIG: &str = "/etc/containerd/config.toml";
const ROOT: &str = "/var/lib/containerd";
/// Whole blobs below its root.
const BLOBS: &str = "io.containerd.content.v1.content/blobs/sha256";

/// Goes on until it is dropped.
pub(super) async fn keep(store: Store, containerd: Containerd) {
    let root = match containerd {
        Containerd::Found => Some(configured(Path::new(CONFIG)).unwrap_or_else(|| ROOT.into())),
        Containerd::At(root) => Some(root),
        Containerd::Never => None,
    };
    let mut lender = Lender::new(store, root.map(|root| root.join(BLOBS)));
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let swept = tokio::task::spawn_blocking(move || {
            let swept = lender.sweep(SETTLED);
            (lender, swept)
        });
        let Ok((returned, Swept { lent, taken_back, gone })) = swept.await else { return };
        lender = returned;
        if lent + taken_back + gone > 0 {
            tracing::info!(lent, taken_back, gone, "blobs that containerd keeps are not kept here, too");
        }
    }
}

/// The root that containerd's own configuration names.
fn configured(file: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(file).ok()?;
    let root = text.parse::<toml::Table>().ok()?.get("root")?.as_str()?.to_owned();
    Some(root).filter(|root| Path::new(root).is_absolute()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_one_that_containerd_is_configured_for() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        assert_eq!(configured(&file), None);
        for (text, root) in [
            ("version = 2\nroot = \"/mnt/fast/containerd\"\n[grpc]\naddress = \"x\"", Some("/mnt/fast/containerd")),
            ("version = 2", None),
            ("root = \"\"", None),
            ("root = 1", None),
            ("root = ", None),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(configured(&file).as_deref(), root.map(Path::new), "{text}");
        }
    }
}
