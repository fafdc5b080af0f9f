//! Small plots: points in, inline SVG out. Colours come from the page's style sheet, so that one drawing serves light and dark.

use std::fmt::Write;

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 40.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 36.0;

/// A line and what it stands for; its place in the list chooses its colour.
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    /// Points are marked too; the radius grows with the number beside it, if there is one.
    pub marks: Vec<f64>,
}

/// What a plot shows and on which axes.
pub struct Axes<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
    pub x_range: (f64, f64),
    pub y_range: (f64, f64),
    /// Draws the diagonal on which a perfectly calibrated score lies.
    pub diagonal: bool,
}

impl Axes<'_> {
    fn x(&self, value: f64) -> f64 {
        LEFT + (value - self.x_range.0) / (self.x_range.1 - self.x_range.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let share = (value - self.y_range.0) / (self.y_range.1 - self.y_range.0);
        HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }

    fn frame(&self) -> String {
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\"><title>{}</title>",
            escape(self.title),
            escape(self.title)
        );
        for step in 0..=4 {
            let share = f64::from(step) / 4.0;
            let (x, y) = (between(self.x_range, share), between(self.y_range, share));
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 5.0,
                self.y(y) + 3.5,
                tick(y),
                at = self.y(y),
            );
            let _ = write!(
                svg,
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                self.x(x),
                HEIGHT - BOTTOM + 13.0,
                tick(x)
            );
        }
        let middle = (HEIGHT - BOTTOM + TOP) / 2.0;
        let _ = write!(
            svg,
            "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text><text class=\"axis\" transform=\"translate(9 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (WIDTH - RIGHT + LEFT) / 2.0,
            HEIGHT - 6.0,
            escape(self.x),
            escape(self.y)
        );
        if self.diagonal {
            let _ = write!(
                svg,
                "<line class=\"diagonal\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
                self.x(self.x_range.0),
                self.y(self.y_range.0),
                self.x(self.x_range.1),
                self.y(self.y_range.1)
            );
        }
        svg
    }
}

/// Lines over common axes. The legend is the page's: it is the same for all plots.
pub fn lines(axes: &Axes, lines: &[Line]) -> String {
    let mut svg = axes.frame();
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| !line.points.is_empty()) {
        let points: Vec<String> =
            line.points.iter().map(|&(x, y)| format!("{:.1},{:.1}", axes.x(x), axes.y(y))).collect();
        let _ = write!(
            svg,
            "<polyline class=\"line c{number}\" points=\"{}\"><title>{}</title></polyline>",
            points.join(" "),
            escape(&line.name)
        );
        for (&(x, y), radius) in line.points.iter().zip(&line.marks) {
            let _ = write!(
                svg,
                "<circle class=\"mark c{number}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius:.1}\"/>",
                axes.x(x),
                axes.y(y)
            );
        }
    }
    svg + "</svg>"
}

/// Two histograms of scores from 0 to 1, one up and one down, each in shares of its own total.
pub fn histograms(title: &str, present: &[usize], absent: &[usize]) -> String {
    let shares = |bars: &[usize]| {
        let total = bars.iter().sum::<usize>().max(1) as f64;
        bars.iter().map(|&n| n as f64 / total).collect::<Vec<_>>()
    };
    let (up, down) = (shares(present), shares(absent));
    // Most harmless passages score near 0: a square root keeps the rest visible.
    let axes = Axes {
        title,
        x: "score",
        y: "√ share of passages",
        x_range: (0.0, 1.0),
        y_range: (-1.0, 1.0),
        diagonal: false,
    };
    let mut svg = axes.frame();
    let width = (axes.x(1.0) - axes.x(0.0)) / up.len() as f64 - 1.0;
    for (bar, (up, down)) in up.iter().zip(&down).enumerate() {
        let x = axes.x(bar as f64 / present.len() as f64) + 0.5;
        for (share, class, sign) in [(up, "c0", 1.0), (down, "c1", -1.0)] {
            let (zero, end) = (axes.y(0.0), axes.y(sign * share.sqrt()));
            let (top, height) = (zero.min(end), (zero - end).abs());
            let _ = write!(
                svg,
                "<rect class=\"bar {class}\" x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
            );
        }
    }
    svg + "</svg>"
}

fn between((low, high): (f64, f64), share: f64) -> f64 {
    low + (high - low) * share
}

fn tick(value: f64) -> String {
    let value = if value.abs() < 1e-9 { 0.0 } else { value };
    if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

/// Text for HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_where_their_values_say() {
        let axes = Axes { title: "a < b", x: "x", y: "y", x_range: (0.0, 1.0), y_range: (0.0, 1.0), diagonal: false };
        let line = Line { name: "one".to_owned(), points: vec![(0.0, 0.0), (1.0, 1.0)], marks: Vec::new() };
        let svg = lines(&axes, &[line]);
        assert!(svg.contains("points=\"40.0,184.0 290.0,10.0\"") && svg.contains("a &lt; b"), "{svg}");
    }
}
