//! What everybody should hear goes through iroh-gossip: each member keeps five connections, over which news reach all in a
//! few hops. What is missed is found by comparing tables (`watch`), so nothing here waits for anybody.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use iroh::{Endpoint, EndpointId, endpoint::Connection};
use iroh_gossip::{
    api::{ApiError, Event, GossipReceiver, GossipSender, JoinOptions},
    net::Gossip as Network,
    proto::{HyparviewConfig, TopicId},
};

use super::{frame::Bounded as _, members::Members, news::News, roster::Heard};

/// The protocol.
pub(crate) const ALPN: &[u8] = iroh_gossip::ALPN;
/// The longest message, in bytes; news are a few hundred at most.
const MAX_MESSAGE: usize = 4096;
/// News that wait for us to look at them; what is beyond that is found by comparing tables.
const WAITING: usize = 1024;
/// A gossip that takes nothing for so long is stuck behind a member that reads nothing: what is said then is lost.
const STUCK: Duration = Duration::from_secs(2);
/// Members are mixed anew this often; every time costs a walk of six hops.
const SHUFFLE: Duration = Duration::from_secs(120);

/// This node's place in the gossip; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Gossip {
    network: Network,
    sender: GossipSender,
    /// Members that we have a gossip connection to.
    neighbours: Arc<AtomicUsize>,
}

/// Whom members know.
pub fn overlay() -> HyparviewConfig {
    HyparviewConfig { shuffle_interval: SHUFFLE, ..HyparviewConfig::default() }
}

impl Gossip {
    /// Joins, with no neighbours yet. What comes in is to be given to [`Self::listen`].
    pub(crate) async fn start(endpoint: Endpoint, members: &Members) -> Result<(Self, GossipReceiver), ApiError> {
        if let Ok(lookup) = endpoint.address_lookup() {
            lookup.add(members.clone());
        }
        let network = Network::builder().max_message_size(MAX_MESSAGE).membership_config(overlay()).spawn(endpoint);
        let topic = TopicId::from_bytes(*blake3::hash(b"waylay members v1").as_bytes());
        let options = JoinOptions { bootstrap: Default::default(), subscription_capacity: WAITING };
        let (sender, receiver) = network.subscribe_with_opts(topic, options).await?.split();
        Ok((Self { network, sender, neighbours: Arc::default() }, receiver))
    }

    /// Takes what others say, until the gossip ends.
    pub(crate) async fn listen(self, mut receiver: GossipReceiver, members: Members) {
        while let Some(Ok(event)) = receiver.next().await {
            self.neighbours.store(receiver.neighbors().count(), Relaxed);
            if let Event::Received(message) = event {
                let news = postcard::from_bytes::<News>(&message.content).ok().filter(News::is_bounded);
                members.learn(news.into_iter().collect(), Heard::Gossip);
            }
        }
    }

    /// Tells everybody what this node has to say, until dropped.
    pub(crate) async fn speak(self, members: Members) {
        loop {
            self.say(&members.unsaid().await).await;
        }
    }

    /// Tells everybody.
    pub(crate) async fn say(&self, news: &News) {
        let Ok(message) = postcard::to_stdvec(news) else { return };
        if tokio::time::timeout(STUCK, self.sender.broadcast(message.into())).await.is_err() {
            tracing::debug!("the gossip is stuck");
        }
    }

    /// Takes that member for a neighbour.
    pub(crate) async fn meet(&self, member: EndpointId) {
        let _ = tokio::time::timeout(STUCK, self.sender.join_peers(vec![member])).await;
    }

    /// Whether we hear nobody.
    pub(crate) fn is_deaf(&self) -> bool {
        self.neighbours.load(Relaxed) == 0
    }

    /// Serves a connection until it ends.
    pub(crate) async fn serve(&self, connection: Connection) {
        if self.network.handle_connection(connection.clone()).await.is_ok() {
            connection.closed().await;
        }
    }

    /// Messages that went out and came in since the start.
    pub(crate) fn count(&self) -> (u64, u64) {
        let metrics = self.network.metrics();
        (
            metrics.msgs_ctrl_sent.get() + metrics.msgs_data_sent.get(),
            metrics.msgs_ctrl_recv.get() + metrics.msgs_data_recv.get(),
        )
    }

    /// Tells the neighbours goodbye.
    pub(crate) async fn close(&self) {
        let _ = tokio::time::timeout(STUCK, self.network.shutdown()).await;
    }
}
