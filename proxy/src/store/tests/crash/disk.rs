//! A file system in memory that knows what is durable, and what is left of it in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::super::super::disk::journal::Op;

/// What a disk writes at once.
const PAGE: usize = 4096;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The process is gone, the kernel is not.
    Killed,
    /// Power loss: names and bytes that were not synced are not there.
    Vanished,
    /// Power loss: all names are there, bytes that were not synced are zero.
    Zeroed,
    /// Power loss: of what was not synced, some is there, some is zero and some is as it was before.
    Mixed(u64),
}

pub(super) const ENDS: [End; 6] =
    [End::Killed, End::Vanished, End::Zeroed, End::Mixed(1), End::Mixed(2), End::Mixed(3)];

/// A file, as the kernel shows it and as the disk surely has it.
#[derive(Debug, Default, Clone)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
}

/// A file system in memory that knows what is durable. Names are those below the store's directory.
#[derive(Debug, Default)]
pub(super) struct Disk {
    files: Vec<Content>,
    links: Vec<PathBuf>,
    handles: BTreeMap<u64, usize>,
    now: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    File(usize),
    Link(usize),
}

impl Disk {
    pub(super) fn apply(&mut self, op: &Op) {
        match op {
            Op::Open { handle, path, anew } => {
                let file = match self.now.get(path) {
                    Some(Node::File(file)) => *file,
                    _ => {
                        self.files.push(Content::default());
                        self.now.insert(path.clone(), Node::File(self.files.len() - 1));
                        self.files.len() - 1
                    }
                };
                if *anew {
                    self.files[file].now.clear();
                }
                self.handles.insert(*handle, file);
            }
            Op::Write { handle, offset, bytes } => {
                let now = &mut self.files[self.handles[handle]].now;
                let end = *offset as usize + bytes.len();
                now.resize(now.len().max(end), 0);
                now[*offset as usize..end].copy_from_slice(bytes);
            }
            Op::SetLen { handle, length } => self.files[self.handles[handle]].now.resize(*length as usize, 0),
            Op::Sync { handle } => {
                let file = &mut self.files[self.handles[handle]];
                file.synced = file.now.clone();
            }
            Op::Link { target, path } => {
                self.links.push(target.clone());
                self.now.insert(path.clone(), Node::Link(self.links.len() - 1));
            }
            Op::Rename { from, to } => {
                let node = self.now.remove(from).unwrap();
                self.now.insert(to.clone(), node);
            }
            Op::Remove { path } => drop(self.now.remove(path).unwrap()),
            Op::MakeDir { path } => drop(self.now.insert(path.clone(), Node::Dir)),
            Op::SyncDir { path } => {
                self.durable.retain(|name, _| name.parent() != Some(path));
                let inside = self.now.iter().filter(|(name, _)| name.parent() == Some(path));
                self.durable.extend(inside.map(|(name, node)| (name.clone(), *node)));
            }
        }
    }

    /// What is left in the end, written below `root`, which stands for `original`.
    pub(super) fn write(&self, end: End, original: &Path, root: &Path) {
        let mut chance = Chance::of(end);
        let mut renamed = BTreeMap::new();
        let names: BTreeSet<_> = self.now.keys().chain(self.durable.keys()).collect();
        for name in names {
            let (now, durable) = (self.now.get(name), self.durable.get(name));
            let node = match end {
                End::Killed | End::Zeroed => now,
                End::Vanished => durable,
                End::Mixed(_) => match now.or(durable) {
                    // A file that was renamed is there under one of its names: no file system loses both.
                    Some(Node::File(file)) => {
                        let happened = *renamed.entry(*file).or_insert_with(|| *chance.one_of(&[true, false]));
                        if happened { now } else { durable }
                    }
                    _ => *chance.one_of(&[now, durable]),
                },
            };
            let place = root.join(name.strip_prefix(original).unwrap());
            match node {
                // What is in a directory that is not there is gone with it.
                Some(_) if !place.parent().unwrap().exists() => {}
                Some(Node::Dir) => fs::create_dir(place).unwrap(),
                Some(Node::Link(link)) => std::os::unix::fs::symlink(&self.links[*link], place).unwrap(),
                Some(Node::File(file)) => fs::write(place, self.files[*file].left(end, &mut chance)).unwrap(),
                None => {}
            }
        }
        let (clean, boot) = (root.join("clean"), open_boot());
        if end != End::Killed && fs::read_to_string(&clean).is_ok_and(|text| text.starts_with(&boot)) {
            // The power comes back in another boot: the same file is of an earlier one.
            fs::write(clean, fs::read_to_string(root.join("clean")).unwrap().replace(&boot, "an earlier boot"))
                .unwrap();
        }
    }
}

impl Content {
    fn left(&self, end: End, chance: &mut Chance) -> Vec<u8> {
        let length = match end {
            End::Killed | End::Zeroed => self.now.len(),
            End::Vanished => self.synced.len(),
            End::Mixed(_) => *chance.one_of(&[self.now.len(), self.synced.len()]),
        };
        let mut left = vec![0; length];
        for (page, place) in left.chunks_mut(PAGE).enumerate() {
            let part = |bytes: &[u8]| -> Vec<u8> {
                let mut part: Vec<u8> = bytes.iter().skip(page * PAGE).take(place.len()).copied().collect();
                part.resize(place.len(), 0);
                part
            };
            let (now, synced) = (part(&self.now), part(&self.synced));
            let is_synced = now == synced && self.synced.len() >= page * PAGE + place.len();
            let kept = match end {
                End::Killed => now,
                _ if is_synced => now,
                End::Vanished => synced,
                End::Zeroed => vec![0; place.len()],
                End::Mixed(_) => chance.one_of(&[now, synced, vec![0; place.len()]]).clone(),
            };
            place.copy_from_slice(&kept);
        }
        left
    }
}

/// Chance that falls the same each time.
struct Chance(blake3::OutputReader);

impl Chance {
    fn of(end: End) -> Self {
        Self(blake3::Hasher::new().update(format!("{end:?}").as_bytes()).finalize_xof())
    }

    fn one_of<'a, T>(&mut self, these: &'a [T]) -> &'a T {
        let mut byte = [0];
        self.0.fill(&mut byte);
        &these[usize::from(byte[0]) % these.len()]
    }
}

fn open_boot() -> String {
    super::super::super::open::boot_id().unwrap()
}
