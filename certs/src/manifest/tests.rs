//! The manifest: whatever was there before is there again, and nobody else's change is undone.

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn manifest(&self) -> Manifest {
        Manifest::open(self.at("manifest.json")).unwrap()
    }
}

const WHY: Purpose = Purpose::Certificate;

#[test]
fn files_and_directories_go_away_again() {
    let place = Place::new();
    let file = place.at("a/b/c/file");
    let mut manifest = place.manifest();
    manifest.make_dirs(file.parent().unwrap(), 0o755).unwrap();
    assert!(manifest.write(&file, b"one", 0o644, WHY).unwrap());
    assert!(!manifest.write(&file, b"one", 0o644, WHY).unwrap(), "nothing to do");
    assert!(manifest.write(&file, b"two", 0o644, WHY).unwrap());
    assert!(manifest.is_ours(&file) && manifest.is_ours(&place.at("a")));
    assert_eq!(place.manifest().undo().unwrap(), Vec::<PathBuf>::new(), "by a later process");
    assert!(!place.at("a").exists());
}

#[test]
fn former_content_and_mode_come_back() {
    let place = Place::new();
    let file = place.at("file");
    fs::write(&file, "the user's \0 bytes").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let mut manifest = place.manifest();
    manifest.write(&file, b"one", 0o644, WHY).unwrap();
    manifest.write(&file, b"two", 0o644, WHY).unwrap();
    assert!(place.manifest().take_back(&file).unwrap());
    assert_eq!((fs::read(&file).unwrap(), mode(&file)), (b"the user's \0 bytes".to_vec(), 0o640));
    assert!(place.manifest().files(WHY).is_empty());
}

#[test]
fn what_somebody_else_changed_stays() {
    let place = Place::new();
    let (file, kept) = (place.at("d/file"), place.at("d/kept"));
    let mut manifest = place.manifest();
    manifest.make_dirs(&place.at("d"), 0o755).unwrap();
    manifest.write(&file, b"ours", 0o644, WHY).unwrap();
    fs::write(&file, "theirs").unwrap();
    fs::write(&kept, "theirs too").unwrap();
    assert!(!manifest.is_ours(&file));
    assert_eq!(manifest.undo().unwrap(), [file.clone(), place.at("d")]);
    assert_eq!(fs::read(&file).unwrap(), b"theirs");
    assert!(kept.exists());
}

#[test]
fn a_change_made_meanwhile_is_what_comes_back() {
    let place = Place::new();
    let file = place.at("file");
    let mut manifest = place.manifest();
    manifest.write(&file, b"ours", 0o644, WHY).unwrap();
    fs::write(&file, "theirs").unwrap();
    manifest.write(&file, b"ours again", 0o644, WHY).unwrap();
    manifest.undo().unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"theirs");
}

#[test]
fn a_crash_between_entry_and_write_loses_nothing() {
    let place = Place::new();
    let file = place.at("file");
    place.manifest().write(&file, b"ours", 0o644, WHY).unwrap();
    // As if the file had never been written.
    fs::write(&file, "theirs").unwrap();
    assert!(!place.manifest().take_back(&file).unwrap());
    assert_eq!(fs::read(&file).unwrap(), b"theirs");
}

#[test]
fn a_file_of_ours_that_is_gone_is_no_error() {
    let place = Place::new();
    let file = place.at("d/file");
    let mut manifest = place.manifest();
    manifest.make_dirs(&place.at("d"), 0o755).unwrap();
    manifest.write(&file, b"ours", 0o644, WHY).unwrap();
    fs::remove_dir_all(place.at("d")).unwrap();
    assert!(manifest.undo().unwrap().is_empty());
}

#[test]
fn links_and_directories_are_never_replaced() {
    let place = Place::new();
    let (target, link) = (place.at("target"), place.at("link"));
    fs::write(&target, "theirs").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let mut manifest = place.manifest();
    for path in [&link, &place.dir.path().to_path_buf()] {
        assert!(matches!(manifest.write(path, b"x", 0o644, WHY), Err(ManifestError::NotAFile(_))));
    }
    assert_eq!(fs::read(&target).unwrap(), b"theirs");
}

#[test]
fn damaged_and_newer_manifests_are_told_apart() {
    let place = Place::new();
    let path = place.at("manifest.json");
    for (text, newer) in [("{", false), ("{\"version\":1}", false), ("{\"version\":2,\"things\":[]}", true)] {
        fs::write(&path, text).unwrap();
        let error = Manifest::open(&path).unwrap_err();
        assert_eq!(matches!(error, ManifestError::Newer { found: 2, .. }), newer, "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "it is left as it is");
    }
}
