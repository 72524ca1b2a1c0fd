//! Lines in a frame, as SVG: enough to see a curve, and no more.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 48.0;
const TICKS: usize = 6;
const COLOURS: [&str; 8] = ["#1b6ca8", "#c8553d", "#3a7d44", "#7b4b94", "#b8860b", "#4d4d4d", "#00838f", "#ad1457"];

/// One line, by its name.
pub(super) type Line = (String, Vec<(f64, f64)>);

/// What a plot is called, and what its axes are.
pub(super) struct Frame {
    pub(super) title: String,
    pub(super) x: &'static str,
    pub(super) y: &'static str,
    /// Whether the horizontal axis is logarithmic.
    pub(super) logarithmic: bool,
}

/// The plot.
pub(super) fn draw(frame: &Frame, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let scale = |x: f64| if frame.logarithmic { x.max(1e-9).log10() } else { x };
    let least = points().map(|(x, _)| scale(*x)).fold(f64::INFINITY, f64::min);
    let most = points().map(|(x, _)| scale(*x)).fold(f64::NEG_INFINITY, f64::max).max(least + 1e-9);
    let highest = points().map(|(_, y)| *y).fold(1e-9, f64::max) * 1.05;
    let across = |x: f64| LEFT + (scale(x) - least) / (most - least) * (WIDTH - LEFT - RIGHT);
    let up = |y: f64| HEIGHT - BOTTOM - y / highest * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let mut text = |x: f64, y: f64, anchor: &str, words: &str| {
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
    };
    text(LEFT, 20.0, "start", &frame.title);
    text((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 10.0, "middle", frame.x);
    text(6.0, TOP - 4.0, "start", frame.y);
    for tick in 0..TICKS {
        let share = tick as f64 / (TICKS - 1) as f64;
        let at = least + share * (most - least);
        let x = if frame.logarithmic { 10f64.powf(at) } else { at };
        text(across(x), HEIGHT - BOTTOM + 18.0, "middle", &figure(x));
        text(LEFT - 6.0, up(share * highest) + 4.0, "end", &figure(share * highest));
    }
    for (at, (name, _)) in lines.iter().enumerate() {
        text(WIDTH - RIGHT + 34.0, TOP + 14.0 + 18.0 * at as f64, "start", name);
    }
    for tick in 0..TICKS {
        let y = up(tick as f64 / (TICKS - 1) as f64 * highest);
        let _ = writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{:.1}\" stroke=\"#ddd\"/>", WIDTH - RIGHT);
    }
    for (at, (_, points)) in lines.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{:.1} {:.1}", across(*x), up(*y))).collect();
        let _ = writeln!(svg, "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", path.join("L"));
        let y = TOP + 10.0 + 18.0 * at as f64;
        let _ =
            writeln!(svg, "<path d=\"M{:.1} {y:.1}h22\" stroke=\"{colour}\" stroke-width=\"2\"/>", WIDTH - RIGHT + 8.0);
    }
    svg + "</svg>\n"
}

fn figure(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}
