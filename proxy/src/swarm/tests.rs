//! Several nodes in one process: what one has, the others get; what goes wrong has a name on it.

mod fake;
mod membership;

use std::{future::Future, ops::Range, sync::Mutex, time::Duration};

use futures_util::future::{BoxFuture, join_all};
use tempfile::TempDir;

use self::fake::{Fake, Trick};
use super::{
    exchange::{
        HANDSHAKES, LINE, SLOTS,
        get::{self, GetError, Want},
    },
    frame::{Answer, Request},
    plan::LINE_OF_ONE,
    *,
};
use crate::store::{self, Partial, Provenance, StoreError};

const MIB: u64 = 1 << 20;

fn secret(n: u8) -> ClusterSecret {
    ClusterSecret::new([n; 32], 0)
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

struct Node {
    swarm: Swarm,
    store: Store,
    dir: TempDir,
}

impl Node {
    async fn start(members: &[SocketAddr]) -> Self {
        Self::with(members, 1, 64 * MIB).await
    }

    async fn with(members: &[SocketAddr], secret_: u8, quota: u64) -> Self {
        Self::holding(members, vec![secret(secret_)], quota).await
    }

    async fn holding(members: &[SocketAddr], secrets: Vec<ClusterSecret>, quota: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let config = store::Config { dir: dir.path().to_owned(), quota, low_disk: 0 };
        let store = Store::open(config).unwrap();
        let swarm = Swarm::start(Config { secrets, ..config_at(loopback(), members, 0) }, store.clone()).await.unwrap();
        Self { swarm, store, dir }
    }

    fn addr(&self) -> SocketAddr {
        self.swarm.status().advertised.unwrap()
    }

    fn provider(&self) -> Provider {
        Provider { addr: self.addr(), complete: true }
    }

    /// Takes pieces "from the registry".
    fn pour(&self, bytes: &[u8], pieces: Range<u32>) -> Arc<Partial> {
        let digest = Digest::of(bytes);
        let partial = self.store.begin(&digest, bytes.len() as u64).unwrap();
        for index in partial.missing(pieces) {
            let range = partial.layout().range(index);
            let mut writer = partial.writer(index).unwrap();
            writer.write(&bytes[range.start as usize..range.end as usize]).unwrap();
            let statement = self.swarm.seal(digest, bytes.len() as u64, index, writer.blake3());
            writer.finish(&statement).unwrap();
        }
        partial
    }

    fn net(&self) -> &Net {
        self.swarm.inner.net.as_ref().unwrap()
    }

    async fn put(&self, bytes: &[u8]) -> Digest {
        let partial = self.pour(bytes, 0..u32::MAX);
        let provenance = Provenance { registry: "docker.io".into(), repository: "library/x".into() };
        self.store.add_provenance(&partial.digest(), provenance).unwrap();
        partial.stored().await.unwrap().digest()
    }

    async fn fetch(&self, located: &Located, digest: Digest) -> (Arc<Partial>, Fetched) {
        let partial = self.store.begin(&digest, located.size).unwrap();
        let fetch = self.swarm.fetch(located, wish(&partial));
        let fetched = tokio::time::timeout(Duration::from_secs(30), fetch).await.expect("a fetch always ends");
        (partial, fetched)
    }

    async fn knows(&self, addr: SocketAddr) {
        let known = || async {
            let members = self.swarm.status().members;
            members.iter().any(|member| member.addr == addr && member.reachable == Some(true)).then_some(())
        };
        eventually("a member is reached", known).await;
    }

    async fn locate(&self, digest: Digest) -> Located {
        eventually("the blob is found", || self.swarm.locate(&digest)).await
    }
}

/// All of it, without a registry.
fn wish(partial: &Arc<Partial>) -> Wish {
    let registry = Arc::new(|_, _, _| -> BoxFuture<'static, _> { Box::pin(async { Err(Declined::Never) }) });
    Wish {
        served_by: "docker.io".into(),
        partial: partial.clone(),
        wanted: 0..u32::MAX,
        cursor: Arc::default(),
        registry,
        given: Arc::new(|_, _| {}),
    }
}

fn config_at(listen: SocketAddr, members: &[SocketAddr], secret_: u8) -> Config {
    Config {
        listen,
        advertise: None,
        secrets: vec![secret(secret_)],
        zone: String::new(),
        members: members.to_vec(),
        names: vec![],
        known: None,
        upload: None,
        download: None,
        pace: Pace::default(),
    }
}

async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let all = async {
        loop {
            if let Some(value) = check().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

fn content(seed: u64, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn located(size: u64, providers: &[Provider]) -> Located {
    Located { size, providers: providers.to_vec(), provenance: vec![] }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_node_gets_everything_from_the_first_and_the_third_from_the_second() {
    let a = Node::start(&[]).await;
    let b = Node::start(&[a.addr()]).await;
    let bytes = content(1, 4 * MIB + 5);
    let digest = a.put(&bytes).await;
    let found = b.locate(digest).await;
    assert_eq!(found.providers, [a.provider()]);
    assert_eq!(found.provenance, [Provenance { registry: "docker.io".into(), repository: "library/x".into() }]);
    let (partial, fetched) = b.fetch(&found, digest).await;
    assert_eq!((fetched.missing.as_slice(), fetched.faults.as_slice()), (&[][..], &[][..]));
    assert_eq!(fetched.bytes, [(a.addr(), bytes.len() as u64)]);
    assert_eq!(a.swarm.status().sent, bytes.len() as u64);
    partial.stored().await.unwrap();

    let c = Node::start(&[b.addr()]).await;
    a.swarm.close().await;
    let from_b = || async { c.swarm.locate(&digest).await.filter(|found| found.providers.contains(&b.provider())) };
    let found = eventually("the second node is found", from_b).await;
    let (partial, fetched) = c.fetch(&found, digest).await;
    assert!(fetched.missing.is_empty());
    let blob = partial.stored().await.unwrap();
    let mut read = vec![0; bytes.len()];
    blob.read_at(0, &mut read).unwrap();
    assert_eq!(read, bytes);
    let sealers: Vec<_> = blob.statements().unwrap().into_iter().map(|s| s.unwrap().verify().unwrap()).collect();
    assert!(sealers.iter().all(|sealer| *sealer == secret(1).node_key(a.addr()).public()), "relayed, not sealed again");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_live_member_is_enough_to_find_all_others() {
    let a = Node::start(&[]).await;
    let b = Node::start(&[a.addr()]).await;
    let c = Node::start(&[a.addr()]).await;
    for (one, other) in [(&a, &b), (&a, &c), (&b, &a), (&b, &c), (&c, &a), (&c, &b)] {
        one.knows(other.addr()).await;
    }
    let digest = b.put(&content(2, MIB)).await;
    assert_eq!(c.locate(digest).await.providers, [b.provider()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_turned_away_before_they_can_ask() {
    let a = Node::start(&[]).await;
    let digest = a.put(&content(3, MIB)).await;
    let stranger = Node::with(&[a.addr()], 2, 64 * MIB).await;
    assert_eq!(stranger.swarm.locate(&digest).await, None);
    let (_, fetched) = stranger.fetch(&located(MIB, &[a.provider()]), digest).await;
    assert_eq!(fetched.missing.len(), 4);
    assert_eq!(fetched.faults, [PeerFault { peer: a.addr(), blame: Blame::Gone }]);
    assert_eq!(a.swarm.status().members, []);
    assert_eq!(a.swarm.status().sent, 0);

    // One that dials the right identity with a key of its own: it sees why, and gets nothing.
    let key = SecretKey::from_bytes(&[9; 32]);
    let at = endpoint::settle(loopback()).unwrap();
    let open = Members::new(at, key.clone(), "", vec![secret(1)], &[a.addr()], Pace::default());
    let endpoint = endpoint::bind(at, key, &open).await.unwrap();
    let connection = endpoint.connect(open.dial(a.addr()).remove(0), frame::ALPN).await.unwrap();
    let closed = connection.closed().await.to_string();
    assert!(closed.contains("403") || closed.contains("not a member"), "{closed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_secret_is_rotated_everybody_gets_everything_from_everybody() {
    // Each step of a rotation, beside a node of the step before: one secret, both, the new one first, the new one alone.
    let steps: [&[u8]; 4] = [&[1], &[1, 2], &[2, 1], &[2]];
    for (number, pair) in steps.windows(2).enumerate() {
        let secrets = |step: &[u8]| step.iter().map(|n| secret(*n)).collect::<Vec<_>>();
        let before = Node::holding(&[], secrets(pair[0]), 64 * MIB).await;
        let after = Node::holding(&[before.addr()], secrets(pair[1]), 64 * MIB).await;
        for (from, to, seed) in [(&before, &after, 1), (&after, &before, 2)] {
            let bytes = content(seed + number as u64, MIB + 5);
            let digest = from.put(&bytes).await;
            let found = to.locate(digest).await;
            assert_eq!(found.providers, [from.provider()], "step {number}");
            let (_, fetched) = to.fetch(&found, digest).await;
            assert!(fetched.missing.is_empty() && fetched.faults.is_empty(), "step {number}: {fetched:?}");
        }
    }
    // Whoever has not come along is a stranger.
    let (first, last) = (Node::with(&[], 1, 64 * MIB).await, Node::with(&[], 2, 64 * MIB).await);
    let digest = first.put(&content(9, MIB)).await;
    let (_, fetched) = last.fetch(&located(MIB, &[first.provider()]), digest).await;
    assert_eq!(fetched.missing.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_on_a_peers_disk_is_noticed_blamed_and_made_good_by_another() {
    let a = Node::start(&[]).await;
    let c = Node::start(&[a.addr()]).await;
    let b = Node::start(&[a.addr(), c.addr()]).await;
    let bytes = content(4, 2 * MIB);
    let digest = a.put(&bytes).await;
    c.put(&bytes).await;
    let path = a.dir.path().join("blobs/sha256").join(digest.hex());
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    // Two neighbours are asked in turn, so one of two pieces side by side is asked of this one.
    for at in [MIB, MIB + (256 << 10)] {
        std::os::unix::fs::FileExt::write_all_at(&file, b"rot", at + 77).unwrap();
    }
    let found = located(2 * MIB, &[a.provider(), c.provider()]);
    b.knows(c.addr()).await;
    // Pieces are shared out by speed too, so the damaged ones may come from the other at first.
    for _ in 0..50 {
        let (partial, fetched) = b.fetch(&found, digest).await;
        assert!(fetched.missing.is_empty() && partial.verified().await.is_ok());
        if !fetched.faults.is_empty() {
            assert_eq!(fetched.faults, [PeerFault { peer: a.addr(), blame: Blame::Corrupt }]);
            assert!(a.store.get(&digest).is_none(), "it threw its own away");
            return;
        }
        partial.stored().await.unwrap();
        b.store.discard(&digest).unwrap();
    }
    panic!("the damaged piece was never asked for");
}

/// One bad peer, asked alone and then beside a good one.
async fn tricked(trick: Trick, blame: Blame) {
    let b = Node::start(&[]).await;
    let good = Node::start(&[b.addr()]).await;
    let bytes = content(5, MIB + 1);
    let fake = Fake::start(b.addr(), trick, bytes.clone()).await;
    b.knows(good.addr()).await;
    eventually("the fake is a member", || async {
        b.swarm.status().members.iter().any(|member| member.addr == fake.addr).then_some(())
    })
    .await;
    let digest = good.put(&bytes).await;
    let provider = Provider { addr: fake.addr, complete: true };
    let (partial, fetched) = b.fetch(&located(MIB + 1, &[provider]), digest).await;
    assert_eq!(fetched.faults, [PeerFault { peer: fake.addr, blame }], "{trick:?}");
    // The owner names one that has it and does not lie.
    assert!(fetched.missing.is_empty(), "{trick:?}: {fetched:?}");
    assert!(fetched.bytes.iter().any(|(addr, _)| *addr == good.addr()), "{trick:?}: {fetched:?}");
    assert!(partial.verified().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_sends_wrong_bytes() {
    tricked(Trick::WrongBytes, Blame::Corrupt).await;
}

/// Which of them is right, only the whole can say: until then both are believed.
#[tokio::test(flavor = "multi_thread")]
async fn two_that_state_different_hashes_for_one_piece() {
    let b = Node::start(&[]).await;
    let good = Node::start(&[b.addr()]).await;
    let bytes = content(12, 4 * MIB);
    let fake = Fake::start(b.addr(), Trick::OtherBytes, bytes.clone()).await;
    let liar = secret(1).node_key(fake.addr).public();
    b.knows(good.addr()).await;
    eventually("the fake is a member", || async {
        b.swarm.status().members.iter().any(|member| member.addr == fake.addr).then_some(())
    })
    .await;
    let digest = good.put(&bytes).await;
    let both = located(4 * MIB, &[Provider { addr: fake.addr, complete: true }, good.provider()]);
    let (partial, fetched) = b.fetch(&both, digest).await;
    let is_known = |fault: &PeerFault| matches!(fault.blame, Blame::Corrupt | Blame::Lied);
    assert!(!fetched.faults.iter().any(is_known), "nobody can know before the whole is here: {:?}", fetched.faults);
    let Err(StoreError::Mismatch { stated, .. }) = partial.verified().await else { panic!("it is wrong") };
    assert!(stated.iter().any(|said| said.sealer == *liar.as_bytes()), "the liar is among those who may have lied");
    assert!(b.store.get(&digest).is_none());
    b.swarm.quarantine(liar);
    let (partial, fetched) = b.fetch(&both, digest).await;
    assert!(fetched.missing.is_empty() && partial.verified().await.is_ok());
    assert!(fetched.bytes.iter().all(|(addr, _)| *addr == good.addr()), "and nothing more of the liar's: {fetched:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_answers() {
    tricked(Trick::Silence, Blame::Stall).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_stops_in_the_middle() {
    tricked(Trick::StopsMidway, Blame::Stall).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_dies_in_the_middle() {
    tricked(Trick::DiesMidway, Blame::Gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_statement_nobody_signed() {
    tricked(Trick::BadSignature, Blame::Lied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_states_another_piece() {
    tricked(Trick::OtherPiece, Blame::Lied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_announces_a_frame_of_four_gibibytes() {
    tricked(Trick::HugeFrame, Blame::Lied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_has_not_got_what_it_says() {
    tricked(Trick::NotHere, Blame::Lied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_sends_less_than_the_piece() {
    tricked(Trick::Short, Blame::Lied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_at_random_are_met_where_the_owner_has_no_time() {
    let a = Node::start(&[]).await;
    let owner = Fake::start(a.addr(), Trick::Refuses, Vec::new()).await;
    let b = Node::start(&[a.addr(), owner.addr]).await;
    b.knows(a.addr()).await;
    let is_owned = |bytes: &Vec<u8>| b.net().members.owners(&Digest::of(bytes))[0] == owner.addr;
    let bytes = (24..).map(|seed| content(seed, MIB)).find(is_owned).unwrap();
    let digest = a.put(&bytes).await;
    let (_, fetched) = b.fetch(&Located::nowhere(MIB), digest).await;
    assert_eq!((fetched.missing.as_slice(), fetched.faults.as_slice()), (&[][..], &[][..]));
    assert_eq!(fetched.bytes, [(a.addr(), MIB)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_with_too_many_handshakes_says_so_at_once_and_is_asked_again() {
    let a = Node::start(&[]).await;
    let b = Node::start(&[a.addr()]).await;
    let digest = a.put(&content(26, MIB)).await;
    b.locate(digest).await;
    let handshakes = &a.net().exchange.handshakes;
    let query = Request::Query(digest);
    let anew = || b.net().pool.open_by(a.addr(), &query, pool::Way::Anew);
    let all = handshakes.acquire_many(HANDSHAKES as u32).await.unwrap();
    assert!(matches!(anew().await, Err(pool::AskError::Busy)));
    assert!(b.net().members.is_awake(a.addr()), "it lives, and is no worse an owner for it");
    drop(all);
    let mut reply = anew().await.unwrap();
    let answer: Answer = frame::receive(&mut reply.stream, frame::FRAME_DEADLINE).await.unwrap();
    assert!(matches!(answer, Answer::Located(Some(_))), "{answer:?}");
    eventually("no connection keeps the place of its handshake", || async {
        (handshakes.available_permits() == HANDSHAKES).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_gave_something_is_heard_for_a_moment() {
    let a = Node::start(&[]).await;
    let b = Node::start(&[a.addr()]).await;
    let digest = a.put(&content(23, MIB)).await;
    b.locate(digest).await;
    let (pool, peer) = (b.net().pool.clone(), a.addr());
    assert!(!pool.hears(peer), "words are no pieces");
    let partial = b.store.begin(&digest, MIB).unwrap();
    let want = Want { peer, blob: digest, layout: partial.layout(), patience: Duration::from_secs(30) };
    let (tell, heard) = tokio::sync::oneshot::channel();
    let at_once = pool.clone();
    let came = move || tell.send(at_once.hears(peer)).unwrap();
    get::piece(&pool, want, partial.writer(0).unwrap(), |_| false, came).await.unwrap();
    assert!(heard.await.unwrap());
    eventually("it is heard no more", || async { (!pool.hears(peer)).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_found_gone_is_waited_for_no_longer() {
    let a = Node::start(&[]).await;
    let b = Node::start(&[a.addr()]).await;
    let digest = a.put(&content(25, MIB)).await;
    b.locate(digest).await;
    b.knows(a.addr()).await;
    let partial = b.store.begin(&digest, MIB).unwrap();
    let minute = Duration::from_secs(60);
    let want = Want { peer: a.addr(), blob: digest, layout: partial.layout(), patience: minute };
    let slots = a.net().exchange.slots.acquire_many(SLOTS as u32).await.unwrap();
    let ask = get::piece(&b.net().pool, want, partial.writer(0).unwrap(), |_| false, || {});
    let found_gone = async {
        eventually("it stands in line", || async {
            (a.net().exchange.line.available_permits() < SLOTS + LINE).then_some(())
        })
        .await;
        let members = &b.net().members;
        let card = members.change(|roster, _| roster.card_of(a.addr()).cloned().unwrap());
        let gone = news::Gone::sign(&secret(1).node_key(b.addr()), b.addr(), card);
        assert_eq!(members.learn(vec![news::News::Gone(gone)], roster::Heard::Gossip), 1);
    };
    let (asked, ()) = tokio::join!(tokio::time::timeout(minute / 2, ask), found_gone);
    assert!(matches!(asked, Ok(Err(GetError::Left))));
    drop(slots);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_too_many_in_line_comes_back_and_blames_nobody() {
    let a = Node::start(&[]).await;
    let b = Node::start(&[a.addr()]).await;
    let bytes = content(21, MIB);
    let digest = a.put(&bytes).await;
    let found = b.locate(digest).await;
    let exchange = &a.net().exchange;
    let line = exchange.line.acquire_many((SLOTS + LINE) as u32).await.unwrap();
    let partial = b.store.begin(&digest, MIB).unwrap();
    let want = Want { peer: a.addr(), blob: digest, layout: partial.layout(), patience: Duration::from_secs(5) };
    let pool = &b.net().pool;
    let ask = async || get::piece(pool, want, partial.writer(0).unwrap(), |_| false, || {}).await;
    assert!(matches!(ask().await, Err(GetError::Busy)), "the line is full");
    drop(line);
    let own: Vec<_> = (0..LINE_OF_ONE).map_while(|_| exchange.asking.take(b.addr(), LINE_OF_ONE)).collect();
    assert!(matches!(ask().await, Err(GetError::Busy)), "it has as many places as one may");
    drop(own);
    let line = exchange.line.acquire_many((SLOTS + LINE) as u32).await.unwrap();

    let (wish, refusals) = (wish(&partial), a.swarm.status().turned_away);
    let fetch = async { tokio::time::timeout(Duration::from_secs(30), b.swarm.fetch(&found, wish)).await.unwrap() };
    let opened = async {
        eventually("it is turned away", || async { (a.swarm.status().turned_away > refusals).then_some(()) }).await;
        drop(line);
    };
    let (fetched, ()) = tokio::join!(fetch, opened);
    assert_eq!((fetched.missing.as_slice(), fetched.faults.as_slice()), (&[][..], &[][..]));
    assert_eq!(fetched.bytes, [(a.addr(), MIB)]);
    partial.stored().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_of_an_unfinished_blob_are_shared_and_the_rest_is_missing() {
    let a = Node::start(&[]).await;
    let b = Node::start(&[a.addr()]).await;
    b.knows(a.addr()).await;
    let bytes = content(6, 2 * MIB);
    let digest = Digest::of(&bytes);
    let _unfinished = a.pour(&bytes, 0..3);
    let provider = Provider { addr: a.addr(), complete: false };
    let (partial, fetched) = b.fetch(&located(2 * MIB, &[provider]), digest).await;
    assert_eq!(fetched.missing, [3, 4, 5, 6, 7]);
    assert_eq!(fetched.faults, []);
    // Resumed when there is more; only that is fetched.
    let _unfinished = a.pour(&bytes, 0..6);
    let (_, fetched) = b.fetch(&located(2 * MIB, &[provider]), digest).await;
    assert_eq!(fetched.bytes, [(a.addr(), 3 * (256 << 10))]);
    b.pour(&bytes, 6..8);
    assert!(partial.verified().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_size_than_the_registrys_is_nobodys_blob() {
    let a = Node::start(&[]).await;
    let b = Node::start(&[a.addr()]).await;
    let digest = a.put(&content(7, MIB)).await;
    let partial = b.store.begin(&digest, MIB - 1).unwrap();
    let fetched = b.swarm.fetch(&located(MIB, &[a.provider()]), wish(&partial)).await;
    assert_eq!((fetched.missing.len(), fetched.bytes.len()), (4, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantined_nodes_pieces_are_not_taken_even_from_others() {
    let a = Node::start(&[]).await;
    let b = Node::start(&[a.addr()]).await;
    let digest = a.put(&content(8, MIB)).await;
    let found = b.locate(digest).await;
    let sealer = secret(1).node_key(a.addr()).public();
    assert_eq!(b.swarm.member(&sealer), Some(a.addr()));
    b.swarm.quarantine(sealer);
    assert_eq!(b.swarm.status().quarantined, [sealer]);
    let (_, fetched) = b.fetch(&found, digest).await;
    assert_eq!((fetched.missing.len(), fetched.faults.len()), (4, 0), "missing, but the relay is not to blame");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_evicted_is_withdrawn_and_what_is_held_is_told_at_the_start() {
    let a = Node::with(&[], 1, 2 * MIB).await;
    let first = a.put(&content(9, MIB)).await;
    let b = Node::start(&[a.addr()]).await;
    b.locate(first).await;
    a.put(&content(10, MIB)).await;
    let third = a.put(&content(11, MIB)).await;
    b.locate(third).await;
    eventually("the evicted one is forgotten", || async { b.swarm.locate(&first).await.is_none().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_restarts_is_told_again() {
    let a = Node::start(&[]).await;
    let b = Node::start(&[a.addr()]).await;
    let digest = a.put(&content(12, MIB)).await;
    b.locate(digest).await;
    let at = b.addr();
    b.swarm.close().await;
    drop(b.swarm);
    let swarm = eventually("the port is free again", || async {
        Swarm::start(config_at(at, &[a.addr()], 1), b.store.clone()).await.ok()
    })
    .await;
    // Both own everything; its books were empty, and it may not ask itself for what it does not know.
    eventually("the books are full again", || async { (swarm.status().facts > 0).then_some(()) }).await;
    assert_eq!(swarm.locate(&digest).await.unwrap().providers, [a.provider()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_said_to_have_started_again_is_reached_by_a_new_connection() {
    let a = Node::start(&[]).await;
    let b = Node::start(&[a.addr()]).await;
    a.knows(b.addr()).await;
    let (pool, members) = (&a.net().pool, &a.net().members);
    let connection = || async {
        pool.probe(b.addr(), frame::Ask::Ping, pool::Way::Awake).await.unwrap();
        pool.connection_to(b.addr()).await.unwrap()
    };
    // The first greeting makes one of its own.
    let before = eventually("the connection stays as long as it is the same member", || async {
        let before = connection().await;
        (connection().await == before).then_some(before)
    })
    .await;
    let (count, boot) = members.change(|roster, _| roster.card_of(b.addr()).unwrap().version());
    let card = news::Card::sign(&secret(1).node_key(b.addr()), b.addr(), boot + 1, count + 1, "", false);
    assert_eq!(members.learn(vec![news::News::Is(card)], roster::Heard::Gossip), 1);
    assert_ne!(connection().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_owners_cost_less_than_the_deadline() {
    let dead = endpoint::settle(loopback()).unwrap();
    let a = Node::start(&[dead]).await;
    let started = std::time::Instant::now();
    assert_eq!(a.swarm.locate(&Digest::of(b"unknown")).await, None);
    let first = started.elapsed();
    assert!(first < Duration::from_secs(2), "{first:?}");
    let asked_again = std::time::Instant::now();
    assert_eq!(a.swarm.locate(&Digest::of(b"unknown")).await, None);
    assert!(asked_again.elapsed() < Duration::from_millis(250), "who was silent is not waited for again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_or_broken_store_ends_the_fetch_and_blames_nobody() {
    let a = Node::start(&[]).await;
    let b = Node::start(&[a.addr()]).await;
    let digest = a.put(&content(13, MIB)).await;
    let found = b.locate(digest).await;
    let partial = b.store.begin(&digest, MIB).unwrap();
    b.store.discard(&digest).unwrap();
    let fetched = b.swarm.fetch(&found, wish(&partial)).await;
    assert!(matches!(fetched.failed, Some(StoreError::Discarded(_))));
    assert_eq!((fetched.faults.len(), fetched.missing.len()), (0, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_and_an_address_for_nobody_are_clear_errors() {
    let a = Node::start(&[]).await;
    let error = Swarm::start(config_at(a.addr(), &[], 1), a.store.clone()).await.unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }) && error.to_string().contains(&a.addr().to_string()), "{error}");
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    assert!(matches!(Swarm::start(config_at(any, &[], 1), a.store.clone()).await, Err(StartError::Unspecified(_))));
}

#[tokio::test]
async fn alone_everything_is_missing() {
    let dir = TempDir::new().unwrap();
    let config = store::Config { dir: dir.path().to_owned(), quota: MIB, low_disk: 0 };
    let store = Store::open(config).unwrap();
    let swarm = Swarm::alone();
    let digest = Digest::of(b"x");
    assert_eq!(swarm.locate(&digest).await, None);
    let partial = store.begin(&digest, 1).unwrap();
    assert_eq!(swarm.fetch(&located(1, &[]), wish(&partial)).await.missing, [0]);
    assert!(swarm.seal(digest, 1, 0, [0; 32]).verify().is_ok());
    swarm.close().await;
}

/// A registry that gives ranges of `bytes` to `node`, one piece after the other, and counts what it gave.
fn registry(node: &Node, bytes: &Arc<Vec<u8>>, partial: &Arc<Partial>, given: &Arc<Mutex<Vec<u32>>>) -> Wish {
    let (swarm, bytes, taken, given) = (node.swarm.clone(), bytes.clone(), partial.clone(), given.clone());
    let registry = Arc::new(move |run: Range<u32>, _, _| -> BoxFuture<'static, Result<(), Declined>> {
        let (swarm, bytes, partial, given) = (swarm.clone(), bytes.clone(), taken.clone(), given.clone());
        Box::pin(async move {
            for index in run {
                // Slow enough that others have something to ask for.
                tokio::time::sleep(Duration::from_millis(2)).await;
                given.lock().unwrap().push(index);
                let range = partial.layout().range(index);
                let Ok(mut writer) = partial.writer(index) else { continue };
                writer.write(&bytes[range.start as usize..range.end as usize]).unwrap();
                let statement = swarm.seal(partial.digest(), bytes.len() as u64, index, writer.blake3());
                writer.finish(&statement).unwrap();
            }
            Ok(())
        })
    });
    Wish {
        served_by: "docker.io".into(),
        partial: partial.clone(),
        wanted: 0..u32::MAX,
        cursor: Arc::default(),
        registry,
        given: Arc::new(|_, _| {}),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_crowd_takes_each_piece_from_the_registry_once() {
    let first = Node::start(&[]).await;
    let mut nodes = vec![first];
    for _ in 0..5 {
        nodes.push(Node::start(&[nodes[0].addr()]).await);
    }
    for node in &nodes {
        for other in nodes.iter().filter(|other| other.addr() != node.addr()) {
            node.knows(other.addr()).await;
        }
    }
    let bytes = Arc::new(content(14, 10 * MIB));
    let (digest, given) = (Digest::of(&bytes), Arc::<Mutex<Vec<u32>>>::default());
    let nowhere = Located::nowhere(bytes.len() as u64);
    let fetches = nodes.iter().map(|node| {
        let partial = node.store.begin(&digest, bytes.len() as u64).unwrap();
        let wish = registry(node, &bytes, &partial, &given);
        let nowhere = nowhere.clone();
        async move {
            let fetched =
                tokio::time::timeout(Duration::from_secs(30), node.swarm.fetch(&nowhere, wish)).await.unwrap();
            partial.stored().await.unwrap();
            fetched
        }
    });
    let fetched = join_all(fetches).await;
    assert!(fetched.iter().all(|fetched| fetched.missing.is_empty() && fetched.faults.is_empty()), "{fetched:?}");
    let mut given = given.lock().unwrap().clone();
    given.sort_unstable();
    assert_eq!(given, (0..40).collect::<Vec<_>>());
    let from_peers: u64 = fetched.iter().flat_map(|fetched| &fetched.bytes).map(|(_, bytes)| bytes).sum();
    assert_eq!(from_peers, 5 * 10 * MIB);
}
