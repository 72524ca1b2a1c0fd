//! Images that an operator brought by hand, for a node that is cut off: what they open, and what their names mean.
//!
//! Root's word takes the place of a registry that cannot be asked, and of no other: while the registry answers, an import
//! opens nothing. While it is away, every client of this node may have the image under the name that it was imported for.

use std::io;

use http::{Response, StatusCode};

use super::{Away, Client, Outcome, Pull, Request, relayed, tags};
use crate::{
    content::{
        Found,
        image::{self, Held},
    },
    fault::Fault,
    oci::{
        Digest,
        image::{ImageName, Reference},
    },
    store::Provenance,
    upstream::Body,
};

impl Pull {
    /// The image that is `top`, all of which is in the store, is from now on known as `name`. Blocks for the disk.
    ///
    /// # Errors
    /// When it is not complete, or cannot be noted; no tag has changed then.
    pub fn import(&self, name: &ImageName, top: Digest) -> io::Result<Held> {
        let store = self.content.store();
        let held = image::held(store, top).map_err(|lacking| io::Error::new(io::ErrorKind::InvalidInput, lacking))?;
        let of = of(name);
        for part in &held.parts {
            store.import(&part.digest, &of).map_err(io::Error::other)?;
            if let Some(media_type) = &part.media_type {
                store.set_media_type(&part.digest, media_type).map_err(io::Error::other)?;
            }
        }
        if let Reference::Tag(tag) = &name.reference {
            let tag = tags::Tag { registry: of.registry, repository: of.repository, tag: tag.to_string() };
            let media_type = held.top.media_type.clone().unwrap_or_default();
            self.tags.put(&tag, &tags::Meaning { digest: top, media_type, anonymous: false })?;
        }
        tracing::info!(image = %name, digest = %top, parts = held.parts.len(), "imported by the operator");
        Ok(held)
    }

    /// What `name` means by what is known here: the registry is not asked. Blocks for the disk.
    pub fn known(&self, name: &ImageName) -> Option<Digest> {
        match &name.reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(tag) => {
                let Provenance { registry, repository } = of(name);
                let tag = tags::Tag { registry, repository, tag: tag.to_string() };
                self.tags.get(&tag).or_else(|| self.tags.at_any_address(&tag)).map(|meaning| meaning.digest)
            }
        }
    }

    /// Whether something can be served of the registry of this name although it was never seen.
    pub fn has_imports_of(&self, registry: &str) -> bool {
        self.content.store().has_imports_of(registry)
    }

    /// Is this a registry, and does it want a token? While it is away, no token is needed for what was imported; without this
    /// answer podman asks for nothing else.
    pub(super) async fn base(&self, request: Request, outcome: &mut Outcome) -> Result<Response<Body>, Fault> {
        let Request { client, head, body } = request;
        let away = match self.upstream.relay(&client.origin, &head, body).await {
            Ok(answer) if answer.status().is_server_error() => Away::Answer(Box::new(answer)),
            Ok(answer) => return Ok(relayed(answer, outcome)),
            Err(fault) => Away::Fault(fault),
        };
        if !self.has_imports_of(&client.registry.to_string()) {
            return away.show(outcome);
        }
        outcome.fault(&away.fault());
        let mut response = Response::new(super::manifest::whole("{}".into()));
        *response.status_mut() = StatusCode::OK;
        response.headers_mut().insert(http::header::CONTENT_TYPE, super::value("application/json"));
        response.headers_mut().insert("docker-distribution-api-version", super::value("registry/2.0"));
        Ok(response)
    }

    /// What an operator's import says of a tag whose registry is away: the same for a registry at whatever address.
    pub(super) fn imported_tag(&self, client: &Client, tag: &tags::Tag) -> Option<tags::Meaning> {
        self.tags.get(&tags::Tag { registry: client.registry.to_string(), ..tag.clone() })
    }

    /// Whether an operator imported what was found, for the repository that is asked.
    pub(super) fn imported(client: &Client, repository: &str, found: &Found) -> bool {
        let registry = client.registry.to_string();
        found.imported.iter().any(|one| one.registry == registry && one.repository == repository)
    }
}

/// Where an image belongs, by its name.
fn of(name: &ImageName) -> Provenance {
    Provenance { registry: name.registry.to_string(), repository: name.repository.to_string() }
}
