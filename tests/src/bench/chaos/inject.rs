//! Doing the faults and undoing them, and remembering when a pull could not have worked without us either.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::time::{sleep, sleep_until};

use super::RATE;
use super::expire::Aside;
use super::fault::{Event, Fault, Schedule};
use super::vitals::Vitals;
use crate::fleet::authority::Leaf;
use crate::fleet::network::Link;
use crate::fleet::node::Entry;
use crate::fleet::{Daemon, Node, Registry, run};

/// A slow registry's wire.
const SLOW: &str = "10mbit";
/// How long a registry that answers 429 tells clients to wait, in seconds.
const RETRY_AFTER: u32 = 3;
const DAY: i64 = 24 * 3600;
/// By how much a clock is wrong, in seconds: a battery that is empty, a time zone taken for another, a slow correction.
const WRONG: [i64; 6] = [-90 * DAY, -7200, -90, 90, 7200, 90 * DAY];
/// What a pull needs to notice that an outage is over: retries of runtimes wait.
const AFTERMATH: Duration = Duration::from_secs(3);

/// When the registry, or a node's way to it, was out of order.
#[derive(Debug, Default)]
pub(super) struct Outages(Mutex<Vec<Outage>>);

#[derive(Debug)]
struct Outage {
    /// `None`: for all.
    node: Option<usize>,
    ended: Option<Instant>,
}

impl Outages {
    /// Whether a pull on `node` since `begun` met one: without us it might have failed as well.
    pub(super) fn met(&self, node: usize, begun: Instant) -> bool {
        let outages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let concerns = |outage: &Outage| outage.node.is_none_or(|other| other == node);
        outages.iter().any(|outage| concerns(outage) && outage.ended.is_none_or(|ended| ended + AFTERMATH >= begun))
    }

    fn begin(&self, node: Option<usize>) {
        let outage = Outage { node, ended: None };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(outage);
    }

    fn end(&self) {
        for outage in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            outage.ended.get_or_insert_with(Instant::now);
        }
    }
}

/// Nodes whose disk can be filled: the last two.
pub(super) fn with_small_disks(nodes: &[Node]) -> &[Node] {
    &nodes[nodes.len().saturating_sub(2)..]
}

/// Gives a node's store a disk of its own.
pub(super) fn mount_small_disk(node: &Node, mib: u32) -> Result<()> {
    let dir = node.entry().make_dir("waylay/state/store")?;
    let mut mount = node.entry().command("mount");
    mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(dir);
    run(&mut mount).map(drop)
}

/// Faults of the daemons themselves, one after the other.
pub(super) async fn to_daemons(
    schedule: &Schedule,
    begun: Instant,
    daemons: &mut [Daemon],
    vitals: &mut Vitals,
) -> Result<()> {
    for event in &schedule.to_daemons {
        vitals.sample_until(begun + event.at, daemons).await?;
        told(event);
        let Event { fault, lasts, node, way, .. } = *event;
        let daemon = &mut daemons[node];
        match fault {
            Fault::Kill => {
                daemon.kill();
                sleep(lasts).await;
            }
            Fault::Stop => {
                daemon.stop()?;
                sleep(lasts).await;
            }
            Fault::Restart => daemon.stop()?,
            Fault::Freeze => {
                daemon.freeze()?;
                sleep(lasts).await;
                daemon.thaw()?;
                continue;
            }
            Fault::Watchdog => {
                daemon.freeze()?;
                sleep(lasts).await;
                daemon.kill();
            }
            Fault::Clock => {
                let (by, anew) = (WRONG[way % WRONG.len()], way >= WRONG.len());
                daemon.clock().context("a daemon without a clock of its own")?.set(by)?;
                if anew {
                    daemon.stop()?;
                    vitals.ended(node);
                    daemon.restart().await.with_context(|| format!("with a clock that is wrong by {by} s"))?;
                }
                sleep(lasts).await;
                daemon.clock().context("a daemon without a clock of its own")?.set(0)?;
                continue;
            }
            Fault::Expired => {
                daemon.stop()?;
                let aside = Aside::put(daemon)?;
                vitals.ended(node);
                daemon.restart().await.context("with an expired certificate")?;
                sleep(lasts).await;
                daemon.stop()?;
                aside.take_back()?;
            }
            _ => continue,
        }
        vitals.ended(node);
        daemon.restart().await.with_context(|| format!("after {fault:?}"))?;
    }
    Ok(())
}

/// Faults of everything around them, one after the other.
pub(super) async fn around_them(
    schedule: &Schedule,
    begun: Instant,
    (registry, expired): (&mut Registry, &Leaf),
    (links, entries): (&[Link], &[(Entry, Ipv4Addr)]),
    outages: &Outages,
) -> Result<()> {
    for event in &schedule.around_them {
        sleep_until((begun + event.at).into()).await;
        told(event);
        let Event { fault, lasts, node, other, .. } = *event;
        match fault {
            Fault::RegistryDown => {
                outages.begin(None);
                registry.stop();
                sleep(lasts).await;
                registry.restart().await?;
            }
            Fault::RegistryRestart => {
                outages.begin(None);
                registry.stop();
                registry.restart().await?;
            }
            Fault::RegistryBusy => {
                outages.begin(None);
                registry.busy(RETRY_AFTER)?;
                sleep(lasts).await;
                registry.calm().await?;
            }
            Fault::RegistryExpired => {
                outages.begin(None);
                registry.with_certificate(expired).await?;
                sleep(lasts).await;
                registry.own_certificate().await?;
            }
            Fault::RegistryUnwell => {
                outages.begin(None);
                registry.unwell(true)?;
                sleep(lasts).await;
                registry.unwell(false)?;
                // It looks once a second.
                sleep(Duration::from_secs(2)).await;
            }
            Fault::RegistrySlow => {
                let wire = registry.node().link().clone();
                wire.shape(SLOW)?;
                sleep(lasts).await;
                wire.shape(RATE)?;
            }
            Fault::Cut => {
                outages.begin(Some(node));
                links[node].cut()?;
                sleep(lasts).await;
                links[node].mend()?;
            }
            Fault::Partition => {
                let between = [(&entries[node], entries[other].1), (&entries[other], entries[node].1)];
                for ((entry, _), address) in between {
                    blackhole(entry, "add", address)?;
                }
                sleep(lasts).await;
                for ((entry, _), address) in between {
                    blackhole(entry, "del", address)?;
                }
            }
            Fault::Corrupt => corrupt(&entries[node].0)?,
            Fault::Full => {
                // One of those that have a disk of their own.
                let entry = &entries[entries.len() - 1 - node % 2].0;
                let ballast = store(entry).join("ballast");
                fill(&ballast)?;
                sleep(lasts).await;
                fs::remove_file(&ballast).context("cannot remove the ballast")?;
            }
            _ => {}
        }
        outages.end();
    }
    sleep_until((begun + schedule.end()).into()).await;
    Ok(())
}

fn told(event: &Event) {
    let Event { fault, at, lasts, node, .. } = event;
    eprintln!("{:>6.1} s  {fault:?} (node{}) for {:.1} s", at.as_secs_f64(), node + 1, lasts.as_secs_f64());
}

fn blackhole(entry: &Entry, order: &str, address: Ipv4Addr) -> Result<()> {
    let mut ip = entry.command("ip");
    ip.args(["route", order, "blackhole", &format!("{address}/32")]);
    run(&mut ip).map(drop)
}

/// The store's directory, as the node sees it: it may be a disk of its own.
fn store(entry: &Entry) -> PathBuf {
    entry.inside(entry.dir().join("waylay/state/store"))
}

/// Flips a byte in the middle of the largest blob that is held.
fn corrupt(entry: &Entry) -> Result<()> {
    let blobs = fs::read_dir(store(entry).join("blobs/sha256")).context("the node has no store")?;
    let largest = blobs.flatten().filter_map(|blob| Some((blob.metadata().ok()?.len(), blob.path()))).max();
    let Some((size, path)) = largest.filter(|(size, _)| *size > 0) else { return Ok(()) };
    // It may be evicted meanwhile.
    let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else { return Ok(()) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, size / 2)?;
    file.write_all_at(&[byte[0] ^ 1], size / 2)?;
    Ok(())
}

/// Writes until there is no room.
fn fill(path: &std::path::Path) -> Result<()> {
    let mut file = File::create(path).context("cannot make the ballast")?;
    let block = vec![0; 1 << 20];
    while file.write_all(&block).is_ok() {}
    Ok(())
}
