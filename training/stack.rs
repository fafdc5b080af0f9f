//! Fits what weighs the signals against each other: cross-fitted margins and labels in, a [`Stack`] a language out.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use linfa::ParamGuard;
use linfa::dataset::DatasetBase;
use linfa::traits::Fit;
use linfa_logistic::LogisticRegression;
use ndarray::{Array1, Array2};
use serde::{Deserialize, Serialize};
use vigie::scoring::features::Shape;
use vigie::scoring::lexicon::{LANGUAGES, Lexicon};
use vigie::scoring::model::passage_shape;
use vigie::scoring::signals::N_SIGNALS;
use vigie::scoring::stack::{Gate, N_GATE_COUNTS, N_INPUTS, N_SIZES, Stack, inputs, size_classes};
use vigie::scoring::{Scratch, Signal};

use crate::corpus::Passage;
use crate::examples::{Examples, SparseRows};
use crate::fit::{SparseLogistic, SparseLogisticParams, SparseLogisticValidParams};

/// How strongly the second models and their gate are held back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StackSettings {
    /// Without it every signal's margin stands alone: to see what a stack brings.
    pub enabled: bool,
    /// L2 penalty of the second models, on inputs of unit variance.
    pub l2: f64,
    /// L2 penalty of the gate.
    pub gate_l2: f64,
}

/// A gate that takes every passage for one of ours: for when there is no other text to tell it from.
const CLOSED: Gate = Gate { bias: -40.0, weights: [[0.0; N_SIZES]; N_GATE_COUNTS] };
const MOST_ITERATIONS: u64 = 500;

/// Fits a stack a language on the rows that `counts`; `margins` are rows × signals. Returns the stacks and what they make of all margins.
/// `is_found` says which rows are found text. Errors when a signal has only one class in a language or a fit fails.
pub fn fit_stacks(
    passages: &[&Passage],
    margins: &Array2<f64>,
    lexicon: &Lexicon,
    counts: &dyn Fn(usize) -> bool,
    is_found: &dyn Fn(usize) -> bool,
    settings: &StackSettings,
) -> Result<(BTreeMap<String, Stack>, Array2<f64>)> {
    let mut scratch = Scratch::default();
    let shapes: Vec<Shape> =
        passages.iter().map(|passage| passage_shape(&passage.text, lexicon, &mut scratch)).collect();
    let mut stacks = BTreeMap::new();
    let mut all_weighed = margins.clone();
    for (language, code) in LANGUAGES.iter().enumerate() {
        let in_language: Vec<usize> = (0..passages.len()).filter(|&row| passages[row].language() == language).collect();
        let rows: Vec<usize> = in_language.iter().copied().filter(|&row| counts(row)).collect();
        let of_rows: Vec<(Shape, bool)> = rows.iter().map(|&row| (shapes[row], is_found(row))).collect();
        let gate = fit_gate(&of_rows, settings.gate_l2).with_context(|| format!("the gate of {code}"))?;
        let margins_of = |row: usize| -> [f64; N_SIGNALS] { std::array::from_fn(|signal| margins[(row, signal)]) };
        let inputs_of = |row: usize| inputs(&margins_of(row), gate.openness(&shapes[row]));
        let mut stack = Stack { gate, bias: [0.0; N_SIGNALS], weights: [[0.0; N_INPUTS]; N_SIGNALS] };
        for signal in Signal::ALL {
            let known: Vec<(usize, bool)> =
                rows.iter().filter_map(|&row| Some((row, passages[row].label(signal)?))).collect();
            let table: Vec<[f64; N_INPUTS]> = known.iter().map(|&(row, _)| inputs_of(row)).collect();
            let labels: Vec<bool> = known.iter().map(|known| known.1).collect();
            let weights: Vec<f32> = known.iter().map(|&(row, _)| passages[row].weight as f32).collect();
            let (fitted, bias) = fit_second(&table, &labels, weights, settings.l2)
                .with_context(|| format!("the stack of {code} {}", signal.as_str()))?;
            stack.weights[signal.index()] = fitted;
            stack.bias[signal.index()] = bias;
        }
        for row in in_language {
            let weighed = stack.margins(&margins_of(row), &shapes[row]);
            weighed.iter().enumerate().for_each(|(signal, &margin)| all_weighed[(row, signal)] = margin);
        }
        stacks.insert((*code).to_owned(), stack);
    }
    Ok((stacks, all_weighed))
}

/// Logistic regression from size classes to "is found", by linfa.
fn fit_gate(rows: &[(Shape, bool)], l2: f64) -> Result<Gate> {
    if rows.iter().all(|row| row.1) || !rows.iter().any(|row| row.1) {
        return Ok(CLOSED);
    }
    let mut records = Array2::zeros((rows.len(), N_GATE_COUNTS * N_SIZES));
    for (row, (shape, _)) in rows.iter().enumerate() {
        size_classes(shape).enumerate().for_each(|(count, size)| records[(row, count * N_SIZES + size)] = 1.0);
    }
    let targets = Array1::from_iter(rows.iter().map(|row| row.1));
    let fitted = LogisticRegression::default()
        .alpha(l2)
        .max_iterations(MOST_ITERATIONS)
        .fit(&DatasetBase::new(records, targets))?;
    // linfa names one class positive; its sign may be turned.
    let turned = if fitted.labels().pos.class { 1.0 } else { -1.0 };
    let weight = |count: usize, size: usize| turned * fitted.params()[count * N_SIZES + size];
    Ok(Gate {
        bias: turned * fitted.intercept(),
        weights: std::array::from_fn(|count| std::array::from_fn(|size| weight(count, size))),
    })
}

/// Logistic regression on inputs brought to unit variance. Returns weights for the inputs as they are, and the bias.
fn fit_second(
    table: &[[f64; N_INPUTS]],
    labels: &[bool],
    weights: Vec<f32>,
    l2: f64,
) -> Result<([f64; N_INPUTS], f64)> {
    let scales = inverse_deviations(table);
    let mut rows = SparseRows { row_starts: vec![0], n_columns: N_INPUTS, ..SparseRows::default() };
    for inputs in table {
        for (column, (input, scale)) in inputs.iter().zip(&scales).enumerate() {
            rows.columns.push(column as u32);
            rows.values.push((input * scale) as f32);
        }
        rows.row_starts.push(rows.columns.len());
    }
    let targets = Array2::from_shape_fn((labels.len(), 1), |(row, _)| f32::from(u8::from(labels[row])));
    let examples: Examples = DatasetBase::new(rows, targets).with_weights(Array1::from(weights));
    let learner = SparseLogisticParams(SparseLogisticValidParams {
        l2,
        max_iterations: MOST_ITERATIONS,
        tolerance: 1e-4,
        telling: 0.0,
    });
    let fitted: SparseLogistic = learner.check()?.fit(&examples)?;
    Ok((std::array::from_fn(|input| fitted.weights[(input, 0)] * scales[input]), fitted.intercepts[0]))
}

/// One by the standard deviation of every input; 0 for one that never changes.
fn inverse_deviations(table: &[[f64; N_INPUTS]]) -> [f64; N_INPUTS] {
    let n = table.len().max(1) as f64;
    std::array::from_fn(|input| {
        let mean = table.iter().map(|inputs| inputs[input]).sum::<f64>() / n;
        let variance = table.iter().map(|inputs| (inputs[input] - mean).powi(2)).sum::<f64>() / n;
        if variance > 1e-12 { 1.0 / variance.sqrt() } else { 0.0 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_tells_shapes_apart_and_stays_shut_without_found_text() {
        let mut rows = Vec::new();
        for n in 0..200u32 {
            let mut shape: Shape = [0; 10];
            shape[0] = 3 + n / 2 % 4;
            shape[5] = u32::from(n % 2 == 0);
            rows.push((shape, n % 2 == 0));
        }
        let gate = fit_gate(&rows, 1.0).unwrap();
        let openness = |exclamations: u32| gate.openness(&[4, 0, 0, 0, 0, exclamations, 0, 0, 0, 0]);
        assert!(openness(1) > 0.9 && openness(0) < 0.1, "{} {}", openness(1), openness(0));
        rows.iter_mut().for_each(|row| row.1 = false);
        assert!(fit_gate(&rows, 1.0).unwrap().openness(&rows[0].0) < 1e-9);
    }

    #[test]
    fn the_second_model_learns_what_one_signal_says_of_another() {
        // The label is: the last margin is high and the fourth is not.
        let margins: Vec<[f64; N_SIGNALS]> = (0..400)
            .map(|n| [0.0, 0.0, 0.0, if n % 2 == 0 { 2.0 } else { -2.0 }, if n % 4 < 2 { 2.0 } else { -2.0 }])
            .collect();
        let labels: Vec<bool> = margins.iter().map(|m| m[4] > 0.0 && m[3] < 0.0).collect();
        let table: Vec<_> = margins.iter().map(|m| inputs(m, 0.5)).collect();
        let (weights, bias) = fit_second(&table, &labels, vec![1.0; 400], 0.1).unwrap();
        let margin = |m: [f64; N_SIGNALS]| bias + inputs(&m, 0.5).iter().zip(&weights).map(|(i, w)| i * w).sum::<f64>();
        assert!(margin([0.0, 0.0, 0.0, -2.0, 2.0]) > 1.0);
        assert!(margin([0.0, 0.0, 0.0, 2.0, 2.0]) < -1.0 && margin([0.0, 0.0, 0.0, -2.0, -2.0]) < -1.0);
    }
}
