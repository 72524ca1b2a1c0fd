//! Where logins are kept: in files as `podman login`, `docker login` and the kubelet write them.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde::Deserialize;
use waylay_certs::RegistryName;

use super::Login;

/// What Docker Hub's logins are filed under.
const HUB: [&str; 2] = ["https://index.docker.io/v1/", "docker.io"];

/// Why a login that is there cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is of a kind that is not supported.
    #[error(
        "the login for {0} is an identity token, which is not supported; log in with a password or an access token"
    )]
    IdentityToken(String),
    /// Another program keeps it.
    #[error("{} leaves logins to a credential helper, which the daemon does not run; name a file with the login itself", .0.display())]
    Left(PathBuf),
    /// A credential helper keeps it, which failed.
    #[error("the credential helper {helper} failed for {key}; try it by hand")]
    Helper {
        /// The helper's name.
        helper: String,
        /// What it was asked for.
        key: String,
    },
}

/// What of a file leads to another program.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Helpers {
    creds_store: Option<String>,
    cred_helpers: HashMap<String, String>,
}

/// The login for `registry` that `file` keeps, if it keeps one.
///
/// # Errors
/// When the file cannot be read, or the login in it not be used.
pub fn in_file(registry: &RegistryName, file: &Path) -> Result<Option<Login>, KeptError> {
    let text = fs::read(file).map_err(|source| KeptError::Unreadable { path: file.to_owned(), source })?;
    find(registry, |key| docker_credential::get_credential_from_reader(text.as_slice(), key))
}

/// The login for `registry` in the first of `files` that is there and has one. Runs no credential helper.
///
/// # Errors
/// As [`in_file`]; one that is not there is none.
pub fn in_any(registry: &RegistryName, files: &[PathBuf]) -> Result<Option<Login>, KeptError> {
    for file in files {
        let text = match fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(KeptError::Unreadable { path: file.clone(), source }),
        };
        let Helpers { creds_store, cred_helpers } = serde_json::from_slice(&text).unwrap_or_default();
        if creds_store.is_some() || !cred_helpers.is_empty() {
            return Err(KeptError::Left(file.clone()));
        }
        let found = find(registry, |key| docker_credential::get_credential_from_reader(text.as_slice(), key))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The login for `registry` where `podman login` and `docker login` leave those of the user who runs this.
///
/// # Errors
/// When the login cannot be used.
pub fn of_user(registry: &RegistryName) -> Result<Option<Login>, KeptError> {
    find(registry, |key| {
        docker_credential::get_podman_credential(key).or_else(|_| docker_credential::get_credential(key))
    })
}

fn find(
    registry: &RegistryName,
    look: impl Fn(&str) -> Result<DockerCredential, CredentialRetrievalError>,
) -> Result<Option<Login>, KeptError> {
    let keys = if registry.is_docker_hub() { HUB.map(str::to_owned).to_vec() } else { vec![registry.to_string()] };
    for key in keys {
        match look(&key) {
            Ok(DockerCredential::UsernamePassword(user, password)) => return Ok(Some(Login { user, password })),
            Ok(DockerCredential::IdentityToken(_)) => return Err(KeptError::IdentityToken(key)),
            Err(CredentialRetrievalError::HelperFailure { helper, .. }) => {
                return Err(KeptError::Helper { helper, key });
            }
            // No file, or nothing in it for this registry.
            Err(_) => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_found_where_it_was_left_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let (path, absent) = (dir.path().join("auth.json"), dir.path().join("absent.json"));
        // "alice:secret"
        std::fs::write(&path, r#"{"auths":{"r.test:5000":{"auth":"YWxpY2U6c2VjcmV0"}}}"#).unwrap();
        let name = |name: &str| name.parse().unwrap();
        let found = in_any(&name("r.test:5000"), &[absent.clone(), path.clone()]).unwrap().unwrap();
        assert_eq!((found.user.as_str(), found.password.as_str()), ("alice", "secret"));
        assert!(!format!("{found:?}").contains("secret"));
        assert!(in_file(&name("other.test"), &path).unwrap().is_none());
        assert!(matches!(in_file(&name("r.test:5000"), &absent), Err(KeptError::Unreadable { .. })));
        for helper in [r#"{"credsStore":"x","auths":{}}"#, r#"{"credHelpers":{"r.test:5000":"x"}}"#] {
            std::fs::write(&path, helper).unwrap();
            assert!(
                matches!(in_any(&name("r.test:5000"), std::slice::from_ref(&path)), Err(KeptError::Left(_))),
                "{helper}"
            );
        }
    }
}
