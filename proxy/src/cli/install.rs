//! `waylay install` and `waylay uninstall`: show the plan, ask, carry it out, prove it.

use std::{
    fs::OpenOptions,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use waylay_certs::RegistryName;

use super::token;
use crate::install::{
    self, Address, Options, TOKEN,
    apply::{self, ApplyError},
    host::Host,
    plan::{Plan, Step},
    probe, undo,
};

/// Where the installation is, and whether to go on.
#[derive(Debug, Args)]
pub(super) struct Consent {
    /// Show what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before the changes are made.
    #[arg(long)]
    yes: bool,
    /// Print JSON: the plan, then the outcome.
    #[arg(long)]
    json: bool,
}

/// Arguments of `waylay install`.
#[derive(Debug, Args)]
pub(super) struct Install {
    /// Join the cluster of this token's file; `-` reads it from standard input. Without it a node keeps its token, or
    /// begins a cluster.
    #[arg(long, value_name = "FILE|-")]
    join: Option<PathBuf>,
    /// A registry besides the public ones and those that are found on the node; give it once for each.
    #[arg(long = "registry", value_name = "HOST[:PORT]")]
    registries: Vec<RegistryName>,
    /// The address that other nodes reach this one at, if it is not that of the default route.
    #[arg(long, value_name = "IP[:PORT]")]
    address: Option<Address>,
    /// The zone that this node is in (a rack, a site): pieces cross from one zone into another once.
    #[arg(long, value_name = "Z")]
    zone: Option<String>,
    /// How runtimes learn of waylay's certificates.
    #[arg(long, value_enum, default_value_t = Trust::Runtime)]
    trust: Trust,
    /// Restart the runtimes that learn of them only at their start, where their containers go on.
    #[arg(long)]
    restart_runtime: bool,
    #[command(flatten)]
    consent: Consent,
}

/// Arguments of `waylay uninstall`.
#[derive(Debug, Args)]
pub(super) struct Uninstall {
    /// Leave the blobs in the store.
    #[arg(long)]
    keep_cache: bool,
    /// Restart the runtimes that were told of waylay's certificates, where their containers go on.
    #[arg(long)]
    restart_runtime: bool,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Trust {
    /// From per-registry directories alone; nothing is ever restarted, and what does not read them is passed through.
    CertsD,
    /// From those, and from SSL_CERT_DIR in a drop-in of each runtime's unit.
    Runtime,
}

impl Install {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let join = self.join.as_deref().map(token::read).transpose()?;
        let host = Host::this();
        let facts = probe::probe(&host, join.as_ref().and_then(|token| token.addresses.first().copied()));
        let options = Options {
            join,
            registries: self.registries,
            address: self.address,
            zone: self.zone,
            trust: match self.trust {
                Trust::CertsD => install::Trust::CertsD,
                Trust::Runtime => install::Trust::Runtime,
            },
            restart_runtime: self.restart_runtime,
        };
        let obstacle = install::check(&facts);
        // A rehearsal shows all it can; what stands in the way is said at its end.
        if !self.consent.dry_run {
            obstacle?;
            return self.consent.carry_out(&host, &facts, &options);
        }
        let program = std::env::current_exe().context("cannot find this program's own path")?;
        let prepared = install::prepare(&host, &facts, &options, &program)?;
        self.consent.show(&prepared.plan)?;
        obstacle.context("it cannot be installed as it is")?;
        self.consent.rehearsed();
        Ok(())
    }
}

impl Consent {
    fn carry_out(&self, host: &Host, facts: &probe::Facts, options: &Options) -> anyhow::Result<()> {
        let program = std::env::current_exe().context("cannot find this program's own path")?;
        let prepared = install::prepare(host, facts, options, &program)?;
        self.show(&prepared.plan)?;
        if !prepared.plan.is_empty() {
            self.agree()?;
        }
        let left = self.perform(host, &prepared.plan, &prepared.config.state_dir)?;
        if self.json {
            println!("{}", json!({ "installed": true, "left": left, "token": TOKEN }));
            return Ok(());
        }
        println!(
            "\nwaylay intercepts this node's pulls: proven by a connection of its own. `waylay status` shows it at work."
        );
        if let Some(swarm) = &prepared.config.swarm {
            let host = swarm.listen.ip();
            println!("\nThe next node joins with this one's token. From a machine that reaches both, as root there:\n");
            println!("  ssh root@{host} cat {TOKEN} | ssh root@NEXT 'sh install.sh --join - --yes'\n");
            println!("{TOKEN} is the cluster's secret: mode 0600, and never on a command line.");
        }
        Ok(())
    }

    fn show(&self, plan: &Plan) -> anyhow::Result<()> {
        if self.json {
            println!("{}", serde_json::to_string(plan)?);
        } else {
            print!("{plan}");
        }
        Ok(())
    }

    fn rehearsed(&self) {
        if !self.json {
            println!("\nNothing was changed (--dry-run).");
        }
    }

    /// Asks the person at the terminal, who may have piped something else into standard input.
    fn agree(&self) -> anyhow::Result<()> {
        if self.yes {
            return Ok(());
        }
        let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
        let Ok(mut terminal) = terminal else {
            bail!("there is no terminal to ask at: look at the plan with --dry-run, then give --yes");
        };
        write!(terminal, "\nGo on? [y/N] ")?;
        let mut answer = String::new();
        BufReader::new(terminal).read_line(&mut answer)?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => bail!("nothing was changed"),
        }
    }

    fn perform(&self, host: &Host, plan: &Plan, state_dir: &Path) -> anyhow::Result<apply::Left> {
        if !self.json && !plan.is_empty() {
            println!();
        }
        let mut number = 0;
        let mut tell = |step: &Step| {
            number += 1;
            if !self.json {
                let first = step.to_string();
                println!("[{number}/{}] {}", plan.steps.len(), first.lines().next().unwrap_or_default());
            }
        };
        let left = apply::apply(host, plan, state_dir, &mut tell);
        let left = match left {
            // It is as it was.
            Err(back @ (ApplyError::PutBack(_) | ApplyError::Rehearsal(_))) => return Err(back.into()),
            left => left.context(
                "stopped at this step; the same command goes on from here, `waylay uninstall` takes back what was done",
            )?,
        };
        if !self.json {
            for line in &left {
                println!("left as it is: {line}");
            }
        }
        Ok(left)
    }
}

impl Uninstall {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let host = Host::this();
        let options = undo::Options { keep_cache: self.keep_cache, restart_runtime: self.restart_runtime };
        let plan = undo::plan(&host, &options)?;
        self.consent.show(&plan)?;
        if plan.is_empty() {
            return Ok(());
        }
        if self.consent.dry_run {
            self.consent.rehearsed();
            return Ok(());
        }
        if !nix::unistd::Uid::effective().is_root() {
            bail!("uninstalling changes /etc: run it as root (with sudo); --dry-run works for everybody");
        }
        self.consent.agree()?;
        let left = self.consent.perform(&host, &plan, &undo::Places::of(&host).state_dir)?;
        if self.consent.json {
            println!("{}", json!({ "uninstalled": true, "left": left }));
        } else {
            println!("\nwaylay is off this node; pulls go directly to their registries.");
        }
        Ok(())
    }
}
