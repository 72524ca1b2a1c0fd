//! The committed corpora of the fuzz targets, and what broke them once, without a fuzzer.

#[allow(unreachable_pub, reason = "the fuzz targets see it as a library")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::{fs, path::Path};

use arbitrary::{Arbitrary, Unstructured};

/// Gives each file of a corpus to its target, taken apart as the fuzzer does it.
fn replay<'a, T: Arbitrary<'a>>(files: &'a [Vec<u8>], target: impl Fn(T)) {
    assert!(!files.is_empty(), "no corpus");
    for file in files {
        // The fuzzer leaves out what is too short.
        if let Ok(input) = T::arbitrary_take_rest(Unstructured::new(file)) {
            target(input);
        }
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let files = fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path());
    files.map(|file| fs::read(file).unwrap()).collect()
}

#[test]
fn no_corpus_breaks_its_target() {
    replay(&corpus("config"), targets::config);
    replay(&corpus("hello"), targets::hello);
    replay(&corpus("manifest"), targets::manifest);
    replay(&corpus("range"), targets::range);
    replay(&corpus("route"), targets::route);
    replay(&corpus("store"), targets::store);
    corpus("token").iter().for_each(|file| targets::token(file));
}

#[test]
fn each_target_is_replayed() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut replayed = fs::read_to_string(here.join("src/fuzz.rs")).unwrap();
    replayed += &fs::read_to_string(here.join("../proxy/src/swarm/frame/tests.rs")).unwrap();
    for target in fs::read_dir(here.join("fuzz/fuzz_targets")).unwrap() {
        let path = target.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let told = [format!("corpus(\"{name}\")"), format!("fuzz/corpus/{name}\"")];
        assert!(told.iter().any(|told| replayed.contains(told)), "{name}");
    }
}
