//! Methods and targets of requests: what is recognised is written in the one canonical way, all else passes.
#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;
use waylay::oci::route::{Route, blob_path, manifest_path, route};

fuzz_target!(|input: (u8, &str)| {
    let (method, target) = input;
    let methods = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let method = &methods[usize::from(method) % methods.len()];
    let (namespace, path) = match route(method, target) {
        Route::Blob { repository, digest, namespace } => (namespace, blob_path(&repository, &digest)),
        Route::ManifestByDigest { repository, digest, namespace } => (namespace, manifest_path(&repository, &digest)),
        Route::ManifestByTag { repository, tag, namespace } => (namespace, manifest_path(&repository, &tag)),
        Route::Pass(_) => return,
    };
    assert!(matches!(*method, Method::GET | Method::HEAD));
    let written = target.replace("%3A", ":").replace("%3a", ":");
    let said = namespace.map_or(path.clone(), |namespace| format!("{path}?ns={namespace}"));
    assert!(target.starts_with(&path) && written == said, "{target:?} was read as {said:?}");
});
