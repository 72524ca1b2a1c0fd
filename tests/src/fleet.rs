//! A fleet: a registry and some nodes, joined by a switch, all on this machine and all removed when dropped.
//!
//! What runs on the nodes (a runtime, our daemon) is started by the scenario, and must be dropped before the fleet: keep it in
//! a variable declared later.

mod access;
pub mod authority;
pub mod cgroup;
mod clock;
mod command;
pub mod daemon;
mod leftovers;
pub mod namespace;
pub mod network;
pub mod node;
pub mod operator;
pub mod process;
pub mod registry;
pub mod runtime;
mod secrets;

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::{Context, Result};

pub use self::access::{AccessLine, BySource, Counters};
use self::cgroup::Cgroup;
pub use self::clock::Clock;
pub(crate) use self::command::run;
pub use self::daemon::Daemon;
pub use self::leftovers::{kept, remove};
use self::network::{Link, Switch};
pub use self::node::Node;
pub(crate) use self::node::PATH;
pub use self::operator::{Check, Said};
pub use self::registry::Registry;
pub(crate) use self::runtime::cri;
pub use self::runtime::{Kind, Login, Runtime};
use crate::image::Image;

/// Every name a fleet gives to something outside its own directory begins so.
const PREFIX: &str = "waylay-";
/// A file in a fleet's directory that says: not a leftover, somebody wants to look at it.
const KEPT: &str = "kept";

/// A running fleet.
#[derive(Debug)]
pub struct Fleet {
    // In the order in which they must go.
    registry: Registry,
    nodes: Vec<Node>,
    authority: authority::Authority,
    cgroup: Cgroup,
    switch: Switch,
    _far: Option<Switch>,
    between: Option<Link>,
    dir: Directory,
}

/// What a fleet shall have; see [`Fleet::of`].
#[derive(Debug)]
pub struct Plan {
    nodes: u8,
    rate: Option<String>,
    far: Option<(RangeInclusive<u8>, String)>,
    images: Vec<(Image, String, String)>,
    registry: registry::Options,
}

impl Fleet {
    /// Begins the description of a fleet of `nodes` nodes.
    #[must_use]
    pub fn of(nodes: u8) -> Plan {
        Plan { nodes, rate: None, far: None, images: Vec::new(), registry: registry::Options::default() }
    }

    /// Its name, which all its namespaces bear.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.dir.name
    }

    /// Its directory, with everything its programs wrote.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir.path
    }

    /// The registry.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The registry, to stop or restart it.
    pub fn registry_mut(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// All nodes, in order.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The wire between the two switches, when there are two; its machine is the far one.
    #[must_use]
    pub fn between(&self) -> Option<&Link> {
        self.between.as_ref()
    }

    /// The operator's authority.
    #[must_use]
    pub fn authority(&self) -> &authority::Authority {
        &self.authority
    }

    /// The switch, to plug more into.
    pub(crate) fn switch(&self) -> &Switch {
        &self.switch
    }

    /// The control group of everything in it.
    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Says that the scenario went well, so that dropping the fleet leaves nothing. Without it, the logs are kept. It is a
    /// scenario's last line.
    ///
    /// # Errors
    /// When our daemons wrote a secret anywhere.
    pub fn passed(&self) -> Result<()> {
        self.nodes.iter().try_for_each(|node| secrets::none_in(node.entry().dir()))?;
        self.dir.passed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Leaves everything running when this program ends: what [`remove`] takes away again.
    ///
    /// # Errors
    /// When the mark cannot be written; then nothing was forgotten, and the fleet goes away as always.
    pub fn keep(self) -> Result<()> {
        fs::write(self.dir.path.join(KEPT), "").context("cannot mark the fleet as kept")?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Plan {
    /// Limits every wire, both ways, to `rate` as tc(8) writes it.
    #[must_use]
    pub fn links(mut self, rate: &str) -> Self {
        self.rate = Some(rate.to_owned());
        self
    }

    /// Puts `nodes`, counted from 1, on a switch of their own, which a wire of `rate` joins to the others' and the
    /// registry's.
    #[must_use]
    pub fn far(mut self, nodes: RangeInclusive<u8>, rate: &str) -> Self {
        self.far = Some((nodes, rate.to_owned()));
        self
    }

    /// Puts `image` into the registry as `repository:tag` before it starts.
    #[must_use]
    pub fn image(mut self, image: &Image, repository: &str, tag: &str) -> Self {
        self.images.push((image.clone(), repository.to_owned(), tag.to_owned()));
        self
    }

    /// Puts a token server before the registry that lets only [`Login::right`] pull.
    #[must_use]
    pub fn with_tokens(mut self) -> Self {
        self.registry.tokens = true;
        self
    }

    /// Makes the registry ask for the password of [`Login::right`].
    #[must_use]
    pub fn with_passwords(mut self) -> Self {
        self.registry.passwords = true;
        self
    }

    /// Makes the registry speak plain HTTP.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.registry.plain = true;
        self
    }

    /// Starts it, and returns when the registry answers.
    ///
    /// # Errors
    /// When a part cannot be made; what was made until then is removed.
    pub async fn start(self) -> Result<Fleet> {
        leftovers::clean();
        let dir = Directory::create()?;
        let name = dir.name.clone();
        let switch = Switch::create(&name, "switch")?;
        let far = self.far.is_some().then(|| Switch::create(&name, "far")).transpose()?;
        let cgroup = Cgroup::create(&cgroup::mount()?, &name)?;
        let is_far = |n| self.far.as_ref().is_some_and(|(nodes, _)| nodes.contains(&n));
        let switch_of = |n| far.as_ref().filter(|_| is_far(n)).unwrap_or(&switch);
        let node = |label: &str, host, at| Node::create(&name, label, host, at, cgroup.path(), &dir.path);
        let authority = authority::Authority::create()?;

        let home = node("registry", 1, &switch)?;
        home.knows(home.address(), registry::HOST)?;
        let nodes = (1..=self.nodes).map(|n| node(&format!("node{n}"), 10 + n, switch_of(n)));
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        for node in &nodes {
            node.knows(home.address(), registry::HOST)?;
            registry::trust(node.entry(), &authority)?;
        }
        if let Some(rate) = &self.rate {
            nodes.iter().chain([&home]).try_for_each(|node| node.link().shape(rate))?;
        }
        let between = match far.as_ref().zip(self.far.as_ref()) {
            Some((far, (_, rate))) => {
                let wire = switch.join(far)?;
                wire.shape(rate)?;
                Some(wire)
            }
            None => None,
        };
        let registry = Registry::start(home, &self.registry, &authority, &self.images).await?;
        Ok(Fleet { registry, nodes, authority, cgroup, switch, _far: far, between, dir })
    }
}

/// The fleet's directory: removed when dropped, but for the logs of a scenario that did not go well.
#[derive(Debug)]
struct Directory {
    name: String,
    path: PathBuf,
    passed: AtomicBool,
}

impl Directory {
    fn create() -> Result<Self> {
        static FLEETS: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}{}-{}", std::process::id(), FLEETS.fetch_add(1, Ordering::Relaxed));
        let path = leftovers::home().join(&name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { name, path, passed: AtomicBool::new(false) })
    }

    /// Moves the logs of all nodes to `target/fleet-logs`.
    fn save_logs(&self) -> Result<PathBuf> {
        let to = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fleet-logs").join(&self.name);
        for node in fs::read_dir(&self.path)?.flatten().filter(|entry| entry.path().is_dir()) {
            let to = to.join(node.file_name());
            fs::create_dir_all(&to)?;
            for file in
                fs::read_dir(node.path())?.flatten().filter(|file| file.path().extension() == Some("log".as_ref()))
            {
                fs::copy(file.path(), to.join(file.file_name()))?;
            }
        }
        Ok(to)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.passed.load(Ordering::Relaxed) {
            match self.save_logs() {
                Ok(to) => eprintln!("the logs of {} are in {}", self.name, to.display()),
                Err(error) => eprintln!("cannot save the logs of {}: {error:#}", self.name),
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("left behind {}: {error}", self.path.display());
        }
    }
}
