//! A flight's pieces from other members, and from the registry those that the crowd's owner leases to this node.

use std::{
    ops::Range,
    sync::{Arc, atomic::AtomicU64},
};

use futures_util::future::BoxFuture;

use super::{
    Inner,
    flight::Shared,
    registry::{self, Miss, Request},
};
use crate::{
    fault::{Fault, What},
    metrics::Source,
    store::{Partial, StoreError},
    swarm::{Blame, Declined, Located, Wish},
};

/// Fetches together with other members, until all is here or nobody gives more.
pub(super) async fn bring(
    content: &Arc<Inner>,
    shared: &Arc<Shared>,
    partial: &Arc<Partial>,
    located: Located,
) -> Result<(), StoreError> {
    let leases = {
        let (content, shared, partial) = (content.clone(), shared.clone(), partial.clone());
        move |run: Range<u32>, whole: bool, received: Arc<AtomicU64>| -> BoxFuture<'static, Result<(), Declined>> {
            Box::pin(lease(content.clone(), shared.clone(), partial.clone(), (run, whole), received))
        }
    };
    let wish = Wish {
        served_by: shared.registry().to_owned(),
        partial: partial.clone(),
        wanted: 0..partial.layout().count(),
        cursor: shared.cursor.clone(),
        registry: Arc::new(leases),
        given: shared.given(),
    };
    let fetched = content.swarm.fetch(&located, wish).await;
    let bytes: u64 = fetched.bytes.iter().map(|(_, bytes)| *bytes).sum();
    content.metrics.fetched.get_or_create(&Source::Peer.label()).inc_by(bytes);
    for fault in fetched.faults {
        shared.note(content, &Fault::of_peer(blamed(fault.blame), fault.peer));
    }
    partial.failure().or(fetched.failed).map_or(Ok(()), Err)
}

/// Takes what the crowd's owner leased to us from the registry.
async fn lease(
    content: Arc<Inner>,
    shared: Arc<Shared>,
    partial: Arc<Partial>,
    (run, whole): (Range<u32>, bool),
    received: Arc<AtomicU64>,
) -> Result<(), Declined> {
    // Without any there is nothing to ask the registry with.
    let Some(supply) = shared.supply() else { return Err(Declined::Never) };
    let filled = {
        let request = Request { run, whole, first: None, received };
        registry::fill(&content, &supply, &partial, request, shared.mark()).await
    };
    let Err(Miss { fault, declined }) = filled else { return Ok(()) };
    if declined != Declined::Ranges {
        shared.note(&content, &fault);
    }
    if declined == Declined::Never {
        shared.withdraw(&supply);
        let others = shared.supply().is_some();
        return Err(if others { Declined::Failed } else { Declined::Never });
    }
    Err(declined)
}

fn blamed(blame: Blame) -> What {
    match blame {
        Blame::Corrupt => What::Corrupt,
        Blame::Stall => What::Stalled,
        Blame::Gone => What::Cut,
        Blame::Lied => What::Gone,
    }
}
