//! A blob that is no longer what it was verified to be, on this node's own disk: thrown away, and brought here again.

use std::{ops::Range, sync::Arc};

use super::{Content, Supply, Tally, blocking, fault, flight::Plan, reader, served_by};
use crate::{
    fault::{Fault, Side, What},
    oci::Digest,
    store::Provenance,
    swarm::Located,
    upstream::Body,
};

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
        let partial = self.partial(digest, size, &supply, provenance.clone()).await.map_err(fault)?;
        let flight = self.launch(digest, partial, Plan { located: Some(located), first: None }, provenance, supply);
        Ok(reader::body(flight, rest, tally))
    }
}
