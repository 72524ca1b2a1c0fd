//! What a client sees when we fail: the registry protocol's error body, marked as ours, so that nobody blames the
//! registry.

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};

use crate::{
    fault::{Fault, Side, What},
    upstream::Body,
};

/// Says in a response that waylay made it, and what went wrong.
const MARK: HeaderName = HeaderName::from_static("x-waylay-fault");

/// The answer to a request that failed before any byte of an answer was sent.
pub(super) fn fault(fault: &Fault) -> Response<Body> {
    let status = match (fault.side, fault.what) {
        (Side::Client, _) => StatusCode::BAD_REQUEST,
        (Side::Ours, _) => StatusCode::SERVICE_UNAVAILABLE,
        (_, What::Stalled) => StatusCode::GATEWAY_TIMEOUT,
        (Side::Peer | Side::Registry, _) => StatusCode::BAD_GATEWAY,
    };
    let label = fault.label();
    // OCI distribution spec 1.1, "Error codes".
    let message = format!("waylay: {fault}");
    let error = serde_json::json!({ "errors": [{ "code": "UNKNOWN", "message": message, "detail": label }] });
    let mut response = Response::new(Full::from(error.to_string()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(value) = HeaderValue::from_str(&label) {
        response.headers_mut().insert(MARK, value);
    }
    response
}
