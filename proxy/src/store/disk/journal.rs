//! For tests: what the store did to its disk, in order. It only writes down; `store/tests/crash.rs` draws the conclusions.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// One change. A handle is a number for one opening of one file.
#[derive(Debug, Clone)]
pub(in crate::store) enum Op {
    Open { handle: u64, path: PathBuf, anew: bool },
    Write { handle: u64, offset: u64, bytes: Vec<u8> },
    SetLen { handle: u64, length: u64 },
    Sync { handle: u64 },
    Link { target: PathBuf, path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
    MakeDir { path: PathBuf },
    SyncDir { path: PathBuf },
}

type Ops = Arc<Mutex<Vec<Op>>>;

/// Stores of other tests are open at the same time: each journal is of one directory.
static KEPT: Mutex<Vec<(PathBuf, Ops)>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Writes down what happens in a directory, until it is dropped.
#[derive(Debug)]
pub(in crate::store) struct Journal(Ops);

impl Journal {
    pub(in crate::store) fn of(dir: &Path) -> Self {
        let ops = Ops::default();
        locked(&KEPT).push((dir.to_owned(), ops.clone()));
        Self(ops)
    }

    pub(in crate::store) fn len(&self) -> usize {
        locked(&self.0).len()
    }

    pub(in crate::store) fn ops(&self) -> Vec<Op> {
        locked(&self.0).clone()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        locked(&KEPT).retain(|(_, ops)| !Arc::ptr_eq(ops, &self.0));
    }
}

/// One opening of one file, and the journal that it belongs to, if any.
#[derive(Debug)]
pub(super) struct Handle(u64, Option<Ops>);

impl Handle {
    pub(super) fn record(&self, op: impl FnOnce(u64) -> Op) {
        if let Some(ops) = &self.1 {
            locked(ops).push(op(self.0));
        }
    }
}

pub(super) fn opened(path: &Path, anew: bool) -> Handle {
    let handle = Handle(NEXT.fetch_add(1, Ordering::Relaxed), journal(path));
    handle.record(|handle| Op::Open { handle, path: path.to_owned(), anew });
    handle
}

pub(super) fn record(path: &Path, op: impl FnOnce() -> Op) {
    if let Some(ops) = journal(path) {
        locked(&ops).push(op());
    }
}

fn journal(path: &Path) -> Option<Ops> {
    locked(&KEPT).iter().find(|(dir, _)| path.starts_with(dir)).map(|(_, ops)| ops.clone())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
