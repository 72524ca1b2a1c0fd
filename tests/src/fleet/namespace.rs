//! Network namespaces with a name, and doing something inside one.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use super::command::run;

/// A network namespace made by `ip netns add`, so that a person finds it by name too. Dropping it removes it.
#[derive(Debug)]
pub struct Namespace {
    inside: Inside,
}

/// What can be done in a namespace, for as long as it exists. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Inside {
    name: String,
}

impl Namespace {
    /// Makes it, with the loopback up.
    ///
    /// # Errors
    /// When the name is taken or the privilege is missing.
    pub fn create(name: String) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self::adopt(name);
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Takes over one that a dead run left behind, so that dropping removes it.
    #[must_use]
    pub fn adopt(name: String) -> Self {
        Self { inside: Inside { name } }
    }
}

impl Deref for Namespace {
    type Target = Inside;

    fn deref(&self) -> &Inside {
        &self.inside
    }
}

impl Inside {
    /// Its name for `ip netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that holds it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// `ip ARGS` inside.
    ///
    /// # Errors
    /// When `ip` does.
    pub fn ip(&self, args: &[&str]) -> Result<String> {
        run(Command::new("ip").args(["-n", &self.name]).args(args))
    }

    /// `tc ARGS` inside.
    ///
    /// # Errors
    /// When `tc` does.
    pub fn tc(&self, args: &[&str]) -> Result<String> {
        run(Command::new("tc").args(["-n", &self.name]).args(args))
    }

    /// Runs `work` on a thread of its own that has entered the namespace. Sockets it opens stay in there and may be used
    /// from anywhere afterwards.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or as `work` does.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("cannot open the namespace {}", self.name))?;
        let inside = thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET)?;
                work()
            });
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread inside panicked")))
        });
        inside.with_context(|| format!("inside the namespace {}", self.name))
    }

    /// A connection from inside to `to`.
    ///
    /// # Errors
    /// As connecting does.
    pub fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        self.enter(move || TcpStream::connect(to)).with_context(|| format!("cannot connect to {to}"))
    }

    /// A listener inside.
    ///
    /// # Errors
    /// As binding does.
    pub fn listen(&self, at: SocketAddr) -> Result<TcpListener> {
        self.enter(move || TcpListener::bind(at)).with_context(|| format!("cannot listen at {at}"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("ip").args(["netns", "del", self.name()])) {
            eprintln!("left behind: {error:#}");
        }
    }
}
