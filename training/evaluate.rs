//! Measures a model on what it has not seen: model and parted rows in, an [`Evaluation`] out, and from that a page, JSON and the model card.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use vigie::scoring::artifact::TrainingSource;
use vigie::scoring::lexicon::LANGUAGES;
use vigie::scoring::signals::N_SIGNALS;
use vigie::scoring::{Band, Model, Signal};

use crate::baselines::{WordBayes, keyword_scores};
use crate::corpus::Passage;
use crate::coverage::{Agreement, agreements, second_readings};
use crate::curves::{BandRates, Curves, band_rates, curves};
use crate::evasion::{TrickResult, evasion};
use crate::goals::{Goal, goals};
use crate::importer::{Import, Origin};
use crate::measure::{Figures, figures};
use crate::slices::{Measured, Slice, document_slice, figures_of, measure, parts_of, read_twice, slices};
use crate::split::{Part, Place};
use crate::suite::{FunctionResult, Suite, judge, model_scores, read_suite};
use crate::swap::{IdentitySwap, identity_swap};
use crate::{card, report};

/// Where the functional suite lies, from the repository's root.
const SUITE: &str = "tests/functional";
/// Sets of ordinary text: what rings here is mostly a false alarm.
const QUIET_SETS: [&str; 3] = ["ntrex", "ud_gsd", "ota_policies"];
/// Hits on quiet sets that are named, for a person to read.
const MOST_HITS: usize = 100;

/// Model and baselines in the order of the report.
pub const COMPARED: [&str; 4] = ["this model", "naive Bayes", "keyword rule", "always yes"];

/// Figures by part of the test data ("corpus fr", "real all" …), then signal.
pub type ByPart<T> = BTreeMap<String, BTreeMap<Signal, T>>;

/// All figures of one model. The same model and data give the same evaluation.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    pub model: ModelFacts,
    pub data: DataFacts,
    pub goals: Vec<Goal>,
    pub slices: Vec<Slice>,
    pub curves: ByPart<Curves>,
    /// Band high, then band uncertain or high.
    pub bands: ByPart<[BandRates; 2]>,
    /// By baseline, on the same passages as the slices of kind `part`.
    pub baselines: BTreeMap<&'static str, ByPart<Figures>>,
    /// `attack` on our passages by function, attacks and harmless texts apart.
    pub functions: Vec<FunctionHalves>,
    pub suite: Option<SuiteFigures>,
    pub quiet_sets: Vec<QuietSet>,
    /// The sources' own `attack` labels on their development parts: another concept than ours.
    pub source_labels: BTreeMap<String, Figures>,
    pub identity_swap: IdentitySwap,
    pub evasion: Vec<TrickResult>,
    pub agreement: Vec<Agreement>,
    /// `learning_curve.json` of the report's folder, as it is.
    pub learning_curve: Option<Value>,
}

/// What the model file says of itself.
#[derive(Debug, Clone, Serialize)]
pub struct ModelFacts {
    pub version: String,
    pub sha256: String,
    pub licence: String,
    pub n_features: u64,
    pub settings: Value,
    pub training: Vec<TrainingSource>,
    /// By language, then signal: where band uncertain begins and where band high does.
    pub thresholds: BTreeMap<String, BTreeMap<Signal, [f64; 2]>>,
}

/// What was measured on.
#[derive(Debug, Clone, Serialize)]
pub struct DataFacts {
    pub n_training_rows: usize,
    /// By part.
    pub n_test_rows: BTreeMap<String, usize>,
    /// Sets of the mapping file that were not there; their figures are missing.
    pub missing_sets: Vec<String>,
}

/// How `attack` does on one function of our passages.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FunctionHalves {
    pub function: String,
    /// Passages and how many of them lie on the right side of one half.
    pub n_hateful: usize,
    pub n_hateful_right: usize,
    pub n_harmless: usize,
    pub n_harmless_right: usize,
}

/// The functional suite: the model, the baselines, and both halves.
#[derive(Debug, Clone, Serialize)]
pub struct SuiteFigures {
    pub n_cases: usize,
    pub functions: Vec<FunctionResult>,
    /// By model or baseline ([`COMPARED`]), then language (`all` for both): mean accuracy over the hateful and over the harmless functions.
    pub halves: BTreeMap<&'static str, BTreeMap<&'static str, [Option<f64>; 2]>>,
}

/// Alarms on a set of ordinary text.
#[derive(Debug, Clone, Serialize)]
pub struct QuietSet {
    pub set: String,
    pub n: usize,
    pub n_high: BTreeMap<Signal, usize>,
    pub n_half: BTreeMap<Signal, usize>,
    /// Passages with a topic in band high.
    pub n_topic_high: usize,
    /// Those of them that we have read and that carry it.
    pub n_topic_true: usize,
    /// Row, signal and score of what is in band high.
    pub hits: Vec<(String, Signal, f64)>,
}

/// Measures `model` on the test part.
pub fn evaluate(model: &Model, import: &Import, places: &[Place]) -> Result<Evaluation> {
    let measured = measure(model, import, places);
    tracing::info!(n_passages = measured.len(), "scored");
    let training: Vec<&Passage> = import
        .rows
        .iter()
        .zip(places)
        .filter(|(row, place)| place.part == Part::Train && matches!(row.origin, Origin::Own | Origin::Annotated))
        .map(|(row, _)| &row.passage)
        .collect();
    let bayes = WordBayes::fit(&training);
    let suite = Path::new(SUITE).exists().then(|| read_suite(Path::new(SUITE))).transpose()?;
    tracing::info!("measuring robustness");
    let mut evaluation = Evaluation {
        model: model_facts(model)?,
        data: data_facts(import, places, &measured),
        goals: Vec::new(),
        slices: slices(&measured, document_slice(model, &measured))
            .into_iter()
            .chain(read_twice(&measured, &second_readings()?))
            .collect(),
        curves: by_part(&measured, |columns| curves(&columns.scores, &columns.labels, &columns.bands)),
        bands: by_part(&measured, |columns| band_rates(&columns.bands, &columns.labels)),
        baselines: baselines(&measured, &bayes),
        functions: function_halves(&measured),
        suite: suite.filter(|suite| !suite.cases.is_empty()).map(|suite| suite_figures(&suite, model, &bayes)),
        quiet_sets: QUIET_SETS.iter().filter_map(|set| quiet_set(set, &measured)).collect(),
        source_labels: source_labels(&measured),
        identity_swap: identity_swap(model, &measured),
        evasion: evasion(model, &measured),
        agreement: agreements(import)?,
        learning_curve: None,
    };
    evaluation.goals = goals(&evaluation);
    Ok(evaluation)
}

fn model_facts(model: &Model) -> Result<ModelFacts> {
    let mut described: Value = serde_json::from_str(model.description()).context("the model's description")?;
    let thresholds = |language: usize| {
        Signal::ALL.map(|signal| {
            let thresholds = model.thresholds(language, signal);
            (signal, [thresholds.low, thresholds.high])
        })
    };
    Ok(ModelFacts {
        version: model.version().to_owned(),
        sha256: model.sha256().to_owned(),
        licence: described["licence"].as_str().unwrap_or_default().to_owned(),
        n_features: described["n_features"].as_u64().unwrap_or_default(),
        settings: described["settings"].take(),
        training: serde_json::from_value(described["training"].take()).context("the model's training sources")?,
        thresholds: (0..LANGUAGES.len()).map(|l| (LANGUAGES[l].to_owned(), thresholds(l).into())).collect(),
    })
}

fn data_facts(import: &Import, places: &[Place], measured: &[Measured]) -> DataFacts {
    let in_training =
        |(row, place): &(&crate::importer::Imported, &Place)| place.part == Part::Train && row.passage.weight > 0.0;
    let mut n_test_rows = BTreeMap::new();
    for row in measured.iter().filter(|row| row.part == Part::Test) {
        parts_of(row.row).into_iter().for_each(|part| *n_test_rows.entry(part).or_default() += 1);
    }
    DataFacts {
        n_training_rows: import.rows.iter().zip(places).filter(in_training).count(),
        n_test_rows,
        missing_sets: import.missing.clone(),
    }
}

/// One signal on one part of the test data.
#[derive(Default)]
struct Columns {
    scores: Vec<f64>,
    labels: Vec<bool>,
    bands: Vec<Band>,
}

fn by_part<T>(measured: &[Measured], draw: impl Fn(&Columns) -> T) -> ByPart<T> {
    let mut columns: ByPart<Columns> = BTreeMap::new();
    for row in measured.iter().filter(|row| row.part == Part::Test) {
        for signal in Signal::ALL {
            let Some(label) = row.row.passage.label(signal) else { continue };
            for part in parts_of(row.row) {
                let columns = columns.entry(part).or_default().entry(signal).or_default();
                columns.scores.push(row.scores[signal.index()]);
                columns.labels.push(label);
                columns.bands.push(row.bands[signal.index()]);
            }
        }
    }
    let both = |columns: &Columns| columns.labels.contains(&true) && columns.labels.contains(&false);
    columns
        .into_iter()
        .map(|(part, signals)| {
            let drawn = signals.iter().filter(|(_, c)| both(c)).map(|(&signal, columns)| (signal, draw(columns)));
            (part, drawn.collect())
        })
        .collect()
}

fn baselines(measured: &[Measured], bayes: &WordBayes) -> BTreeMap<&'static str, ByPart<Figures>> {
    let test: Vec<&Measured> = measured.iter().filter(|row| row.part == Part::Test).collect();
    let texts: Vec<&str> = test.iter().map(|row| row.row.passage.text.as_str()).collect();
    let of = |scores: Vec<[f64; N_SIGNALS]>| {
        let mut members: BTreeMap<String, Vec<(&Passage, [f64; N_SIGNALS])>> = BTreeMap::new();
        for (row, scores) in test.iter().zip(scores) {
            for part in parts_of(row.row) {
                members.entry(part).or_default().push((&row.row.passage, scores));
            }
        }
        members.into_iter().map(|(part, rows)| (part, figures_of(rows.into_iter()))).collect()
    };
    [
        ("keyword rule", of(texts.iter().map(|text| keyword_scores(text)).collect())),
        (
            "naive Bayes",
            of(test.iter().map(|row| bayes.scores(&row.row.passage.text, &row.row.passage.lang)).collect()),
        ),
    ]
    .into()
}

fn function_halves(measured: &[Measured]) -> Vec<FunctionHalves> {
    let mut halves: BTreeMap<&str, FunctionHalves> = BTreeMap::new();
    for row in measured.iter().filter(|row| row.part == Part::Test && row.row.origin == Origin::Own) {
        let passage = &row.row.passage;
        let Some(is_attack) = passage.label(Signal::Attack).filter(|_| !passage.function.is_empty()) else { continue };
        let half = halves.entry(&passage.function).or_default();
        let right = usize::from((row.scores[Signal::Attack.index()] >= 0.5) == is_attack);
        let (n, n_right) = if is_attack {
            (&mut half.n_hateful, &mut half.n_hateful_right)
        } else {
            (&mut half.n_harmless, &mut half.n_harmless_right)
        };
        *n += 1;
        *n_right += right;
    }
    halves.into_iter().map(|(function, half)| FunctionHalves { function: function.to_owned(), ..half }).collect()
}

fn suite_figures(suite: &Suite, model: &Model, bayes: &WordBayes) -> SuiteFigures {
    let functions = judge(suite, &model_scores(suite, model));
    let judged = [
        judge(suite, &suite.cases.iter().map(|case| bayes.scores(&case.text, &case.lang)).collect::<Vec<_>>()),
        judge(suite, &suite.cases.iter().map(|case| keyword_scores(&case.text)).collect::<Vec<_>>()),
        judge(suite, &vec![[1.0; N_SIGNALS]; suite.cases.len()]),
    ];
    let compared = std::iter::once(&functions).chain(&judged).map(|results| suite_halves(results));
    SuiteFigures { n_cases: suite.cases.len(), halves: COMPARED.into_iter().zip(compared).collect(), functions }
}

fn suite_halves(functions: &[FunctionResult]) -> BTreeMap<&'static str, [Option<f64>; 2]> {
    let mean = |lang: &str, hateful: bool| {
        let within = functions.iter().filter(|f| f.hateful == hateful && (lang == "all" || f.lang == lang));
        let (n, sum) = within.fold((0, 0.0), |(n, sum), function| (n + 1, sum + function.accuracy));
        (n > 0).then(|| sum / f64::from(n))
    };
    ["all", "fr", "en"].map(|lang| (lang, [mean(lang, true), mean(lang, false)])).into()
}

/// Rows of the set that training has not seen.
fn quiet_set(set: &str, measured: &[Measured]) -> Option<QuietSet> {
    let rows: Vec<&Measured> = measured.iter().filter(|row| row.row.passage.source == set).collect();
    let is_high = |row: &Measured, signal: Signal| row.bands[signal.index()] == Band::High;
    let count = |test: &dyn Fn(&Measured) -> bool| rows.iter().filter(|row| test(row)).count();
    let topics = [Signal::Antisemitism, Signal::HateSpeech, Signal::Moderation];
    let mut hits: Vec<(String, Signal, f64)> = Vec::new();
    for signal in Signal::ALL {
        let of_signal = rows.iter().filter(|row| is_high(row, signal));
        hits.extend(of_signal.map(|row| (row.row.passage.id.clone(), signal, row.scores[signal.index()])));
    }
    hits.truncate(MOST_HITS);
    let is_true = |row: &Measured, topic: Signal| {
        row.row.origin == Origin::Annotated && row.row.passage.label(topic) == Some(true)
    };
    (!rows.is_empty()).then(|| QuietSet {
        set: set.to_owned(),
        n: rows.len(),
        n_high: Signal::ALL.map(|signal| (signal, count(&|row| is_high(row, signal)))).into(),
        n_half: Signal::ALL.map(|signal| (signal, count(&|row| row.scores[signal.index()] >= 0.5))).into(),
        n_topic_high: count(&|row| topics.iter().any(|&topic| is_high(row, topic))),
        n_topic_true: count(&|row| topics.iter().any(|&topic| is_high(row, topic) && is_true(row, topic))),
        hits,
    })
}

fn source_labels(measured: &[Measured]) -> BTreeMap<String, Figures> {
    let mut columns: BTreeMap<&str, (Vec<f64>, Vec<bool>)> = BTreeMap::new();
    for row in measured.iter().filter(|row| row.row.passage.split == "dev") {
        let Some(&label) = row.row.source_labels.get(Signal::Attack.as_str()) else { continue };
        let (scores, labels) = columns.entry(&row.row.passage.source).or_default();
        scores.push(row.scores[Signal::Attack.index()]);
        labels.push(label == 1);
    }
    columns.into_iter().map(|(set, (scores, labels))| (set.to_owned(), figures(&scores, &labels))).collect()
}

/// Prints the main table; with a folder also writes `report.html`, `report.json` and `model_card.md` there.
pub fn write(evaluation: &Evaluation, folder: Option<&Path>) -> Result<()> {
    print_table(evaluation);
    let Some(folder) = folder else { return Ok(()) };
    std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    let mut evaluation = evaluation.clone();
    let learning_curve = folder.join("learning_curve.json");
    if learning_curve.exists() {
        let content = std::fs::read_to_string(&learning_curve)?;
        let curve = serde_json::from_str(&content).with_context(|| format!("in {}", learning_curve.display()))?;
        evaluation.learning_curve = Some(curve);
    }
    let write_file = |name: &str, content: String| {
        let path = folder.join(name);
        std::fs::write(&path, content).with_context(|| format!("could not write {}", path.display()))
    };
    write_file("report.json", to_json(&evaluation)?)?;
    write_file("report.html", report::page(&evaluation))?;
    write_file("model_card.md", card::card(&evaluation))?;
    tracing::info!(folder = %folder.display(), "page, JSON and model card written");
    Ok(())
}

fn print_table(evaluation: &Evaluation) {
    for slice in evaluation.slices.iter().filter(|slice| slice.kind == "part") {
        for (signal, f) in &slice.signals {
            println!(
                "{:14} {:15} n {:5} positive {:4} auc {:.3} macro-F1 {:.3} precision {:.2} recall {:.2} calibration error {:.3}",
                slice.name,
                signal.as_str(),
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
    for goal in &evaluation.goals {
        println!("{:7} {}: {} (goal {})", goal.verdict(), goal.what, goal.shown(), goal.shown_bound());
    }
}

/// One line a top-level field, numbers to four places: small, and a change shows where it is.
fn to_json(evaluation: &Evaluation) -> Result<String> {
    let Value::Object(fields) = rounded(serde_json::to_value(evaluation)?) else {
        unreachable!("a struct is a JSON object");
    };
    let lines: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}: {value}", Value::from(name.as_str()))).collect();
    Ok(format!("{{\n{}\n}}\n", lines.join(",\n")))
}

fn rounded(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            number.as_f64().map_or(Value::Null, |number| Value::from((number * 1e4).round() / 1e4))
        }
        Value::Array(items) => items.into_iter().map(rounded).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, rounded(value))).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_rounded_everywhere() {
        assert_eq!(rounded(json!({"a": [0.123456, 2], "b": {"c": 1e-9}})), json!({"a": [0.1235, 2], "b": {"c": 0.0}}));
    }
}
