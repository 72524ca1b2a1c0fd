//! The table: the steps of the fail-open ladder (the README's "Always true", in the order in which a pull meets them) and the 33
//! known traps of redirecting in the kernel, each with its tests.

mod ladder;
mod pitfalls;

/// How many steps the ladder has.
#[cfg(test)]
pub(super) const STEPS: usize = 13;

/// A fault.
pub(super) struct Row {
    /// `ladder N` or `pitfall N`.
    pub(super) name: &'static str,
    /// What goes wrong.
    pub(super) fault: &'static str,
    /// What a client must see.
    pub(super) holds: &'static str,
    pub(super) tests: &'static [Test],
}

/// A test of the workspace.
pub(super) struct Test {
    pub(super) package: &'static str,
    /// The test target; empty for what stands beside the code.
    pub(super) target: &'static str,
    /// With its modules, as the test runner knows it.
    pub(super) name: &'static str,
}

impl Test {
    /// Its name with the last module only.
    pub(super) fn short(&self) -> &'static str {
        self.name.rsplit("::").next().unwrap_or(self.name)
    }

    /// The files that it may stand in, from the workspace's directory.
    #[cfg(test)]
    pub(super) fn files(&self) -> Vec<String> {
        let modules: Vec<&str> = self.name.split("::").collect();
        let modules = &modules[..modules.len() - 1];
        let root = match (self.package, self.target) {
            ("waylay", _) => "proxy/src".to_owned(),
            ("waylay-certs", "") => "certs/src".to_owned(),
            ("waylay-certs", target) => return vec![format!("certs/tests/{target}.rs")],
            (_, target) if modules.is_empty() => return vec![format!("tests/tests/{target}.rs")],
            (_, target) => format!("tests/tests/{target}"),
        };
        let inside = modules.strip_suffix(&["tests"]).unwrap_or(modules);
        vec![format!("{root}/{}.rs", modules.join("/")), format!("{root}/{}.rs", inside.join("/"))]
    }
}

const fn of(target: &'static str, name: &'static str) -> Test {
    Test { package: "waylay-tests", target, name }
}

const fn kernel(name: &'static str) -> Test {
    of("kernel", name)
}

const fn proxy(name: &'static str) -> Test {
    of("proxy", name)
}

const fn failures(name: &'static str) -> Test {
    of("fleet_failures", name)
}

const fn beside(package: &'static str, name: &'static str) -> Test {
    Test { package, target: "", name }
}

const fn row(name: &'static str, fault: &'static str, holds: &'static str, tests: &'static [Test]) -> Row {
    Row { name, fault, holds, tests }
}

/// All of it.
pub(super) fn rows() -> impl Iterator<Item = &'static Row> {
    ladder::LADDER.iter().chain(pitfalls::PITFALLS)
}
