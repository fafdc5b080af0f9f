//! Scores of what was kept from training: model and parted rows in, measured rows and the figures of every slice of them out.

use std::collections::BTreeMap;

use serde::Serialize;
use vigie::scoring::signals::N_SIGNALS;
use vigie::scoring::{Band, Model, Scratch, Signal};

use crate::corpus::Passage;
use crate::coverage::SecondReading;
use crate::importer::{Import, Imported, Origin};
use crate::measure::{Figures, figures};
use crate::split::{Part, Place};

/// A row that training has not seen, with what the model says of it.
pub struct Measured<'a> {
    pub row: &'a Imported,
    pub part: Part,
    /// All 0 where the model abstains: it gives no signal then.
    pub scores: [f64; N_SIGNALS],
    pub bands: [Band; N_SIGNALS],
    pub abstained: bool,
}

/// Figures of one group of passages.
#[derive(Debug, Clone, Serialize)]
pub struct Slice {
    /// What the passages have in common: `part`, `set`, `voice`, `register`, `function`, `group`, `length`, `documents`, `readers`.
    pub kind: &'static str,
    pub name: String,
    pub n: usize,
    pub n_abstained: usize,
    pub signals: BTreeMap<Signal, Figures>,
}

/// Registers that people write without an editor.
const SPONTANEOUS: [&str; 6] = ["post", "reply", "chat", "comment", "forum", "thread"];
/// Upper bounds, in words, of the length slices.
const LENGTHS: [usize; 5] = [5, 15, 40, 100, usize::MAX];

/// Scores a text; `None` for its scores where the model abstains.
pub fn score(
    model: &Model,
    text: &str,
    lang: &str,
    scratch: &mut Scratch,
) -> Option<([f64; N_SIGNALS], [Band; N_SIGNALS])> {
    let signals = model.score(text, Some(lang), scratch).signals?;
    Some((signals.map(|signal| signal.score), signals.map(|signal| signal.band)))
}

/// Scores every row outside the training part.
pub fn measure<'a>(model: &Model, import: &'a Import, places: &[Place]) -> Vec<Measured<'a>> {
    let mut scratch = Scratch::default();
    let unseen = import.rows.iter().zip(places).filter(|(_, place)| place.part != Part::Train);
    unseen
        .map(|(row, place)| {
            let found = score(model, &row.passage.text, &row.passage.lang, &mut scratch);
            let (scores, bands) = found.unwrap_or(([0.0; N_SIGNALS], [Band::Low; N_SIGNALS]));
            Measured { row, part: place.part, scores, bands, abstained: found.is_none() }
        })
        .collect()
}

/// Figures by signal of labelled passages with scores.
pub fn figures_of<'a>(passages: impl Iterator<Item = (&'a Passage, [f64; N_SIGNALS])>) -> BTreeMap<Signal, Figures> {
    let mut columns: BTreeMap<Signal, (Vec<f64>, Vec<bool>)> = BTreeMap::new();
    for (passage, found) in passages {
        for signal in Signal::ALL {
            if let Some(label) = passage.label(signal) {
                let (scores, labels) = columns.entry(signal).or_default();
                scores.push(found[signal.index()]);
                labels.push(label);
            }
        }
    }
    columns.into_iter().map(|(signal, (scores, labels))| (signal, figures(&scores, &labels))).collect()
}

/// The parts of the report that a test row belongs to: our corpus, real rows or another part that the mapping file names, and its language.
pub fn parts_of(row: &Imported) -> Vec<String> {
    let lang = &row.passage.lang;
    match row.measured_in.as_str() {
        origin @ ("corpus" | "real") => {
            vec![format!("{origin} {lang}"), format!("{origin} all"), format!("both {lang}"), "both all".to_owned()]
        }
        apart => vec![format!("{apart} {lang}")],
    }
}

/// All slices of the test part, by kind in the order of the report.
pub fn slices(measured: &[Measured], documents: Slice) -> Vec<Slice> {
    let mut members: BTreeMap<(usize, &'static str, usize, String), Vec<&Measured>> = BTreeMap::new();
    for row in measured.iter().filter(|row| row.part == Part::Test) {
        for (place, (kind, order, name)) in slices_of(row.row) {
            members.entry((place, kind, order, name)).or_default().push(row);
        }
    }
    let mut slices: Vec<Slice> = members
        .into_iter()
        .map(|((_, kind, _, name), rows)| Slice {
            kind,
            name,
            n: rows.len(),
            n_abstained: rows.iter().filter(|row| row.abstained).count(),
            signals: figures_of(rows.iter().map(|row| (&row.row.passage, row.scores))),
        })
        .collect();
    slices.push(documents);
    slices
}

/// Test passages of ours that a second reader has read blind, by language: with the writer's labels, and with those alone that both give.
pub fn read_twice(measured: &[Measured], readings: &[SecondReading]) -> Vec<Slice> {
    let second: BTreeMap<&str, &SecondReading> =
        readings.iter().map(|reading| (reading.id.as_str(), reading)).collect();
    let mut by_lang: BTreeMap<&str, Vec<(&Measured, &SecondReading)>> = BTreeMap::new();
    for row in measured.iter().filter(|row| row.part == Part::Test && row.row.origin == Origin::Own) {
        if let Some(reading) = second.get(row.row.passage.id.as_str()) {
            by_lang.entry(&row.row.passage.lang).or_default().push((row, reading));
        }
    }
    let slice = |labels: &str, lang: &str, rows: &[(&Measured, &SecondReading)], passages: &[Passage]| Slice {
        kind: "readers",
        name: format!("{labels} {lang}"),
        n: rows.len(),
        n_abstained: rows.iter().filter(|(row, _)| row.abstained).count(),
        signals: figures_of(passages.iter().zip(rows).map(|(passage, (row, _))| (passage, row.scores))),
    };
    let both = |lang: &str, rows: &[(&Measured, &SecondReading)]| {
        let written: Vec<Passage> = rows.iter().map(|(row, _)| row.row.passage.clone()).collect();
        let mut settled = written.clone();
        for (passage, (_, reading)) in settled.iter_mut().zip(rows) {
            passage.labels.retain(|signal, label| reading.second.get(signal) == Some(label));
        }
        [slice("writer", lang, rows, &written), slice("both readers", lang, rows, &settled)]
    };
    by_lang.iter().flat_map(|(lang, rows)| both(lang, rows)).collect()
}

/// Every slice that a test row is in, with the places of kind and name in the report.
fn slices_of(row: &Imported) -> Vec<(usize, (&'static str, usize, String))> {
    let passage = &row.passage;
    let order: &[usize] = match row.measured_in.as_str() {
        "corpus" => &[0, 1, 4, 5],
        "real" => &[2, 3, 4, 5],
        _ => &[6],
    };
    let parts = order.iter().copied().zip(parts_of(row));
    let mut found: Vec<_> = parts.map(|(order, part)| (0, ("part", order, part))).collect();
    if row.origin != Origin::Own {
        found.push((1, ("set", 0, format!("{} {}", passage.source, passage.lang))));
        return found;
    }
    let voice = if SPONTANEOUS.contains(&passage.register.as_str()) { "spontaneous" } else { "edited" };
    found.push((2, ("voice", 0, format!("{voice} {}", passage.lang))));
    found.push((3, ("register", 0, passage.register.clone())));
    if !passage.function.is_empty() {
        found.push((4, ("function", 0, passage.function.clone())));
    }
    let no_group = passage.groups.is_empty().then(|| "no group".to_owned());
    found.extend(passage.groups.iter().cloned().chain(no_group).map(|group| (5, ("group", 0, group))));
    let n_words = passage.text.split_whitespace().count();
    let bucket = LENGTHS.iter().position(|&most| n_words <= most).expect("the last bound holds for all");
    let name = match bucket {
        0 => format!("up to {} words", LENGTHS[0]),
        4 => format!("more than {} words", LENGTHS[3]),
        _ => format!("{} to {} words", LENGTHS[bucket - 1] + 1, LENGTHS[bucket]),
    };
    found.push((6, ("length", bucket, name)));
    found
}

/// Whole articles of the test part: a document carries a signal when one of its passages does; an open label leaves it open unless another settles it.
pub fn document_slice(model: &Model, measured: &[Measured]) -> Slice {
    let mut articles: BTreeMap<&str, Vec<&Passage>> = BTreeMap::new();
    for row in measured.iter().filter(|row| row.part == Part::Test && row.row.origin == Origin::Own) {
        if let Some(article) = &row.row.passage.article {
            articles.entry(article).or_default().push(&row.row.passage);
        }
    }
    let documents: Vec<Passage> =
        articles.into_values().filter(|passages| passages.len() > 1).map(|p| join(&p)).collect();
    let mut scratch = Scratch::default();
    let scored: Vec<_> =
        documents.iter().map(|document| score(model, &document.text, &document.lang, &mut scratch)).collect();
    let scores = scored.iter().map(|found| found.map_or([0.0; N_SIGNALS], |(scores, _)| scores));
    Slice {
        kind: "documents",
        name: "whole articles".to_owned(),
        n: documents.len(),
        n_abstained: scored.iter().filter(|found| found.is_none()).count(),
        signals: figures_of(documents.iter().zip(scores)),
    }
}

fn join(passages: &[&Passage]) -> Passage {
    let mut document = passages[0].clone();
    let paragraphs: Vec<&str> = passages.iter().map(|passage| passage.text.as_str()).collect();
    document.text = paragraphs.join("\n\n");
    document.labels.clear();
    for signal in Signal::ALL {
        let labels: Vec<Option<bool>> = passages.iter().map(|passage| passage.label(signal)).collect();
        if labels.contains(&Some(true)) {
            document.labels.insert(signal.as_str().to_owned(), 1);
        } else if !labels.contains(&None) {
            document.labels.insert(signal.as_str().to_owned(), 0);
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::tests::passage;

    #[test]
    fn a_document_carries_what_a_passage_carries() {
        let carries = passage("a", "un", &[("attack", 1), ("hate_speech", 1), ("moderation", 0)]);
        let open = passage("b", "deux", &[("attack", 0), ("hate_speech", 0)]);
        let document = join(&[&carries, &open]);
        assert_eq!(document.text, "un\n\ndeux");
        assert_eq!((document.label(Signal::Attack), document.label(Signal::Moderation)), (Some(true), None));
    }

    #[test]
    fn only_labels_of_both_readers_are_settled() {
        let row = |id: &str| Imported::own(passage(id, "un", &[("attack", 1), ("hate_speech", 1)]));
        let rows = [row("a"), row("b"), row("c")];
        let measured = rows.each_ref().map(|row| Measured {
            row,
            part: Part::Test,
            scores: [1.0; N_SIGNALS],
            bands: [Band::High; N_SIGNALS],
            abstained: false,
        });
        let readings = [
            r#"{"id": "a", "first": {}, "second": {"attack": 0, "hate_speech": 1}}"#,
            r#"{"id": "b", "first": {}, "second": {"attack": 1}}"#,
        ];
        let readings = readings.map(|line| serde_json::from_str(line).expect("a reading"));
        let slices = read_twice(&measured, &readings);
        let counts =
            |slice: &Slice| Signal::ALL.map(|signal| slice.signals.get(&signal).map_or(0, |figures| figures.n));
        assert_eq!(
            slices.iter().map(|slice| (slice.name.as_str(), slice.n)).collect::<Vec<_>>(),
            [("writer fr", 2), ("both readers fr", 2)]
        );
        assert_eq!([counts(&slices[0]), counts(&slices[1])], [[0, 2, 0, 2, 0], [0, 1, 0, 1, 0]]);
    }
}
