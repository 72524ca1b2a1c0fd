//! What `/proc` tells about a process. Everything is read at once; the process may be gone or replaced at any time, which
//! is an error or an absence, never a panic.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use super::root::Root;
use crate::moment::Moment;

/// `/proc` counts the start of a process in hundredths of a second on every architecture that waylay is built for.
const TICK: Duration = Duration::from_millis(10);

/// The variables that decide whom a runtime trusts and where it connects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environ {
    /// Directories of roots, as Go and OpenSSL read it: a list with colons.
    pub ssl_cert_dir: Option<String>,
    /// A file of roots.
    pub ssl_cert_file: Option<String>,
    /// The proxy for https, in either case of letters.
    pub https_proxy: Option<String>,
    /// The home directory.
    pub home: Option<String>,
    /// A file of roots that curl prefers to everything else.
    pub curl_ca_bundle: Option<String>,
}

/// One process as it was when it was read.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its id in our pid namespace.
    pub pid: u32,
    /// Its executable, as it was called when it was started. `None` for a kernel thread.
    pub exe: Option<PathBuf>,
    /// The name of its main thread.
    pub comm: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// When it was started by the wall clock as it is now.
    pub started: SystemTime,
    /// When it was started by the boot clock: what decisions stand on.
    pub started_at: Moment,
    /// The environment it was executed with.
    pub environ: Environ,
    /// Its effective user, as we see it.
    pub uid: u32,
    /// Its `/proc/PID/cgroup`.
    pub cgroup: String,
    /// `/proc/PID`.
    proc: PathBuf,
    ticks: u64,
}

impl Process {
    /// Reads process `pid` of our pid namespace. Fails when it is gone, or when we may not look at it.
    pub fn read(pid: u32) -> io::Result<Self> {
        Self::read_in(Path::new("/proc"), pid)
    }

    /// Reads from a `/proc` that stands elsewhere.
    pub(crate) fn read_in(procfs: &Path, pid: u32) -> io::Result<Self> {
        let proc = procfs.join(pid.to_string());
        let ticks = start_ticks(&proc)?;
        let since_boot = TICK * u32::try_from(ticks).unwrap_or(u32::MAX);
        let started_at = Moment::of_boot(procfs, since_boot)?;
        let age = started_at.until(&Moment::now_in(procfs)?).unwrap_or_default();
        let exe = match fs::read_link(proc.join("exe")) {
            Ok(exe) => Some(without_deleted(exe)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let process = Self {
            pid,
            exe,
            comm: fs::read_to_string(proc.join("comm"))?.trim_end().to_string(),
            args: strings(&fs::read(proc.join("cmdline"))?),
            started: SystemTime::now() - age,
            started_at,
            environ: read_environ(&fs::read(proc.join("environ"))?),
            uid: effective_uid(&proc)?,
            cgroup: fs::read_to_string(proc.join("cgroup"))?,
            ticks,
            proc,
        };
        process.check_same()?;
        Ok(process)
    }

    /// The name of its executable without directories, or its `comm` when the executable is unknown.
    pub fn program(&self) -> &str {
        self.exe.as_deref().and_then(Path::file_name).and_then(OsStr::to_str).unwrap_or(&self.comm)
    }

    /// Whether it runs inside a Kubernetes pod: a workload, never a node's runtime.
    pub fn in_pod(&self) -> bool {
        self.cgroup.contains("kubepods")
    }

    /// Its root directory as a path that works for us while it lives.
    pub fn root(&self) -> PathBuf {
        self.proc.join("root")
    }

    /// Opens its root directory; fails when the process is gone or its id belongs to another one by now.
    pub(super) fn open_root(&self) -> io::Result<Root> {
        let root = Root::open(&self.root())?;
        self.check_same()?;
        Ok(root)
    }

    fn check_same(&self) -> io::Result<()> {
        match start_ticks(&self.proc)? == self.ticks {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::NotFound, "the process id belongs to another process now")),
        }
    }
}

/// The start of a process in ticks since boot: field 22 of `stat`, counted from behind the last parenthesis because the
/// name of a process may contain anything.
fn start_ticks(proc: &Path) -> io::Result<u64> {
    let stat = fs::read(proc.join("stat"))?;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "cannot read the start of the process");
    let after_name = stat.iter().rposition(|&b| b == b')').ok_or_else(invalid)?;
    let fields = String::from_utf8_lossy(&stat[after_name + 1..]);
    fields.split_whitespace().nth(19).and_then(|field| field.parse().ok()).ok_or_else(invalid)
}

/// The owner of its directory in `/proc` is its effective user, but root for one that may not be dumped; `status` tells
/// the user in all cases.
fn effective_uid(proc: &Path) -> io::Result<u32> {
    let status = fs::read_to_string(proc.join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    match line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()) {
        Some(uid) => Ok(uid),
        None => Ok(fs::metadata(proc)?.uid()),
    }
}

/// A replaced executable (the usual upgrade) is shown with this ending.
fn without_deleted(exe: PathBuf) -> PathBuf {
    match exe.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(path) => PathBuf::from(OsStr::from_bytes(path)),
        None => exe,
    }
}

fn strings(nul_separated: &[u8]) -> Vec<String> {
    let text = nul_separated.strip_suffix(b"\0").unwrap_or(nul_separated);
    if text.is_empty() {
        return Vec::new();
    }
    text.split(|&b| b == 0).map(|s| String::from_utf8_lossy(s).into_owned()).collect()
}

fn read_environ(environ: &[u8]) -> Environ {
    let mut read = Environ::default();
    for entry in environ.split(|&b| b == 0) {
        let Some(at) = entry.iter().position(|&b| b == b'=') else { continue };
        let slot = match &entry[..at] {
            b"SSL_CERT_DIR" => &mut read.ssl_cert_dir,
            b"SSL_CERT_FILE" => &mut read.ssl_cert_file,
            b"HTTPS_PROXY" | b"https_proxy" => &mut read.https_proxy,
            b"HOME" => &mut read.home,
            b"CURL_CA_BUNDLE" => &mut read.curl_ca_bundle,
            _ => continue,
        };
        // The first one counts, as for getenv; an empty value is none.
        let value = String::from_utf8_lossy(&entry[at + 1..]).into_owned();
        if slot.is_none() && !value.is_empty() {
            *slot = Some(value);
        }
    }
    read
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Node;
    use super::*;

    #[test]
    fn a_process_is_read_whole() {
        let node = Node::new();
        let started = node.now_ticks();
        node.process(7, "/usr/bin/containerd (deleted)", "containerd")
            .environ(&["PATH=/bin", "SSL_CERT_DIR=/a:/b", "HOME=/root", "https_proxy=http://p:1", "SSL_CERT_DIR=/late"])
            .args(&["containerd", "-c", "/x.toml"])
            .started(started);
        let process = Process::read_in(&node.proc(), 7).unwrap();
        assert_eq!(process.program(), "containerd");
        assert_eq!(process.exe.as_deref(), Some(Path::new("/usr/bin/containerd")));
        assert_eq!(process.environ.ssl_cert_dir.as_deref(), Some("/a:/b"));
        assert_eq!(process.environ.https_proxy.as_deref(), Some("http://p:1"));
        assert_eq!(process.environ.home.as_deref(), Some("/root"));
        assert_eq!(process.environ.ssl_cert_file, None);
        assert_eq!(process.args, ["containerd", "-c", "/x.toml"]);
        assert!(!process.in_pod());
    }

    #[test]
    fn a_name_with_parentheses_does_not_move_the_fields() {
        let node = Node::new();
        node.process(7, "/bin/x", "a) S 1 (b").started(12345);
        assert_eq!(Process::read_in(&node.proc(), 7).unwrap().ticks, 12345);
    }

    #[test]
    fn a_pod_is_seen_in_every_spelling_of_its_cgroup() {
        let node = Node::new();
        for (pid, cgroup) in [
            (1, "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-1.scope\n"),
            (2, "12:memory:/kubepods/burstable/pod1/abc\n0::/\n"),
            (3, "0::/../../kubelet-kubepods-pod3.slice/x\n"),
        ] {
            node.process(pid, "/bin/x", "x").cgroup(cgroup);
            assert!(Process::read_in(&node.proc(), pid).unwrap().in_pod(), "{cgroup}");
        }
    }

    #[test]
    fn a_process_that_is_gone_or_half_there_is_an_error() {
        let node = Node::new();
        assert!(Process::read_in(&node.proc(), 7).is_err());
        for file in ["stat", "comm", "cmdline", "environ", "cgroup"] {
            node.process(7, "/bin/x", "x");
            fs::remove_file(node.proc().join("7").join(file)).unwrap();
            assert!(Process::read_in(&node.proc(), 7).is_err(), "{file}");
        }
        node.process(7, "/bin/x", "x");
        fs::write(node.proc().join("7/stat"), "7 (x").unwrap();
        assert!(Process::read_in(&node.proc(), 7).is_err());
    }

    #[test]
    fn an_id_that_was_given_to_another_process_is_noticed() {
        let node = Node::new();
        node.process(7, "/bin/x", "x").started(100);
        let process = Process::read_in(&node.proc(), 7).unwrap();
        assert!(process.open_root().is_ok());
        node.process(7, "/bin/x", "x").started(200);
        assert!(process.open_root().is_err());
    }

    #[test]
    fn we_ourselves_can_be_read() {
        let us = Process::read(std::process::id()).unwrap();
        assert!(us.started <= SystemTime::now());
        assert!(us.started_at.not_after(&Moment::now().unwrap()));
        assert_eq!(us.uid, nix::unistd::geteuid().as_raw());
    }
}
