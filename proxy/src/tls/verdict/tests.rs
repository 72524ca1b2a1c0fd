//! Verdicts hold for their time, for their roots, and through an outage.

use tokio::time::{advance, pause, resume};

use super::*;
use crate::upstream::connect::testing::{Kind, NAME, Upstream, roots, self_signed};

/// Judges and says how: the reason, and whether there is a connection to go on with.
async fn judge(verdicts: &Verdicts, addr: OrigDst, roots: &Arc<RootCertStore>) -> (Reason, bool) {
    let name = RegistryName { host: NAME.into(), port: addr.0.port() };
    match verdicts.judge(&name, addr, roots).await {
        Judgement::Terminate(reason, first) => (reason, first.is_some()),
        Judgement::Splice(reason, _) => (reason, false),
    }
}

/// Moves the clock; real sockets and a paused clock do not go together for longer than this.
async fn later(by: Duration) {
    pause();
    advance(by).await;
    resume();
}

#[tokio::test]
async fn a_verdict_is_good_for_a_minute_and_its_connection_is_handed_on_once() {
    let upstream = Upstream::start(Kind::Good).await;
    let (verdicts, dst) = (Verdicts::new(), OrigDst(upstream.addr));
    assert_eq!(judge(&verdicts, dst, &upstream.roots).await, (Reason::Verified, true));
    assert_eq!(judge(&verdicts, dst, &upstream.roots).await, (Reason::VerifiedBefore, false));
    later(FRESH).await;
    assert_eq!(judge(&verdicts, dst, &upstream.roots).await, (Reason::Verified, true));
}

#[tokio::test]
async fn a_process_that_trusts_less_gets_its_own_verdict() {
    let upstream = Upstream::start(Kind::Good).await;
    let (verdicts, dst) = (Verdicts::new(), OrigDst(upstream.addr));
    let (same, other) = (Arc::new((*upstream.roots).clone()), roots(&self_signed().cert[0]));
    assert_eq!(judge(&verdicts, dst, &upstream.roots).await, (Reason::Verified, true));
    assert_eq!(judge(&verdicts, dst, &same).await, (Reason::VerifiedBefore, false));
    assert_eq!(judge(&verdicts, dst, &other).await, (Reason::UpstreamUnverified, false));
}

#[tokio::test]
async fn a_registry_that_is_away_is_judged_by_its_last_good_verdict() {
    let upstream = Upstream::start(Kind::Good).await;
    let (verdicts, dst, roots) = (Verdicts::new(), OrigDst(upstream.addr), upstream.roots.clone());
    assert_eq!(judge(&verdicts, dst, &roots).await, (Reason::Verified, true));
    upstream.turn(Kind::Resets);
    assert_eq!(judge(&verdicts, dst, &roots).await, (Reason::VerifiedBefore, false));
    later(FRESH).await;
    assert_eq!(judge(&verdicts, dst, &roots).await, (Reason::LastGood, false));
    later(LAST_GOOD).await;
    assert_eq!(judge(&verdicts, dst, &roots).await, (Reason::UpstreamUnreachable, false));
}

#[tokio::test]
async fn a_registry_that_comes_back_is_seen_after_five_seconds_and_one_that_changed_loses_its_name() {
    let upstream = Upstream::start(Kind::Good).await;
    let (verdicts, dst, roots) = (Verdicts::new(), OrigDst(upstream.addr), upstream.roots.clone());
    assert_eq!(judge(&verdicts, dst, &roots).await, (Reason::Verified, true));
    upstream.turn(Kind::Resets);
    later(FRESH).await;
    assert_eq!(judge(&verdicts, dst, &roots).await, (Reason::LastGood, false));
    upstream.turn(Kind::Expired);
    assert_eq!(judge(&verdicts, dst, &roots).await, (Reason::LastGood, false));
    later(UNREACHABLE).await;
    assert_eq!(judge(&verdicts, dst, &roots).await, (Reason::UpstreamUnverified, false));
    upstream.turn(Kind::Resets);
    later(FRESH).await;
    assert_eq!(judge(&verdicts, dst, &roots).await, (Reason::UpstreamUnreachable, false));
}

#[tokio::test(start_paused = true)]
async fn a_registry_never_seen_is_spliced_after_three_silent_seconds() {
    let upstream = Upstream::start(Kind::Silent).await;
    let begin = Instant::now();
    let judged = judge(&Verdicts::new(), OrigDst(upstream.addr), &upstream.roots).await;
    assert_eq!(judged, (Reason::UpstreamUnreachable, false));
    assert!((3..6).contains(&begin.elapsed().as_secs()));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_remembered_for_ten_minutes_for_that_program_and_name() {
    let (verdicts, name) = (Verdicts::new(), "registry.test:5000".parse().unwrap());
    verdicts.refuse("/usr/bin/ctr", &name);
    assert!(verdicts.refused("/usr/bin/ctr", &name));
    assert!(!verdicts.refused("/usr/bin/containerd", &name));
    assert!(!verdicts.refused("/usr/bin/ctr", &"registry.test:5001".parse().unwrap()));
    advance(REFUSED - Duration::from_millis(1)).await;
    assert!(verdicts.refused("/usr/bin/ctr", &name));
    advance(Duration::from_millis(1)).await;
    assert!(!verdicts.refused("/usr/bin/ctr", &name));
}
