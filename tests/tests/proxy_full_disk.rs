//! A disk that takes no more in the middle of a blob. A process of its own, because what its disk takes is limited for all of it.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

use std::process::{self, Command};

use tokio::signal::unix::{SignalKind, signal};
use waylay::oci::Digest;
use waylay_tests::scripted::{MIB, Node, Registry, layers};

/// What the kernel sends to whoever writes beyond the limit (signal(7)).
const SIGXFSZ: i32 = 25;

/// From now on nothing is written beyond so many bytes of any file: "File too large".
fn no_file_beyond(bytes: u64) {
    let pid = process::id().to_string();
    let limited = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}:unlimited")]).status();
    assert!(limited.unwrap().success());
}

#[tokio::test]
async fn a_disk_that_fails_in_the_middle_of_a_blob_costs_its_client_one_attempt() {
    let _survives = signal(SignalKind::from_raw(SIGXFSZ)).unwrap();
    let registry = Registry::new().image("app:1", layers([8 * MIB])).start().await;
    let node = Node::beside(&registry).start().await;
    let image = registry.image("app:1");
    let layer = &image.layers[0];
    node.client().get(&image.manifest_path(&image.top)).await.unwrap().success().await.unwrap();
    // The file is there, with room for all of it; the disk fails only when it is filled.
    node.client().get_range(&image.blob_path(layer), "bytes=0-99").await.unwrap().success().await.unwrap();
    no_file_beyond(2 * MIB);
    node.client().blob("app", &layer.digest).await.unwrap_err();
    for _ in 0..2 {
        let bytes = node.client().blob("app", &layer.digest).await.unwrap();
        assert_eq!(Digest::of(&bytes), layer.digest);
    }
}
