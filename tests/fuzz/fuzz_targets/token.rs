//! Join tokens: as text, and as a payload whose checksum is right.
#![no_main]

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use libfuzzer_sys::fuzz_target;
use waylay_certs::JoinToken;

fuzz_target!(|bytes: &[u8]| {
    let mut sealed = bytes.to_vec();
    sealed.extend_from_slice(&blake3::hash(bytes).as_bytes()[..4]);
    let sealed = format!("waylay1-{}", BASE64_URL_SAFE_NO_PAD.encode(sealed));
    for text in [std::str::from_utf8(bytes).unwrap_or_default(), &sealed] {
        if let Ok(token) = JoinToken::parse(text) {
            let again = JoinToken::parse(&token.encode()).expect("what was read can be written");
            assert!(again == token);
        }
    }
});
