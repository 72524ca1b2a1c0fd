//! Who has this blob? Its owners are asked, the next one when the last does not know or is silent for a moment, and the
//! first that knows decides.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};

use super::{
    exchange::Exchange,
    frame::{Answer, Join, Joined, Record, Request},
    pool::{AskError, Pool},
};
use crate::{oci::digest::Digest, store::Provenance};

/// All of it ends by then: the registry is waiting.
const DEADLINE: Duration = Duration::from_millis(500);
/// The next owner is asked when the one before has been silent for this long. One that says no is not waited for: of a
/// new blob all must say so before it is asked for elsewhere.
pub const STAGGER: Duration = Duration::from_millis(20);

/// Where a blob can be had from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Its length in bytes, as its holders say; only the sha256 proves it.
    pub size: u64,
    /// Some of its holders; none where nobody has it whole, or others were just told of them.
    pub providers: Vec<Provider>,
    /// Registries and repositories that have themselves served it to some member.
    pub provenance: Vec<Provenance>,
}

impl Located {
    /// A blob of which nobody is known to have anything: whoever wants it meets the others at its owner.
    pub fn nowhere(size: u64) -> Self {
        Self { size, providers: Vec::new(), provenance: Vec::new() }
    }
}

/// One holder of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provider {
    /// Which member.
    pub addr: SocketAddr,
    /// Whether it has all of it.
    pub complete: bool,
}

/// `None` when no owner knows a holder, or none answers in time.
pub(super) async fn locate(exchange: &Exchange, pool: &Pool, blob: &Digest) -> Option<Located> {
    let me = exchange.members.me();
    let owners = exchange.members.owners(blob);
    if owners.contains(&me) {
        // Our own books cost nothing; when they are empty, we may be new here and the others know more.
        let own = exchange.tracker().find(blob, me, Instant::now());
        if let Some(located) = own.and_then(|record| usable(exchange, record)) {
            return Some(located);
        }
    }
    let mut awake = owners.into_iter().filter(|owner| *owner != me && exchange.members.is_awake(*owner));
    let mut silent = BTreeSet::new();
    let mut asked = FuturesUnordered::new();
    let first = async {
        let mut next = awake.next();
        while next.is_some() || !asked.is_empty() {
            if let Some(owner) = next {
                silent.insert(owner);
                asked.push(async move { (owner, pool.ask(owner, &Request::Query(*blob)).await) });
            }
            next = match tokio::time::timeout(STAGGER, asked.next()).await {
                Err(_) => awake.next(),
                Ok(answered) => {
                    let (owner, answer) = answered?;
                    silent.remove(&owner);
                    if let Ok(Answer::Located(Some(record))) = answer
                        && let Some(located) = usable(exchange, record)
                    {
                        return Some(located);
                    }
                    awake.next()
                }
            };
        }
        None
    };
    match tokio::time::timeout(DEADLINE, first).await {
        Ok(located) => located,
        Err(_) => {
            // The next question shall not wait for them too.
            silent.into_iter().for_each(|owner| exchange.members.missed(owner));
            None
        }
    }
}

/// Asks the first owner that answers what this node may do in the crowd that brings a blob. When no other can be asked, we
/// are the owner of a crowd of one. `None` when the owner will not have us, or not now.
pub(super) async fn join(exchange: &Exchange, pool: &Pool, join: Join) -> Option<Joined> {
    let me = exchange.members.me();
    for owner in exchange.members.owners(&join.blob) {
        if owner == me {
            break;
        }
        if !exchange.members.is_awake(owner) {
            continue;
        }
        match pool.ask(owner, &Request::Join(join.clone())).await {
            Ok(Answer::Joined(Some(joined))) => return Some(joined),
            // Another crowd than ours, or no room: we go on alone. Others are asked only when this one is out of reach,
            // because two that grant cost twice.
            Ok(_) => break,
            // It is asked again in a moment.
            Err(AskError::Busy) => return None,
            Err(error) => {
                tracing::info!(blob = %join.blob, %owner, %error, "an owner does not answer, asking the next")
            }
        }
    }
    exchange.tracker().join(me, &join, exchange.boot, Instant::now())
}

/// Without those that cannot be asked. Where nobody is named, others have been told of those that have it: they are met.
fn usable(exchange: &Exchange, record: Record) -> Option<Located> {
    let named = !record.providers.is_empty();
    let providers: Vec<_> = record
        .providers
        .into_iter()
        .filter(|(addr, _)| *addr != exchange.members.me() && exchange.members.is_awake(*addr))
        .map(|(addr, complete)| Provider { addr, complete })
        .collect();
    let Record { size, provenance, .. } = record;
    (!named || !providers.is_empty()).then_some(Located { size, providers, provenance })
}
