//! A token server as Docker's registries use (distribution spec, "token authentication"): over TLS, for one user.
//!
//! Whoever proves to be [`Login::right`] gets a token for what was asked; without a credential one gets a token for nothing;
//! a wrong one is refused. The registry checks the tokens itself.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, SigningKey};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::super::authority::Leaf;
use super::super::runtime::Login;
use super::server::Server;

const ISSUER: &str = "the harness";
const SERVICE: &str = "registry";
/// How long a token is good, in seconds.
const LIFE: i64 = 300;
/// Where [`Login::other`] may pull from.
const OTHERS: &str = "other/";

/// A running token server. Dropping it stops it.
#[derive(Debug)]
pub(super) struct Tokens {
    signer: Arc<Signer>,
    _server: Server,
}

impl Tokens {
    /// Serves on `listener` with the certificate `leaf`.
    pub(super) fn start(listener: TcpListener, leaf: &Leaf) -> Result<Self> {
        let signer = Arc::new(Signer::create()?);
        let answering = Arc::clone(&signer);
        let server = Server::start(listener, leaf, move |request| answering.answer(request))?;
        Ok(Self { signer, _server: server })
    }

    /// The `auth` section for the registry. Writes the certificate that signs into `bundle`.
    pub(super) fn registry_config(&self, host: &str, port: u16, bundle: &Path) -> Result<Value> {
        fs::write(bundle, &self.signer.certificate).context("cannot write the tokens' certificate")?;
        let realm = format!("https://{host}:{port}/token");
        Ok(json!({"token": {"realm": realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": bundle}}))
    }

    /// A token for pulling from `repository`, good for `life` seconds from now; one below 0 is over already.
    pub(super) fn mint(&self, repository: &str, life: i64) -> Result<String> {
        self.signer.token(&json!([{"type": "repository", "name": repository, "actions": ["pull"]}]), life)
    }

    /// How many tokens that open something were given.
    pub(super) fn given(&self) -> usize {
        self.signer.given.load(Ordering::Relaxed)
    }
}

/// Makes and signs tokens.
#[derive(Debug)]
struct Signer {
    key: KeyPair,
    certificate: String,
    x5c: String,
    given: AtomicUsize,
}

impl Signer {
    fn create() -> Result<Self> {
        // RSA, because its signature in a JWT is the plain one; ECDSA's would have to be taken out of its DER.
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).context("cannot make the tokens' key")?;
        let certificate =
            CertificateParams::default().self_signed(&key).context("cannot sign the tokens' certificate")?;
        let x5c = STANDARD.encode(certificate.der());
        Ok(Self { key, certificate: certificate.pem(), x5c, given: AtomicUsize::new(0) })
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return reply(StatusCode::METHOD_NOT_ALLOWED, &json!({}));
        }
        let is = |given: &header::HeaderValue, login: &Login| {
            given.as_bytes() == format!("Basic {}", STANDARD.encode(login.pair())).as_bytes()
        };
        let asked = || access(request.uri().query().unwrap_or_default());
        let access = match request.headers().get(header::AUTHORIZATION) {
            None => json!([]),
            Some(given) if is(given, &Login::right()) => asked(),
            Some(given) if is(given, &Login::other()) => only(asked(), OTHERS),
            Some(_) => return reply(StatusCode::UNAUTHORIZED, &json!({"details": "wrong user or password"})),
        };
        match self.token(&access, LIFE) {
            Ok(token) => reply(StatusCode::OK, &json!({"token": token, "access_token": token, "expires_in": LIFE})),
            Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, &json!({"details": error.to_string()})),
        }
    }

    /// A JSON web token (RFC 7519) that grants `access` for `life` seconds from now.
    fn token(&self, access: &Value, life: i64) -> Result<String> {
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
        let since = now.min(now + life) - 60;
        let head = json!({"typ": "JWT", "alg": "RS256", "x5c": [self.x5c]});
        let claims = json!({
            "iss": ISSUER, "sub": "", "aud": SERVICE, "access": access,
            // A minute back: clocks of a node may differ.
            "iat": since, "nbf": since, "exp": now + life, "jti": now.to_string(),
        });
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(head.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.key.sign(signed.as_bytes()).context("cannot sign a token")?;
        if access.as_array().is_some_and(|list| !list.is_empty()) {
            self.given.fetch_add(1, Ordering::Relaxed);
        }
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// The scopes of a query (`scope=repository:NAME:ACTION,ACTION`) as the access list of a token.
fn access(query: &str) -> Value {
    let decoded =
        query.replace("%3A", ":").replace("%3a", ":").replace("%2F", "/").replace("%2f", "/").replace("%2C", ",");
    let scopes = decoded.split('&').filter_map(|pair| pair.strip_prefix("scope="));
    let entries = scopes.filter_map(|scope| {
        let (resource, actions) = scope.rsplit_once(':')?;
        let (kind, name) = resource.split_once(':')?;
        Some(json!({"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()}))
    });
    entries.collect()
}

/// What of `access` is in repositories below `home`.
fn only(access: Value, home: &str) -> Value {
    let entries = access.as_array().into_iter().flatten();
    entries.filter(|entry| entry["name"].as_str().is_some_and(|name| name.starts_with(home))).cloned().collect()
}

fn reply(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::from(body.to_string()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_scopes_that_clients_send() {
        let pull = json!([{"type": "repository", "name": "team/app", "actions": ["pull"]}]);
        assert_eq!(access("service=registry&scope=repository:team/app:pull"), pull);
        assert_eq!(access("scope=repository%3Ateam%2Fapp%3Apull&service=registry"), pull);
        assert_eq!(access("service=registry"), json!([]));
    }
}
