//! Who may pull what from the scripted registry: open to all, passwords, or bearer tokens as registries hand them out.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{StatusCode, header};
use serde_json::json;

use super::{log::Seen, reply::Answer};

/// How a registry asks for credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Open,
    Basic,
    Bearer,
}

/// Users, what is open to everyone, and the tokens that were given out.
pub(super) struct Access {
    pub(super) mode: Mode,
    pub(super) scheme: &'static str,
    pub(super) users: HashMap<String, (String, HashSet<String>)>,
    pub(super) open: HashSet<String>,
    tokens: Mutex<HashMap<String, HashSet<String>>>,
    issued: AtomicU64,
}

impl Access {
    pub(super) fn new() -> Self {
        Self {
            mode: Mode::Open,
            scheme: "https",
            users: HashMap::new(),
            open: HashSet::new(),
            tokens: Mutex::default(),
            issued: AtomicU64::new(0),
        }
    }

    /// `Err` holds the answer to someone who may not.
    pub(super) fn check(&self, seen: &Seen) -> Result<(), Box<Answer>> {
        let credentials = seen.header("authorization").unwrap_or_default();
        let repository = seen.place.repository();
        match self.mode {
            Mode::Open => Ok(()),
            Mode::Basic => {
                if repository.is_some_and(|name| self.open.contains(name)) {
                    return Ok(());
                }
                match self.user(credentials) {
                    None => Err(Box::new(self.challenge(seen))),
                    Some(may) if repository.is_none_or(|name| may.contains(name)) => Ok(()),
                    Some(_) => Err(Box::new(Answer::error(StatusCode::FORBIDDEN, "DENIED"))),
                }
            }
            Mode::Bearer => {
                let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
                let may = credentials.strip_prefix("Bearer ").and_then(|token| tokens.get(token));
                match may {
                    Some(may) if repository.is_none_or(|name| may.contains(name)) => Ok(()),
                    _ => Err(Box::new(self.challenge(seen))),
                }
            }
        }
    }

    /// The 401 that tells how to do better.
    pub(super) fn challenge(&self, seen: &Seen) -> Answer {
        let host = &seen.host;
        let challenge = if self.mode == Mode::Basic {
            "Basic realm=\"scripted registry\"".to_owned()
        } else {
            let scope =
                seen.place.repository().map(|name| format!(",scope=\"repository:{name}:pull\"")).unwrap_or_default();
            format!("Bearer realm=\"{}://{host}/token\",service=\"{host}\"{scope}", self.scheme)
        };
        Answer::error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED").with(header::WWW_AUTHENTICATE, challenge)
    }

    /// The answer to GET of `/token`. What may not be had is left out of the token, as registries do.
    pub(super) fn token(&self, seen: &Seen) -> Answer {
        let credentials = seen.header("authorization");
        let may = match credentials.map(|credentials| self.user(credentials)) {
            None => self.open.clone(),
            Some(Some(may)) => may.union(&self.open).cloned().collect(),
            Some(None) => return Answer::error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
        };
        let query = seen.target.split_once('?').map_or("", |(_, query)| query).replace("%3A", ":").replace("%2F", "/");
        let asked = query.split('&').filter_map(|pair| pair.strip_prefix("scope=repository:"));
        let names: Vec<String> = asked.filter_map(|scope| Some(scope.rsplit_once(':')?.0.to_owned())).collect();
        let token = self.mint(names.into_iter().filter(|name| may.contains(name)));
        Answer::json(&json!({ "token": token, "access_token": token, "expires_in": 300 }))
    }

    /// A token for these repositories.
    pub(super) fn mint(&self, repositories: impl IntoIterator<Item = String>) -> String {
        let token = format!("token-{}", self.issued.fetch_add(1, Relaxed));
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(token.clone(), repositories.into_iter().collect());
        token
    }

    /// Makes all tokens worthless.
    pub(super) fn revoke(&self) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What the user with these `Basic` credentials may pull; `None` if they are wrong.
    fn user(&self, credentials: &str) -> Option<&HashSet<String>> {
        let decoded = String::from_utf8(STANDARD.decode(credentials.strip_prefix("Basic ")?).ok()?).ok()?;
        let (name, password) = decoded.split_once(':')?;
        let (right, may) = self.users.get(name)?;
        (right == password).then_some(may)
    }
}
