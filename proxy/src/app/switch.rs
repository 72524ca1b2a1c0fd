//! Whether new connections are caught: not while at a limit, and not while the operator has switched it off. The second is a
//! file, so that it outlasts a restart: what an operator took out of the way must not come back because something crashed.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use tokio::sync::Notify;
use waylay_certs::durable;

use crate::{
    admin::{
        bypass::{moment, now},
        status::Switched,
    },
    intercept::Intercept,
};

/// What stands in the mark before the moment at which it ends.
const UNTIL: &str = "until ";

/// Both reasons not to catch, and the hooks that are told.
pub(super) struct Switch {
    guard: Option<Arc<Intercept>>,
    mark: PathBuf,
    // std: held only while the kernel is told, so that it always hears of the last change last.
    reasons: Mutex<Reasons>,
    on: Notify,
}

#[derive(Clone, Copy, Default)]
struct Reasons {
    aside: bool,
    off: bool,
    /// When `off` ends by itself, in seconds since 1970.
    until: Option<u64>,
}

impl Switch {
    /// As it was left: off when the file `mark` is there. Without a guard nothing is told to anybody.
    pub(super) fn new(guard: Option<Arc<Intercept>>, mark: PathBuf) -> Self {
        let switch = Self { guard, mark, reasons: Mutex::default(), on: Notify::new() };
        if switch.mark.exists() {
            tracing::warn!("switched off by the operator: new connections go directly until `waylay on`");
            let until = fs::read_to_string(&switch.mark).ok().as_deref().and_then(until);
            switch.change(|reasons| (reasons.off, reasons.until) = (true, until));
            switch.end_if_due();
        }
        switch
    }

    /// At a limit or stopping, or no longer.
    pub(super) fn step_aside(&self, aside: bool) {
        self.change(|reasons| reasons.aside = aside);
    }

    /// The operator's word, remembered before it is carried out.
    ///
    /// # Errors
    /// When it cannot be remembered; nothing is changed then.
    pub(super) fn set(&self, wanted: Switched) -> io::Result<()> {
        let Switched { off, until } = wanted;
        if off {
            let until = until.map(|until| format!("{UNTIL}{}\n", moment(until))).unwrap_or_default();
            let mark = format!("waylay is switched off; `waylay on` switches it on and removes this file.\n{until}");
            durable::write(&self.mark, mark.as_bytes(), 0o644)?;
        } else if let Err(error) = fs::remove_file(&self.mark)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        tracing::info!(off, until = until.map(moment), "switched by the operator");
        self.change(|reasons| (reasons.off, reasons.until) = (off, until.filter(|_| off)));
        if !off {
            self.on.notify_one();
        }
        Ok(())
    }

    /// Switches it on when the time that the operator gave is over. Call it every now and then.
    pub(super) fn end_if_due(&self) {
        if self.until().is_some_and(|until| until <= now())
            && let Err(error) = self.set(Switched { off: false, until: None })
        {
            tracing::error!(%error, "the time to be off is over, but that cannot be noted; `waylay on` tries again");
        }
    }

    /// When it is switched on by itself, in seconds since 1970; `None` while on, and when it is not.
    pub(super) fn until(&self) -> Option<u64> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner).until
    }

    /// Waits until the operator switches it on. For one waiter; safe to drop and call again.
    pub(super) async fn turned_on(&self) {
        self.on.notified().await;
    }

    /// Whether the operator has switched it off.
    pub(super) fn is_off(&self) -> bool {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner).off
    }

    /// Whether connections are sent directly now, for whatever reason.
    pub(super) fn is_aside(&self) -> bool {
        let reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.off || reasons.aside
    }

    fn change(&self, change: impl FnOnce(&mut Reasons)) {
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut reasons);
        if let Some(guard) = &self.guard
            && let Err(error) = guard.set_enabled(!reasons.aside && !reasons.off)
        {
            tracing::error!(%error, "cannot tell the kernel whether to catch connections");
        }
    }
}

/// The moment in a mark. What cannot be read is for good.
fn until(mark: &str) -> Option<u64> {
    let moment = mark.lines().find_map(|line| line.strip_prefix(UNTIL))?;
    let since = humantime::parse_rfc3339(moment).ok()?.duration_since(UNIX_EPOCH);
    since.ok().as_ref().map(Duration::as_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: Switched = Switched { off: true, until: None };
    const ON: Switched = Switched { off: false, until: None };

    #[test]
    fn off_outlasts_a_restart_and_a_limit_does_not_end_it() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("off");
        let switch = Switch::new(None, mark.clone());
        assert!(!switch.is_aside());
        switch.set(OFF).unwrap();
        switch.step_aside(true);
        switch.step_aside(false);
        assert!(switch.is_aside() && Switch::new(None, mark.clone()).is_off());
        switch.end_if_due();
        assert!(switch.is_off(), "for good");
        switch.set(ON).unwrap();
        switch.set(ON).unwrap();
        assert!(!switch.is_aside() && !Switch::new(None, mark).is_off());
    }

    #[test]
    fn off_for_a_time_ends_by_itself_also_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("off");
        let switch = Switch::new(None, mark.clone());
        let later = now() + 3600;
        switch.set(Switched { until: Some(later), ..OFF }).unwrap();
        switch.end_if_due();
        let again = Switch::new(None, mark.clone());
        assert_eq!((again.is_off(), again.until()), (true, Some(later)));
        switch.set(Switched { until: Some(now()), ..OFF }).unwrap();
        assert!(!Switch::new(None, mark.clone()).is_off(), "it ended while no daemon ran");
        switch.end_if_due();
        assert!(!switch.is_off() && !mark.exists());
        switch.set(Switched { until: Some(later), ..OFF }).unwrap();
        switch.set(OFF).unwrap();
        assert_eq!(Switch::new(None, mark).until(), None, "the last word counts");
    }

    #[test]
    fn a_mark_of_an_older_daemon_or_a_damaged_one_is_for_good() {
        for mark in ["", "waylay is switched off.\n", "until tomorrow\n"] {
            assert_eq!(until(mark), None, "{mark:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("off"), [0xff, 0xfe]).unwrap();
        let switch = Switch::new(None, dir.path().join("off"));
        assert_eq!((switch.is_off(), switch.until()), (true, None), "not even text");
        assert_eq!(until("x\nuntil 2023-11-14T22:13:20Z\n"), Some(1_700_000_000));
    }
}
