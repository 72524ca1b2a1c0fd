//! Logging in as runtimes do: a password where the registry asks for one, or a token that is got with it.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::TryFutureExt as _;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{PreheatError, Puller};
use crate::{
    dial::OrigDst,
    upstream::{Head, Target},
};

/// Bytes of a token's answer at most.
const LONGEST: usize = 256 << 10;

/// What the operator's runtime would show to a registry. Never shown, logged or stored.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Login {
    /// The name of the user.
    pub user: String,
    /// The password, or what stands for one.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

impl Login {
    fn basic(&self) -> Option<HeaderValue> {
        let text = format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)));
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// A token by either of its names; services that are both kinds give both.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Puller {
    /// Asks the registry what it wants of somebody who pulls, and gets that.
    pub(super) async fn log_in(&mut self, login: Option<&Login>) -> Result<(), PreheatError> {
        let path = format!("/v2/{}/manifests/{}", self.name.repository, self.name.reference);
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(super::MANIFESTS));
        let head = Head { method: Method::HEAD, uri: path.parse().map_err(|_| challenge(&path))?, headers };
        let Ok(answer) = self.preheat.upstream.ask(&self.client.origin, &head).await else {
            // It is away: what is known may do.
            return Ok(());
        };
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(());
        }
        let told = answer.headers().get(header::WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        let told = told.unwrap_or_default().to_owned();
        let challenges = http_auth::parse_challenges(&told).map_err(|_| challenge(&told))?;
        let scheme = |name: &str| challenges.iter().find(|one| one.scheme.eq_ignore_ascii_case(name));
        self.authorization = match (scheme("bearer"), login) {
            (Some(bearer), _) => {
                let parameter = |name: &str| {
                    let found = bearer.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                let realm = parameter("realm").ok_or_else(|| challenge(&told))?;
                Some(self.token(&realm, parameter("service"), login).await?)
            }
            (None, Some(login)) if scheme("basic").is_some() => login.basic(),
            (None, _) => None,
        };
        Ok(())
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<String>,
        login: Option<&Login>,
    ) -> Result<HeaderValue, PreheatError> {
        let bad = || challenge(realm);
        let realm: Uri = realm.parse().map_err(|_| bad())?;
        let tls = realm.scheme_str() == Some("https");
        let registry = self.client.origin.target();
        // Over plain HTTP only to a registry that speaks nothing else, and to no other host.
        let same = realm.host() == Some(&*registry.host) && realm.port_u16().unwrap_or(80) == registry.port;
        let as_plain = realm.scheme_str() == Some("http") && registry.roots.is_none() && same;
        if !tls && !as_plain {
            return Err(bad());
        }
        let (host, port) = (realm.host().ok_or_else(bad)?, realm.port_u16().unwrap_or(if tls { 443 } else { 80 }));
        let dst = (self.preheat.world.lookup)(host, port).await;
        let dst = OrigDst(dst.ok_or_else(|| PreheatError::NoAddress(host.to_owned()))?);
        let name = waylay_certs::RegistryName::new(host, port).map_err(|_| bad())?;
        let roots = tls.then(|| (self.preheat.world.roots)(&name));
        let origin = self.preheat.upstream.origin(Target { dst, host: host.into(), port, roots });
        let scope = format!("repository:{}:pull", self.name.repository);
        let service = service.iter().map(|service| ("service", service.as_str()));
        let query = form_urlencoded::Serializer::new(realm.query().unwrap_or_default().to_owned())
            .extend_pairs(service)
            .append_pair("scope", &scope)
            .finish();
        let uri = format!("{}?{query}", realm.path()).parse().map_err(|_| bad())?;
        let headers = login.and_then(Login::basic).map(|basic| (header::AUTHORIZATION, basic)).into_iter().collect();
        let answer = self.preheat.upstream.ask(&origin, &Head { method: Method::GET, uri, headers }).await?;
        let status = answer.status();
        if status != StatusCode::OK {
            let hint = if login.is_some() { "; is the login still good?" } else { "; it wants a login" };
            return Err(PreheatError::Status { registry: host.to_owned(), status, what: "a token".to_owned(), hint });
        }
        let body = Limited::new(answer.into_body(), LONGEST).collect().map_err(|_| bad()).await?.to_bytes();
        let Token { token, access_token } = serde_json::from_slice(&body).map_err(|_| bad())?;
        let token = token.or(access_token).ok_or_else(bad)?;
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| bad())?;
        value.set_sensitive(true);
        Ok(value)
    }
}

fn challenge(told: &str) -> PreheatError {
    PreheatError::Challenge(told.to_owned())
}
