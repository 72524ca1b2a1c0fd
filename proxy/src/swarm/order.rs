//! Orders: an operator at one node lets all members pull an image. Each pulls for itself, from a registry that it lists and
//! with its own login; what is told of it is how far it is.

use std::{
    fmt,
    net::SocketAddr,
    sync::{OnceLock, Weak},
    time::Duration,
};

use futures_util::{
    Stream, StreamExt as _,
    future::ready,
    stream::{self, BoxStream},
};
use iroh::endpoint::SendStream;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{
    frame::{self, Answer, FrameError, Request},
    pool::{Pool, Reply},
};

/// Images pulled by others' orders at a time: they are to leave room for what this node's own runtimes pull.
const AT_ONCE: usize = 2;
/// Members that are under an order at a time.
const MEMBERS_AT_ONCE: usize = 128;
/// How often one is told how far a member is.
const TOLD_EVERY: Duration = Duration::from_secs(1);
/// A member that says nothing for so long is given up; it may go on.
const SILENCE: Duration = Duration::from_secs(10);
/// The longest name of an image, and the longest reason, in bytes.
pub(crate) const MAX_TEXT: usize = 1024;

/// How a member's pull goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pulling {
    /// So many bytes of so many are there.
    Going {
        /// Bytes so far.
        done: u64,
        /// Bytes of all blobs, 0 before they are known.
        total: u64,
    },
    /// All of it is there.
    Done {
        /// Bytes that the member had.
        store: u64,
        /// Bytes that came from other members.
        peer: u64,
        /// Bytes that came from the registry.
        registry: u64,
        /// How long it took, in milliseconds.
        ms: u64,
    },
    /// It did not work: why, and what can be done.
    Failed(String),
}

/// Who pulls for this node when another member says so.
pub trait Pulls: Send + Sync {
    /// Pulls an image, and tells of it until it is done or has failed. Dropping the stream ends the pull.
    fn pull_for_member(&self, image: &str) -> BoxStream<'static, Pulling>;
}

/// The serving side.
pub(super) struct Orders {
    /// Weak: whoever pulls needs the swarm.
    pulls: OnceLock<Weak<dyn Pulls>>,
    places: Semaphore,
}

impl Default for Orders {
    fn default() -> Self {
        Self { pulls: OnceLock::new(), places: Semaphore::new(AT_ONCE) }
    }
}

impl fmt::Debug for Orders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orders").finish_non_exhaustive()
    }
}

impl Pulling {
    /// It did not work; the reason is cut where it would be too long.
    pub fn failed(why: impl fmt::Display) -> Self {
        let mut why = why.to_string();
        why.truncate(why.floor_char_boundary(MAX_TEXT));
        Self::Failed(why)
    }

    fn is_end(&self) -> bool {
        !matches!(self, Self::Going { .. })
    }
}

impl Orders {
    /// From now on orders are taken; the first to pull stays.
    pub(super) fn take(&self, pulls: Weak<dyn Pulls>) {
        let _ = self.pulls.set(pulls);
    }

    /// Pulls by the word of `from`, and tells it. Ends when it no longer listens.
    pub(super) async fn obey(&self, from: SocketAddr, image: &str, send: &mut SendStream) -> Result<(), FrameError> {
        tracing::info!(peer = %from, image, "a member asks this node to pull");
        let (Ok(_place), Some(pulls)) = (self.places.try_acquire(), self.pulls.get().and_then(Weak::upgrade)) else {
            let busy = format!("it pulls {AT_ONCE} other images by order, or has just started; try again later");
            return tell(send, Pulling::failed(busy)).await;
        };
        let mut pulling = pulls.pull_for_member(image);
        drop(pulls);
        let (mut going, mut every) = (Pulling::Going { done: 0, total: 0 }, tokio::time::interval(TOLD_EVERY));
        loop {
            tokio::select! {
                next = pulling.next() => match next {
                    Some(next) if next.is_end() => return tell(send, next).await,
                    Some(next) => going = next,
                    None => return tell(send, Pulling::failed("its pull broke off; its log says why")).await,
                },
                _ = every.tick() => frame::send(send, &Answer::Pulling(going.clone())).await?,
                _ = send.stopped() => return Ok(()),
            }
        }
    }
}

async fn tell(send: &mut SendStream, end: Pulling) -> Result<(), FrameError> {
    frame::send(send, &Answer::Pulling(end)).await?;
    let _ = send.finish();
    Ok(())
}

/// Lets `members` pull `image`; how each of them goes on. Dropping the stream ends what is not done.
pub(super) fn everywhere(
    pool: Pool,
    members: Vec<SocketAddr>,
    image: String,
) -> impl Stream<Item = (SocketAddr, Pulling)> + Send + 'static {
    stream::iter(members).flat_map_unordered(MEMBERS_AT_ONCE, move |member| {
        one(pool.clone(), member, image.clone()).map(move |pulling| (member, pulling)).boxed()
    })
}

fn one(pool: Pool, member: SocketAddr, image: String) -> impl Stream<Item = Pulling> {
    let opened = async move { pool.open(member, &Request::Pull(image)).await };
    stream::once(opened).flat_map(|opened| match opened {
        Ok(reply) => stream::unfold(Some(reply), next).boxed(),
        Err(error) => stream::once(ready(Pulling::failed(error))).boxed(),
    })
}

async fn next(reply: Option<Reply>) -> Option<(Pulling, Option<Reply>)> {
    let mut reply = reply?;
    let told = match frame::receive::<Answer>(&mut reply.stream, SILENCE).await {
        Ok(Answer::Pulling(told)) => told,
        // Members that do not know this request end the stream.
        Ok(_) | Err(_) => Pulling::failed("it broke off or does not know this order: see its log, and its version"),
    };
    let rest = (!told.is_end()).then_some(reply);
    Some((told, rest))
}
