//! Who is there, as real nodes in one process find out, ten times faster than they would.

use std::collections::BTreeSet;

use super::*;

/// A node of this many times the usual pace.
const FASTER: u32 = 10;

struct Member {
    swarm: Swarm,
    addr: SocketAddr,
    store: Store,
    _dir: TempDir,
}

impl Member {
    async fn start(members: &[SocketAddr]) -> Self {
        Self::with(Config { pace: Pace::faster(FASTER), ..config_at(loopback(), members, 1) }).await
    }

    async fn with(config: Config) -> Self {
        let dir = TempDir::new().unwrap();
        let at = store::Config { dir: dir.path().to_owned(), quota: MIB, low_disk: 0 };
        let store = Store::open(at).unwrap();
        let swarm = Swarm::start(config, store.clone()).await.unwrap();
        Self { addr: swarm.status().advertised.unwrap(), swarm, store, _dir: dir }
    }

    /// All that it believes to live; `None` while it is not sure of somebody.
    fn living(&self) -> Option<BTreeSet<SocketAddr>> {
        let members = self.swarm.status().members;
        let is_sure = |standing| !matches!(standing, Standing::Unasked | Standing::Suspect);
        members.iter().all(|member| is_sure(member.standing)).then(|| {
            members.iter().filter(|member| member.standing == Standing::Living).map(|member| member.addr).collect()
        })
    }

    fn standing(&self, of: SocketAddr) -> Option<Standing> {
        self.swarm.status().members.into_iter().find(|member| member.addr == of).map(|member| member.standing)
    }

    /// Gone without a word.
    fn vanish(self) -> SocketAddr {
        self.addr
    }
}

/// Members that know the first one only.
async fn cluster(count: usize) -> Vec<Member> {
    let mut members = vec![Member::start(&[]).await];
    for _ in 1..count {
        members.push(Member::start(&[members[0].addr]).await);
    }
    agree(&members).await;
    members
}

/// Waits until each believes that exactly the others live.
async fn agree(members: &[Member]) {
    let all: BTreeSet<_> = members.iter().map(|member| member.addr).collect();
    let agreed = || async {
        let wanted = |member: &Member| all.iter().copied().filter(|addr| *addr != member.addr).collect();
        members.iter().all(|member| member.living() == Some(wanted(member))).then_some(())
    };
    eventually("all agree on who lives", agreed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_live_member_in_the_token_is_enough_for_all_to_know_all() {
    let members = cluster(8).await;
    // Through the last, beside an address at which nobody is.
    let nobody = endpoint::settle(loopback()).unwrap();
    let last = Member::start(&[nobody, members[7].addr]).await;
    let members: Vec<_> = members.into_iter().chain([last]).collect();
    agree(&members).await;
    assert!(members[..8].iter().all(|member| member.standing(nobody).is_none()), "nobody answered there");
    let (sent, received) = members[0].swarm.status().control;
    assert!(sent > 0 && received > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_vanishes_is_gone_for_all_and_no_owner() {
    let mut members = cluster(6).await;
    let gone = members.swap_remove(2).vanish();
    agree(&members).await;
    let blob = Digest::of(b"x");
    for member in &members {
        assert_eq!(member.standing(gone), Some(Standing::Gone));
        assert!(!member.swarm.inner.net.as_ref().unwrap().members.owners(&blob).contains(&gone));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_says_goodbye_has_left_and_is_welcome_again_at_the_same_address() {
    let mut members = cluster(4).await;
    let left = members.swap_remove(1);
    left.swarm.close().await;
    agree(&members).await;
    assert!(members.iter().all(|member| member.standing(left.addr) == Some(Standing::Left)));
    let Member { swarm, addr, store, _dir } = left;
    drop(swarm);
    let config = Config { pace: Pace::faster(FASTER), ..config_at(addr, &[members[2].addr], 1) };
    let again = || async { Swarm::start(config.clone(), store.clone()).await.ok() };
    let swarm = eventually("the port is free again", again).await;
    members.push(Member { swarm, addr, store, _dir });
    agree(&members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_crashed_and_is_back_is_a_member_without_knowing_anybody() {
    let mut members = cluster(4).await;
    let Member { swarm, addr, store, _dir } = members.swap_remove(3);
    drop(swarm);
    agree(&members).await;
    // It lists nobody: the others look for it.
    let config = Config { pace: Pace::faster(FASTER), ..config_at(addr, &[], 1) };
    let again = || async { Swarm::start(config.clone(), store.clone()).await.ok() };
    let swarm = eventually("the port is free again", again).await;
    members.push(Member { swarm, addr, store, _dir });
    agree(&members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_slandered_says_that_it_lives() {
    let members = cluster(4).await;
    let (liar, victim) = (&members[1], &members[2]);
    let net = liar.swarm.inner.net.as_ref().unwrap();
    let card = net.members.change(|roster, _| roster.card_of(victim.addr).cloned()).unwrap();
    let before = card.version();
    let gone = news::Gone::sign(&secret(1).node_key(liar.addr), liar.addr, card);
    net.gossip.say(&news::News::Gone(gone)).await;
    let refuted = || async {
        let version = |member: &Member| {
            let members = &member.swarm.inner.net.as_ref().unwrap().members;
            members.change(|roster, _| roster.card_of(victim.addr).map(news::Card::version))
        };
        let others = members.iter().filter(|member| member.addr != victim.addr);
        others.map(version).all(|version| version > Some(before)).then_some(())
    };
    eventually("all have heard that it lives", refuted).await;
    agree(&members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_addresses_of_a_name_are_members_and_a_name_without_any_is_no_error() {
    let first = Member::start(&[]).await;
    let names =
        vec!["dns:nobody.invalid:1".parse().unwrap(), format!("dns:localhost:{}", first.addr.port()).parse().unwrap()];
    let config = Config { names, pace: Pace::faster(FASTER), ..config_at(loopback(), &[], 1) };
    let second = Member::with(config).await;
    eventually("they have found each other", || async {
        let lives = |of: &Member, at: &Member| at.standing(of.addr) == Some(Standing::Living);
        (lives(&first, &second) && lives(&second, &first)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_were_restarted_find_each_other_when_nobody_who_was_named_is_left() {
    let dir = TempDir::new().unwrap();
    let known = |n: usize| Some(dir.path().join(format!("members.{n}")));
    let first = Member::start(&[]).await;
    let with = |n: usize, listen| Config {
        known: known(n),
        pace: Pace::faster(FASTER),
        ..config_at(listen, &[first.addr], 1)
    };
    let mut members = Vec::new();
    for n in 0..3 {
        members.push(Member::with(with(n, loopback())).await);
    }
    let addrs: Vec<_> = members.iter().map(|member| member.addr).collect();
    eventually("all are remembered", || async {
        let remembered = |n: usize| {
            let there = known::read(&known(n)?);
            addrs.iter().filter(|addr| **addr != addrs[n]).all(|addr| there.contains(addr)).then_some(())
        };
        (0..3).all(|n| remembered(n).is_some()).then_some(())
    })
    .await;
    let named = first.addr;
    drop(first);
    drop(members);
    let mut members = Vec::new();
    for (n, addr) in addrs.iter().enumerate() {
        let start = || async {
            let dir = TempDir::new().unwrap();
            let at = store::Config { dir: dir.path().to_owned(), quota: MIB, low_disk: 0 };
            let store = Store::open(at).unwrap();
            let config = Config { known: known(n), pace: Pace::faster(FASTER), ..config_at(*addr, &[named], 1) };
            let swarm = Swarm::start(config, store.clone()).await.ok()?;
            Some(Member { swarm, addr: *addr, store, _dir: dir })
        };
        members.push(eventually("the port is free again", start).await);
    }
    agree(&members).await;
}
