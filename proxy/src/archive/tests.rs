//! Archives as they should be, and as they should not.

use std::{collections::HashMap, fs, io::Write as _};

use super::*;
use crate::{
    content::image::{Held, Part},
    oci::image::ImageName,
};

/// An image's parts by digest.
#[derive(Clone, Default)]
struct Made(HashMap<Digest, Vec<u8>>);

impl Bytes for Made {
    fn open(&mut self, digest: &Digest) -> io::Result<impl io::Read> {
        self.0.get(digest).cloned().map(io::Cursor::new).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Made {
    fn put(&mut self, bytes: impl Into<Vec<u8>>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        self.0.insert(digest, bytes);
        digest
    }

    fn part(&self, digest: Digest, media_type: Option<&str>) -> Part {
        Part { digest, size: self.0[&digest].len() as u64, media_type: media_type.map(str::to_owned) }
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn descriptor(made: &Made, digest: Digest) -> String {
    format!(r#"{{"mediaType":"x/y","digest":"{digest}","size":{}}}"#, made.0[&digest].len())
}

/// An image of one layer.
fn image() -> (Made, Held) {
    let mut made = Made::default();
    let (config, layer) = (made.put("{}"), made.put(vec![7; 300_000]));
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{},"layers":[{}]}}"#,
        descriptor(&made, config),
        descriptor(&made, layer)
    );
    let top = made.put(text);
    let top = made.part(top, Some(MANIFEST));
    let parts = vec![top.clone(), made.part(config, None), made.part(layer, None)];
    (made, Held { top, parts, absent: Vec::new() })
}

fn name() -> ImageName {
    "r.test/team/app:1".parse().unwrap()
}

/// A tar of these files, written by hand.
fn tar_of(files: &[(&str, &[u8])]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("archive.tar");
    let mut builder = tar::Builder::new(fs::File::create(&path).unwrap());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        // Names that `set_path` refuses are what this is about.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.finish().unwrap();
    (dir, path)
}

/// The files of a good archive, to be changed.
fn files() -> Vec<(String, Vec<u8>)> {
    let (mut made, held) = image();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("good.tar");
    write(&path, &name(), &held, &mut made).unwrap();
    let mut archive = tar::Archive::new(fs::File::open(&path).unwrap());
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        (entry.path().unwrap().display().to_string(), bytes)
    });
    entries.collect()
}

fn opened(files: &[(String, Vec<u8>)]) -> Result<Archive, ArchiveError> {
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let (_dir, path) = tar_of(&files);
    let archive = Archive::open(&path)?;
    archive.verify(|_| {})?;
    Ok(archive)
}

fn refused(files: &[(String, Vec<u8>)]) -> String {
    opened(files).err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn what_is_written_is_read_and_the_same_twice() {
    let (mut made, held) = image();
    let dir = tempfile::tempdir().unwrap();
    let [one, two] = ["one.tar", "two.tar"].map(|name| dir.path().join(name));
    write(&one, &name(), &held, &mut made).unwrap();
    write(&two, &name(), &held, &mut made).unwrap();
    assert_eq!(fs::read(&one).unwrap(), fs::read(&two).unwrap());
    let archive = Archive::open(&one).unwrap();
    let mut read = 0;
    archive.verify(|bytes| read += bytes).unwrap();
    let parts: Vec<_> = held.parts.iter().map(|part| (part.digest, part.size)).collect();
    assert_eq!(read, parts.iter().map(|(_, size)| size).sum::<u64>());
    assert_eq!(archive.images, [Image { name: Some(name()), top: held.top.digest, parts, absent: 0 }]);
}

#[test]
fn bytes_that_are_not_the_images_leave_no_file() {
    let (mut made, held) = image();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.tar");
    made.0.insert(held.parts[2].digest, vec![8; 300_000]);
    assert!(matches!(write(&path, &name(), &held, &mut made), Err(ArchiveError::Damaged { .. })));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn paths_that_lead_out_are_refused() {
    for path in ["../etc/passwd", "/etc/passwd", "blobs/../../x", "./../x"] {
        let mut files = files();
        files.push((path.to_owned(), b"x".to_vec()));
        assert!(refused(&files).contains("leads out"), "{path}");
    }
}

#[test]
fn damage_and_gaps_are_named() {
    let good = files();
    assert!(opened(&good).is_ok());
    for (name, bytes) in &good {
        let others: Vec<_> = good.iter().filter(|(other, _)| other != name).cloned().collect();
        assert!(refused(&others).contains(name.rsplit('/').next().unwrap()), "without {name}: {}", refused(&others));
        let mut twice = good.clone();
        twice.push((format!("./{name}"), bytes.clone()));
        assert!(refused(&twice).contains("twice"), "{name}");
        let mut flipped = good.clone();
        let place = flipped.iter_mut().find(|(other, _)| other == name).unwrap();
        let middle = place.1.len() / 2;
        place.1[middle] ^= 1;
        if name.starts_with("blobs/") {
            assert!(refused(&flipped).contains("damaged"), "{name}: {}", refused(&flipped));
        }
        let mut cut = good.clone();
        let place = cut.iter_mut().find(|(other, _)| other == name).unwrap();
        place.1.pop();
        assert!(!refused(&cut).is_empty(), "{name} cut");
    }
}

#[test]
fn sizes_that_are_not_there_are_not_believed() {
    let (_dir, path) = tar_of(&[("oci-layout", b"{}")]);
    let mut bytes = fs::read(&path).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path("index.json").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    bytes.splice(1024.., header.as_bytes().iter().copied());
    fs::write(&path, bytes).unwrap();
    assert!(matches!(Archive::open(&path), Err(ArchiveError::Short { .. })));
    for name in ["oci-layout", "index.json"] {
        let mut files = files();
        files.retain(|(other, _)| other != name);
        files.push((name.to_owned(), vec![b' '; 5 << 20]));
        assert!(refused(&files).contains("5242880 bytes"), "{}", refused(&files));
    }
}

#[test]
fn other_kinds_of_file_are_told_from_layouts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    fs::File::create(&path).unwrap().write_all(&[0x1f, 0x8b, 8, 0].repeat(400)).unwrap();
    assert!(Archive::open(&path).err().unwrap().to_string().contains("no tar archive"));
    fs::write(&path, format!("{{\"secret\":\"{}\"}}", "s3cret ".repeat(200))).unwrap();
    let said = Archive::open(&path).err().unwrap().to_string();
    assert!(said.contains("no tar archive") && !said.contains("s3cret"), "{said}");
    let other = [("readme.txt".to_owned(), b"x".to_vec())];
    assert!(refused(&other).contains("no oci-layout"), "{}", refused(&other));
    let docker = [("manifest.json".to_owned(), b"[]".to_vec()), ("repositories".to_owned(), b"{}".to_vec())];
    assert!(refused(&docker).contains("skopeo copy docker://IMAGE oci-archive:FILE:IMAGE"), "{}", refused(&docker));
}

#[test]
fn long_names_and_extended_headers_are_not_followed() {
    for kind in [tar::EntryType::GNULongName, tar::EntryType::XHeader] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        let mut builder = tar::Builder::new(fs::File::create(&path).unwrap());
        let text = b"19 path=../../etc/x\n";
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(text.len() as u64);
        header.set_cksum();
        builder.append(&header, &text[..]).unwrap();
        builder.finish().unwrap();
        assert!(matches!(Archive::open(&path), Err(ArchiveError::Unknown(_))), "{kind:?}");
    }
}
