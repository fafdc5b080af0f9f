//! `vigie explain`: a text in, the words that made each score out.

use std::io::{self, Read, Write};

use clap::builder::styling::{AnsiColor, Style};
use jiff::Timestamp;

use super::Failure;
use super::screen::{self, Screen, band_style, mark, printable, shown_score};
use crate::cli::ExplainArgs;
use crate::config::{Environment, Settings};
use crate::models;
use crate::record::ScoreRecord;
use crate::scoring::{Band, Explanation, Scored, Scratch, Span};

/// Bytes of text shown before the first and behind the last span: of an article nobody wants to see all, five times.
const CONTEXT: usize = 120;

pub fn run(args: &ExplainArgs, environment: &Environment) -> Result<(), Failure> {
    let mut flags = args.config.flags();
    args.model.add_to(&mut flags);
    let settings = Settings::load(&flags, environment)?;
    let model = models::load(&settings.model)?;
    let text = if args.text == "-" { read_stdin()? } else { args.text.clone() };
    let screen = Screen::of_stdout(environment);
    let (scored, explanation) = model.explain(&text, args.lang.as_deref(), &mut Scratch::default());
    let mut out = io::stdout().lock();
    if !screen.is_terminal || args.json {
        let scored_at = Timestamp::now().to_string();
        let record = ScoreRecord::new("text", None, &model, &scored, Some(&explanation), &scored_at);
        serde_json::to_writer(&mut out, &record).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    writeln!(out, "{}", screen.table_head("text"))?;
    writeln!(out, "{}\n", screen.table_row(&text, &(&scored).into()))?;
    for line in lines_of(&screen, &text, &scored, &explanation, args.all) {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "\n{}", screen.paint(screen::LEGEND, screen::dimmed()))?;
    writeln!(out, "[words](+x) raise the margin of a score by x, [words](-x) lower it; model {}", model.version())?;
    Ok(())
}

fn read_stdin() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|error| {
        Failure::work(anyhow::anyhow!("standard input is not UTF-8 (byte {})", error.utf8_error().valid_up_to()))
            .hint("convert it first, for example with `iconv -f latin1 -t utf-8`")
    })
}

/// A line for each signal whose band is not low: its name, its score, and the text with its spans marked.
pub fn lines(screen: &Screen, text: &str, scored: &Scored, explanation: &[Explanation]) -> Vec<String> {
    lines_of(screen, text, scored, explanation, false)
}

fn lines_of(screen: &Screen, text: &str, scored: &Scored, explanation: &[Explanation], with_low: bool) -> Vec<String> {
    let Some(signals) = scored.signals else { return Vec::new() };
    let shown = explanation.iter().filter(|why| with_low || signals[why.signal.index()].band != Band::Low);
    let mut lines: Vec<String> = shown
        .map(|why| {
            let found = signals[why.signal.index()];
            let name = format!("{:<14} {:.2} {}", why.signal.as_str(), shown_score(found.score), mark(found.band));
            format!("{}  {}", screen.paint(&name, band_style(why.signal, found.band)), marked(screen, text, &why.spans))
        })
        .collect();
    if lines.is_empty() && !explanation.is_empty() {
        lines.push(screen.paint("all signals are low; `vigie explain --all` shows their words", screen::dimmed()));
    }
    lines
}

/// The text around its spans, each in brackets with its contribution: red raises, blue lowers.
fn marked(screen: &Screen, text: &str, spans: &[Span]) -> String {
    let mut spans: Vec<&Span> = spans.iter().collect();
    spans.sort_by_key(|span| span.start);
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else { return String::new() };
    let begin = char_start(text, first.start.saturating_sub(CONTEXT));
    let end = char_start(text, (last.end + CONTEXT).min(text.len()));
    let mut line = String::from(if begin > 0 { "…" } else { "" });
    let mut at = begin;
    for span in &spans {
        // Two words can come from the same letters of the original (a disguised one, a ligature).
        let start = span.start.max(at);
        if start >= span.end {
            continue;
        }
        line.push_str(&between(&text[at..start]));
        let style = if span.contribution > 0.0 { AnsiColor::Red } else { AnsiColor::Blue };
        let words = format!("[{}]", printable(&text[start..span.end]));
        line.push_str(&screen.paint(&words, style.on_default().bold()));
        line.push_str(&screen.paint(&format!("({:+.1})", span.contribution), Style::new().dimmed()));
        at = span.end;
    }
    line.push_str(&printable(&text[at..end]));
    line.push_str(if end < text.len() { "…" } else { "" });
    line
}

/// What stands between two spans; the middle of a long stretch is left out.
fn between(text: &str) -> String {
    if text.len() <= 2 * CONTEXT {
        return printable(text);
    }
    let (head, tail) = (char_start(text, CONTEXT), char_start(text, text.len() - CONTEXT));
    format!("{} … {}", printable(&text[..head]), printable(&text[tail..]))
}

/// The start of the character that holds this byte.
fn char_start(text: &str, byte: usize) -> usize {
    (0..=byte).rev().find(|&byte| text.is_char_boundary(byte)).unwrap_or(0)
}
