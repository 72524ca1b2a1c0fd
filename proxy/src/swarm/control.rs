//! Answering what members ask about who is a member, and counting what that costs.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{
    frame::{Ask, Word},
    members::Members,
    news::News,
    pool::{Pool, Unheard, Way},
    roster::Heard,
};

/// The answering side.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) members: Members,
    pub(crate) pool: Pool,
    pub(crate) tally: Arc<Tally>,
}

/// Messages about members and holdings since the start, questions and answers each for themselves.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Control {
    pub(crate) async fn answer(&self, from: SocketAddr, ask: Ask) -> Word {
        match ask {
            Ask::Hello(hello) => {
                let shown = hello.card.version();
                let news = [Some(News::Is(hello.card)), hello.of_you];
                self.learn(news.into_iter().flatten().collect(), Heard::Told).await;
                Word::Hello(self.members.hello(from, Some(shown)))
            }
            Ask::Ping => Word::Pong(self.members.digest()),
            // Only of members, so nobody can be made to knock at other doors; and on a path of our own.
            Ask::Reach(addr) if self.members.standing(addr).is_some() => {
                Word::Reached(Unheard::lives(&self.pool.probe(addr, Ask::Ping, Way::Anew).await))
            }
            Ask::Reach(_) => Word::Reached(false),
            Ask::Compare(theirs) => Word::Differ(self.members.differ(&theirs)),
            Ask::Tell(news) => {
                self.learn(news, Heard::Told).await;
                Word::Noted
            }
            Ask::Remind(news) => {
                self.learn(news, Heard::Hearsay).await;
                Word::Noted
            }
        }
    }

    /// Off the reactor: each signature takes about 50 µs.
    pub(crate) async fn learn(&self, news: Vec<News>, heard: Heard) -> usize {
        let members = self.members.clone();
        tokio::task::spawn_blocking(move || members.learn(news, heard)).await.unwrap_or_default()
    }
}

impl Tally {
    /// Counts a message that went out, if it is one of these.
    pub(crate) fn sent(&self, is_control: bool) {
        self.sent.fetch_add(u64::from(is_control), Relaxed);
    }

    /// Counts a message that came in, if it is one of these.
    pub(crate) fn received(&self, is_control: bool) {
        self.received.fetch_add(u64::from(is_control), Relaxed);
    }

    /// How many went out and came in.
    pub(crate) fn count(&self) -> (u64, u64) {
        (self.sent.load(Relaxed), self.received.load(Relaxed))
    }
}
