//! Line charts as inline SVG: a logarithmic or linear x axis; a logarithmic y axis of latencies, or a linear
//! one of bytes.

use std::fmt::Write;

use odradek_loadgen::summary::micros;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;

/// Told apart by people who see red and green alike.
pub const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5b5b5b", "#000000"];

/// One line of a chart.
pub struct Line {
    pub name: String,
    pub colour: &'static str,
    pub dashed: bool,
    /// Position on the x axis in its own unit, and microseconds or bytes.
    pub points: Vec<(f64, f64)>,
}

/// What the x axis shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Quantiles by the logarithm of their distance to 1: each nine takes the same room.
    Quantile,
    /// Seconds.
    Time,
}

/// A whole chart of latencies, or nothing when there are no points.
pub fn chart(title: &str, axis: Axis, lines: &[Line]) -> String {
    let values = || lines.iter().flat_map(|line| &line.points).map(|(_, us)| *us);
    let low = values().fold(f64::INFINITY, f64::min).max(1.0);
    let high = values().fold(0.0, f64::max).max(low * 1.01);
    let (first, last) = (low.log10().floor(), high.log10().ceil());
    let decades = if last.is_finite() { first as i32..=last as i32 } else { 0..=0 };
    let marks = decades.map(|decade| 10f64.powi(decade));
    let marks: Vec<_> = marks.map(|us| (us, micros(us).replace(".00", ""))).collect();
    let part = |us: f64| (us.max(1.0).log10() - first) / (last - first).max(1.0);
    drawn(title, axis, lines, &marks, part)
}

/// A whole chart of memory over time, from zero on; nothing when there are no points.
pub fn memory_chart(title: &str, lines: &[Line]) -> String {
    let most = lines.iter().flat_map(|line| &line.points).map(|(_, bytes)| *bytes).fold(0.0, f64::max);
    let top = most.max(1e6) * 1.05;
    let marks: Vec<_> =
        (0..=4).map(|at| top * at as f64 / 4.0).map(|b| (b, format!("{:.0} MB", b / 1e6))).collect();
    drawn(title, Axis::Time, lines, &marks, |bytes| bytes / top)
}

/// `part`: where a value stands between the bottom and the top of the chart.
fn drawn(
    title: &str,
    axis: Axis,
    lines: &[Line],
    marks: &[(f64, String)],
    part: impl Fn(f64) -> f64,
) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let x_max = points().map(|(x, _)| place(axis, *x)).fold(0.0, f64::max);
    if x_max <= 0.0 {
        return String::new();
    }
    let x_of = |x: f64| LEFT + place(axis, x) / x_max * (WIDTH - LEFT - RIGHT);
    let y_of = |value: f64| HEIGHT - BOTTOM - part(value) * (HEIGHT - TOP - BOTTOM);
    let mut out = format!(
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">",
        escape(title)
    );
    grid_y(&mut out, marks, y_of);
    grid_x(&mut out, axis, x_max, x_of);
    for line in lines.iter().filter(|line| !line.points.is_empty()) {
        let path: Vec<String> =
            line.points.iter().map(|(x, us)| format!("{:.1},{:.1}", x_of(*x), y_of(*us))).collect();
        let dash = if line.dashed { " stroke-dasharray=\"5 4\"" } else { "" };
        add(
            &mut out,
            &format!(
                "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\"{dash} points=\"{}\"><title>{}</title></polyline>",
                line.colour,
                path.join(" "),
                escape(&line.name)
            ),
        );
    }
    out.push_str("</svg><div class=\"legend\">");
    for line in lines.iter().filter(|line| !line.points.is_empty()) {
        let style = if line.dashed { "dashed" } else { "solid" };
        add(
            &mut out,
            &format!(
                "<span><i style=\"border-top:3px {style} {}\"></i>{}</span>",
                line.colour,
                escape(&line.name)
            ),
        );
    }
    out.push_str("</div></figure>");
    out
}

/// Where a value stands on its axis, before scaling.
fn place(axis: Axis, x: f64) -> f64 {
    match axis {
        Axis::Quantile => (1.0 / (1.0 - x.clamp(0.0, 0.999_999_9))).log10(),
        Axis::Time => x,
    }
}

fn grid_y(out: &mut String, marks: &[(f64, String)], y_of: impl Fn(f64) -> f64) {
    for (value, label) in marks {
        let y = y_of(*value);
        let right = WIDTH - RIGHT;
        add(out, &format!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"));
        add(
            out,
            &format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 6.0, y + 4.0),
        );
    }
}

fn grid_x(out: &mut String, axis: Axis, x_max: f64, x_of: impl Fn(f64) -> f64) {
    let marks: Vec<(f64, String)> = match axis {
        Axis::Quantile => [0.0, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999]
            .into_iter()
            .map(|quantile| (quantile, format!("{}%", (quantile * 1e8_f64).round() / 1e6)))
            .collect(),
        Axis::Time => {
            let step = time_step(x_max);
            (0..=(x_max / step) as u32)
                .map(|at| (at as f64 * step, format!("{} s", at as f64 * step)))
                .collect()
        }
    };
    let bottom = HEIGHT - BOTTOM;
    for (x, label) in marks.into_iter().filter(|(x, _)| place(axis, *x) <= x_max * 1.0001) {
        let x = x_of(x);
        add(out, &format!("<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>"));
        add(
            out,
            &format!("<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", bottom + 18.0),
        );
    }
}

/// Seconds between marks: five to ten of them.
fn time_step(seconds: f64) -> f64 {
    let steps = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0];
    steps.into_iter().find(|step| seconds / step <= 10.0).unwrap_or(3600.0)
}

fn add(out: &mut String, text: &str) {
    out.write_str(text).expect("writing to a string does not fail");
}

/// Text inside HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_nine_takes_the_same_room() {
        let at = |quantile| place(Axis::Quantile, quantile);
        assert!((at(0.99) - at(0.9) - (at(0.999) - at(0.99))).abs() < 1e-9);
        assert!(at(1.0).is_finite());
    }

    #[test]
    fn points_stay_inside_the_frame() {
        let line = |points| Line { name: "a<b".into(), colour: COLOURS[0], dashed: false, points };
        let svg = chart("t", Axis::Quantile, &[line(vec![(0.0, 0.0), (0.5, 120.0), (1.0, 9e6)])]);
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        for pair in points.split(' ') {
            let (x, y) = pair.split_once(',').unwrap();
            assert!((LEFT..=WIDTH - RIGHT + 0.1).contains(&x.parse::<f64>().unwrap()), "{pair}");
            assert!((TOP - 0.1..=HEIGHT - BOTTOM + 0.1).contains(&y.parse::<f64>().unwrap()), "{pair}");
        }
        assert!(svg.contains("a&lt;b"));
        assert_eq!(chart("t", Axis::Time, &[line(vec![])]), "");
    }
}
