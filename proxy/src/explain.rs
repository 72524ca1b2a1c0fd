//! Why was this pull slow, and where did each byte come from? Answered from the events that a daemon has told: pure, so
//! that a record of another node can be asked as well.

mod course;
mod select;
mod why;

#[cfg(test)]
mod tests;

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use waylay_certs::RegistryName;

pub use self::why::{rate, seconds, short};
use crate::{oci::Digest, telemetry::Event};

/// What is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// An image, as people name it.
    Image {
        /// Its registry.
        registry: String,
        /// Its repository.
        repository: String,
        /// A tag or digest.
        reference: String,
    },
    /// A blob or manifest, whatever image it belongs to.
    Digest(Digest),
}

/// A name that is neither an image nor a digest.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is neither an image, such as docker.io/library/debian:12, nor a digest, sha256: and 64 hexadecimal digits"
)]
pub struct BadSubject(String);

/// The last pull of a subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// The program that pulled.
    pub program: String,
    /// The registry it believed to talk to.
    pub registry: String,
    /// The repository.
    pub repository: String,
    /// The tag or digest that was asked for first.
    pub reference: String,
    /// What a tag meant.
    pub meant: Option<String>,
    /// When it began, in milliseconds since 1970.
    pub at_ms: u64,
    /// From the first request to the end of the last, in milliseconds.
    pub ms: u64,
    /// What was asked for, in the order of its first request.
    pub pieces: Vec<Asked>,
    /// Who gave the bytes, the largest part first.
    pub sources: Vec<Source>,
    /// Connections of the same program to the same registry that were passed through meanwhile: their reason, how many.
    pub passed: Vec<(String, usize)>,
    /// What made it slow, the worst first; what to do where something can be done.
    pub findings: Vec<String>,
}

/// All requests for one digest or tag in a pull, together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// `blob`, `manifest` or `tag`.
    pub what: String,
    /// The digest or tag.
    pub reference: String,
    /// How many requests it took; more than one are ranges or a second attempt.
    pub requests: usize,
    /// The status of the last answer; 0 when the client left before one.
    pub status: u16,
    /// Bytes sent to the client.
    pub bytes: u64,
    /// Of these, from this node's store.
    pub store_bytes: u64,
    /// Of these, from other members.
    pub peer_bytes: u64,
    /// Of these, from the registry.
    pub registry_bytes: u64,
    /// When it was first asked for, in milliseconds since the pull began.
    pub began_ms: u64,
    /// From there to the first answer.
    pub first_ms: u64,
    /// From there to the end of the last answer.
    pub ms: u64,
    /// When all of it was on this node and verified, in milliseconds since the pull began; `None` when it was here before.
    pub here_ms: Option<u64>,
    /// What went wrong, as `side:what@who`.
    pub faults: Vec<String>,
}

/// Who gave bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// `store`, `registry`, or a member's address.
    pub from: String,
    /// Bytes.
    pub bytes: u64,
    /// When its first bytes were here, in milliseconds since the pull began.
    pub first_ms: u64,
    /// When its last bytes were here.
    pub last_ms: u64,
    /// Bytes in each of [`COLUMNS`] equal parts of the pull's time.
    pub curve: Vec<u64>,
}

/// Parts that the time of a pull is shown in.
pub const COLUMNS: usize = 48;

/// The last pull of `subject` that `events` know of.
pub fn explain(events: &[Event], subject: &Subject) -> Option<Explained> {
    let pull = select::last(events, subject)?;
    let (pieces, sources) = (course::asked(&pull), course::sources(&pull));
    let first = pull.requests.first()?;
    let mut explained = Explained {
        program: first.program.clone(),
        registry: first.registry.clone(),
        repository: first.repository.clone().unwrap_or_default(),
        reference: first.reference.clone().unwrap_or_default(),
        meant: pull.requests.iter().find_map(|request| request.meant.clone()),
        at_ms: pull.at_ms(),
        ms: pull.end_ms() - pull.at_ms(),
        pieces,
        sources,
        passed: pull.passed(),
        findings: Vec::new(),
    };
    explained.findings = why::slow(&explained);
    Some(explained)
}

impl FromStr for Subject {
    type Err = BadSubject;

    fn from_str(text: &str) -> Result<Self, BadSubject> {
        if let Ok(digest) = text.parse() {
            return Ok(Self::Digest(digest));
        }
        let bad = || BadSubject(text.to_owned());
        let image: oci_spec::distribution::Reference = text.parse().map_err(|_| bad())?;
        let registry: RegistryName = image.registry().parse().map_err(|_| bad())?;
        let reference = image.digest().or(image.tag()).unwrap_or("latest");
        Ok(Self::Image {
            registry: registry.to_string(),
            repository: image.repository().to_owned(),
            reference: reference.to_owned(),
        })
    }
}
