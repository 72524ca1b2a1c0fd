//! Bytes that are not what their digest says, or that the disk does not take: who is to blame, and what follows here.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use iroh_base::EndpointId;

use super::{
    Content, Inner, Supply, Tally, blocking, fault,
    flight::{Plan, Shared},
    reader, served_by,
};
use crate::{
    fault::{Fault, Side, What},
    oci::Digest,
    store::{Partial, Provenance, piece::Statement},
    swarm::Located,
    upstream::Body,
};

impl Inner {
    /// Whether neither members nor the store are to be tried with it now.
    pub(super) fn from_registry_alone(&self, digest: &Digest) -> bool {
        self.distrusted.contains_key(digest) || self.spared.contains_key(digest)
    }

    /// An error while the store is not to be tried with it: a disk that is full or broken is so a moment later, too.
    pub(super) fn spares(&self, digest: &Digest) -> Result<(), Fault> {
        let spared = self.spared.contains_key(digest);
        let why = || Fault::with(Side::Ours, What::Disk, "the store has just failed in the middle of this blob");
        if spared { Err(why()) } else { Ok(()) }
    }
}

impl Content {
    /// The bytes `rest` of a blob that turned out to be damaged on this node's disk, brought here again.
    pub(super) async fn afresh(
        &self,
        digest: Digest,
        size: u64,
        (provenance, supply): (Vec<Provenance>, Supply),
        rest: Range<u64>,
        tally: Arc<Tally>,
    ) -> Result<Body, Fault> {
        let damage = Fault::new(Side::Ours, What::Corrupt);
        tracing::warn!(%digest, "a stored blob is damaged, by its disk or by somebody, and is thrown away");
        self.0.metrics.fault(damage.side.name(), damage.what.name());
        tally.note(damage.label());
        let store = self.0.store.clone();
        blocking(move || store.discard(&digest)).await.unwrap_or(Ok(())).map_err(fault)?;
        let located = self.0.swarm.locate(&digest).await;
        let located = located.filter(|located| served_by(&located.provenance, &supply.provenance.registry));
        let located = located.unwrap_or_else(|| Located::nowhere(size));
        let _alone = self.0.begins.alone(digest).await;
        let partial = self.partial(digest, size, &supply, provenance.clone()).await.map_err(fault)?;
        let flight = self.launch(digest, partial, Plan { located: Some(located), first: None }, provenance, supply);
        Ok(reader::body(flight, rest, tally))
    }
}

/// The whole is not what its digest says. Which of those who stated its pieces was wrong, only the right bytes can show:
/// until [`acquit`] has seen them, none of them is believed.
pub(super) fn blame(content: &Inner, shared: &Shared, digest: Digest, stated: &Arc<[Statement]>) {
    let sealers: BTreeSet<_> = stated.iter().filter_map(|said| EndpointId::from_bytes(&said.sealer).ok()).collect();
    let mut peers = 0;
    for sealer in sealers.iter().filter(|sealer| !content.swarm.is_own(sealer)) {
        peers += 1;
        content.swarm.quarantine(*sealer);
        let who = content.swarm.member(sealer);
        let fault = who.map_or(Fault::new(Side::Peer, What::Corrupt), |at| Fault::of_peer(What::Corrupt, at));
        shared.note(content, &fault);
    }
    if peers == 0 {
        shared.note(content, &Fault::new(Side::Registry, What::Corrupt));
    } else {
        content.accused.insert(digest, stated.clone());
    }
}

/// The right bytes are here: whoever stated the same of its pieces has been wronged. Blocks for the disk.
pub(super) fn acquit(content: &Inner, partial: &Partial) {
    let Some(stated) = content.accused.remove(&partial.digest()) else { return };
    let right = |index| partial.statement(index).ok().flatten().map(|statement| statement.blake3);
    for sealer in honest(&stated, right) {
        content.swarm.acquit(&sealer);
    }
}

/// Those who said nothing about the pieces but what is `right`.
fn honest(stated: &[Statement], right: impl Fn(u32) -> Option<[u8; 32]>) -> Vec<EndpointId> {
    let mut sealers = BTreeMap::new();
    for said in stated {
        *sealers.entry(said.sealer).or_insert(true) &= right(said.index) == Some(said.blake3);
    }
    let honest = sealers.into_iter().filter(|(_, honest)| *honest);
    honest.filter_map(|(sealer, _)| EndpointId::from_bytes(&sealer).ok()).collect()
}

#[cfg(test)]
mod tests {
    use iroh_base::SecretKey;

    use super::*;

    #[test]
    fn who_was_wrong_about_one_piece_stays_accused_and_nobody_else() {
        let [always, once, unknown] = [1, 2, 3].map(|n| SecretKey::from_bytes(&[n; 32]));
        let right = |index: u32| (index < 4).then_some([index as u8; 32]);
        let say = |key: &SecretKey, index, blake3| Statement::sign(key, Digest::of(b"x"), 9, index, blake3);
        let stated = [
            say(&always, 0, [0; 32]),
            say(&once, 1, [1; 32]),
            say(&once, 2, [9; 32]),
            say(&always, 3, [3; 32]),
            say(&unknown, 4, [4; 32]),
        ];
        assert_eq!(honest(&stated, right), [always.public()]);
    }
}
