//! `deploy/install.sh --from URL`: what is downloaded runs only when it is whole and what its sum says. The program is a stand-in
//! that tells how it was called; the real one's part is the node tier's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Output;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/install.sh");
/// Answers `--version`, and shows everything else.
const PROGRAM: &str = "#!/bin/sh\n[ \"$1\" = --version ] || echo \"called with: $*\"\n";

/// Files on loopback, each with the length that is said of it. Dropping it ends the server.
struct Release {
    address: SocketAddr,
    server: JoinHandle<()>,
}

type Files = BTreeMap<String, (usize, String)>;

impl Release {
    async fn serve(files: Files) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, files) = (listener.local_addr()?, Arc::new(files));
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that leaves early fails its own test.
                let _ = answer(stream, &files).await;
            }
        });
        Ok(Self { address, server })
    }

    /// What the script says when it is run with these options behind `--from`.
    async fn install(&self, options: &[&str]) -> Result<Output> {
        let mut script = tokio::process::Command::new("sh");
        script.arg(SCRIPT).arg("--from").arg(format!("http://{}/v1/", self.address)).args(options);
        script.kill_on_drop(true).output().await.context("cannot run sh")
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(stream: TcpStream, files: &Files) -> Result<()> {
    let mut lines = BufReader::new(stream);
    let (mut request, mut line) = (String::new(), String::new());
    lines.read_line(&mut request).await?;
    while lines.read_line(&mut line).await? > 2 {
        line.clear();
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let reply = match files.get(path) {
        Some((length, text)) => {
            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}")
        }
        None => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
    };
    lines.write_all(reply.as_bytes()).await?;
    Ok(lines.shutdown().await?)
}

fn whole(text: impl Into<String>) -> (usize, String) {
    let text = text.into();
    (text.len(), text)
}

fn program() -> String {
    format!("/v1/waylay-{}", std::env::consts::ARCH)
}

fn sum(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// Whether the script failed saying `why`, and the program was not called.
fn refused(said: &Output, why: &str) -> Result<()> {
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    ensure!(said.status.code() == Some(1) && err.contains(why) && !out.contains("called"), "{why}?\n{out}{err}");
    Ok(())
}

#[tokio::test]
async fn a_whole_program_with_its_sum_is_run_with_all_other_options() -> Result<()> {
    let line = format!("{}  waylay-{}\n", sum(PROGRAM), std::env::consts::ARCH);
    let sums = format!("{}.sha256", program());
    let release = Release::serve([(program(), whole(PROGRAM)), (sums, whole(line))].into()).await?;
    let said = release.install(&["--dry-run", "--registry", "registry.test:5000"]).await?;
    let out = String::from_utf8_lossy(&said.stdout);
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    ensure!(out.trim() == "called with: install --dry-run --registry registry.test:5000", "{out}");
    Ok(())
}

#[tokio::test]
async fn a_sum_on_the_command_line_needs_none_on_the_server() -> Result<()> {
    let release = Release::serve([(program(), whole(PROGRAM))].into()).await?;
    let said = release.install(&["--dry-run", "--sha256", &sum(PROGRAM)]).await?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    refused(
        &release.install(&["--dry-run", "--sha256", &sum("another")]).await?,
        "it is damaged, or not what you want",
    )?;
    refused(&release.install(&["--dry-run", "--sha256", "none; true"]).await?, "is not a SHA-256")
}

#[tokio::test]
async fn what_is_damaged_or_incomplete_is_not_run() -> Result<()> {
    let sums = || format!("{}.sha256", program());
    let right = || (sums(), whole(sum(PROGRAM)));
    let cut = &PROGRAM[..PROGRAM.len() - 10];
    let cases: [(&str, Files, &str); 6] = [
        ("another sum", [(program(), whole(PROGRAM)), (sums(), whole(sum("another")))].into(), "it is damaged"),
        ("no sum", [(program(), whole(PROGRAM))].into(), "cannot download"),
        ("an empty sum", [(program(), whole(PROGRAM)), (sums(), whole(""))].into(), "is empty"),
        ("no program", [right()].into(), "cannot download"),
        ("a program that was cut", [(program(), (PROGRAM.len(), cut.to_owned())), right()].into(), "cannot download"),
        ("a shorter program", [(program(), whole(cut)), right()].into(), "it is damaged"),
    ];
    for (what, files, why) in cases {
        let release = Release::serve(files).await?;
        refused(&release.install(&["--dry-run"]).await?, why).context(what)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_program_for_another_machine_is_told_as_that() -> Result<()> {
    let alien = "\x7fELF of another machine";
    let files = [(program(), whole(alien)), (format!("{}.sha256", program()), whole(sum(alien)))];
    refused(&Release::serve(files.into()).await?.install(&["--dry-run"]).await?, "the program does not run here")
}
