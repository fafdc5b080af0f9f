//! Measures a model on what it has not seen: model and parted rows in, an [`Evaluation`] out, and from that a page, JSON and the model card.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use vigie::scoring::{Model, Scratch, Signal};

use crate::importer::{Import, Origin};
use crate::measure::{Figures, figures};
use crate::split::{Part, Place};

/// All figures of one model.
#[derive(Debug, Serialize)]
pub struct Evaluation {
    pub version: String,
    pub sha256: String,
    /// By slice, then signal.
    pub slices: BTreeMap<String, BTreeMap<String, Figures>>,
}

/// Measures `model` on the test part.
pub fn evaluate(model: &Model, import: &Import, places: &[Place]) -> Result<Evaluation> {
    let mut scratch = Scratch::default();
    let mut slices: BTreeMap<String, BTreeMap<String, (Vec<f64>, Vec<bool>)>> = BTreeMap::new();
    for (row, place) in import.rows.iter().zip(places).filter(|(_, place)| place.part == Part::Test) {
        debug_assert!(place.part == Part::Test);
        let passage = &row.passage;
        let Some(signals) = model.score(&passage.text, Some(&passage.lang), &mut scratch).signals else { continue };
        let origin = if row.origin == Origin::Own { "corpus" } else { "real" };
        for signal in Signal::ALL {
            let Some(label) = passage.label(signal) else { continue };
            for slice in [format!("{origin} {}", passage.lang), format!("{origin} all")] {
                let (scores, labels) = slices.entry(slice).or_default().entry(signal.as_str().to_owned()).or_default();
                scores.push(signals[signal.index()].score);
                labels.push(label);
            }
        }
    }
    let slices = slices
        .into_iter()
        .map(|(slice, by_signal)| {
            (slice, by_signal.into_iter().map(|(signal, (s, l))| (signal, figures(&s, &l))).collect())
        })
        .collect();
    Ok(Evaluation { version: model.version().to_owned(), sha256: model.sha256().to_owned(), slices })
}

/// Prints the main table; with a folder also writes the JSON there.
pub fn write(evaluation: &Evaluation, folder: Option<&Path>) -> Result<()> {
    for (slice, by_signal) in &evaluation.slices {
        for (signal, f) in by_signal {
            println!(
                "{slice:12} {signal:15} n {:5} positive {:4} auc {:.3} macro-F1 {:.3} precision {:.2} recall {:.2} calibration error {:.3}",
                f.n,
                f.n_positive,
                f.auc.unwrap_or(f64::NAN),
                f.macro_f1,
                f.precision,
                f.recall,
                f.calibration_error
            );
        }
    }
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("report.json"), serde_json::to_string_pretty(evaluation)?)?;
    }
    Ok(())
}
