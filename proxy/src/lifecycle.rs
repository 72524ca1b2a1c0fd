//! Starting and stopping: what is not ready yet, that the end has begun, and what is still at work. It decides
//! nothing about connections; parts take these as arguments.

use std::{collections::BTreeMap, fmt, io, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::timeout,
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

/// Tells every part that the end has begun. Clones share one state; it never goes back.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A shutdown that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins the end. Doing it twice is doing it once.
    pub fn begin(&self) {
        self.0.cancel();
    }

    /// Whether the end has begun.
    pub fn is_begun(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until the end begins. Safe to drop and call again.
    pub async fn begun(&self) {
        self.0.cancelled().await;
    }
}

/// SIGTERM and SIGINT, which from now on no longer end the process but are told here.
#[derive(Debug)]
pub struct Terminations {
    term: Signal,
    int: Signal,
}

impl Terminations {
    /// Handles them from now on. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the system has no room for a handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one, which may have come since [`Self::listen`]; its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

/// Counts what is at work, so that a stop can wait for it. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Drain(TaskTracker);

/// Something at work. Dropping it says that it is done.
#[derive(Debug, Clone)]
pub struct DrainGuard {
    _token: TaskTrackerToken,
}

/// The drain's deadline passed with work left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{left} still at work after {waited:?}")]
pub struct NotDrained {
    /// How many guards were still held.
    pub left: usize,
    /// How long we waited.
    pub waited: Duration,
}

impl Drain {
    /// A drain with nothing at work.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one more at work until the guard is dropped.
    pub fn guard(&self) -> DrainGuard {
        DrainGuard { _token: self.0.token() }
    }

    /// How many are at work now.
    pub fn at_work(&self) -> usize {
        self.0.len()
    }

    /// Waits until nothing is at work, at most `deadline`. Call it after new work has been stopped.
    pub async fn wait(&self, deadline: Duration) -> Result<(), NotDrained> {
        self.0.close();
        match timeout(deadline, self.0.wait()).await {
            Ok(()) => Ok(()),
            Err(_) => Err(NotDrained { left: self.0.len(), waited: deadline }),
        }
    }
}

/// The parts that are not ready yet, by name. Clones share the list.
///
/// Take every guard before the first is dropped: an empty list is "ready".
#[derive(Clone)]
pub struct Readiness(watch::Sender<BTreeMap<&'static str, usize>>);

/// One part that is not ready. Dropping it says that the part is ready.
pub struct Unready {
    part: &'static str,
    list: Readiness,
}

impl Readiness {
    /// A list without parts, which counts as ready.
    pub fn new() -> Self {
        Self(watch::Sender::new(BTreeMap::new()))
    }

    /// Names a part that is not ready until the guard is dropped. The same name may be taken several times.
    #[must_use = "dropping the guard says that the part is ready"]
    pub fn part(&self, part: &'static str) -> Unready {
        self.0.send_modify(|parts| *parts.entry(part).or_default() += 1);
        Unready { part, list: self.clone() }
    }

    /// The names still waited for, in alphabetical order; none means ready.
    pub fn waiting(&self) -> Vec<&'static str> {
        self.0.borrow().keys().copied().collect()
    }

    /// Waits until nothing is waited for.
    pub async fn ready(&self) {
        // The sender is ours, so the channel cannot close under us.
        let _ = self.0.subscribe().wait_for(BTreeMap::is_empty).await;
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").field("waiting", &self.waiting()).finish()
    }
}

impl fmt::Debug for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Unready").field(&self.part).finish()
    }
}

impl Drop for Unready {
    fn drop(&mut self) {
        self.list.0.send_modify(|parts| match parts.get_mut(self.part) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(parts.remove(self.part)),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_part_must_say_that_it_is_ready() {
        let readiness = Readiness::new();
        let store = readiness.part("store");
        let (v4, v6) = (readiness.part("listener"), readiness.part("listener"));
        assert_eq!(readiness.waiting(), ["listener", "store"]);
        drop((store, v4));
        assert_eq!(readiness.waiting(), ["listener"]);
        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.ready().await }
        });
        drop(v6);
        waiting.await.unwrap();
        assert!(readiness.waiting().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_its_guards_up_to_the_deadline() {
        let drain = Drain::new();
        let guard = drain.guard();
        let late = drain.wait(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!((late.left, late.waited), (1, Duration::from_secs(5)));
        drop(guard);
        drain.wait(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn a_termination_that_comes_early_is_not_missed() {
        let mut terminations = Terminations::listen().unwrap();
        // Were it not handled, this would end the test.
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
        assert_eq!(terminations.next().await, "SIGTERM");
    }

    #[tokio::test]
    async fn all_clones_see_the_end_begin() {
        let shutdown = Shutdown::new();
        let other = shutdown.clone();
        assert!(!other.is_begun());
        shutdown.begin();
        other.begun().await;
        assert!(other.is_begun());
    }
}
