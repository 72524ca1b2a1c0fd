//! `cargo xtask test --tier kernel-6.1`: the kernel tier on Debian 12's own kernel, whatever kernel runs here: booted by qemu,
//! whose emulation in software every machine can do, with nothing on its disk but the tests and the programs that they call.
//!
//! What a connect() costs is not judged there: emulation is ten times slower.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::run::{cargo, command, output, read, run};
use crate::{ci, programs, setup};

/// Debian 12's kernel, by its meta package.
const KERNEL: &str = "linux-image-amd64";
const SERIES: &str = "6.1.";
/// What the tests call, and what starts them.
const PROGRAMS: [&str; 6] = ["sh", "mount", "ip", "unshare", "nsenter", "setpriv"];
/// A test of time, which emulation does not keep.
const TIMED: &str = "a_process_that_is_no_runtime_pays_less_than_a_microsecond";
/// Booting takes half a minute, the tests one or two.
const LIMIT: &str = "900";
/// The last line of the machine, and how the tests ended.
const ENDED: &str = "the kernel tests ended with ";

/// Builds the tests, boots the kernel, runs them there.
pub(crate) fn run_tier() -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "this tier boots a kernel for x86_64 and runs this machine's programs on it");
    setup::ensure_emulator()?;
    let home = ci::target_dir()?.join("kernel-6.1");
    fs::create_dir_all(&home)?;
    let kernel = kernel(&home)?;
    run(&mut cargo(&["build", "--workspace", "--bins"]))?;
    let wanted = ("waylay-tests", "kernel");
    let mut built = programs::built([wanted].into_iter())?;
    let tests = built.remove(&(wanted.0.to_owned(), wanted.1.to_owned())).context("cargo built no kernel tests")?.file;
    let initrd = initrd(&home, &tests)?;
    let machine = ["-accel", "tcg", "-cpu", "max", "-m", "2G", "-smp", "2", "-nographic", "-no-reboot"];
    let mut qemu = command("timeout", &[LIMIT, "qemu-system-x86_64"]);
    qemu.args(machine).arg("-kernel").arg(&kernel).arg("-initrd").arg(&initrd);
    qemu.args(["-append", "console=ttyS0 quiet panic=-1"]).stdin(Stdio::null());
    eprintln!("== kernel-6.1 tier: {}, emulated", kernel.file_name().unwrap_or_default().display());
    let said = String::from_utf8_lossy(&output(&mut qemu)?.stdout).replace('\r', "");
    println!("{said}");
    match said.lines().find_map(|line| line.strip_prefix(ENDED)) {
        Some("0") => Ok(()),
        Some(status) => bail!("the kernel tests failed on {}: exit status {status}", kernel.display()),
        None => bail!("the machine with {} did not come to the tests' end; what it said is above", kernel.display()),
    }
}

/// The kernel out of Debian's package, which is not installed: that would become this machine's own next kernel.
fn kernel(home: &Path) -> Result<PathBuf> {
    let depends = read(&mut command("apt-cache", &["depends", KERNEL]))?;
    let package =
        depends.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).context("no kernel package")?;
    let version = package.strip_prefix("linux-image-").unwrap_or(package);
    ensure!(version.starts_with(SERIES), "Debian's kernel is {version} here, not {SERIES}x: this is not Debian 12");
    let kernel = home.join(format!("vmlinuz-{version}"));
    if !kernel.exists() {
        eprintln!("kernel-6.1: getting {package} (70 MB), which is unpacked into {} and not installed", home.display());
        run(command("apt-get", &["download", package]).current_dir(home))?;
        let unpack = format!(
            "dpkg-deb --fsys-tarfile {package}_*.deb | tar --extract --wildcards --strip-components=2 './boot/vmlinuz*' && rm {package}_*.deb"
        );
        run(command("sh", &["-c", &unpack]).current_dir(home))?;
    }
    Ok(kernel)
}

/// What the machine finds in its memory: the tests, the probe that they start, a few programs and all their libraries.
fn initrd(home: &Path, tests: &Path) -> Result<PathBuf> {
    let root = home.join("root");
    let _ = fs::remove_dir_all(&root);
    for dir in ["proc", "sys", "dev", "tmp", "run"] {
        fs::create_dir_all(root.join(dir))?;
    }
    let probe = ci::target_dir()?.join("debug/waylay-probe");
    let mut wanted: BTreeSet<PathBuf> = [tests.to_owned(), probe.clone()].into();
    let place = |program| read(&mut command("which", &[program]));
    for program in PROGRAMS {
        wanted.insert(place(program)?.trim().into());
    }
    for file in wanted.clone() {
        wanted.extend(libraries(&file)?);
    }
    for file in &wanted {
        let copy = root.join(file.strip_prefix("/").unwrap_or(file));
        fs::create_dir_all(copy.parent().unwrap_or(&root))?;
        fs::copy(file, &copy).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    for ours in [tests, &probe] {
        // Without what only a debugger needs it is a tenth.
        run(command("strip", &["--strip-debug"]).arg(root.join(ours.strip_prefix("/").unwrap_or(ours))))?;
    }
    let (init, shell) = (root.join("init"), place("sh")?.trim().to_owned());
    fs::write(&init, script(&shell, tests))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let initrd = home.join("initrd");
    let pack = "find . | cpio --create --format=newc --quiet --owner=0:0";
    let packed = output(command("sh", &["-c", pack]).current_dir(&root))?;
    ensure!(packed.status.success(), "cannot pack {}: {}", root.display(), String::from_utf8_lossy(&packed.stderr));
    fs::File::create(&initrd)?.write_all(&packed.stdout)?;
    Ok(initrd)
}

/// The shared libraries of a program, and the one that loads them.
fn libraries(file: &Path) -> Result<Vec<PathBuf>> {
    let told = read(Command::new("ldd").arg(file))?;
    Ok(told.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// The machine's first program: the file systems that a node has, the tests, the end.
fn script(shell: &str, tests: &Path) -> String {
    format!(
        "#!{shell}\n\
         export PATH=/usr/sbin:/usr/bin:/sbin:/bin CI=true\n\
         mount -t proc proc /proc\nmount -t sysfs sys /sys\nmount -t devtmpfs dev /dev\n\
         mount -t tmpfs tmp /tmp\nmount -t tmpfs run /run\n\
         mount -t cgroup2 cgroup /sys/fs/cgroup\nmount -t bpf bpf /sys/fs/bpf\n\
         read -r version < /proc/version\necho \"$version\"\n\
         {} --skip {TIMED}\n\
         echo \"{ENDED}$?\"\n\
         echo o > /proc/sysrq-trigger\n\
         while :; do read -r _ < /dev/null; done\n",
        tests.display()
    )
}
