//! docker-registry's own log: one JSON object a line, of which those say "response completed" that ended well (below 400).

use serde::Deserialize;

/// One request that the registry answered with success, as it logged it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Served {
    /// GET, HEAD, PUT.
    #[serde(rename = "http.request.method")]
    pub method: String,
    /// The path with its query.
    #[serde(rename = "http.request.uri")]
    pub uri: String,
    /// The status.
    #[serde(rename = "http.response.status")]
    pub status: u16,
    /// Bytes of body that were written, which is fewer than the blob's when the client went away.
    #[serde(rename = "http.response.written", default)]
    pub written: u64,
    /// What the client calls itself.
    #[serde(rename = "http.request.useragent", default)]
    pub agent: String,
}

impl Served {
    /// True for a GET of a blob, whole or in part.
    #[must_use]
    pub fn is_blob_get(&self) -> bool {
        self.method == "GET" && self.uri.contains("/blobs/sha256:")
    }

    /// True for a GET of a manifest, by tag or by digest.
    #[must_use]
    pub fn is_manifest_get(&self) -> bool {
        self.method == "GET" && self.uri.contains("/manifests/")
    }
}

/// The requests in a log. Other lines are passed over: the registry logs much else.
pub(super) fn parse(log: &str) -> Vec<Served> {
    let completed = log.lines().filter(|line| line.contains(r#""msg":"response completed""#));
    completed.filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_blobs_and_nothing_else() {
        let log = r#"{"level":"info","msg":"listening on 10.77.0.1:5000, tls","time":"2026-01-01T00:00:00Z"}
{"http.request.method":"GET","http.request.uri":"/v2/app/manifests/1","http.response.status":200,"http.response.written":500,"msg":"response completed"}
{"http.request.method":"HEAD","http.request.uri":"/v2/app/blobs/sha256:ab","http.response.status":200,"msg":"response completed"}
{"http.request.method":"GET","http.request.uri":"/v2/app/blobs/sha256:ab","http.response.status":206,"http.response.written":7,"msg":"response completed"}
cut off in the mid"#;
        let served = parse(log);
        assert_eq!(served.len(), 3);
        let blobs: Vec<u64> = served.iter().filter(|one| one.is_blob_get()).map(|one| one.written).collect();
        assert_eq!(blobs, [7]);
    }
}
