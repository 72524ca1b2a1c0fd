//! The join token: one line of text that lets a new node in.
//!
//! `waylay1-` and base64url without padding of: version (1 byte), generation (4, big endian), secret (32), number of
//! addresses (1), each address as family (4 or 6), its bytes and the port (big endian), and at the end the first four
//! bytes of the BLAKE3 of everything before. The checksum finds slips of copying; it protects nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use zeroize::{Zeroize, Zeroizing};

use super::ClusterSecret;

const PREFIX: &str = "waylay1-";
const VERSION: u8 = 1;
const CHECKSUM: usize = 4;
/// More addresses than this do not help a joiner, and would not fit the count.
const MAX_ADDRESSES: usize = 255;

/// Everything a new node needs: the cluster's secret and where some members listen. It has no `Display`, so that it
/// does not end in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The secret, with its generation.
    pub secret: ClusterSecret,
    /// Members to ask first; at least one.
    pub addresses: Vec<SocketAddr>,
}

/// Why a text is not a usable join token. The text itself is never repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not even the beginning fits.
    #[error("this is not a waylay join token: one begins with waylay1-")]
    NotAToken,
    /// Written by a waylay that this one does not understand.
    #[error("this join token has version {0}, this waylay reads version 1: use the same version on all nodes")]
    Version(u8),
    /// A character that no token has.
    #[error("the join token holds a character that does not belong there (a line break or a blank?)")]
    Alphabet,
    /// Cut short or changed on the way.
    #[error("the join token is damaged or incomplete: copy all of it again")]
    Damaged,
    /// Intact, but it names nobody, or more than it can.
    #[error("a join token names 1 to 255 addresses")]
    Addresses,
}

impl JoinToken {
    /// The token that lets nodes join through `addresses`, 1 to 255 of them.
    pub fn new(secret: ClusterSecret, addresses: Vec<SocketAddr>) -> Result<Self, TokenError> {
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
            return Err(TokenError::Addresses);
        }
        Ok(Self { secret, addresses })
    }

    /// The version of the text form.
    pub fn version(&self) -> u8 {
        VERSION
    }

    /// The generation of the secret.
    pub fn generation(&self) -> u32 {
        self.secret.generation()
    }

    /// The text form; whoever reads it can join, so it goes into a file of mode 0600 or through a pipe. Addresses
    /// beyond the 255th are left out.
    pub fn encode(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(64 + 19 * self.addresses.len()));
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.secret.generation().to_be_bytes());
        bytes.extend_from_slice(self.secret.bytes());
        let addresses = &self.addresses[..self.addresses.len().min(MAX_ADDRESSES)];
        bytes.push(addresses.len() as u8);
        for address in addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend_from_slice(&ip.octets());
                }
            }
            bytes.extend_from_slice(&address.port().to_be_bytes());
        }
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(&checksum.as_bytes()[..CHECKSUM]);
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + bytes.len() * 4 / 3 + 4));
        text.push_str(PREFIX);
        BASE64_URL_SAFE_NO_PAD.encode_string(&*bytes, &mut text);
        text
    }

    /// Reads the text form; blanks around it do not count.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let Some(body) = text.strip_prefix(PREFIX) else {
            return Err(other_version(text).map_or(TokenError::NotAToken, TokenError::Version));
        };
        let alphabet = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !body.bytes().all(alphabet) {
            return Err(TokenError::Alphabet);
        }
        let bytes = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Damaged)?);
        let (payload, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(TokenError::Damaged)?;
        if blake3::hash(payload).as_bytes()[..CHECKSUM] != *checksum {
            return Err(TokenError::Damaged);
        }
        read_payload(payload)
    }
}

/// The version of a token with another prefix, such as `waylay2-…`.
fn other_version(text: &str) -> Option<u8> {
    text.strip_prefix("waylay")?.split_once('-')?.0.parse().ok()
}

fn read_payload(payload: &[u8]) -> Result<JoinToken, TokenError> {
    let mut reader = Reader(payload);
    let [version] = reader.take()?;
    if version != VERSION {
        return Err(TokenError::Version(version));
    }
    let generation = u32::from_be_bytes(reader.take()?);
    let mut bytes: [u8; 32] = reader.take()?;
    let secret = ClusterSecret::new(bytes, generation);
    bytes.zeroize();
    let [count] = reader.take()?;
    let mut addresses = Vec::with_capacity(count.into());
    for _ in 0..count {
        let ip = match reader.take()? {
            [4] => IpAddr::V4(Ipv4Addr::from(reader.take::<4>()?)),
            [6] => IpAddr::V6(Ipv6Addr::from(reader.take::<16>()?)),
            _ => return Err(TokenError::Damaged),
        };
        addresses.push(SocketAddr::new(ip, u16::from_be_bytes(reader.take()?)));
    }
    if !reader.0.is_empty() {
        return Err(TokenError::Damaged);
    }
    JoinToken::new(secret, addresses)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], TokenError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(TokenError::Damaged)?;
        self.0 = rest;
        Ok(*head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        let addresses = vec!["10.0.0.1:4500".parse().unwrap(), "[fd00::2]:4501".parse().unwrap()];
        JoinToken::new(ClusterSecret::new([42; 32], 7), addresses).unwrap()
    }

    #[test]
    fn a_token_survives_its_text_form() {
        let text = token().encode();
        let read = JoinToken::parse(&format!(" {}\n", *text)).unwrap();
        assert_eq!(read, token());
        assert_eq!((read.version(), read.generation()), (1, 7));
        assert!(!format!("{read:?}").contains("42, 42"), "the secret is not shown");
    }

    #[test]
    fn every_single_slip_is_found() {
        let text = token().encode();
        for at in PREFIX.len()..text.len() {
            let mut wrong = text.as_bytes().to_vec();
            wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert_eq!(JoinToken::parse(&wrong), Err(TokenError::Damaged), "character {at}");
        }
        for end in PREFIX.len()..text.len() {
            assert_eq!(JoinToken::parse(&text[..end]), Err(TokenError::Damaged), "cut at {end}");
        }
    }

    #[test]
    fn each_fault_has_its_own_error() {
        assert_eq!(JoinToken::parse(""), Err(TokenError::NotAToken));
        assert_eq!(JoinToken::parse("hunter2"), Err(TokenError::NotAToken));
        assert_eq!(JoinToken::parse("waylay2-AAAA"), Err(TokenError::Version(2)));
        assert_eq!(JoinToken::parse("waylay1-AA AA"), Err(TokenError::Alphabet));
        assert_eq!(JoinToken::new(ClusterSecret::new([0; 32], 0), vec![]), Err(TokenError::Addresses));
        let sealed = |payload: &[u8]| {
            let mut bytes = payload.to_vec();
            bytes.extend_from_slice(&blake3::hash(payload).as_bytes()[..CHECKSUM]);
            format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
        };
        assert_eq!(JoinToken::parse(&sealed(&[9])), Err(TokenError::Version(9)));
        let mut none = vec![VERSION];
        none.extend_from_slice(&[0; 37]);
        assert_eq!(JoinToken::parse(&sealed(&none)), Err(TokenError::Addresses));
        none.push(1);
        assert_eq!(JoinToken::parse(&sealed(&none)), Err(TokenError::Damaged), "something is left over");
    }
}
