//! Tables and properties of ranges.

use proptest::prelude::*;

use super::*;

fn wanted(range: &str, size: u64) -> Wanted {
    parse(Some(&HeaderValue::from_str(range).unwrap()), size)
}

#[test]
fn ranges_of_a_hundred_bytes() {
    let part = |first, last| Wanted::Part { first, last };
    for (range, expected) in [
        ("bytes=0-", part(0, 99)),
        ("bytes=0-0", part(0, 0)),
        ("bytes=10-", part(10, 99)),
        ("bytes=10-19", part(10, 19)),
        ("bytes=99-", part(99, 99)),
        ("bytes=0-99", part(0, 99)),
        ("bytes=0-100", part(0, 99)),
        ("bytes=50-18446744073709551615", part(50, 99)),
        ("bytes=50-99999999999999999999999", part(50, 99)),
        ("bytes=-5", part(95, 99)),
        ("bytes=-100", part(0, 99)),
        ("bytes=-101", part(0, 99)),
        ("bytes=-99999999999999999999999", part(0, 99)),
        ("Bytes=1-2", part(1, 2)),
        ("bytes= 1-2 ", part(1, 2)),
        ("bytes=,1-2,", part(1, 2)),
        ("bytes=100-", Wanted::Unsatisfiable),
        ("bytes=100-200", Wanted::Unsatisfiable),
        ("bytes=99999999999999999999999-", Wanted::Unsatisfiable),
        ("bytes=-0", Wanted::Unsatisfiable),
        ("bytes=0-1,5-6", Wanted::Several),
        ("bytes=0-1, -5", Wanted::Several),
        ("bytes=0-1,200-", Wanted::Several),
        ("", Wanted::Whole),
        ("bytes", Wanted::Whole),
        ("bytes=", Wanted::Whole),
        ("bytes=,", Wanted::Whole),
        ("bytes=-", Wanted::Whole),
        ("bytes=5", Wanted::Whole),
        ("bytes=2-1", Wanted::Whole),
        ("bytes=0-1,2-1", Wanted::Whole),
        ("bytes=+1-2", Wanted::Whole),
        ("bytes=1--2", Wanted::Whole),
        ("bytes=1-2-3", Wanted::Whole),
        ("bytes=a-b", Wanted::Whole),
        ("bytes=0x1-0x2", Wanted::Whole),
        ("bytes 0-1", Wanted::Whole),
        ("items=0-1", Wanted::Whole),
    ] {
        assert_eq!(wanted(range, 100), expected, "{range}");
    }
    assert_eq!(parse(None, 100), Wanted::Whole);
}

#[test]
fn an_empty_blob_is_given_whole() {
    for range in ["bytes=0-", "bytes=5-9", "bytes=-5", "bytes=-0"] {
        assert_eq!(wanted(range, 0), Wanted::Whole, "{range}");
    }
}

#[test]
fn not_even_ascii_is_ignored() {
    assert_eq!(parse(Some(&HeaderValue::from_bytes(b"bytes=0-\xff").unwrap()), 10), Wanted::Whole);
}

#[test]
fn if_range_must_name_the_blob() {
    let digest = Digest::of(b"x");
    let asked = |if_range: Option<&str>| {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=5-"));
        if let Some(value) = if_range {
            headers.insert(header::IF_RANGE, HeaderValue::from_str(value).unwrap());
        }
        Asked::from_headers(&headers, &digest)
    };
    assert_eq!(asked(None), Asked::From(5));
    assert_eq!(asked(Some(&format!("\"{digest}\""))), Asked::From(5));
    for other in [format!("W/\"{digest}\""), digest.to_string(), "\"x\"".into(), "Wed, 21 Oct 2015 07:28:00 GMT".into()]
    {
        assert_eq!(asked(Some(&other)), Asked::Whole, "{other}");
    }
}

#[test]
fn two_range_headers_are_none() {
    let mut headers = HeaderMap::new();
    headers.append(header::RANGE, HeaderValue::from_static("bytes=0-1"));
    headers.append(header::RANGE, HeaderValue::from_static("bytes=2-3"));
    assert_eq!(Asked::from_headers(&headers, &Digest::of(b"x")), Asked::Whole);
    assert_eq!(Asked::from_headers(&HeaderMap::new(), &Digest::of(b"x")), Asked::Whole);
}

#[test]
fn content_ranges() {
    let part = |first, last, size| Ok(ContentRange::Part { first, last, size });
    for (text, expected) in [
        ("bytes 0-9/100", part(0, 9, Some(100))),
        ("bytes 0-0/1", part(0, 0, Some(1))),
        ("Bytes 5-9/*", part(5, 9, None)),
        ("bytes */100", Ok(ContentRange::Unsatisfied { size: 100 })),
        ("bytes */*", Err(ContentRangeError::Grammar)),
        ("bytes 0-9", Err(ContentRangeError::Grammar)),
        ("bytes=0-9/100", Err(ContentRangeError::Grammar)),
        ("bytes  0-9/100", Err(ContentRangeError::Grammar)),
        ("bytes 0-/100", Err(ContentRangeError::Grammar)),
        ("bytes -9/100", Err(ContentRangeError::Grammar)),
        ("bytes +0-9/100", Err(ContentRangeError::Grammar)),
        ("bytes 0-9/18446744073709551616", Err(ContentRangeError::Grammar)),
        ("items 0-9/100", Err(ContentRangeError::Unit)),
        ("bytes 9-0/100", Err(ContentRangeError::Contradiction)),
        ("bytes 0-100/100", Err(ContentRangeError::Contradiction)),
        ("", Err(ContentRangeError::Grammar)),
    ] {
        assert_eq!(text.parse::<ContentRange>(), expected, "{text}");
    }
}

proptest! {
    #[test]
    fn a_part_lies_inside(range in "bytes=[0-9]{0,21}-[0-9]{0,21}(,[0-9]{0,3}-[0-9]{0,3})?", size in any::<u64>()) {
        if let Wanted::Part { first, last } = wanted(&range, size) {
            prop_assert!(first <= last && last < size);
        }
    }

    #[test]
    fn nothing_panics(bytes in any::<Vec<u8>>(), text in any::<String>(), size in any::<u64>()) {
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            parse(Some(&value), size);
        }
        let _ = text.parse::<ContentRange>();
    }

    #[test]
    fn a_written_range_is_read_back(a in any::<u64>(), b in any::<u64>()) {
        let (first, last) = (a.min(b), a.max(b));
        prop_assert_eq!(Asked::read(&format!("bytes={first}-{last}")), Some(Asked::Between(first, last)));
        prop_assert_eq!(Asked::read(&format!("bytes={first}-")), Some(Asked::From(first)));
        prop_assert_eq!(Asked::read(&format!("bytes=-{first}")), Some(Asked::Last(first)));
    }

    #[test]
    fn a_written_content_range_is_read_back(a in any::<u64>(), b in 0..u64::MAX, known in any::<bool>()) {
        let part = ContentRange::Part { first: a.min(b), last: b, size: known.then_some(b + 1) };
        prop_assert_eq!(part.to_string().parse(), Ok(part));
        let none = ContentRange::Unsatisfied { size: a };
        prop_assert_eq!(none.to_string().parse(), Ok(none));
    }
}
