//! Range headers of clients, and Content-Range headers of registries.
#![no_main]

use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use waylay::oci::range::{Asked, ContentRange, Wanted};

fuzz_target!(|input: (u64, &[u8])| {
    let (size, bytes) = input;
    let Ok(header) = HeaderValue::from_bytes(bytes) else { return };
    match Asked::parse(Some(&header)).of(size) {
        Wanted::Part { first, last } => assert!(first <= last && last < size),
        Wanted::Whole | Wanted::Unsatisfiable | Wanted::Several => {}
    }
    if let Some(range) = header.to_str().ok().and_then(|text| text.parse::<ContentRange>().ok()) {
        assert_eq!(range.to_string().parse::<ContentRange>().ok(), Some(range));
        if let ContentRange::Part { first, last, size } = range {
            assert!(first <= last && size.is_none_or(|size| last < size));
        }
    }
});
