//! The hooks' settings: the copy here is what was last written there.

use aya::maps::{Array, Map, MapData, MapError};
use waylay_abi::Settings;

/// The settings' map and its contents.
pub(super) struct SettingsMap {
    map: Array<MapData, Settings>,
    current: Settings,
}

impl SettingsMap {
    pub(super) fn new(map: Map) -> Result<Self, MapError> {
        Ok(Self { map: Array::try_from(map)?, current: Settings::default() })
    }

    /// Changes the settings; nothing changes when the kernel refuses.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Settings)) -> Result<(), MapError> {
        let mut wanted = self.current;
        change(&mut wanted);
        if wanted != self.current {
            self.map.set(0, wanted, 0)?;
            self.current = wanted;
        }
        Ok(())
    }
}
