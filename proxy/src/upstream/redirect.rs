//! Following a registry's redirect to the host that holds its blobs.
//!
//! `https` only, at most five hops, no credential to another host, never to a link-local, loopback or metadata
//! address. What may not or cannot be followed goes back to the client unchanged, which then follows it itself.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Response, Uri, header};
use hyper::body::Incoming;

use super::{Head, Origin, Target, Upstream, empty, is_harmless, request};
use crate::{dial::OrigDst, fault::Fault};

const MOST_HOPS: usize = 5;

/// Sends `head` to `origin` and then to wherever it is redirected.
pub(super) async fn follow(upstream: &Upstream, origin: &Origin, mut head: Head) -> Result<Response<Incoming>, Fault> {
    let mut answer = origin.send(request(origin, &head, empty())).await?;
    let mut here = origin.target().clone();
    for _ in 0..MOST_HOPS {
        if !answer.status().is_redirection() {
            return Ok(answer);
        }
        let Some((next, uri)) = target(upstream, &here, &head.uri, &answer).await else { return Ok(answer) };
        if (&next.host, next.port) != (&here.host, here.port) {
            // Another host: nothing that may be a credential goes there.
            head.headers = head.headers.iter().filter(|(name, _)| is_harmless(name)).map(owned).collect();
        }
        // A presigned URL signs its host as it stands in the URL.
        head.headers.remove(header::HOST);
        head.uri = uri;
        let origin = upstream.origin(next.clone());
        let Ok(further) = origin.send(request(&origin, &head, empty())).await else { return Ok(answer) };
        (answer, here) = (further, next);
    }
    Ok(answer)
}

fn owned((name, value): (&HeaderName, &HeaderValue)) -> (HeaderName, HeaderValue) {
    (name.clone(), value.clone())
}

/// Where `answer` points to, if we may go there.
async fn target(upstream: &Upstream, here: &Target, asked: &Uri, answer: &Response<Incoming>) -> Option<(Target, Uri)> {
    // A plain-HTTP registry's redirects are the client's business: nothing says which hosts it trusts in the clear.
    let roots = here.roots.clone()?;
    let location = answer.headers().get(header::LOCATION)?.to_str().ok()?;
    if location.starts_with('/') && !location.starts_with("//") {
        return Some((here.clone(), location.parse().ok()?));
    }
    let uri: Uri = location.parse().ok()?;
    if uri.scheme() != Some(&http::uri::Scheme::HTTPS) {
        tracing::debug!(from = %asked.path(), "a redirect to something that is not https is left to the client");
        return None;
    }
    let (host, port) = (uri.host()?.to_ascii_lowercase(), uri.port_u16().unwrap_or(443));
    let path = Uri::from(uri.path_and_query()?.clone());
    if (host.as_str(), port) == (&*here.host, here.port) {
        return Some((here.clone(), path));
    }
    let address = upstream.resolve(&host, port).await?;
    Some((Target { dst: OrigDst(address), host: Arc::from(host), port, roots: Some(roots) }, path))
}
