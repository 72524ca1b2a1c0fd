//! Manifests that came by another way than a flight, into the store.

use bytes::Bytes;

use super::{Content, begin, blocking, fault};
use crate::{
    fault::Fault,
    oci::Digest,
    store::{Provenance, StoreError},
};

impl Content {
    /// Stores a manifest that upstream has just given under `provenance`.
    ///
    /// # Errors
    /// When the store cannot take it.
    pub async fn keep(
        &self,
        digest: Digest,
        body: Bytes,
        media_type: &str,
        provenance: Provenance,
    ) -> Result<(), Fault> {
        let (store, swarm, media_type) = (self.0.store.clone(), self.0.swarm.clone(), media_type.to_owned());
        let size = body.len() as u64;
        let _alone = self.0.begins.alone(digest).await;
        if self.flying(&digest).is_some_and(|flight| flight.registry() != provenance.registry) {
            return Ok(());
        }
        blocking(move || match begin(&store, &digest, size, &provenance.registry) {
            Ok(partial) => {
                store.set_media_type(&digest, &media_type)?;
                store.add_provenance(&digest, provenance)?;
                for index in partial.missing(0..partial.layout().count()) {
                    let mut writer = partial.writer(index)?;
                    let range = partial.layout().range(index);
                    writer.write(body.get(range.start as usize..range.end as usize).unwrap_or_default())?;
                    let statement = swarm.seal(digest, size, index, writer.blake3());
                    writer.finish(&statement)?;
                }
                Ok(())
            }
            Err(StoreError::AlreadyHeld(_)) => {
                store.set_media_type(&digest, &media_type)?;
                store.add_provenance(&digest, provenance)
            }
            Err(error) => Err(error),
        })
        .await
        .unwrap_or(Ok(()))
        .map_err(fault)
    }
}
