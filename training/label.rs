//! Passages and a model in, a file for a person out: the model's labels to correct, most doubtful passages first.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tracing::info;
use vigie::scoring::{Band, Model, Scratch, Signal};

use crate::corpus::{Passage, read_passages};

/// A line of the file that a person corrects. `labels` are what counts; `scores` say what the model thought.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelLine {
    /// Set to `true` by the person: only such lines are trained on.
    pub checked: bool,
    pub labels: BTreeMap<String, u8>,
    pub text: String,
    pub id: String,
    pub lang: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub article: Option<String>,
    #[serde(default)]
    pub scores: BTreeMap<String, f64>,
}

/// Writes one [`LabelLine`] a passage. A low band suggests 0, a high one 1; an uncertain one is left open for the person.
pub fn label(passages: &Path, out: &Path, model: &Model) -> Result<()> {
    let mut scratch = Scratch::default();
    let mut lines: Vec<(f64, LabelLine)> = Vec::new();
    for passage in read_passages(passages)? {
        let scored = model.score(&passage.text, Some(&passage.lang), &mut scratch);
        let Some(signals) = scored.signals else { continue };
        let suggested = Signal::ALL.into_iter().filter_map(|signal| match signals[signal.index()].band {
            Band::Low => Some((signal.as_str().to_owned(), 0)),
            Band::High => Some((signal.as_str().to_owned(), 1)),
            Band::Uncertain => None,
        });
        let doubt = signals.iter().map(|signal| entropy(signal.score)).sum();
        let scores = Signal::ALL.map(|s| (s.as_str().to_owned(), (signals[s.index()].score * 1000.0).round() / 1000.0));
        let line = LabelLine {
            checked: false,
            labels: suggested.collect(),
            text: passage.text,
            id: passage.id,
            lang: passage.lang,
            article: passage.article,
            scores: scores.into(),
        };
        lines.push((doubt, line));
    }
    lines.sort_by(|left, right| right.0.total_cmp(&left.0));
    let mut file = std::fs::File::create(out).with_context(|| format!("could not write {}", out.display()))?;
    for (_, line) in &lines {
        serde_json::to_writer(&mut file, line)?;
        file.write_all(b"\n")?;
    }
    info!(n_passages = lines.len(), file = %out.display(), "correct the labels, set checked to true, then: vigie-train fit --labelled FILE");
    Ok(())
}

/// Reads a corrected file: the checked lines as passages.
pub fn read_checked(path: &Path) -> Result<Vec<Passage>> {
    let content = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    let mut passages = Vec::new();
    for (index, line) in content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("{} line {}", path.display(), index + 1);
        let line: LabelLine = serde_json::from_str(line).with_context(place)?;
        if !line.checked {
            continue;
        }
        let passage = Passage {
            id: line.id,
            lang: line.lang,
            split: String::new(),
            register: "press".to_owned(),
            function: String::new(),
            groups: Vec::new(),
            set: None,
            article: line.article,
            text: line.text,
            labels: line.labels,
            source: "labelled".to_owned(),
            weight: 1.0,
        };
        crate::corpus::check(&passage).with_context(place)?;
        passages.push(passage);
    }
    Ok(passages)
}

fn entropy(p: f64) -> f64 {
    let p = p.clamp(1e-9, 1.0 - 1e-9);
    -(p * p.ln() + (1.0 - p) * (1.0 - p).ln())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::tests::passage;

    #[test]
    fn only_checked_lines_come_back_and_the_doubtful_come_first() {
        let folder = tempfile::tempdir().unwrap();
        let (passages, sheet) = (folder.path().join("p.jsonl"), folder.path().join("l.jsonl"));
        let lines = [
            passage("plain", "Le marché du samedi commence à huit heures sur la grande place.", &[]),
            passage("doubtful", "ces gens là franchement on sait bien ce qu'ils valent", &[]),
        ];
        std::fs::write(&passages, lines.map(|p| serde_json::to_string(&p).unwrap()).join("\n")).unwrap();
        label(&passages, &sheet, &vigie::models::builtin().unwrap()).unwrap();
        assert!(read_checked(&sheet).unwrap().is_empty());
        let content = std::fs::read_to_string(&sheet).unwrap();
        let first: LabelLine = serde_json::from_str(content.lines().next().unwrap()).unwrap();
        assert_eq!(first.id, "doubtful");
        std::fs::write(&sheet, content.replacen("\"checked\":false", "\"checked\":true", 1)).unwrap();
        assert_eq!(read_checked(&sheet).unwrap().iter().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["doubtful"]);
    }
}
