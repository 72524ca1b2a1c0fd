//! The operator's side of a node: its control socket, and the command line that talks to it.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use tokio::task::JoinHandle;
use waylay::{admin::Admin, lifecycle::Readiness, preheat::World, upstream::Resolver};

use super::Node;

/// The task that answers the control socket; it ends with its owner.
pub(super) struct Answering(JoinHandle<()>);

impl Answering {
    /// Ends it, and waits until it has let go of the store.
    pub(super) async fn end(mut self) {
        self.0.abort();
        // That it was cancelled is no news.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Node {
    /// Runs the command line with these arguments against this node's daemon; its exit status.
    pub async fn waylay<const N: usize>(&mut self, arguments: [&str; N]) -> u8 {
        let socket = self.control().await.display().to_string();
        let arguments = ["waylay"].into_iter().chain(arguments).chain(["--socket", &socket]);
        let arguments: Vec<String> = arguments.map(str::to_owned).collect();
        let run = tokio::task::spawn_blocking(move || waylay::cli::run_with(arguments));
        run.await.expect("the command line does not panic")
    }

    /// Its configuration.
    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    /// The control socket's path, answered until the node is stopped or dropped.
    pub async fn control(&mut self) -> PathBuf {
        let path = self.dir.path().join("run/control.sock");
        if self.answering.is_none() {
            let loopback = ([127, 0, 0, 1], 0).into();
            let admin = Admin::bind(loopback, None, &path).await.expect("the directory is ours");
            let core = self.core();
            let answers =
                admin.run(core.view(self.config_file(), self.identities.clone()), Readiness::new(), core.trace.clone());
            self.answering = Some(Answering(tokio::spawn(answers)));
        }
        path
    }

    /// What a pull by the operator's word finds and trusts: the registries, as the runtime does.
    pub(super) fn world(&self) -> World {
        let others = self.plan.others.iter().map(|(name, addr)| (name.host.clone(), *addr));
        let known: Vec<(String, SocketAddr)> = others.chain(self.plan.hosts.iter().cloned()).collect();
        let (played, own, roots) = (self.played.clone(), self.plan.registry.host.clone(), self.plan.roots.clone());
        let lookup: Resolver = Arc::new(move |host, _| {
            let destination = *played.destination.lock().unwrap_or_else(PoisonError::into_inner);
            let other = known.iter().find(|(name, _)| name == host).map(|(_, addr)| *addr);
            Box::pin(std::future::ready(if host == own { Some(destination) } else { other }))
        });
        World { lookup, roots: Arc::new(move |_| roots.clone()) }
    }
}
