//! The functional suite: cases by function of the codebook in, how many of each function a model gets right out.
//!
//! `vigie-train evaluate` reports it and `tests/it/functional.rs` holds it against its floors.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use vigie::scoring::signals::N_SIGNALS;
use vigie::scoring::{Model, Scratch, Signal};

/// One text that tests one function. Never trained on.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub id: String,
    pub lang: String,
    pub function: String,
    /// The group at issue, if any.
    #[serde(default)]
    pub group: Option<String>,
    pub text: String,
    /// By signal, 1 or 0; a missing one does not matter.
    pub labels: BTreeMap<Signal, u8>,
}

/// What is asked of one function; a table of `floors.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Demand {
    /// A case is right when the score of each of these signals lies on its label's side of one half.
    pub signals: Vec<Signal>,
    /// By language, the share of cases that must be right.
    pub floor: BTreeMap<String, f64>,
}

/// The cases of a folder and what is asked of their functions.
#[derive(Debug, Clone)]
pub struct Suite {
    pub cases: Vec<Case>,
    pub demands: BTreeMap<String, Demand>,
}

/// How a model does on one function in one language.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FunctionResult {
    pub function: String,
    pub lang: String,
    /// Attacks, as against texts that only look like some.
    pub hateful: bool,
    pub signals: Vec<Signal>,
    pub n: usize,
    pub n_right: usize,
    pub accuracy: f64,
    pub floor: f64,
    /// Share on the right side of one half, by labelled signal.
    pub by_signal: BTreeMap<Signal, f64>,
    /// Cases that came out wrong.
    pub wrong: Vec<String>,
}

/// A case and what was said of it.
type Answer<'a> = (&'a Case, [f64; N_SIGNALS]);

/// Reads `*.jsonl` and `floors.toml` in `folder`, in the order of their names. Refuses cases of a function without floor and, once there are cases, floors without one.
pub fn read_suite(folder: &Path) -> Result<Suite> {
    let read =
        |path: &Path| std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()));
    let floors = folder.join("floors.toml");
    let demands: BTreeMap<String, Demand> =
        toml::from_str(&read(&floors)?).with_context(|| format!("in {}", floors.display()))?;
    let entries = std::fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))?;
    let mut files: Vec<_> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    files.sort();
    let mut cases: Vec<Case> = Vec::new();
    for file in &files {
        for (index, line) in read(file)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let case = serde_json::from_str(line).with_context(|| format!("{} line {}", file.display(), index + 1))?;
            cases.push(case);
        }
    }
    let suite = Suite { cases, demands };
    check(&suite)?;
    Ok(suite)
}

fn check(suite: &Suite) -> Result<()> {
    for case in &suite.cases {
        let Some(demand) = suite.demands.get(&case.function) else {
            bail!("case {} is of function {:?}, which has no floor", case.id, case.function);
        };
        if !demand.floor.contains_key(&case.lang) {
            bail!("function {:?} has no floor for language {:?}", case.function, case.lang);
        }
        if let Some(signal) = demand.signals.iter().find(|signal| !case.labels.contains_key(signal)) {
            bail!("case {} has no label for {}, which its function asks for", case.id, signal.as_str());
        }
    }
    for (function, demand) in suite.demands.iter().filter(|_| !suite.cases.is_empty()) {
        for lang in demand.floor.keys() {
            if !suite.cases.iter().any(|case| case.function == *function && case.lang == *lang) {
                bail!("function {function:?} has a floor for {lang:?} and no case");
            }
        }
    }
    Ok(())
}

/// What a model says of the cases, in their order; 0 where it abstains.
pub fn model_scores(suite: &Suite, model: &Model) -> Vec<[f64; N_SIGNALS]> {
    let mut scratch = Scratch::default();
    let mut score = |case: &Case| model.score(&case.text, Some(&case.lang), &mut scratch).signals;
    let of = |case| score(case).map_or([0.0; N_SIGNALS], |signals| signals.map(|signal| signal.score));
    suite.cases.iter().map(of).collect()
}

/// Holds scores of all cases, in their order, against their labels; results by function, then language.
pub fn judge(suite: &Suite, scores: &[[f64; N_SIGNALS]]) -> Vec<FunctionResult> {
    let mut by_function: BTreeMap<(&str, &str), Vec<Answer>> = BTreeMap::new();
    for (case, &scores) in suite.cases.iter().zip(scores) {
        by_function.entry((&case.function, &case.lang)).or_default().push((case, scores));
    }
    by_function
        .into_iter()
        .map(|((function, lang), cases)| result(function, lang, &suite.demands[function], &cases))
        .collect()
}

fn result(function: &str, lang: &str, demand: &Demand, cases: &[Answer]) -> FunctionResult {
    let is_right = |case: &Case, scores: &[f64; N_SIGNALS], signal: Signal| {
        case.labels.get(&signal).map(|&label| (scores[signal.index()] >= 0.5) == (label == 1))
    };
    let mut wrong = Vec::new();
    for (case, scores) in cases {
        if demand.signals.iter().any(|&signal| is_right(case, scores, signal) == Some(false)) {
            wrong.push(case.id.clone());
        }
    }
    let mut by_signal = BTreeMap::new();
    for signal in Signal::ALL {
        let judged: Vec<bool> = cases.iter().filter_map(|(case, scores)| is_right(case, scores, signal)).collect();
        if !judged.is_empty() {
            let n_right = judged.iter().filter(|right| **right).count();
            by_signal.insert(signal, n_right as f64 / judged.len() as f64);
        }
    }
    let n_hateful = cases.iter().filter(|(case, _)| case.labels.get(&Signal::Attack) == Some(&1)).count();
    let n_right = cases.len() - wrong.len();
    FunctionResult {
        function: function.to_owned(),
        lang: lang.to_owned(),
        hateful: 2 * n_hateful > cases.len(),
        signals: demand.signals.clone(),
        n: cases.len(),
        n_right,
        accuracy: n_right as f64 / cases.len() as f64,
        floor: demand.floor[lang],
        by_signal,
        wrong,
    }
}
