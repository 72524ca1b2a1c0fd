//! Bytes that are not what their digest says, or that the disk does not take: who is to blame, and what follows here.

use std::{collections::BTreeSet, ops::Range, sync::Arc};

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
    /// An error while the store is not to be tried with it: a disk that is full or broken is so a moment later, too.
    pub(super) fn spares(&self, digest: &Digest) -> Result<(), Fault> {
        let spared = self.doubts.doubts_store(digest);
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
pub(super) fn blame(content: &Inner, shared: &Shared, stated: Arc<[Statement]>) {
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
        content.doubts.accuse(shared.digest, stated);
    }
}

/// The right bytes are here: whoever stated the same of its pieces has been wronged.
pub(super) async fn acquit(content: &Arc<Inner>, partial: Arc<Partial>) {
    let content = content.clone();
    let judge = move || {
        let right = |index| partial.statement(index).ok().flatten().map(|statement| statement.blake3);
        for sealer in content.doubts.acquit(&partial.digest(), right) {
            content.swarm.acquit(&sealer);
        }
    };
    // `None` only in a shutdown, which forgets the quarantine as well.
    let _ = blocking(judge).await;
}
