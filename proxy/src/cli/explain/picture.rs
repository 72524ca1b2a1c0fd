//! A pull drawn: a row for each thing that was asked for, and one for each source of bytes.

use svg::{
    Document,
    node::element::{Line, Rectangle, Text},
};

use crate::explain::{COLUMNS, Explained, seconds, short};

const LEFT: f64 = 260.0;
const WIDTH: f64 = 720.0;
const ROW: f64 = 22.0;
const TOP: f64 = 48.0;

const WAITING: &str = "#c8c8c8";
const STORE: &str = "#4c9f70";
const PEERS: &str = "#3b6fb6";
const REGISTRY: &str = "#d07c2e";

/// The picture.
pub(super) fn draw(pull: &Explained) -> Document {
    let rows = pull.pieces.len() + pull.sources.len() + 1;
    let height = TOP + ROW * rows as f64 + 30.0;
    let mut document = Document::new()
        .set("viewBox", (0.0, 0.0, LEFT + WIDTH + 20.0, height))
        .set("font-family", "sans-serif")
        .set("font-size", 12)
        .add(Rectangle::new().set("width", "100%").set("height", "100%").set("fill", "white"));
    let title = format!("{}/{} {}: {}", pull.registry, pull.repository, short(&pull.reference), seconds(pull.ms));
    document = document.add(Text::new(title).set("x", 10).set("y", 20).set("font-weight", "bold"));
    for (index, (name, colour)) in
        [("waiting", WAITING), ("store", STORE), ("peers", PEERS), ("registry", REGISTRY)].into_iter().enumerate()
    {
        let x = LEFT + 90.0 * index as f64;
        document = document.add(bar(x, 28.0, 10.0, 10.0, colour)).add(Text::new(name).set("x", x + 14.0).set("y", 37));
    }
    let at = |ms: u64| LEFT + WIDTH * ms as f64 / pull.ms.max(1) as f64;
    let mut y = TOP;
    for asked in &pull.pieces {
        let answer = asked.began_ms + asked.first_ms;
        let label = format!("{} {}", asked.what, short(&asked.reference));
        document = document.add(Text::new(label).set("x", 10).set("y", y + 14.0));
        document = document.add(bar(at(asked.began_ms), y + 4.0, at(answer) - at(asked.began_ms), ROW - 8.0, WAITING));
        // Shares of the source in the time of the answer; when each came is in the rows below.
        let (mut x, whole) = (at(answer), (at(asked.began_ms + asked.ms) - at(answer)).max(1.0));
        for (bytes, colour) in [(asked.store_bytes, STORE), (asked.peer_bytes, PEERS), (asked.registry_bytes, REGISTRY)]
        {
            let width = whole * bytes as f64 / asked.bytes.max(1) as f64;
            document = document.add(bar(x, y + 4.0, width, ROW - 8.0, colour));
            x += width;
        }
        y += ROW;
    }
    y += ROW / 2.0;
    document = document
        .add(Line::new().set("x1", 10).set("x2", LEFT + WIDTH).set("y1", y).set("y2", y).set("stroke", "#c8c8c8"));
    let most = pull.sources.iter().flat_map(|source| &source.curve).copied().max().unwrap_or_default().max(1);
    for source in &pull.sources {
        let colour = match source.from.as_str() {
            "store" => STORE,
            "registry" => REGISTRY,
            _ => PEERS,
        };
        document = document.add(Text::new(source.from.as_str()).set("x", 10).set("y", y + 16.0));
        let step = WIDTH / COLUMNS as f64;
        for (column, bytes) in source.curve.iter().enumerate().filter(|(_, bytes)| **bytes > 0) {
            let height = ((ROW - 4.0) * *bytes as f64 / most as f64).max(1.0);
            document = document.add(bar(LEFT + step * column as f64, y + ROW - height, step - 1.0, height, colour));
        }
        y += ROW;
    }
    document
        .add(Text::new("0 s").set("x", LEFT).set("y", y + 16.0))
        .add(Text::new(seconds(pull.ms)).set("x", LEFT + WIDTH).set("y", y + 16.0).set("text-anchor", "end"))
}

fn bar(x: f64, y: f64, width: f64, height: f64, colour: &str) -> Rectangle {
    Rectangle::new().set("x", x).set("y", y).set("width", width).set("height", height).set("fill", colour)
}
