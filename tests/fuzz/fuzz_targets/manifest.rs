//! Bodies of manifests: bounded children, and never two readings.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waylay::oci::manifest::{Kind, MAX_CHILDREN, Manifest};

const TYPES: [Option<&str>; 6] = [
    None,
    Some("application/json"),
    Some("application/vnd.oci.image.index.v1+json"),
    Some("application/vnd.oci.image.manifest.v1+json"),
    Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"),
    Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
];

fuzz_target!(|input: (u8, &[u8])| {
    let (media_type, body) = input;
    let Ok(manifest) = Manifest::parse(TYPES[usize::from(media_type) % TYPES.len()], body) else { return };
    assert!(manifest.children.len() <= 2 * MAX_CHILDREN + 1);
    let manifests = manifest.children.iter().filter(|child| child.kind == Kind::Manifest).count();
    assert!(manifests == 0 || manifests == manifest.children.len(), "an index and an image at once");
});
