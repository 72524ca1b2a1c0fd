//! Pulling by another member's order: as by this node's own operator, with the login that is kept for the daemon.

use std::collections::HashMap;

use futures_util::{FutureExt as _, StreamExt as _, future::ready, stream, stream::BoxStream};

use super::view::Desk;
use crate::{
    admin::View as _,
    oci::{Digest, image::ImageName},
    preheat::{Progress, kept},
    swarm::{Pulling, Pulls},
};

impl Pulls for Desk {
    fn pull_for_member(&self, image: &str) -> BoxStream<'static, Pulling> {
        let name: ImageName = match image.parse() {
            Ok(name) => name,
            Err(error) => return stream::once(ready(Pulling::failed(error))).boxed(),
        };
        let (files, registry, desk) = (self.config.pull.logins.clone(), name.registry.clone(), self.clone());
        let login = tokio::task::spawn_blocking(move || kept::in_any(&registry, &files));
        let pulling = login.map(move |login| match login {
            Ok(Ok(login)) => {
                let mut sum = Sum::default();
                desk.pull(name, login, false).map(move |progress| sum.add(progress)).boxed()
            }
            Ok(Err(error)) => stream::once(ready(Pulling::failed(error))).boxed(),
            Err(_) => stream::empty().boxed(),
        });
        pulling.flatten_stream().boxed()
    }
}

/// All blobs of one pull together.
#[derive(Default)]
struct Sum {
    total: u64,
    done: HashMap<Digest, u64>,
    store: u64,
    peer: u64,
    registry: u64,
}

impl Sum {
    fn add(&mut self, progress: Progress) -> Pulling {
        match progress {
            Progress::Resolved { blobs, .. } => self.total = sum(blobs.iter().map(|(_, size)| *size)),
            Progress::Bytes { digest, done } => {
                self.done.insert(digest, done);
            }
            Progress::Blob { digest, store, peer, registry } => {
                self.done.insert(digest, store + peer + registry);
                self.store += store;
                self.peer += peer;
                self.registry += registry;
            }
            Progress::Done { digest, ms, .. } => {
                let Self { store, peer, registry, .. } = *self;
                return Pulling::Done { digest, store, peer, registry, ms };
            }
            Progress::Failed { why, .. } => return Pulling::failed(why),
            // Only of one's own operator's orders.
            Progress::Ordered { .. } | Progress::Elsewhere { .. } => {}
        }
        Pulling::Going { done: sum(self.done.values().copied()), total: self.total }
    }
}

/// Sizes are what a manifest says, and it may say anything.
fn sum(bytes: impl Iterator<Item = u64>) -> u64 {
    bytes.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blobs_of_a_pull_are_told_of_together() {
        let (one, two, image) = (Digest::of(b"1"), Digest::of(b"2"), "r.test/a:1".to_owned());
        let mut sum = Sum::default();
        let told: Vec<_> = [
            Progress::Resolved { image: image.clone(), digest: one, blobs: vec![(one, 10), (two, 20)] },
            Progress::Bytes { digest: one, done: 4 },
            Progress::Bytes { digest: two, done: 8 },
            Progress::Blob { digest: one, store: 1, peer: 9, registry: 0 },
            Progress::Blob { digest: two, store: 0, peer: 5, registry: 15 },
            Progress::Done { image: image.clone(), digest: one, ms: 7 },
            Progress::Failed { image, why: "no".to_owned() },
        ]
        .into_iter()
        .map(|progress| sum.add(progress))
        .collect();
        let going = |done| Pulling::Going { done, total: 30 };
        let done = Pulling::Done { digest: one, store: 1, peer: 14, registry: 15, ms: 7 };
        assert_eq!(told, [going(0), going(4), going(12), going(18), going(30), done, Pulling::failed("no")]);
    }
}
