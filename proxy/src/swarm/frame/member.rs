//! What members ask and tell one another about who is a member.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Bounded;
use crate::swarm::{
    news::{Card, News},
    roster::BUCKETS,
};

/// The most news in one message.
pub(crate) const MAX_NEWS: usize = 360;

/// Questions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Introduces the asker; answered by [`Word::Hello`].
    Hello(Box<Hello>),
    /// Do you live? Answered by [`Word::Pong`].
    Ping,
    /// Do you reach this member? Answered by [`Word::Reached`].
    Reach(SocketAddr),
    /// Where does your table differ from mine? Answered by [`Word::Differ`].
    Compare(Compare),
    /// Everybody should hear this: answered by [`Word::Noted`].
    Tell(Vec<News>),
    /// You may not have heard of this: answered by [`Word::Noted`].
    Remind(Vec<News>),
}

/// Answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Word {
    /// The answerer introduces itself in turn.
    Hello(Box<Hello>),
    /// It lives; this is the digest of its table.
    Pong(u64),
    /// Whether it reaches the member.
    Reached(bool),
    /// Where the tables differ.
    Differ(Differ),
    /// It has heard.
    Noted,
}

/// How nodes introduce themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// What the speaker says of itself.
    pub(crate) card: Card,
    /// What is said of the listener and it should answer to.
    pub(crate) of_you: Option<News>,
}

/// The digests of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Compare {
    /// The buckets before this one were compared already.
    pub(crate) from: u16,
    /// One for each bucket.
    pub(crate) digests: Vec<u64>,
}

/// What the answerer knows where the tables differ, as much as fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Differ {
    /// The buckets that differ.
    pub(crate) buckets: Vec<u8>,
    /// All that it knows of them.
    pub(crate) news: Vec<News>,
    /// The first bucket that this is not about.
    pub(crate) next: u16,
}

impl Bounded for Ask {
    fn is_bounded(&self) -> bool {
        match self {
            Self::Hello(hello) => hello.is_bounded(),
            Self::Ping | Self::Reach(_) => true,
            Self::Compare(compare) => compare.digests.len() == BUCKETS && usize::from(compare.from) <= BUCKETS,
            Self::Tell(news) | Self::Remind(news) => are_news(news),
        }
    }
}

impl Bounded for Word {
    fn is_bounded(&self) -> bool {
        match self {
            Self::Hello(hello) => hello.is_bounded(),
            Self::Pong(_) | Self::Reached(_) | Self::Noted => true,
            Self::Differ(differ) => {
                differ.buckets.len() <= BUCKETS && usize::from(differ.next) <= BUCKETS && are_news(&differ.news)
            }
        }
    }
}

impl Bounded for Hello {
    fn is_bounded(&self) -> bool {
        News::Is(self.card.clone()).is_bounded() && self.of_you.as_ref().is_none_or(Bounded::is_bounded)
    }
}

fn are_news(news: &[News]) -> bool {
    news.len() <= MAX_NEWS && news.iter().all(Bounded::is_bounded)
}
