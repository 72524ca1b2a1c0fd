//! The order of modules: what `lib.rs` declares further up may use what stands further down, and not the other way
//! round. Uses are found as paths from `crate::`, or as `super::` up to the root of the crate.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::source::{self, TestModules};

/// The modules of a crate in their order, and what the root re-exports from them.
struct Root {
    modules: Vec<String>,
    exports: BTreeMap<String, String>,
}

/// All uses of a module further up, in the sources of the package whose `lib.rs` is in `dir`.
pub(super) fn check(dir: &Path, sources: &[(&Path, &str)]) -> Vec<String> {
    let Some((_, lib)) = sources.iter().find(|(path, _)| *path == dir.join("lib.rs")) else {
        return vec![format!("{}: there is no lib.rs", dir.display())];
    };
    let root = Root::read(lib);
    let tests = TestModules::find(sources.iter().copied());
    let mut faults = Vec::new();
    for (path, text) in sources {
        let Ok(inside) = path.strip_prefix(dir) else { continue };
        let parts: Vec<&str> = inside.iter().filter_map(|part| part.to_str()).collect();
        let (Some(first), depth) = (parts.first(), parts.len()) else { continue };
        let own = first.trim_end_matches(".rs");
        // main.rs uses the library from outside; tests may use everything.
        if ["lib", "main"].contains(&own) || tests.has(path) {
            continue;
        }
        let Some(place) = root.place(own) else {
            faults.push(format!("{}: lib.rs does not declare a module {own}", path.display()));
            continue;
        };
        for used in uses(&source::code(text), depth) {
            let module = root.exports.get(&used).unwrap_or(&used);
            match root.place(module) {
                Some(other) if other >= place => {}
                Some(_) => faults.push(format!("{}: uses crate::{used}, which stands above {own}", path.display())),
                None => faults.push(format!("{}: crate::{used} is no module that lib.rs declares", path.display())),
            }
        }
    }
    faults
}

impl Root {
    fn read(lib: &str) -> Self {
        let code = source::code(lib);
        let mut root = Root { modules: Vec::new(), exports: BTreeMap::new() };
        for statement in code.split(';').map(str::trim) {
            // Attributes stand before what they are about.
            let statement = statement.rsplit_once(']').map_or(statement, |(_, rest)| rest.trim());
            let words: Vec<&str> = statement.split_whitespace().collect();
            if let ["mod", name] | ["pub", "mod", name] | ["pub(crate)", "mod", name] = words[..] {
                root.modules.push(name.to_string());
            }
            if let Some(path) = statement.strip_prefix("pub use ")
                && let Some((module, names)) = path.split_once("::")
            {
                let names = names.split(|c: char| !is_word(c)).filter(|name| !name.is_empty());
                root.exports.extend(names.map(|name| (name.to_string(), module.trim().to_string())));
            }
        }
        root
    }

    fn place(&self, module: &str) -> Option<usize> {
        self.modules.iter().position(|name| name == module)
    }
}

/// The names used directly under the root of the crate, by a file that is `depth` modules below it.
fn uses(code: &str, depth: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if !code[..at].ends_with(is_word) {
            found.extend(heads(&code[at + "crate::".len()..]));
        }
    }
    let to_root = "super::".repeat(depth);
    for (at, _) in code.match_indices(&to_root) {
        if !code[..at].ends_with("super::") && !code[..at].ends_with(is_word) {
            // From inside a module in the file, one more step leads here; that finds too little, never too much.
            found.extend(heads(&code[at + to_root.len()..]).into_iter().filter(|name| name != "super"));
        }
    }
    found
}

/// The first names of the paths that begin here: one, or those of a group in braces.
fn heads(code: &str) -> Vec<String> {
    let code = code.trim_start();
    let Some(group) = code.strip_prefix('{') else {
        let name: String = code.chars().take_while(|c| is_word(*c)).collect();
        return if name.is_empty() { vec!["*".into()] } else { vec![name] };
    };
    let mut names = Vec::new();
    let (mut depth, mut begins) = (0, true);
    let mut rest = group;
    while let Some(c) = rest.chars().next() {
        let mut step = c.len_utf8();
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            c if begins && is_word(c) => {
                let name: String = rest.chars().take_while(|c| is_word(*c)).collect();
                step = name.len();
                names.push(name);
                begins = false;
            }
            _ => {}
        }
        rest = &rest[step..];
    }
    names
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIB: &str = "//! Doc.\npub mod top;\n// -- below\npub mod middle;\nmod low;\n#[cfg(test)] mod fake;\npub use low::{Low, deep::Deeper};\n";

    fn check_one(path: &str, text: &str) -> Vec<String> {
        check(Path::new("p/src"), &[(Path::new("p/src/lib.rs"), LIB), (Path::new(path), text)])
    }

    #[test]
    fn downward_and_own_uses_are_in_order() {
        for (path, text) in [
            ("p/src/top.rs", "use crate::{middle::{A, top}, low};"),
            ("p/src/top/inner.rs", "use super::x; use super::super::low::Y; crate::top::f();"),
            ("p/src/middle.rs", "use crate::Low; // crate::top\nlet x = \"crate::top\"; use super::low;"),
            ("p/src/middle.rs", "#[cfg(test)] mod tests { use crate::top::A; }"),
            ("p/src/fake/deep.rs", "use crate::top::A;"),
            ("p/src/main.rs", "use p::top;"),
        ] {
            assert_eq!(check_one(path, text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn upward_uses_are_found_in_every_spelling() {
        for (path, text) in [
            ("p/src/middle.rs", "use crate::top::A;"),
            ("p/src/middle.rs", "fn f() { crate::top::f() }"),
            ("p/src/middle.rs", "use crate::{low::{B, C}, top};"),
            ("p/src/middle.rs", "use super::top::A;"),
            ("p/src/middle/inner.rs", "use super::super::top::A;"),
            ("p/src/middle/inner.rs", "macro_rules! m { () => { $crate::top::f() } }"),
        ] {
            let faults = check_one(path, text);
            assert!(faults.len() == 1 && faults[0].contains("crate::top"), "{text}: {faults:?}");
        }
        let lib = LIB.replace("low::{Low", "top::{Low");
        let sources = [(Path::new("p/src/lib.rs"), lib.as_str()), (Path::new("p/src/low.rs"), "use crate::Low;")];
        assert_eq!(check(Path::new("p/src"), &sources).len(), 1, "through a re-export");
    }

    #[test]
    fn what_the_root_does_not_declare_is_told() {
        for (path, text) in [
            ("p/src/other.rs", ""),
            ("p/src/middle.rs", "use crate::unknown::A;"),
            ("p/src/middle.rs", "use crate::*;"),
        ] {
            assert_eq!(check_one(path, text).len(), 1, "{path} {text}");
        }
    }
}
