//! Counters: one per way out.

use waylay_abi::Exit;

use crate::maps::COUNTERS;

/// Counts one `exit`.
#[inline(always)]
pub fn count(exit: Exit) {
    if let Some(counter) = COUNTERS.get_ptr_mut(exit as u32) {
        // SAFETY: a pointer that the map gave out; nobody else writes this CPU's slot meanwhile.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}
