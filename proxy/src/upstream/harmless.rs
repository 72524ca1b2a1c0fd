//! Which headers of a client say nothing about who it is. All others may be a credential: Docker's configuration and
//! containerd's `hosts.toml` can add headers of any name, and registries exist that take their key from one.

use http::{HeaderName, header};

/// Headers of HTTP itself that no registry decides a right by.
const OF_HTTP: [HeaderName; 23] = [
    header::ACCEPT,
    header::ACCEPT_CHARSET,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::CACHE_CONTROL,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::DATE,
    header::EXPECT,
    header::HOST,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::PRAGMA,
    header::RANGE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::USER_AGENT,
    header::VIA,
];
/// What tracing adds, another value for each request.
const OF_TRACING: [&str; 6] = ["traceparent", "tracestate", "baggage", "b3", "x-request-id", "keep-alive"];

/// Whether no credential is in a header of this name.
pub fn is_harmless(name: &HeaderName) -> bool {
    OF_HTTP.contains(name) || OF_TRACING.contains(&name.as_str())
}
