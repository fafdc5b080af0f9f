//! Draws measurements over time: named series in, a self-contained SVG out.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const PANEL: f64 = 120.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 22.0;

/// One panel: a title and a value at each time.
pub struct Panel {
    pub title: String,
    pub values: Vec<f64>,
}

/// Panels one below the other over the same minutes, each from zero to its highest value.
pub fn panels(minutes: &[f64], panels: &[Panel]) -> String {
    let height = PANEL * panels.len() as f64 + 18.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let end = minutes.last().copied().unwrap_or(1.0).max(0.1);
    let x = |minute: f64| LEFT + minute / end * (WIDTH - LEFT - RIGHT);
    for (number, panel) in panels.iter().enumerate() {
        let bottom = PANEL * (number + 1) as f64 - BOTTOM;
        let highest = round_up(panel.values.iter().copied().fold(0.0, f64::max));
        let y = |value: f64| bottom - value / highest * (PANEL - TOP - BOTTOM);
        writeln!(svg, "<text x=\"{LEFT}\" y=\"{:.0}\" fill=\"#111\">{}</text>", y(highest) - 7.0, panel.title).unwrap();
        for value in [0.0, highest / 2.0, highest] {
            let at = y(value);
            writeln!(
                svg,
                "<path d=\"M{LEFT} {at:.1}H{:.0}\" stroke=\"#ddd\"/><text x=\"{:.0}\" y=\"{:.1}\" fill=\"#555\" text-anchor=\"end\">{value}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0
            )
            .unwrap();
        }
        let points: Vec<String> = minutes
            .iter()
            .zip(&panel.values)
            .map(|(&minute, &value)| format!("{:.1},{:.1}", x(minute), y(value)))
            .collect();
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"#1f5fa8\" stroke-width=\"1.2\"/>",
            points.join(" ")
        )
        .unwrap();
    }
    for step in 0..=6 {
        let minute = end * f64::from(step) / 6.0;
        writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" fill=\"#555\" text-anchor=\"middle\">{minute:.0}{}</text>",
            x(minute),
            height - 6.0,
            if step == 0 { " min" } else { "" }
        )
        .unwrap();
    }
    svg + "</svg>\n"
}

/// The next of 1, 2, 4, 6, 8 times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1e-3).log10().floor());
    let steps = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|&rounded| rounded >= value).unwrap_or(value)
}
