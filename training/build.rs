//! From imported rows to a model file: cross-fitted calibration, final fit, integer weights, canaries; an artifact out.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use linfa::ParamGuard;
use linfa::dataset::DatasetBase;
use linfa::traits::{Fit, PredictInplace};
use ndarray::Array2;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vigie::scoring::artifact::{Artifact, Canary, FeatureRow, Header, SignalHead, bias_steps};
use vigie::scoring::features::FEATURE_SPEC_VERSION;
use vigie::scoring::lexicon::{LANGUAGES, Lexicon, LexiconFile};
use vigie::scoring::model::imply;
use vigie::scoring::network::Network;
use vigie::scoring::signals::N_SIGNALS;
use vigie::scoring::{Model, Scratch, Signal};

use crate::calibrate::{BandSettings, choose_thresholds, fit_platt};
use crate::card;
use crate::corpus::Passage;
use crate::document;
use crate::evaluate::Evaluation;
use crate::examples::{Examples, FeatureSettings, Vocabulary, make_vocabulary, targets};
use crate::fit::{SparseLogistic, SparseLogisticParams};
use crate::importer::{Import, Origin};
use crate::measure::Figures;
use crate::network::{NetworkRows, NetworkSettings, train};
use crate::parallel;
use crate::split::{Part, Place};
use crate::stack::{StackSettings, fit_stacks};
use crate::vectors::WordVectors;

/// Everything that decides a model beside its data. Kept in the model file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitSettings {
    pub version: String,
    pub seed: u64,
    pub features: FeatureSettings,
    pub learner: SparseLogisticParams,
    pub network: NetworkSettings,
    pub stack: StackSettings,
    pub bands: BandSettings,
    /// Cross-fitting folds for calibration.
    pub n_folds: u64,
    /// A word must occur so often to enter the list of common words.
    pub fewest_word_occurrences: u32,
    pub fewest_letters: usize,
}

impl FitSettings {
    /// Reads the settings from a TOML table; unknown keys are errors.
    pub fn deserialize_from(table: toml::Table) -> Result<FitSettings> {
        Ok(table.try_into()?)
    }
}

/// A fitted model: taken apart, as the file's bytes, and ready to score.
pub struct Built {
    pub artifact: Artifact,
    pub bytes: Vec<u8>,
    pub model: Model,
}

/// Fits a model on the training part of `import`.
pub fn build(import: &Import, places: &[Place], lexicon_file: LexiconFile, settings: &FitSettings) -> Result<Built> {
    let lexicon = Lexicon::new(&lexicon_file).map_err(anyhow::Error::msg)?;
    let chosen: Vec<usize> = (0..import.rows.len())
        .filter(|&row| places[row].part == Part::Train && import.rows[row].passage.weight > 0.0)
        .collect();
    let passages: Vec<&Passage> = chosen.iter().map(|&row| &import.rows[row].passage).collect();
    let vocabulary = make_vocabulary(&passages, &lexicon, &settings.features);
    let (labels, weights) = targets(&passages);
    let rows = vocabulary.rows(&passages, &lexicon, &settings.features);
    tracing::info!(n_passages = passages.len(), n_features = vocabulary.hashes.len(), "rows ready");
    let learner = settings.learner.check()?;

    // Only rows that we have written or read teach the network and count for calibration: other labels mean other things.
    let counts = |row: usize| matches!(import.rows[chosen[row]].origin, Origin::Own | Origin::Annotated);
    let is_out = |row: &usize, fold: u64| (places[chosen[*row]].unit / 97) % settings.n_folds == fold;
    let mut training = import.sources.clone();
    let (mut network, mut network_margins) = (None, None);
    if settings.network.enabled {
        let (vectors, source) = WordVectors::read(Path::new(&settings.network.vectors))?;
        training.push(source);
        let rows = NetworkRows::new(&passages, &lexicon, &vectors, &settings.network);
        let (fitted, margins) = fit_networks(&rows, passages.len(), &counts, &is_out, settings)?;
        (network, network_margins) = (Some(fitted), Some(margins));
    }

    // Cross-fitting: every passage gets its margins from a model that has not seen its unit.
    let mut margins = Array2::from_elem((passages.len(), N_SIGNALS), f64::NAN);
    for fold in 0..settings.n_folds {
        let (out, within): (Vec<usize>, Vec<usize>) = (0..passages.len()).partition(|row| is_out(row, fold));
        let examples: Examples = DatasetBase::new(rows.select(&within), labels.select(ndarray::Axis(0), &within))
            .with_weights(weights.select(ndarray::Axis(0), &within));
        let model: SparseLogistic = learner.fit(&examples)?;
        let held_out = rows.select(&out);
        let mut found = model.default_target(&held_out);
        model.predict_inplace(&held_out, &mut found);
        for (row, margin) in out.iter().zip(found.rows()) {
            margins.row_mut(*row).assign(&margin);
        }
        tracing::info!(fold, "cross-fitted");
    }
    let examples: Examples = DatasetBase::new(rows, labels).with_weights(weights);
    let fitted: SparseLogistic = learner.fit(&examples)?;

    let is_found = |row: usize| import.rows[chosen[row]].origin == Origin::Annotated;
    let (stacks, margins) = if settings.stack.enabled {
        fit_stacks(&passages, &margins, network_margins.as_ref(), &lexicon, &counts, &is_found, &settings.stack)?
    } else {
        (BTreeMap::new(), margins)
    };
    let heads = calibrate(&passages, &margins, &counts, settings)?;
    let (unit, features) = integer_weights(&fitted, &vocabulary);
    let mut training_hash = Sha256::new();
    training.iter().for_each(|source| training_hash.update(&source.sha256));
    training_hash.update(serde_json::to_vec(settings)?);
    let header = Header {
        version: settings.version.clone(),
        feature_spec: FEATURE_SPEC_VERSION,
        signals: Signal::ALL.to_vec(),
        languages: LANGUAGES.map(str::to_owned).to_vec(),
        fewest_letters: settings.fewest_letters,
        n_features: features.len(),
        n_network_words: network.as_ref().map(|network| network.parts().words.len()),
        n_attention_heads: network.as_ref().map_or(1, |network| network.parts().attention.len()),
        family_scale: settings.features.family_scale,
        bias: std::array::from_fn(|signal| bias_steps(fitted.intercepts[signal], unit[signal])),
        unit,
        stacks,
        heads,
        training,
        training_sha256: format!("{:x}", training_hash.finalize()),
        seed: settings.seed,
        settings: serde_json::to_value(settings)?,
        metrics: serde_json::json!({}),
        card: "A candidate that was fitted and not yet evaluated: see `vigie-train evaluate`.".to_owned(),
        licence: "MIT OR Apache-2.0".to_owned(),
        canaries: Vec::new(),
        lexicon: lexicon_file,
    };
    let mut artifact = Artifact { header, features, network: network.map(|network| network.parts().clone()) };
    artifact.header.canaries = canaries(&artifact)?;
    finish(artifact)
}

/// A network on all rows that count, and margins of every row from one that has not seen its unit.
fn fit_networks(
    rows: &NetworkRows,
    n_rows: usize,
    counts: &dyn Fn(usize) -> bool,
    is_out: &dyn Fn(&usize, u64) -> bool,
    settings: &FitSettings,
) -> Result<(Network, Array2<f64>)> {
    let folds = 0..settings.n_folds;
    let (held_out, mut taught): (Vec<Vec<usize>>, Vec<Vec<usize>>) =
        folds.map(|fold| (0..n_rows).partition(|row| is_out(row, fold))).unzip();
    if std::env::var_os("RAYON_NUM_THREADS").is_none() {
        tracing::info!("RAYON_NUM_THREADS=1 makes this faster: networks are trained side by side already");
    }
    // The last network is the one that is kept.
    taught.push((0..n_rows).collect());
    taught.iter_mut().for_each(|rows| rows.retain(|&row| counts(row)));
    let networks = parallel::map(taught.len(), |job| {
        let seed = if job < held_out.len() { settings.seed + 1 + job as u64 } else { settings.seed };
        train(rows, &taught[job], &settings.network, seed)
    });
    let mut networks = networks.into_iter().collect::<Result<Vec<Network>>>()?;
    let kept = networks.pop().context("no network was trained")?;
    let mut margins = Array2::from_elem((n_rows, N_SIGNALS), f64::NAN);
    for (network, out) in networks.iter().zip(&held_out) {
        for (row, found) in out.iter().zip(rows.margins(network, out).rows()) {
            margins.row_mut(*row).assign(&found);
        }
    }
    Ok((kept, margins))
}

/// Writes the figures of an evaluation and the model card into the file. Scores do not change; the file's SHA-256 does.
pub fn describe(built: Built, evaluation: &mut Evaluation) -> Result<Built> {
    let mut artifact = built.artifact;
    let figures = |f: &Figures| {
        serde_json::json!({
            "n": f.n, "n_positive": f.n_positive, "auc": f.auc, "macro_f1": f.macro_f1, "precision": f.precision, "recall": f.recall,
            "calibration_error": f.calibration_error, "always_yes_macro_f1": f.always_yes_macro_f1
        })
    };
    let parts = evaluation.slices.iter().filter(|slice| slice.kind == "part").map(|slice| {
        let by_signal = slice.signals.iter().map(|(signal, f)| (signal.as_str().to_owned(), figures(f)));
        (slice.name.clone(), serde_json::Value::Object(by_signal.collect()))
    });
    artifact.header.metrics = serde_json::Value::Object(parts.collect());
    // A file cannot hold its own hash.
    evaluation.model.sha256 = "that of this file".to_owned();
    artifact.header.card = card::card(evaluation);
    let built = finish(artifact)?;
    evaluation.model.sha256 = built.model.sha256().to_owned();
    Ok(built)
}

fn finish(artifact: Artifact) -> Result<Built> {
    let bytes = artifact.write();
    let model = Model::from_bytes(&bytes).context("the model that was just written does not load")?;
    Ok(Built { artifact, bytes, model })
}

/// Platt scaling, document calibration and thresholds by language and signal, from cross-fitted margins.
fn calibrate(
    passages: &[&Passage],
    margins: &Array2<f64>,
    counts: &dyn Fn(usize) -> bool,
    settings: &FitSettings,
) -> Result<BTreeMap<String, BTreeMap<String, SignalHead>>> {
    let rows_of = |language: usize| {
        (0..passages.len()).filter(move |&row| counts(row) && passages[row].language() == language).collect::<Vec<_>>()
    };
    let mut scores = vec![[f64::NAN; N_SIGNALS]; passages.len()];
    let mut platts = Vec::new();
    for (language, code) in LANGUAGES.iter().enumerate() {
        let rows = rows_of(language);
        let mut by_signal = Vec::new();
        for signal in Signal::ALL {
            let known =
                rows.iter().filter_map(|&row| Some((margins[(row, signal.index())], passages[row].label(signal)?)));
            let (margins, labels): (Vec<f64>, Vec<bool>) = known.unzip();
            by_signal.push(fit_platt(&margins, &labels).with_context(|| format!("{code} {}", signal.as_str()))?);
        }
        for &row in &rows {
            scores[row] = imply(Signal::ALL.map(|s| by_signal[s.index()].score(margins[(row, s.index())])));
        }
        platts.push(by_signal);
    }
    let documents = document::fit_documents(passages, &scores);
    let mut heads = BTreeMap::new();
    for (language, code) in LANGUAGES.iter().enumerate() {
        let rows = rows_of(language);
        let mut by_signal = BTreeMap::new();
        for signal in Signal::ALL {
            let known =
                rows.iter().filter_map(|&row| Some((scores[row][signal.index()], passages[row].label(signal)?)));
            let (scores, labels): (Vec<f64>, Vec<bool>) = known.unzip();
            let head = SignalHead {
                calibration: platts[language][signal.index()],
                thresholds: choose_thresholds(&scores, &labels, &settings.bands),
                document: documents[signal.index()],
            };
            by_signal.insert(signal.as_str().to_owned(), head);
        }
        heads.insert((*code).to_owned(), by_signal);
    }
    Ok(heads)
}

/// Weights times inverse document frequency as 16-bit steps; a step is a power of two, so that sums stay exact.
fn integer_weights(fitted: &SparseLogistic, vocabulary: &Vocabulary) -> ([f64; N_SIGNALS], Vec<FeatureRow>) {
    let value = |column: usize, signal: usize| fitted.weights[(column, signal)] * vocabulary.idf(column);
    let unit: [f64; N_SIGNALS] = std::array::from_fn(|signal| {
        let largest = (0..vocabulary.hashes.len()).map(|column| value(column, signal).abs()).fold(0.0, f64::max);
        (largest.max(1e-6) / f64::from(i16::MAX)).log2().ceil().exp2()
    });
    let rows = (0..vocabulary.hashes.len())
        .map(|column| FeatureRow {
            hash: vocabulary.hashes[column],
            idf_squared: vocabulary.idf_squared[column],
            weights: std::array::from_fn(|signal| (value(column, signal) / unit[signal]).round() as i16),
        })
        .collect();
    (unit, rows)
}

/// Texts of ours with the scores that the model gives them.
fn canaries(artifact: &Artifact) -> Result<Vec<Canary>> {
    const TEXTS: [(&str, &str); 6] = [
        ("fr", "Le préfet a condamné les inscriptions antisémites découvertes mardi sur le mur de la synagogue."),
        ("fr", "mon compte a été suspendu trois jours pour une blague sur le maire, les modos exagèrent"),
        ("fr", "Demain marché bio place des Tilleuls, pensez aux cabas !"),
        ("fr", "non, les Roms ne sont pas des voleurs, arrêtez avec ces clichés"),
        ("en", "The platform removed the video after reports of hate speech against Muslims."),
        ("en", "anyone selling two tickets for saturday? happy to pay a bit more"),
    ];
    let model = Model::from_bytes(&artifact.write())?;
    let mut scratch = Scratch::default();
    let score = |(lang, text): &(&str, &str), scratch: &mut Scratch| {
        let signals = model.score(text, Some(lang), scratch).signals.context("a canary text was not scored")?;
        Ok(Canary { text: (*text).to_owned(), lang: (*lang).to_owned(), scores: signals.map(|signal| signal.score) })
    };
    TEXTS.iter().map(|canary| score(canary, &mut scratch)).collect()
}
