//! What a person sees: scores in, table rows and colours out. Bands are shown by marks, so that nothing hangs on colour.

use std::io::IsTerminal;

use clap::builder::styling::{AnsiColor, Effects, Style};
use console::{Alignment, measure_text_width, pad_str, truncate_str};

use crate::config::Environment;
use crate::scoring::signals::N_SIGNALS;
use crate::scoring::{Abstained, Band, Reading, Scored, Signal, SignalScore};

/// Explains the marks; printed under a table.
pub const LEGEND: &str = "▲ high  ~ uncertain  · low";
const HEADERS: [&str; 5] = ["antisem", "hate", "moder", "attack", "counter"];
const READING_WIDTH: usize = 14;
/// Columns of everything in a row but the name: language, five scores, reading, and the gaps between.
const FIXED_WIDTH: usize = 2 + 7 + 6 + 6 + 6 + 7 + READING_WIDTH + 7 * 2;

/// What a row shows of a scored text.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub lang: &'a str,
    pub signals: Option<[SignalScore; N_SIGNALS]>,
    pub reading: Option<Reading>,
    pub abstained: Option<Abstained>,
}

impl From<&Scored> for Row<'_> {
    fn from(scored: &Scored) -> Self {
        Row { lang: scored.lang.code, signals: scored.signals, reading: scored.reading, abstained: scored.abstained }
    }
}

/// Standard output as far as it shapes what is printed.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    pub is_terminal: bool,
    pub colour: bool,
    /// Columns.
    pub width: usize,
}

impl Screen {
    /// Looks at standard output.
    pub fn of_stdout(environment: &Environment) -> Screen {
        let is_terminal = std::io::stdout().is_terminal();
        let columns = console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns));
        let width = columns.unwrap_or(100).clamp(72, 160);
        Screen { is_terminal, colour: is_terminal && environment.allows_colour(), width }
    }

    /// The text in this style, or as it is where colours are not welcome.
    pub fn paint(&self, text: &str, style: Style) -> String {
        if self.colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// The table's head: a line of column names.
    pub fn table_head(&self, name: &str) -> String {
        let mut line = pad_str(name, self.name_width(), Alignment::Left, None).into_owned();
        line.push_str("  la");
        for header in HEADERS {
            line.push_str("  ");
            line.push_str(&pad_str(header, header.len().max(6), Alignment::Left, None));
        }
        line.push_str("  reading");
        self.paint(&line, Style::new().bold())
    }

    /// A row's name and what is to be said instead of scores.
    pub fn table_note(&self, name: &str, note: &str) -> String {
        format!("{}      {}", self.name_cell(name), self.paint(note, dimmed()))
    }

    /// One row: a name (or the beginning of a text), the language, five scores with their bands, the reading.
    pub fn table_row(&self, name: &str, row: &Row<'_>) -> String {
        let lang = if row.lang == "und" { "??" } else { row.lang };
        let mut line = format!("{}  {:<2}", self.name_cell(name), truncate_str(lang, 2, ""));
        let Some(signals) = row.signals else {
            let why = row.abstained.map_or("", |why| why.as_str());
            return format!("{line}  {}", self.paint(&format!("no scores: {why}"), dimmed()));
        };
        for (signal, header) in Signal::ALL.into_iter().zip(HEADERS) {
            let found = signals[signal.index()];
            let cell = format!("{:.2} {}", shown_score(found.score), mark(found.band));
            let cell = pad_str(&cell, header.len().max(6), Alignment::Left, None).into_owned();
            line.push_str("  ");
            line.push_str(&self.paint(&cell, band_style(signal, found.band)));
        }
        let reading = row.reading.unwrap_or(Reading::Uncertain);
        line.push_str("  ");
        line.push_str(&self.paint(reading.as_str(), reading_style(reading)));
        line
    }

    fn name_cell(&self, name: &str) -> String {
        let (name, width) = (printable(name), self.name_width());
        pad_str(&truncate_str(&name, width, "…"), width, Alignment::Left, None).into_owned()
    }

    fn name_width(&self) -> usize {
        (self.width - FIXED_WIDTH).min(60)
    }
}

/// Two decimals that never say that a score is certain.
pub fn shown_score(score: f64) -> f64 {
    ((score * 100.0).round() / 100.0).min(0.99)
}

/// The mark of a band.
pub fn mark(band: Band) -> &'static str {
    match band {
        Band::High => "▲",
        Band::Uncertain => "~",
        Band::Low => "·",
    }
}

/// Stances have colours of their own; a topic is not an accusation.
pub fn band_style(signal: Signal, band: Band) -> Style {
    match (band, signal) {
        (Band::Low, _) => dimmed(),
        (Band::Uncertain, _) => AnsiColor::Yellow.on_default(),
        (Band::High, Signal::Attack) => AnsiColor::Red.on_default().bold(),
        (Band::High, Signal::CounterSpeech) => AnsiColor::Green.on_default().bold(),
        (Band::High, _) => AnsiColor::Cyan.on_default().bold(),
    }
}

/// The colour of a reading.
pub fn reading_style(reading: Reading) -> Style {
    match reading {
        Reading::Attack => AnsiColor::Red.on_default().bold(),
        Reading::CounterSpeech => AnsiColor::Green.on_default().bold(),
        Reading::Discussion => AnsiColor::Cyan.on_default().bold(),
        Reading::Uncertain => AnsiColor::Yellow.on_default(),
        Reading::None => dimmed(),
    }
}

/// Grey.
pub fn dimmed() -> Style {
    Style::new().effects(Effects::DIMMED)
}

/// The text on one line without control characters: a text from outside must not steer the terminal or turn the line's direction.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => {}
            _ if character.is_whitespace() || character.is_control() => {
                if !shown.ends_with(' ') {
                    shown.push(' ');
                }
            }
            _ => shown.push(character),
        }
    }
    shown
}

/// Columns as wide as their widest cell, two blanks apart; the first line is the head.
pub fn columns(rows: &[Vec<String>]) -> String {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| measure_text_width(cell)).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..n_columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| pad_str(cell, width, Alignment::Left, None));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[31m\nb\r\n\u{202e}c\u{7}"), "a [31m b c ");
    }

    #[test]
    fn no_score_is_shown_as_certain() {
        assert_eq!(shown_score(0.9999), 0.99);
    }
}
