//! A round drawn: a row for each node, what came from whom in the course of time, as `waylay explain` tells it on that node.

use std::path::Path;

use anyhow::{Context, Result};
use svg::Document;
use svg::node::element::{Line, Rectangle, Text};
use waylay::explain::{Explained, Source};

use crate::fleet::Daemon;

const LEFT: f64 = 90.0;
const WIDTH: f64 = 900.0;
const TOP: f64 = 60.0;
const ROW: f64 = 40.0;

const WAITING: &str = "#e4e4e4";
const REGISTRY: &str = "#d07c2e";
const PEERS: &str = "#3b6fb6";
const STORE: &str = "#4c9f70";
const VERIFIED: &str = "#202020";
const BOUND: &str = "#b03030";

/// One node's pull; `None` when it knows of none, because it was killed.
struct Row {
    node: usize,
    pull: Option<Explained>,
}

/// Draws the pull of `image` on all nodes into `file`; `bound` is the least possible time, in seconds.
pub(super) fn save(file: &Path, daemons: &[Daemon], image: &str, bound: f64) -> Result<()> {
    let row = |(n, daemon): (usize, &Daemon)| {
        let said = daemon.told(&["explain", image, "--json"])?;
        let pull = if said.status == 0 {
            Some(serde_json::from_str(&said.out).context("not what explain --json says")?)
        } else {
            eprintln!("node{} knows of no pull: {}", n + 1, said.err.trim());
            None
        };
        Ok(Row { node: n + 1, pull })
    };
    let rows = daemons.iter().enumerate().map(row).collect::<Result<Vec<_>>>()?;
    svg::save(file, &draw(&rows, image, bound)).with_context(|| format!("cannot write {}", file.display()))
}

fn draw(rows: &[Row], image: &str, bound: f64) -> Document {
    let pulls = || rows.iter().filter_map(|row| row.pull.as_ref());
    let begin = pulls().map(|pull| pull.at_ms).min().unwrap_or_default();
    let last = pulls().map(|pull| pull.at_ms + pull.ms - begin).max().unwrap_or_default();
    let bound = bound * 1000.0;
    let scale = WIDTH / (last as f64).max(bound).max(1.0);
    let bottom = TOP + ROW * rows.len() as f64;
    let mut picture = Document::new()
        .set("viewBox", (0.0, 0.0, LEFT + WIDTH + 20.0, bottom + 30.0))
        .set("font-family", "sans-serif")
        .set("font-size", 12)
        .add(bar(0.0, 0.0, LEFT + WIDTH + 20.0, bottom + 30.0, "white"))
        .add(Text::new(image).set("x", 10).set("y", 20).set("font-weight", "bold"));
    let legend = [
        ("waiting", WAITING),
        ("registry", REGISTRY),
        ("peers", PEERS),
        ("store", STORE),
        ("verified", VERIFIED),
        ("least time", BOUND),
    ];
    for (n, (name, colour)) in legend.into_iter().enumerate() {
        let x = LEFT + 100.0 * n as f64;
        picture = picture.add(bar(x, 34.0, 10.0, 10.0, colour)).add(Text::new(name).set("x", x + 15.0).set("y", 43));
    }
    // Bytes in a millisecond that fill a row: the same for all, so that rows can be compared.
    let fullest = pulls().map(fullest).fold(f64::MIN_POSITIVE, f64::max);
    for (n, row) in rows.iter().enumerate() {
        let y = TOP + ROW * n as f64;
        picture = picture.add(Text::new(format!("node{}", row.node)).set("x", 10).set("y", y + ROW / 2.0 + 4.0));
        if let Some(pull) = &row.pull {
            let from = LEFT + (pull.at_ms - begin) as f64 * scale;
            for shape in shapes(pull, scale, fullest) {
                picture = picture.add(bar(from + shape.x, y + shape.y, shape.width, shape.height, shape.colour));
            }
        }
    }
    let at = LEFT + bound * scale;
    let limit = Line::new().set("x1", at).set("x2", at).set("y1", TOP - 6.0).set("y2", bottom).set("stroke", BOUND);
    picture.add(limit.set("stroke-dasharray", "5 3")).add(Text::new("0 s").set("x", LEFT).set("y", bottom + 18.0)).add(
        Text::new(format!("{:.2} s", last as f64 / 1000.0))
            .set("x", LEFT + last as f64 * scale)
            .set("y", bottom + 18.0)
            .set("text-anchor", "end"),
    )
}

/// A rectangle, measured from the beginning of its row.
struct Shape {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    colour: &'static str,
}

/// What was waited for before the first byte, then the bytes of each step of time, those of the registry lowest, and a mark
/// where a blob was whole and verified.
fn shapes(pull: &Explained, scale: f64, fullest: f64) -> Vec<Shape> {
    let first = pull.sources.iter().map(|source| source.first_ms).min().unwrap_or(pull.ms);
    let full = ROW - 8.0;
    let mut shapes = vec![Shape { x: 0.0, y: 4.0, width: first as f64 * scale, height: full, colour: WAITING }];
    let columns = pull.sources.first().map_or(0, |source| source.curve.len());
    let step = pull.ms as f64 / columns.max(1) as f64;
    for column in 0..columns {
        let mut y = 4.0 + full;
        for colour in [REGISTRY, PEERS, STORE] {
            let bytes: u64 = pull
                .sources
                .iter()
                .filter(|source| colour_of(source) == colour)
                .map(|source| source.curve[column])
                .sum();
            let height = full * bytes as f64 / step.max(1.0) / fullest;
            y -= height;
            if bytes > 0 {
                shapes.push(Shape { x: step * column as f64 * scale, y, width: step * scale, height, colour });
            }
        }
    }
    let verified = pull.pieces.iter().filter_map(|asked| asked.here_ms);
    shapes.extend(verified.map(|ms| Shape {
        x: ms as f64 * scale - 1.0,
        y: 2.0,
        width: 2.0,
        height: ROW - 4.0,
        colour: VERIFIED,
    }));
    shapes
}

fn colour_of(source: &Source) -> &'static str {
    match source.from.as_str() {
        "registry" => REGISTRY,
        "store" => STORE,
        _ => PEERS,
    }
}

/// The most bytes that came in a millisecond of any step.
fn fullest(pull: &Explained) -> f64 {
    let columns = pull.sources.first().map_or(0, |source| source.curve.len());
    let step = (pull.ms as f64 / columns.max(1) as f64).max(1.0);
    let all = |column: usize| pull.sources.iter().map(|source| source.curve[column]).sum::<u64>() as f64;
    (0..columns).map(|column| all(column) / step).fold(0.0, f64::max)
}

fn bar(x: f64, y: f64, width: f64, height: f64, colour: &str) -> Rectangle {
    Rectangle::new().set("x", x).set("y", y).set("width", width).set("height", height).set("fill", colour)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_is_as_large_as_its_bytes_and_nobody_leaves_the_row() {
        let source = |from: &str, curve: &[u64]| Source {
            from: from.to_owned(),
            bytes: curve.iter().sum(),
            first_ms: 100,
            last_ms: 400,
            curve: curve.to_vec(),
        };
        let pull = Explained {
            program: "client".to_owned(),
            registry: "r.test".to_owned(),
            repository: "a".to_owned(),
            reference: "v1".to_owned(),
            meant: None,
            at_ms: 1000,
            ms: 400,
            pieces: Vec::new(),
            sources: vec![source("registry", &[0, 300, 0, 0]), source("10.0.0.2:1", &[0, 100, 400, 200])],
            passed: Vec::new(),
            findings: Vec::new(),
        };
        let shapes = shapes(&pull, 1.0, fullest(&pull));
        let height =
            |colour| shapes.iter().filter(|shape| shape.colour == colour).map(|shape| shape.height).sum::<f64>();
        assert!((height(PEERS) / height(REGISTRY) - 700.0 / 300.0).abs() < 1e-9);
        assert!(shapes.iter().all(|shape| shape.y >= 2.0 && shape.y + shape.height <= ROW));
        assert_eq!((shapes[0].colour, shapes[0].width), (WAITING, 100.0));
        let drawn =
            draw(&[Row { node: 1, pull: Some(pull) }, Row { node: 2, pull: None }], "r.test/a:v1", 0.8).to_string();
        assert!(drawn.contains("node2") && drawn.contains("0.40 s"));
    }
}
