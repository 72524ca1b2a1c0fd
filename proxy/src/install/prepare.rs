//! Making the plan: comparing what is there with what should be. It reads and compares, and changes nothing.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use bytesize::ByteSize;
use waylay_certs::{ClusterSecret, Identities, JoinToken, Process, RegistryName};
use zeroize::Zeroizing;

use super::{
    CONFIG, Options, PROGRAM, PlanError, SERVICE, SWARM_PORT, TOKEN, Trust,
    host::Host,
    plan::{File, Plan, Step},
    probe::Facts,
    registries,
    runtimes::{self, Kind, Runtime, Unit},
    settings::{self, Swarm, Wanted},
};
use crate::config::Config;

const UNIT: &str = include_str!("../../../deploy/waylay.service");
/// Where Go looks for roots when nobody says otherwise (crypto/x509, root_linux.go).
const SSL_CERT_DIR: &str = "/etc/ssl/certs:/etc/pki/tls/certs";
/// With less than twice the default quota free, blobs get half of what there is.
const QUOTA: u64 = 50 << 30;

/// The plan, and what is needed to carry it out and to tell the next node.
pub struct Prepared {
    /// What will be done.
    pub plan: Plan,
    /// The configuration that it will leave.
    pub config: Config,
}

/// Plans the installation of the program at `program`: what is missing or different from what it should be.
///
/// # Errors
/// When something that is there cannot be understood; it is never replaced unread.
pub fn prepare(host: &Host, facts: &Facts, options: &Options, program: &Path) -> Result<Prepared, PlanError> {
    let there = host.read(CONFIG);
    let before = there.as_deref().map(Config::parse).transpose()?;
    let listen = listen(facts, options, before.as_ref())?;
    let wanted = wanted(facts, options, before.as_ref(), listen);
    let text = settings::configuration(there.as_deref(), &wanted)?;
    let config = Config::parse(&text)?;
    let program = program_file(host, program)?;
    let running = host.ask("systemctl", &["is-active", SERVICE]).is_some();
    let rehearsal = (running && program.is_some()).then(|| Step::Rehearse { config: Box::new(config.clone()) });
    let mut files = vec![
        program,
        file(host, CONFIG, 0o644, "which registries, and where the peers are", text.into_bytes()),
        file(host, &format!("/etc/systemd/system/{SERVICE}"), 0o644, "the daemon's unit", unit(&config).into_bytes()),
    ];
    files.push(token(host, options, listen)?);
    let drop_ins = if options.trust == Trust::Runtime { drop_ins(host, facts, &config) } else { Vec::new() };
    let daemon_changes = files.iter().flatten().count() > 0;
    let units_change =
        files.iter().flatten().any(|file| file.path.ends_with(SERVICE)) || drop_ins.iter().any(Option::is_some);
    let restarts = restarts(host, facts, options, &config);

    let mut plan = Plan { found: described(facts, &config), steps: Vec::new(), warnings: warnings(facts) };
    plan.steps.extend(rehearsal);
    plan.steps.extend(files.into_iter().chain(drop_ins).flatten().map(Step::Write));
    if daemon_changes || !is_published(host, &config) {
        plan.steps.push(Step::Publish {
            trust_dir: config.trust.directory.clone(),
            certs_d: config.trust.certs_d.clone(),
            registries: config.registries.clone(),
        });
    }
    if units_change {
        plan.steps.push(Step::systemctl(&["daemon-reload"], "systemd reads its units again"));
    }
    let service = host.ask("systemctl", &["is-enabled", SERVICE]).is_some_and(|said| said.trim() == "enabled");
    if !service {
        plan.steps.push(Step::systemctl(&["enable", SERVICE], "waylay starts with the machine"));
    }
    if daemon_changes || !running {
        let why = "the daemon starts; one that ran drains first, and pulls go directly meanwhile";
        plan.steps.push(Step::systemctl(&["restart", SERVICE], why));
    }
    plan.steps.push(Step::Prove { socket: config.admin.socket.clone() });
    for (unit, harm) in restarts {
        match harm {
            None if options.restart_runtime => plan.steps.push(Step::systemctl(
                &["restart", &unit],
                "a program reads whom it trusts once, at its start; containers go on",
            )),
            None => plan.warnings.push(format!(
                "{unit} learns of the certificates at its next start; until then its connections pass through untouched. \
                 `systemctl restart {unit}` does it now (so does --restart-runtime)"
            )),
            Some(harm) => plan.warnings.push(format!(
                "{unit} is not restarted: {harm}. What it reads from certs.d works now; the rest after its next start"
            )),
        }
    }
    Ok(Prepared { plan, config })
}

/// Where this node will listen for members.
fn listen(facts: &Facts, options: &Options, before: Option<&Config>) -> Result<SocketAddr, PlanError> {
    let configured = before.and_then(|config| config.swarm.as_ref()).map(|swarm| swarm.listen);
    let found = || facts.address.map(|address| SocketAddr::new(address, SWARM_PORT));
    options.address.map(|address| address.0).or(configured).or_else(found).ok_or(PlanError::NoAddress)
}

fn wanted(facts: &Facts, options: &Options, before: Option<&Config>, listen: SocketAddr) -> Wanted {
    let public = registries::PUBLIC.iter().filter_map(|name| name.parse().ok());
    let mut listed = BTreeSet::new();
    let all = public.chain(facts.registries.keys().cloned()).chain(options.registries.iter().cloned());
    let registries = all.filter(|name| listed.insert(name.clone())).collect();
    let has = |wanted: &dyn Fn(Kind) -> bool| facts.runtimes.iter().any(|runtime| wanted(runtime.kind));
    let mut certs_d: Vec<PathBuf> = Vec::new();
    if has(&|kind| kind == Kind::Docker) {
        certs_d.push("/etc/docker/certs.d".into());
    }
    if has(&Kind::reads_containers_certs_d) {
        certs_d.push("/etc/containers/certs.d".into());
    }
    certs_d.extend(facts.containerd_certs_d.clone().filter(|dir| !certs_d.contains(dir)));
    let tight = before.is_none() && facts.free < 2 * QUOTA;
    // Rounded to something that a person would write.
    let quota = tight.then(|| ByteSize(((facts.free / 2) >> 30).max(1) << 30));
    let known = before.is_some_and(|config| config.swarm.is_some());
    let told = options.join.is_some() || options.address.is_some();
    let swarm = (told || !known).then(|| Swarm { listen, token_file: TOKEN.into() });
    Wanted { registries, certs_d, quota, swarm, zone: options.zone.clone() }
}

/// A file, unless it is there as it should be.
fn file(host: &Host, path: &str, mode: u32, why: &'static str, content: Vec<u8>) -> Option<File> {
    let content = Zeroizing::new(content);
    let full = host.path(path);
    let there = fs::read(&full).ok().map(Zeroizing::new);
    let same_mode = fs::metadata(&full).is_ok_and(|metadata| metadata.permissions().mode() & 0o7777 == mode);
    let same = there.as_ref().is_some_and(|there| **there == *content) && same_mode;
    (!same).then(|| File { path: path.into(), mode, why, replaces: there.is_some(), content })
}

fn program_file(host: &Host, program: &Path) -> Result<Option<File>, PlanError> {
    // Started from where it belongs: whoever put it there keeps it.
    if program == host.path(PROGRAM) {
        return Ok(None);
    }
    let content = fs::read(program).map_err(|source| PlanError::Program { path: program.to_owned(), source })?;
    Ok(file(host, PROGRAM, 0o755, "this program", content))
}

/// The token of this node: the one to join with, with our own address added, so that the next node can join through us; a
/// new one for a node that begins a cluster; none when one is there already and stays.
fn token(host: &Host, options: &Options, listen: SocketAddr) -> Result<Option<File>, PlanError> {
    let there = host.read(TOKEN).map(Zeroizing::new);
    let token = match (&options.join, there) {
        (Some(token), _) => token.clone(),
        (None, Some(text)) => JoinToken::parse(&text).map_err(PlanError::Token)?,
        (None, None) => JoinToken::new(ClusterSecret::generate(1)?, vec![listen]).map_err(PlanError::Token)?,
    };
    let mut addresses = token.addresses.clone();
    if !addresses.contains(&listen) {
        addresses.push(listen);
    }
    // Full: the others will do.
    let token = JoinToken::new(token.secret.clone(), addresses).unwrap_or(token);
    let mut content = Zeroizing::new(token.encode().as_bytes().to_vec());
    content.push(b'\n');
    let why = "the cluster's secret; whoever reads it can join";
    Ok(file(host, TOKEN, 0o600, why, std::mem::take(&mut *content)))
}

/// The unit, allowed to write where certificates are published.
fn unit(config: &Config) -> String {
    let own = [config.state_dir.as_path(), config.store.dir.as_path()];
    let more = own.into_iter().chain(config.trust.certs_d.iter().map(PathBuf::as_path));
    let usual = ["/var/lib/waylay", "/etc/docker", "/etc/containers", "/etc/containerd"];
    let unusual = more.filter(|dir| !usual.iter().any(|usual| dir.starts_with(usual)));
    let lines: String = unusual.map(|dir| format!("ReadWritePaths=-{}\n", dir.display())).collect();
    UNIT.replace("\n[Install]", &format!("{lines}\n[Install]"))
}

/// For each runtime's unit, the drop-in that adds our directory to whom it trusts.
fn drop_ins(host: &Host, facts: &Facts, config: &Config) -> Vec<Option<File>> {
    let units = facts.runtimes.iter().filter_map(|runtime| runtime.unit.as_ref());
    let drop_in = |unit: &Unit| {
        let before = unit.ssl_cert_dir.as_deref().unwrap_or(SSL_CERT_DIR);
        let text = format!(
            "# By `waylay install`; `waylay uninstall` removes it. This unit also trusts the certificates in waylay's\n\
             # directory, each of which is for one registry's name and can sign nothing.\n\
             [Service]\nEnvironment=SSL_CERT_DIR={before}:{}\n",
            config.trust.directory.display()
        );
        let path = runtimes::drop_in(&unit.name);
        file(host, &path.to_string_lossy(), 0o644, "this runtime alone trusts our certificates", text.into_bytes())
    };
    units.map(drop_in).collect()
}

/// Whether every registry has a certificate in the trust directory.
fn is_published(host: &Host, config: &Config) -> bool {
    let Some(identities) = identities(host, config) else { return false };
    let now = std::time::SystemTime::now();
    config.registries.iter().all(|registry| {
        let newest = identities.all(&registry.host).iter().find(|identity| identity.is_valid(now)).cloned();
        newest.and_then(|identity| identity.published_at()).is_some_and(|published| published.file.exists())
    })
}

/// The identities that are there; opening would make the directory.
fn identities(host: &Host, config: &Config) -> Option<Identities> {
    let dir = host.path(&config.state_dir).join("identities");
    if dir.is_dir() { Identities::open(dir).ok() } else { None }
}

/// The units whose processes must be started again to know all certificates, with what harm that would do.
fn restarts(host: &Host, facts: &Facts, options: &Options, config: &Config) -> Vec<(String, Option<String>)> {
    if options.trust == Trust::CertsD {
        return Vec::new();
    }
    let identities = identities(host, config);
    let knows = |pid: u32| {
        let (Ok(process), Some(identities)) = (Process::read(pid), &identities) else { return false };
        let knows =
            |registry| waylay_certs::evidence(identities, &config.trust.directory, &process, registry).is_some();
        config.registries.iter().all(knows)
    };
    let units = facts.runtimes.iter().filter_map(|runtime| runtime.unit.as_ref());
    let due = units.filter(|unit| unit.pid.is_some_and(|pid| !knows(pid)));
    due.map(|unit| (unit.name.clone(), unit.harm.clone())).collect()
}

fn described(facts: &Facts, config: &Config) -> Vec<String> {
    let mut lines = vec![format!("kernel      {}: takes the kernel program", facts.kernel)];
    if let Some(why) = &facts.refused {
        lines[0] = format!("kernel      {}: {why}", facts.kernel);
    }
    for Runtime { kind, version, unit } in &facts.runtimes {
        let unit = unit.as_ref().map_or("no daemon", |unit| if unit.pid.is_some() { "running" } else { "not running" });
        lines.push(format!("runtime     {} ({unit}): {version}", kind.program()));
    }
    let public: Vec<RegistryName> = registries::PUBLIC.iter().filter_map(|name| name.parse().ok()).collect();
    let found = facts.registries.iter().filter(|(name, _)| !public.contains(name));
    let found = found.map(|(name, place)| format!("{name} ({place})")).collect::<Vec<_>>();
    let found = if found.is_empty() { String::new() } else { format!("; found here: {}", found.join(", ")) };
    lines.push(format!("registries  {}{found}", config.registries.len()));
    if let Some(swarm) = &config.swarm {
        lines.push(format!("own address {} (UDP)", swarm.listen));
    }
    lines.push(format!(
        "store       at most {} of {} free",
        ByteSize(config.store.quota).display().iec(),
        ByteSize(facts.free).display().iec()
    ));
    lines
}

fn warnings(facts: &Facts) -> Vec<String> {
    let mut warnings = Vec::new();
    if facts.runtimes.is_empty() {
        warnings.push("no container runtime was found; run this again after one is installed".to_owned());
    }
    for unit in facts.runtimes.iter().filter_map(|runtime| runtime.unit.as_ref()) {
        if let Some(proxy) = &unit.https_proxy {
            // Without what stands before the host: that may be a password.
            let proxy = proxy.rsplit('@').next().unwrap_or_default();
            warnings.push(format!(
                "{} goes through the proxy {proxy}: its connections are the proxy's, and waylay does not see them; \
                 NO_PROXY with the registries' names makes it go directly",
                unit.name
            ));
        }
    }
    warnings
}
