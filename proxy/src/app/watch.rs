//! What the accept loop tells: connections to counters and trace, its life to the kernel and the service manager.

use std::{sync::Arc, time::SystemTime};

use super::switch::Switch;
use crate::{
    accept::{ConnectionOutcome, Watch},
    intercept::Intercept,
    metrics::{ConnectionLabel, Metrics},
    standin::StandIn,
    telemetry::{ConnectionEvent, Event, Trace, millis},
    tls::Reason,
};

/// Counts, shows and keeps the hooks awake.
pub(super) struct Watcher {
    metrics: Arc<Metrics>,
    trace: Trace,
    guard: Option<Arc<Intercept>>,
    switch: Option<Arc<Switch>>,
    stand_in: Option<Arc<StandIn>>,
}

impl Watcher {
    pub(super) fn new(metrics: Arc<Metrics>, trace: Trace) -> Self {
        Self { metrics, trace, guard: None, switch: None, stand_in: None }
    }

    /// The same, keeping the hooks of `guard` awake and the stand-in away, and telling `switch` of limits.
    pub(super) fn with(self, guard: Arc<Intercept>, switch: Arc<Switch>, stand_in: Option<Arc<StandIn>>) -> Self {
        Self { guard: Some(guard), switch: Some(switch), stand_in, ..self }
    }
}

impl Watch for Watcher {
    fn connection(&self, outcome: &ConnectionOutcome) {
        let (decision, reason) = (outcome.reason.decision().name(), outcome.reason.name());
        self.metrics.connections.get_or_create(&ConnectionLabel { decision, reason }).inc();
        // Our own self-test comes in this way too, each minute; nobody wants to see that.
        if outcome.reason == Reason::NotCaught {
            return;
        }
        let age = outcome.age();
        tracing::debug!(
            program = outcome.program,
            name = outcome.host,
            decision,
            reason,
            error = outcome.error,
            "connection"
        );
        self.trace.tell(Event::Connection(ConnectionEvent {
            at_ms: millis(SystemTime::now() - age),
            program: outcome.program.clone(),
            destination: outcome.dst.map(|dst| dst.to_string()).unwrap_or_default(),
            name: outcome.host.clone(),
            decision: decision.to_owned(),
            reason: reason.to_owned(),
            ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        }));
    }

    fn heartbeat(&self) {
        if let Some(guard) = &self.guard
            && let Err(error) = guard.heartbeat()
        {
            tracing::error!(%error, "cannot tell the kernel that we live; connections will go directly");
        }
        if let Some(stand_in) = &self.stand_in {
            stand_in.beat();
        }
        // No error: without a service manager there is nobody to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
    }

    fn step_aside(&self, aside: bool) {
        tracing::info!(aside, "new connections go directly while at a limit or stopping");
        if let Some(switch) = &self.switch {
            switch.step_aside(aside);
        }
    }
}
