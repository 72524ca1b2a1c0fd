//! What of a Rust file is code of the product: no comments, no text in quotes, nothing for tests. A scanner, not a parser:
//! it knows the shapes of literals and counts brackets.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The modules in files of their own that are only for tests: those that their parent declares under `#[cfg(test)]`, as
/// paths without `.rs`.
pub(super) struct TestModules(BTreeSet<PathBuf>);

impl TestModules {
    pub(super) fn find<'a>(sources: impl Iterator<Item = (&'a Path, &'a str)>) -> Self {
        let mut found = BTreeSet::new();
        for (path, text) in sources {
            let is_root = path.file_stem().is_some_and(|stem| stem == "lib" || stem == "main");
            let inside = if is_root { path.with_file_name("") } else { path.with_extension("") };
            let code = blank(text);
            for (at, _) in code.match_indices(MARK) {
                let item = code[at + MARK.len()..].split([';', '{']).next().unwrap_or_default();
                if let [.., "mod", name] = item.split_whitespace().collect::<Vec<_>>()[..] {
                    found.insert(inside.join(name));
                }
            }
        }
        Self(found)
    }

    /// Whether the file is one of them, or inside one.
    pub(super) fn has(&self, path: &Path) -> bool {
        path.with_extension("").ancestors().any(|module| self.0.contains(module))
    }
}

/// What the product is built without.
const MARK: &str = "#[cfg(test)]";

/// The code in `text`: comments and the content of literals are blanked, items under `#[cfg(test)]` left out.
pub(super) fn code(text: &str) -> String {
    without_tests(&blank(text))
}

/// Replaces comments and the content of literals by blanks; all else stays where it is.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => end_of_line(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => end_of_comment(bytes, at),
            b'"' => end_of_string(bytes, at),
            b'r' if !in_word(bytes, at) => end_of_raw(bytes, at).unwrap_or(at),
            b'\'' => end_of_char(bytes, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            at += 1;
            continue;
        }
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// Whether the byte before belongs to the same word. The `b` and `c` of `br"…"` and `cr"…"` do not.
fn in_word(bytes: &[u8], at: usize) -> bool {
    let word = |index: usize| bytes.get(index).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let prefix = at >= 1 && matches!(bytes[at - 1], b'b' | b'c') && !(at >= 2 && word(at - 2));
    at >= 1 && word(at - 1) && !prefix
}

fn end_of_line(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|&b| b == b'\n').map_or(bytes.len(), |length| at + length)
}

/// Comments nest.
fn end_of_comment(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn end_of_string(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// `r"…"`, `r#"…"#` and so on; `None` for a word that begins with r.
fn end_of_raw(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at + 1..].iter().take_while(|&&b| b == b'#').count();
    let open = at + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
    let length = bytes[open + 1..].windows(close.len()).position(|window| window == close);
    Some(length.map_or(bytes.len(), |length| open + 1 + length + close.len()))
}

/// `'x'` or `'\n'`; `None` for a lifetime.
fn end_of_char(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        let close = bytes[at + 3..].iter().position(|&b| b == b'\'')?;
        return Some(at + 3 + close + 1);
    }
    // One character of up to four bytes, then the quote.
    let close = bytes[at + 1..].iter().take(5).position(|&b| b == b'\'')?;
    let one = std::str::from_utf8(&bytes[at + 1..at + 1 + close]).ok()?;
    (one.chars().count() == 1).then_some(at + 1 + close + 1)
}

/// Removes each item under `#[cfg(test)]`: up to its semicolon, or to the end of its braces.
fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        rest = after_item(&rest[at + MARK.len()..]);
    }
    kept + rest
}

fn after_item(code: &str) -> &str {
    let mut depth = 0usize;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return &code[at + 1..];
                }
            }
            ';' if depth == 0 => return &code[at + 1..],
            _ => {}
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn squeezed(text: &str) -> String {
        code(text).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        for (text, expected) in [
            ("a // b\nc", "a c"),
            ("a /* b /* c */ d */ e", "a e"),
            (r#"a("b \" c", d)"#, "a( , d)"),
            (r###"a(r#"b " c"#, br"d", e)"###, "a( , b , e)"),
            ("a('\"', '\\'', 'b', d)", "a( , , , d)"),
            ("fn f<'a>(x: &'a str) -> &'a str { x }", "fn f<'a>(x: &'a str) -> &'a str { x }"),
            ("for r in 0..1 { r#fn(); }", "for r in 0..1 { r#fn(); }"),
            ("\"// no comment\"; a", "; a"),
        ] {
            assert_eq!(squeezed(text), expected, "{text}");
        }
    }

    #[test]
    fn files_for_tests_are_those_their_parent_declares_so() {
        let sources = [
            ("p/src/lib.rs", "#[cfg(test)] pub(crate) mod fake; mod a;"),
            ("p/src/a.rs", "#[cfg(test)]\nmod tests;\nmod b;\n#[cfg(test)] mod inline { }"),
            ("p/src/a/b.rs", "// #[cfg(test)] mod c;"),
        ];
        let found = TestModules::find(sources.iter().map(|(path, text)| (Path::new(*path), *text)));
        for path in ["p/src/fake.rs", "p/src/fake/deep.rs", "p/src/a/tests.rs"] {
            assert!(found.has(Path::new(path)), "{path}");
        }
        for path in ["p/src/a.rs", "p/src/a/b.rs", "p/src/a/b/c.rs", "p/src/tests.rs"] {
            assert!(!found.has(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn items_for_tests_are_left_out() {
        for (text, expected) in [
            ("a; #[cfg(test)] mod tests { b(c, [d]); { e } } f", "a; f"),
            ("#[cfg(test)]\nmod tests;\nmod b;", "mod b;"),
            ("#[cfg(test)] #[derive(X)] struct T; a", "a"),
            ("#[cfg(test)] fn f(x: [u8; 3]) -> u8 { \"}\".len() } a", "a"),
            ("#[cfg(not(test))] fn f() {}", "#[cfg(not(test))] fn f() {}"),
        ] {
            assert_eq!(squeezed(text), expected, "{text}");
        }
    }
}
