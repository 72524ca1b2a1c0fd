//! `docs/faults.md`: the table as a page for readers, kept as it is here by a test.

use std::{env, fs};

use super::table::{Row, rows};
use crate::run::workspace;

const HEAD: &str = "\
# Faults, and what a client sees

What goes wrong, and what a client must see then. First the steps of the fail-open ladder, in the order in which a pull meets them,
then the known traps of redirecting in the kernel. `cargo xtask test --tier faults` runs the tests that are named here and prints
what their clients saw and how long it took; each of them also belongs to another tier, and so to CI.

| | fault | what a client sees | tests |
| --- | --- | --- | --- |
";

fn page() -> String {
    rows().fold(HEAD.to_owned(), |page, row| page + &line(row))
}

fn line(row: &Row) -> String {
    let tests: Vec<String> = row.tests.iter().map(|test| format!("`{}`", test.short())).collect();
    let cell = |text: &str| text.replace('|', r"\|").replace('<', "&lt;");
    format!("| {} | {} | {} | {} |\n", row.name, cell(row.fault), cell(row.holds), tests.join("<br>"))
}

#[test]
fn the_page_shows_the_table() {
    let path = workspace().join("docs/faults.md");
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, page()).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), page(), "UPDATE=1 in the environment writes it anew");
}
