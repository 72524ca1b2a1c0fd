//! Test programs as cargo builds them, for those who start them in another way than cargo does.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use crate::run::{cargo, read};

/// A built test program, and the directory that cargo would start it in.
pub(crate) struct Program {
    pub(crate) file: PathBuf,
    pub(crate) dir: PathBuf,
}

/// By package and target; the target is empty for what stands beside the code.
pub(crate) type Programs = HashMap<(String, String), Program>;

/// Builds these targets of these packages.
pub(crate) fn built<'a>(wanted: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Programs> {
    let mut named: Vec<(&str, &str)> = wanted.collect();
    named.sort_unstable();
    named.dedup();
    let mut packages: Vec<&str> = named.iter().map(|(package, _)| *package).collect();
    packages.dedup();
    let mut build = vec!["test", "--no-run", "--message-format", "json-render-diagnostics", "--lib"];
    build.extend(packages.iter().flat_map(|package| ["--package", package]));
    build.extend(named.iter().filter(|(_, target)| !target.is_empty()).flat_map(|(_, target)| ["--test", target]));
    Ok(read(&mut cargo(&build))?.lines().filter_map(program).collect())
}

/// The test program that a line of cargo's messages speaks of.
fn program(line: &str) -> Option<((String, String), Program)> {
    let told: Value = serde_json::from_str(line).ok()?;
    let file = PathBuf::from(told["executable"].as_str()?);
    let dir = Path::new(told["manifest_path"].as_str()?).parent()?.to_owned();
    let package = told["package_id"].as_str()?.rsplit_once('#')?.1;
    // A package in a directory of another name is written with its own name before the version.
    let package = package.split('@').next().filter(|name| !name.starts_with(|it: char| it.is_ascii_digit()));
    let package = package.map(str::to_owned).or_else(|| Some(dir.file_name()?.to_str()?.to_owned()))?;
    let is_lib = told["target"]["kind"].as_array()?.iter().any(|kind| kind == "lib");
    let target = if is_lib { "" } else { told["target"]["name"].as_str()? };
    Some(((package, target.to_owned()), Program { file, dir }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_among_cargos_messages() {
        let message = |id: &str, kind: &str, name: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"{id}","manifest_path":"/w/tests/Cargo.toml","target":{{"kind":["{kind}"],"name":"{name}"}},"executable":"/t/x"}}"#
            )
        };
        let found = |line: &str| program(line).map(|(key, _)| key);
        let key = |package: &str, target: &str| Some((package.to_owned(), target.to_owned()));
        assert_eq!(
            found(&message("path+file:///w/tests#waylay-tests@0.1.0", "test", "kernel")),
            key("waylay-tests", "kernel")
        );
        assert_eq!(found(&message("path+file:///w/tests#0.1.0", "lib", "tests")), key("tests", ""));
        assert_eq!(found(r#"{"reason":"build-finished"}"#), None);
    }
}
