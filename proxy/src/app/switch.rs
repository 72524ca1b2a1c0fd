//! Whether new connections are caught: not while at a limit, and not while the operator has switched it off. The second is a
//! file, so that it outlasts a restart.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;

use crate::intercept::Intercept;

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
}

impl Switch {
    /// As it was left: off when the file `mark` is there. Without a guard nothing is told to anybody.
    pub(super) fn new(guard: Option<Arc<Intercept>>, mark: PathBuf) -> Self {
        let switch = Self { guard, mark, reasons: Mutex::default(), on: Notify::new() };
        if switch.mark.exists() {
            tracing::warn!("switched off by the operator: new connections go directly until `waylay on`");
            switch.change(|reasons| reasons.off = true);
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
    pub(super) fn set_off(&self, off: bool) -> io::Result<()> {
        if off {
            let mut mark = fs::File::create(&self.mark)?;
            mark.write_all(b"waylay is switched off; `waylay on` switches it on and removes this file.\n")?;
            mark.sync_all()?;
        } else if let Err(error) = fs::remove_file(&self.mark)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        tracing::info!(off, "switched by the operator");
        self.change(|reasons| reasons.off = off);
        if !off {
            self.on.notify_one();
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_outlasts_a_restart_and_a_limit_does_not_end_it() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("off");
        let switch = Switch::new(None, mark.clone());
        assert!(!switch.is_aside());
        switch.set_off(true).unwrap();
        switch.step_aside(true);
        switch.step_aside(false);
        assert!(switch.is_aside() && Switch::new(None, mark.clone()).is_off());
        switch.set_off(false).unwrap();
        switch.set_off(false).unwrap();
        assert!(!switch.is_aside() && !Switch::new(None, mark).is_off());
    }
}
