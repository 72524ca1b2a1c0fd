//! A transfer between peers with nothing around it: one iroh connection set up as the daemon's, pieces read from a file,
//! hashed with BLAKE3 and written to another. What this takes of a machine is what a transfer takes there at least.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use iroh::endpoint::{Connection, RecvStream, SendStream, presets};
use iroh::{Endpoint, EndpointAddr, RelayMode, SecretKey, TransportAddr};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;
use waylay::store::piece::Layout;
use waylay::swarm::plan::IN_ALL;
use waylay::swarm::pure::transport;

use crate::bench::measure;

const ALPN: &[u8] = b"waylay-bench/parts";
/// The giver's key: nobody else is in the fleet's network.
const KEY: [u8; 32] = [7; 32];
/// How much is read and sent at once, and how much is hashed and written, in bytes: as the daemon does.
const CHUNK: usize = 64 << 10;
/// Datagrams' worth of bytes taken from a stream at once.
const CHUNKS: usize = 64;

/// What one end took.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::bench) struct Took {
    pub(in crate::bench) seconds: f64,
    pub(in crate::bench) cpu_seconds: f64,
}

/// Gives pieces of a file to the first that connects, until that has enough.
#[tokio::main]
pub(super) async fn give(at: SocketAddr, file: &Path) -> Result<Took> {
    let endpoint = bind(at).await?;
    let file = Arc::new(File::open(file).with_context(|| format!("cannot open {}", file.display()))?);
    let layout = Layout::new(file.metadata()?.len())?;
    let connection = endpoint.accept().await.context("nobody came")?.await?;
    let begun = begin()?;
    let mut streams = JoinSet::new();
    while let Ok((send, receive)) = connection.accept_bi().await {
        streams.spawn(give_piece(file.clone(), layout, send, receive));
    }
    while let Some(ended) = streams.join_next().await {
        ended??;
    }
    took(begun)
}

async fn give_piece(file: Arc<File>, layout: Layout, mut send: SendStream, mut receive: RecvStream) -> Result<()> {
    let mut index = [0; 4];
    receive.read_exact(&mut index).await?;
    let mut range = layout.range(u32::from_le_bytes(index));
    while !range.is_empty() {
        let mut chunk = BytesMut::zeroed(CHUNK.min((range.end - range.start) as usize));
        file.read_exact_at(&mut chunk, range.start)?;
        range.start += chunk.len() as u64;
        send.write_chunk(chunk.freeze()).await?;
    }
    send.finish()?;
    Ok(())
}

/// Takes a file of so many bytes piece by piece, a few at a time.
#[tokio::main]
pub(super) async fn take(from: SocketAddr, bytes: u64, into: &Path) -> Result<Took> {
    let endpoint = bind(SocketAddr::from(([0, 0, 0, 0], 0))).await?;
    let file = Arc::new(File::create(into).with_context(|| format!("cannot create {}", into.display()))?);
    let layout = Layout::new(bytes)?;
    let giver = EndpointAddr::from_parts(SecretKey::from_bytes(&KEY).public(), [TransportAddr::Ip(from)]);
    let connection = endpoint.connect(giver, ALPN).await?;
    let begun = begin()?;
    let pieces = stream::iter(0..layout.count()).map(|index| {
        let piece = take_piece(connection.clone(), file.clone(), layout, index);
        async { tokio::spawn(piece).await? }
    });
    pieces.buffer_unordered(IN_ALL).try_collect::<()>().await?;
    let took = took(begun)?;
    connection.close(0_u32.into(), b"enough");
    endpoint.close().await;
    Ok(took)
}

async fn take_piece(connection: Connection, file: Arc<File>, layout: Layout, index: u32) -> Result<()> {
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(&index.to_le_bytes()).await?;
    send.finish()?;
    let mut range = layout.range(index);
    let (mut chunks, mut portion) = ([const { Bytes::new() }; CHUNKS], Vec::with_capacity(CHUNK));
    let mut hasher = blake3::Hasher::new();
    while !range.is_empty() {
        let count = receive.read_many_chunks(&mut chunks).await?.context("a piece ended early")?;
        for chunk in chunks.iter_mut().take(count).map(std::mem::take) {
            portion.extend_from_slice(&chunk);
            let gathered = range.start + portion.len() as u64;
            if portion.len() >= CHUNK || gathered >= range.end {
                hasher.update(&portion);
                file.write_all_at(&portion, range.start)?;
                range.start = gathered;
                portion.clear();
            }
        }
    }
    ensure!(range.start == range.end, "a piece was too long");
    std::hint::black_box(hasher.finalize());
    Ok(())
}

/// Hashes so many bytes with sha256, as whoever verifies a blob does at least.
pub(super) fn hash(bytes: u64) -> Result<Took> {
    let (buffer, mut hasher, begun) = (vec![1_u8; CHUNK], Sha256::new(), begin()?);
    for _ in 0..bytes / CHUNK as u64 {
        hasher.update(std::hint::black_box(&buffer));
    }
    std::hint::black_box(hasher.finalize());
    took(begun)
}

async fn bind(at: SocketAddr) -> Result<Endpoint> {
    let key = if at.port() == 0 { SecretKey::generate() } else { SecretKey::from_bytes(&KEY) };
    let builder = Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Disabled)
        .secret_key(key)
        .alpns(vec![ALPN.to_vec()])
        .clear_ip_transports()
        .transport_config(transport())
        .bind_addr(at)?;
    Ok(builder.bind().await?)
}

fn begin() -> Result<(Instant, f64)> {
    Ok((Instant::now(), measure::cpu(Pid::this())?.as_secs_f64()))
}

fn took((instant, cpu): (Instant, f64)) -> Result<Took> {
    let cpu_seconds = measure::cpu(Pid::this())?.as_secs_f64() - cpu;
    Ok(Took { seconds: instant.elapsed().as_secs_f64(), cpu_seconds })
}
