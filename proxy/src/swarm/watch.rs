//! Does what the roster says: asks neighbours whether they live, greets who is new or lost, compares tables; and says
//! goodbye in the end.

use std::{net::SocketAddr, sync::Arc};

use futures_util::future::join_all;
use tokio::{task::JoinSet, time::MissedTickBehavior};

use super::{
    control::Control,
    frame::{Ask, Word},
    gossip::Gossip,
    news::News,
    pool::{Unheard, Way},
    roster::{Act, Heard, Standing},
};

/// The task that looks after the others.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    control: Arc<Control>,
    gossip: Gossip,
}

impl Watch {
    pub(crate) fn new(control: Arc<Control>, gossip: Gossip) -> Self {
        Self { control, gossip }
    }

    /// Runs until dropped.
    pub(crate) async fn run(self) {
        let pace = *self.control.members.pace();
        let (mut tick, mut listen) = (tokio::time::interval(pace.tick()), tokio::time::interval(pace.ping));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        listen.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Bounded: the roster asks each member one thing at a time, and few.
        let mut acts = JoinSet::new();
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    for act in self.control.members.tick() {
                        acts.spawn(self.clone().act(act));
                    }
                }
                _ = listen.tick() => if self.gossip.is_deaf() && let Some(somebody) = self.control.members.somebody() {
                    self.gossip.meet(somebody).await;
                },
                Some(_) = acts.join_next() => {}
            }
        }
    }

    /// Tells everybody that we leave: through the gossip, and some directly, who pass it on.
    pub(crate) async fn leave(&self) {
        let (news, neighbours) = self.control.members.change(|roster, _| (roster.leave(), roster.watched()));
        self.gossip.say(&news).await;
        let told = neighbours.into_iter().map(|to| {
            let news = news.clone();
            async move { self.control.pool.probe(to, Ask::Tell(vec![news]), Way::Awake).await }
        });
        join_all(told).await;
        self.gossip.close().await;
    }

    async fn act(self, act: Act) {
        match act {
            Act::Ping { to, anew } => {
                let way = if anew { Way::Anew } else { Way::Resting };
                let answer = self.control.pool.probe(to, Ask::Ping, way).await;
                self.control.members.change(|roster, now| match answer {
                    Ok(Word::Pong(theirs)) => roster.agreed(to, theirs == roster.digest()),
                    Err(Unheard::Busy) => roster.answered(to),
                    _ => roster.silent(to, now),
                });
            }
            Act::Greet(to) => self.greet(to).await,
            Act::Confirm { of, witnesses } => {
                let pool = &self.control.pool;
                let asked = witnesses.into_iter().map(|witness| async move {
                    let answer = pool.probe(witness, Ask::Reach(of), Way::Awake).await;
                    matches!(answer, Ok(Word::Reached(true)))
                });
                // Its answer to us may just have been late.
                let again = async { Unheard::lives(&pool.probe(of, Ask::Ping, Way::Anew).await) };
                let (reached, answers) = tokio::join!(join_all(asked), again);
                let lives = answers || reached.contains(&true);
                tracing::info!(member = %of, lives, "a member was silent");
                self.control.members.change(|roster, now| roster.confirmed(of, lives, now));
            }
            Act::Compare(with) => {
                let done = self.compare(with).await.is_some();
                self.control.members.change(|roster, _| roster.compared(with, done));
            }
        }
    }

    async fn greet(&self, to: SocketAddr) {
        let (members, pool) = (&self.control.members, &self.control.pool);
        let hello = Ask::Hello(members.hello(to, None));
        let hello = match pool.probe(to, hello, Way::Anew).await {
            Ok(Word::Hello(hello)) => hello,
            Err(Unheard::Busy) => return members.change(|roster, now| roster.put_off(to, now)),
            Ok(_) | Err(Unheard::Silent) => return members.change(|roster, now| roster.silent(to, now)),
        };
        let before = members.standing(to);
        let news = [Some(News::Is(hello.card)), hello.of_you];
        self.control.learn(news.into_iter().flatten().collect(), Heard::Told).await;
        members.change(|roster, _| {
            roster.answered(to);
            if before != Some(Standing::Suspect) {
                roster.found(to);
            }
        });
        self.meet(to).await;
    }

    /// `None` when it could not be done to the end.
    async fn compare(&self, with: SocketAddr) -> Option<()> {
        let (members, pool) = (&self.control.members, &self.control.pool);
        let mut compare = members.compare(0);
        let mut learned = 0;
        while usize::from(compare.from) < compare.digests.len() {
            let Word::Differ(differ) = pool.probe(with, Ask::Compare(compare.clone()), Way::Awake).await.ok()? else {
                return None;
            };
            if differ.next <= compare.from {
                return None;
            }
            compare.from = differ.next;
            for some in members.lacking(&differ).chunks(super::frame::MAX_NEWS / 2) {
                pool.probe(with, Ask::Remind(some.to_vec()), Way::Awake).await.ok()?;
            }
            learned += self.control.learn(differ.news, Heard::Hearsay).await;
        }
        if learned > 0 {
            // We should have heard that: the gossip may be in two parts.
            self.meet(with).await;
        }
        Some(())
    }

    async fn meet(&self, member: SocketAddr) {
        if let Some(id) = self.control.members.ids(member).next() {
            self.gossip.meet(id).await;
        }
    }
}
