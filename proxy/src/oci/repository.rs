//! Names of repositories and tags, checked against the grammar of the OCI distribution spec. No more than names:
//! which request a name stands in is for `route`.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize, de};

/// The longest name that we recognise. The spec sets no limit, but says that many clients stop at 255 characters.
pub const MAX_REPOSITORY: usize = 255;

/// The longest tag of the grammar.
pub const MAX_TAG: usize = 128;

/// The name of a repository, as in `library/debian` (OCI distribution spec 1.1, "Pulling manifests"):
/// path components of lower-case letters and digits, joined inside by one of `.`, `_`, `__` or any number of `-`.
///
/// The words of the protocol are no exception: `a/blobs/b` is a legal name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository(Arc<str>);

/// A tag, as in `1.2-slim` (OCI distribution spec 1.1, "Pulling manifests"): `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Arc<str>);

/// Why a text is not a repository's name or not a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing is there.
    #[error("a name must not be empty")]
    Empty,
    /// Longer than [`MAX_REPOSITORY`] or [`MAX_TAG`] bytes.
    #[error("a repository name may have {MAX_REPOSITORY} characters, a tag {MAX_TAG}")]
    TooLong,
    /// A character or its place is outside the grammar.
    #[error("only letters, digits and single separators between them are allowed, in lower case for a repository")]
    Grammar,
}

impl Repository {
    /// The name as it stands in a path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tag {
    /// The tag as it stands in a path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Repository {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.len() {
            0 => Err(NameError::Empty),
            1..=MAX_REPOSITORY if text.split('/').all(is_component) => Ok(Self(text.into())),
            1..=MAX_REPOSITORY => Err(NameError::Grammar),
            _ => Err(NameError::TooLong),
        }
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        match text.as_bytes() {
            [] => Err(NameError::Empty),
            bytes if bytes.len() > MAX_TAG => Err(NameError::TooLong),
            [first, rest @ ..] if word(*first) && rest.iter().all(|&b| word(b) || matches!(b, b'.' | b'-')) => {
                Ok(Self(text.into()))
            }
            _ => Err(NameError::Grammar),
        }
    }
}

/// Whether `part` is `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separator = |run: &[u8]| matches!(run, b"." | b"_" | b"__") || run.iter().all(|&b| b == b'-');
    let bytes = part.as_bytes();
    // Runs of letters and digits alternate with runs of separators, and the former stand at both ends.
    bytes.first().is_some_and(|&b| word(b))
        && bytes.last().is_some_and(|&b| word(b))
        && bytes.chunk_by(|&a, &b| word(a) == word(b)).all(|run| word(run[0]) || separator(run))
}

macro_rules! text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                // Checked again: what a file or a peer says is no better than what a request says.
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

text!(Repository);
text!(Tag);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_grammar() {
        for good in
            ["a", "library/debian", "a.b/c_d/e__f/g-h/i---j", "0/1", "a/blobs/b", "v2", "blobs/uploads", "x1.2-3_4"]
        {
            assert_eq!(good.parse::<Repository>().map(|name| name.to_string()), Ok(good.to_owned()));
        }
        for bad in [
            "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", ".a", "a.", "-a", "a-", "_a", "a_", "a..b", "a___b",
            "a._b", "a-.b", "a-_b", "A", "a/B", "a b", "a%2fb", "a:b", "é", "a\0b", "a\\b", "_catalog",
        ] {
            assert_eq!(bad.parse::<Repository>(), Err(NameError::Grammar), "{bad}");
        }
        assert_eq!("".parse::<Repository>(), Err(NameError::Empty));
        assert!("a".repeat(MAX_REPOSITORY).parse::<Repository>().is_ok());
        assert_eq!("a".repeat(MAX_REPOSITORY + 1).parse::<Repository>(), Err(NameError::TooLong));
    }

    #[test]
    fn tag_grammar() {
        for good in ["1", "latest", "_x", "v1.2.3-rc_4", "A", "a--b..c__"] {
            assert_eq!(good.parse::<Tag>().map(|tag| tag.to_string()), Ok(good.to_owned()));
        }
        for bad in [".x", "-x", "..", "a/b", "a:b", "a b", "a%41", "é"] {
            assert_eq!(bad.parse::<Tag>(), Err(NameError::Grammar), "{bad}");
        }
        assert_eq!("".parse::<Tag>(), Err(NameError::Empty));
        assert!("a".repeat(MAX_TAG).parse::<Tag>().is_ok());
        assert_eq!("a".repeat(MAX_TAG + 1).parse::<Tag>(), Err(NameError::TooLong));
    }

    #[test]
    fn a_stored_name_is_checked_when_read() {
        let name: Repository = serde_json::from_str("\"a/b\"").unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"a/b\"");
        assert!(serde_json::from_str::<Repository>("\"a/../b\"").is_err());
    }
}
