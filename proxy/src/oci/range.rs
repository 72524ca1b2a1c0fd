//! Byte ranges: which part of a blob a request wants, and which part a registry's answer is (RFC 9110 section 14).
//! Only arithmetic: nothing here reads or writes a body.

use std::{fmt, str::FromStr};

use http::{HeaderMap, HeaderValue, header};

use super::Digest;

/// What a `Range` header asks for, before the size of the blob is known.
///
/// Only a GET has one: a server must ignore `Range` with any other method (RFC 9110 section 14.2), HEAD included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// There is no range, or none that we understand; such a header may be ignored (RFC 9110 section 14.2).
    Whole,
    /// `bytes=first-`
    From(u64),
    /// `bytes=first-last`, both included, `first <= last`.
    Between(u64, u64),
    /// `bytes=-n`: the last n bytes.
    Last(u64),
    /// More than one range. See [`Wanted::Several`].
    Several,
}

/// Which bytes of a blob of known size are to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All of them, status 200.
    Whole,
    /// One part, status 206. `first <= last < size`.
    Part {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte, included.
        last: u64,
    },
    /// None that exists, status 416 with [`ContentRange::Unsatisfied`].
    Unsatisfiable,
    /// Several parts. The request passes to the registry untouched: an answer would need `multipart/byteranges`, and
    /// a whole blob instead, though legal, would be a gigabyte in place of the few pages that a lazy-pulling
    /// snapshotter asks for.
    Several,
}

impl Asked {
    /// What a request with these headers asks of the blob `digest`.
    ///
    /// `If-Range` turns the range off unless it names this very blob as a strong entity tag, `"sha256:…"`, which is what
    /// the usual registries send (RFC 9110 section 13.1.5). Another tag may come from a redirect's target that we know
    /// nothing of, and the whole is always a right answer.
    pub fn from_headers(headers: &HeaderMap, digest: &Digest) -> Self {
        let mut ranges = headers.get_all(header::RANGE).iter();
        let (Some(range), None) = (ranges.next(), ranges.next()) else { return Self::Whole };
        let tag = format!("\"{digest}\"");
        if headers.get_all(header::IF_RANGE).iter().all(|validator| validator.as_bytes() == tag.as_bytes()) {
            Self::parse(Some(range))
        } else {
            Self::Whole
        }
    }

    /// What one `Range` header asks for. Numbers too large for 64 bits count as the largest.
    pub fn parse(header: Option<&HeaderValue>) -> Self {
        header.and_then(|value| value.to_str().ok()).and_then(Self::read).unwrap_or(Self::Whole)
    }

    /// `None` when the header is not of the grammar or not in bytes.
    fn read(text: &str) -> Option<Self> {
        let (unit, set) = text.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        // A recipient must accept empty elements of a list (RFC 9110 section 5.6.1.2).
        let mut ranges = set.split(',').map(|range| range.trim_matches([' ', '\t'])).filter(|range| !range.is_empty());
        let only = Self::one(ranges.next()?)?;
        let mut several = false;
        for range in ranges {
            Self::one(range)?;
            several = true;
        }
        Some(if several { Self::Several } else { only })
    }

    /// One range of a set.
    fn one(range: &str) -> Option<Self> {
        match range.split_once('-')? {
            ("", length) => Some(Self::Last(number(length)?)),
            (first, "") => Some(Self::From(number(first)?)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::Between(first, last))
            }
        }
    }

    /// Which bytes that is, of a blob of `size` bytes. What reaches beyond the end is cut at the end; of an empty blob
    /// the whole is given, as no 206 can express nothing.
    pub fn of(self, size: u64) -> Wanted {
        let Some(end) = size.checked_sub(1) else {
            return if self == Self::Several { Wanted::Several } else { Wanted::Whole };
        };
        let part = |first: u64, last: u64| {
            if first <= end { Wanted::Part { first, last: last.min(end) } } else { Wanted::Unsatisfiable }
        };
        match self {
            Self::Whole => Wanted::Whole,
            Self::Several => Wanted::Several,
            Self::From(first) => part(first, end),
            Self::Between(first, last) => part(first, last),
            Self::Last(0) => Wanted::Unsatisfiable,
            Self::Last(length) => part(size.saturating_sub(length), end),
        }
    }
}

/// Which bytes of a blob of `size` bytes a `Range` header wants, when the size is known at once.
pub fn parse(header: Option<&HeaderValue>, size: u64) -> Wanted {
    Asked::parse(header).of(size)
}

/// A `Content-Range` header in bytes (RFC 9110 section 14.4), ours with `Display` and a registry's with `FromStr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentRange {
    /// `bytes first-last/size`: what a 206 carries. `first <= last`, and below `size` where that is told.
    Part {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte, included.
        last: u64,
        /// Size of the whole. `None`: the sender did not say, `*`.
        size: Option<u64>,
    },
    /// `bytes */size`: what a 416 says.
    Unsatisfied {
        /// Size of the whole.
        size: u64,
    },
}

/// Why a `Content-Range` cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContentRangeError {
    /// The unit is not `bytes`.
    #[error("the content range is not in bytes")]
    Unit,
    /// Not `first-last/size`, or a number does not fit in 64 bits.
    #[error("the content range is not of the form \"bytes first-last/size\"")]
    Grammar,
    /// The last byte stands before the first or beyond the end; RFC 9110 forbids to combine such an answer.
    #[error("the content range contradicts itself")]
    Contradiction,
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part { first, last, size: Some(size) } => write!(f, "bytes {first}-{last}/{size}"),
            Self::Part { first, last, size: None } => write!(f, "bytes {first}-{last}/*"),
            Self::Unsatisfied { size } => write!(f, "bytes */{size}"),
        }
    }
}

impl FromStr for ContentRange {
    type Err = ContentRangeError;

    fn from_str(text: &str) -> Result<Self, ContentRangeError> {
        use ContentRangeError::{Contradiction, Grammar, Unit};
        // Unlike in a number for ourselves, a size that does not fit must not be taken for another one.
        let exact = |text: &str| number(text).and_then(|_| text.parse().ok()).ok_or(Grammar);
        let (unit, rest) = text.split_once(' ').ok_or(Grammar)?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return Err(Unit);
        }
        let (range, size) = rest.split_once('/').ok_or(Grammar)?;
        if range == "*" {
            return Ok(Self::Unsatisfied { size: exact(size)? });
        }
        let (first, last) = range.split_once('-').ok_or(Grammar)?;
        let (first, last) = (exact(first)?, exact(last)?);
        let size = if size == "*" { None } else { Some(exact(size)?) };
        if first <= last && size.is_none_or(|size| last < size) {
            Ok(Self::Part { first, last, size })
        } else {
            Err(Contradiction)
        }
    }
}

/// `1*DIGIT`, saturating. `str::parse` alone would take a sign.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
