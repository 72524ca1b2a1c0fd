//! Peers: who is there, who has what, and getting pieces from them over iroh. No relay, no outside service, nothing
//! central; every node runs this same code.
//!
//! A member is an address, its identity follows from the cluster secret (`members`). Who is there is decided by `roster`,
//! done by `watch`, said in signed `news` and spread by `gossip`; `admit` turns strangers away. For each digest three members keep
//! books on who holds it (`owners`, `tracker`); `herald` tells them, `locate` asks them. Pieces come over one protocol (`frame`,
//! `exchange`) in the order that `plan` says. Whether a client may have a blob, and what to do when nobody has it, is
//! decided above.

mod admit;
mod control;
mod crowd;
mod endpoint;
mod exchange;
mod fetch;
mod frame;
mod gossip;
mod herald;
mod known;
mod locate;
mod members;
mod names;
mod news;
mod order;
mod owners;
mod places;
pub mod plan;
mod pool;
pub mod pure;
mod quarantine;
mod roster;
mod sessions;
#[cfg(test)]
mod tests;
mod tracker;
mod watch;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use iroh::{Endpoint, EndpointId, SecretKey};
use tokio::task::JoinSet;
use waylay_certs::cluster::ClusterSecret;

use self::{
    control::{Control, Tally},
    exchange::Exchange,
    gossip::Gossip,
    herald::{Herald, Round},
    members::Members,
    pool::Pool,
    quarantine::Quarantine,
    watch::Watch,
};
pub use self::{
    endpoint::StartError,
    fetch::{Blame, Declined, Fetched, Given, Leases, PeerFault, Wish},
    locate::{Located, Provider},
    members::MemberStatus,
    names::Name,
    order::{Pulling, Pulls},
    roster::{Pace, Standing},
};
use crate::{
    oci::digest::Digest,
    store::{Store, piece::Statement},
    throttle::Throttle,
};

/// A goodbye is a courtesy, and holds up the end of the daemon no longer than this.
const GOODBYE: Duration = Duration::from_secs(5);

/// How this node takes part.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen (UDP). With port 0 a free one is chosen, and the identity follows from it.
    pub listen: SocketAddr,
    /// The address that others use, if it is not `listen`: then that is bound, and this is who we are.
    pub advertise: Option<SocketAddr>,
    /// The cluster's secret, and during a rotation the other one after it.
    pub secrets: Vec<ClusterSecret>,
    /// The zone that this node is in; empty where there are none. At most 64 bytes.
    pub zone: String,
    /// Other members: the static list, and the addresses of the join token. One that lives is enough.
    pub members: Vec<SocketAddr>,
    /// Names whose addresses are members too.
    pub names: Vec<Name>,
    /// Where to remember who the members are, for the next start; `None` to begin with those above each time.
    pub known: Option<PathBuf>,
    /// Bytes per second of pieces given to other members at most.
    pub upload: Option<u64>,
    /// Bytes per second of pieces taken from other members at most.
    pub download: Option<u64>,
    /// How fast members look after one another.
    pub pace: Pace,
}

/// The node's place among its peers; clones share it. When the last is dropped, the endpoint closes.
#[derive(Debug, Clone)]
pub struct Swarm {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    key: SecretKey,
    quarantine: Arc<Quarantine>,
    /// `None` when this node is alone.
    net: Option<Net>,
}

#[derive(Debug)]
struct Net {
    endpoint: Endpoint,
    members: Members,
    pool: Pool,
    exchange: Arc<Exchange>,
    gossip: Gossip,
    watch: Watch,
    /// Stops its tasks when dropped.
    _tasks: JoinSet<()>,
}

/// A look at the swarm.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The address that others use for us; `None` when alone.
    pub advertised: Option<SocketAddr>,
    /// The other members.
    pub members: Vec<MemberStatus>,
    /// Connections that we keep to members now.
    pub connections: usize,
    /// What others told us as an owner: announcements in our books.
    pub facts: usize,
    /// Bytes of pieces given to peers since the start.
    pub sent: u64,
    /// Requests for pieces since the start that found too many in line.
    pub turned_away: u64,
    /// Messages about members and holdings since the start: those that went out, and those that came in.
    pub control: (u64, u64),
    /// Nodes whose pieces are not taken at present.
    pub quarantined: Vec<EndpointId>,
}

/// What a fuzzer does with a frame: whatever was read is bounded, and is the same when it is written and read again.
#[cfg(fuzzing)]
pub fn fuzz_frame(bytes: &[u8]) {
    frame::fuzz(bytes);
}

impl Swarm {
    /// Binds the endpoint, then looks for the members and tells them what the store holds. Returns before any of them
    /// answered.
    pub async fn start(config: Config, store: Store) -> Result<Self, StartError> {
        let secret = config.secrets.first().ok_or(StartError::NoSecret)?;
        let listen = endpoint::settle(config.listen)?;
        let me = config.advertise.unwrap_or(listen);
        if me.ip().is_unspecified() {
            return Err(StartError::Unspecified(me));
        }
        let key = secret.node_key(me);
        let Config { zone, secrets, members: fixed, names, known, upload, download, pace, .. } = config;
        let members = Members::new(me, key.clone(), &zone, secrets, &fixed, pace);
        let endpoint = endpoint::bind(listen, key.clone(), &members).await?;
        let (gossip, heard) = Gossip::start(endpoint.clone(), &members).await?;
        let tally = Arc::<Tally>::default();
        let pool = Pool::new(endpoint.clone(), members.clone(), tally.clone(), Throttle::new(download));
        let control = Arc::new(Control { members: members.clone(), pool: pool.clone(), tally });
        let exchange =
            Arc::new(Exchange::new(store, members.clone(), Herald::default(), control.clone(), Throttle::new(upload)));
        let watch = Watch::new(control, gossip.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(exchange.clone().serve(endpoint.clone(), gossip.clone()));
        tasks.spawn(Round::new(exchange.clone(), pool.clone()).run());
        tasks.spawn(watch.clone().run());
        tasks.spawn(gossip.clone().listen(heard, members.clone()));
        tasks.spawn(gossip.clone().speak(members.clone()));
        for name in names {
            tasks.spawn(name.watch(members.clone()));
        }
        if let Some(path) = known {
            members.add(&known::read(&path), false);
            tasks.spawn(known::keep(path, members.clone()));
        }
        let net = Net { endpoint, members, pool, exchange, gossip, watch, _tasks: tasks };
        tracing::info!(advertised = %me, members = fixed.len(), "the swarm has started");
        Ok(Self { inner: Arc::new(Inner { key, quarantine: Arc::default(), net: Some(net) }) })
    }

    /// A swarm of one: nothing is found, announced or listened for; pieces are still sealed, for later.
    pub fn alone() -> Self {
        let key = SecretKey::generate();
        Self { inner: Arc::new(Inner { key, quarantine: Arc::default(), net: None }) }
    }

    /// Asks the owners of the digest who has it. `None` when nobody knows, and in any case after half a second.
    pub async fn locate(&self, blob: &Digest) -> Option<Located> {
        let net = self.inner.net.as_ref()?;
        locate::locate(&net.exchange, &net.pool, blob).await
    }

    /// Whether there may be others to bring a blob with.
    pub fn has_members(&self) -> bool {
        self.inner.net.as_ref().is_some_and(|net| net.members.any_awake())
    }

    /// Fetches those pieces of the wish that are not here yet, with everybody else who wants them: from the providers and
    /// whoever else turns up, and from the registry those that nobody else takes. It ends by itself, whatever peers do,
    /// and tells what is missing. Dropping it stops it, and what came by then stays.
    pub async fn fetch(&self, located: &Located, wish: Wish) -> Fetched {
        match &self.inner.net {
            Some(net) => fetch::fetch(&net.exchange, &net.pool, &self.inner.quarantine, located, wish).await,
            None => Fetched { missing: wish.partial.missing(wish.wanted), ..Fetched::default() },
        }
    }

    /// From now on this node pulls what other members' operators ask it to, by `pulls`.
    pub fn take_orders(&self, pulls: Weak<dyn Pulls>) {
        if let Some(net) = &self.inner.net {
            net.exchange.orders.take(pulls);
        }
    }

    /// The other members, as far as they are there.
    pub fn present(&self) -> Vec<SocketAddr> {
        let members = self.inner.net.as_ref().map(|net| net.members.status()).unwrap_or_default();
        members.into_iter().filter(|member| member.standing.is_present()).map(|member| member.addr).collect()
    }

    /// Lets `members` pull an image, each for itself; how each of them goes on, until it is done or has failed.
    pub fn order(&self, members: Vec<SocketAddr>, image: &str) -> BoxStream<'static, (SocketAddr, Pulling)> {
        match &self.inner.net {
            Some(net) => order::everywhere(net.pool.clone(), members, image.to_owned()).boxed(),
            None => stream::empty().boxed(),
        }
    }

    /// States, signed, that piece `index` of a blob of `size` bytes hashes to `blake3`. Only for bytes from a registry.
    pub fn seal(&self, blob: Digest, size: u64, index: u32, blake3: [u8; 32]) -> Statement {
        Statement::sign(&self.inner.key, blob, size, index, blake3)
    }

    /// Takes no pieces stated by this node for a while: the whole did not add up.
    pub fn quarantine(&self, sealer: EndpointId) {
        // Our own statements are made of what a registry sent.
        if sealer != self.inner.key.public() {
            self.inner.quarantine.add(sealer);
        }
    }

    /// Takes its pieces again: what it stated was right.
    pub fn acquit(&self, sealer: &EndpointId) {
        self.inner.quarantine.lift(sealer);
    }

    /// Whether this node itself is the sealer.
    pub fn is_own(&self, sealer: &EndpointId) -> bool {
        *sealer == self.inner.key.public()
    }

    /// Who a sealer is, for logs and counters, if it is a member.
    pub fn member(&self, sealer: &EndpointId) -> Option<SocketAddr> {
        self.inner.net.as_ref()?.members.addr_of(sealer)
    }

    /// A look at it.
    pub fn status(&self) -> Status {
        let quarantined = self.inner.quarantine.list();
        let Some(net) = &self.inner.net else { return Status { quarantined, ..Status::default() } };
        let (asked, said) = (net.exchange.control.tally.count(), net.gossip.count());
        Status {
            advertised: Some(net.members.me()),
            members: net.members.status(),
            connections: net.pool.len(),
            facts: net.exchange.tracker().facts(),
            sent: net.exchange.sent(),
            turned_away: net.exchange.turned_away(),
            control: (asked.0 + said.0, asked.1 + said.1),
            quarantined,
        }
    }

    /// Tells peers goodbye and closes the socket, within twice [`GOODBYE`]. Open requests, theirs and ours, end.
    pub async fn close(&self) {
        let Some(net) = &self.inner.net else { return };
        if tokio::time::timeout(GOODBYE, net.watch.leave()).await.is_err() {
            tracing::warn!("not everybody could be told that this node leaves; they will find out");
        }
        if tokio::time::timeout(GOODBYE, net.endpoint.close()).await.is_err() {
            tracing::warn!("the connections to peers were not closed in time; they will find out");
        }
    }
}
