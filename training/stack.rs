//! Fits what weighs the signals against each other: cross-fitted margins and labels in, a [`Stack`] a language out.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use linfa::ParamGuard;
use linfa::dataset::DatasetBase;
use linfa::traits::Fit;
use linfa_logistic::LogisticRegression;
use ndarray::{Array1, Array2, Axis};
use serde::{Deserialize, Serialize};
use vigie::scoring::features::Shape;
use vigie::scoring::lexicon::{LANGUAGES, Lexicon};
use vigie::scoring::model::passage_shape;
use vigie::scoring::signals::N_SIGNALS;
use vigie::scoring::stack::{
    Gate, N_GATE_COUNTS, N_INPUTS, N_NETWORK_INPUTS, N_SIZES, Stack, inputs, network_inputs, size_classes,
};
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

/// Fits a stack a language on the rows that `counts`; `margins` are the linear models', rows × signals, `network` those of the network. Returns the
/// stacks and what they make of all margins. `is_found` says which rows are found text. Errors when a signal has only one class in a language or a
/// fit fails.
pub fn fit_stacks(
    passages: &[&Passage],
    margins: &Array2<f64>,
    network: Option<&Array2<f64>>,
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
        let array = |table: &Array2<f64>, row: usize| std::array::from_fn(|signal| table[(row, signal)]);
        let network_of = |row: usize| -> Option<[f64; N_SIGNALS]> { network.map(|network| array(network, row)) };
        // As scoring does: with a network the margin of a signal is the mean of both.
        let margins_of = |row: usize| -> [f64; N_SIGNALS] {
            let linear = array(margins, row);
            let mean =
                |network: [f64; N_SIGNALS]| std::array::from_fn(|signal| (linear[signal] + network[signal]) / 2.0);
            network_of(row).map_or(linear, mean)
        };
        let inputs_of = |row: usize| -> Vec<f64> {
            let openness = gate.openness(&shapes[row]);
            let of_network = network_of(row).map(|network| network_inputs(&network, openness));
            inputs(&margins_of(row), openness).into_iter().chain(of_network.into_iter().flatten()).collect()
        };
        let mut stack = Stack {
            gate,
            bias: [0.0; N_SIGNALS],
            weights: [[0.0; N_INPUTS]; N_SIGNALS],
            network_weights: network.map(|_| [[0.0; N_NETWORK_INPUTS]; N_SIGNALS]),
        };
        for signal in Signal::ALL {
            let known: Vec<(usize, bool)> =
                rows.iter().filter_map(|&row| Some((row, passages[row].label(signal)?))).collect();
            let width = N_INPUTS + network.map_or(0, |_| N_NETWORK_INPUTS);
            let table: Vec<f64> = known.iter().flat_map(|&(row, _)| inputs_of(row)).collect();
            let table = Array2::from_shape_vec((known.len(), width), table)?;
            let labels: Vec<bool> = known.iter().map(|known| known.1).collect();
            let weights: Vec<f32> = known.iter().map(|&(row, _)| passages[row].weight as f32).collect();
            let (fitted, bias) = fit_second(&table, &labels, weights, settings.l2)
                .with_context(|| format!("the stack of {code} {}", signal.as_str()))?;
            stack.weights[signal.index()] = std::array::from_fn(|input| fitted[input]);
            if let Some(weights) = &mut stack.network_weights {
                weights[signal.index()] = std::array::from_fn(|input| fitted[N_INPUTS + input]);
            }
            stack.bias[signal.index()] = bias;
        }
        for row in in_language {
            let weighed = stack.margins(&margins_of(row), network_of(row).as_ref(), &shapes[row]);
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

/// Logistic regression on inputs (rows × inputs) brought to unit variance. Returns weights for the inputs as they are, and the bias.
fn fit_second(table: &Array2<f64>, labels: &[bool], weights: Vec<f32>, l2: f64) -> Result<(Array1<f64>, f64)> {
    // An input that never changes is left out.
    let scales = table.std_axis(Axis(0), 0.0).mapv(|deviation| if deviation > 1e-6 { 1.0 / deviation } else { 0.0 });
    let mut rows = SparseRows { row_starts: vec![0], n_columns: table.ncols(), ..SparseRows::default() };
    for inputs in table.rows() {
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
    Ok((&fitted.weights.column(0) * &scales, fitted.intercepts[0]))
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
        let table = Array2::from_shape_fn((400, N_INPUTS), |(row, input)| inputs(&margins[row], 0.5)[input]);
        let (weights, bias) = fit_second(&table, &labels, vec![1.0; 400], 0.1).unwrap();
        let margin = |m: [f64; N_SIGNALS]| bias + inputs(&m, 0.5).iter().zip(&weights).map(|(i, w)| i * w).sum::<f64>();
        assert!(margin([0.0, 0.0, 0.0, -2.0, 2.0]) > 1.0);
        assert!(margin([0.0, 0.0, 0.0, 2.0, 2.0]) < -1.0 && margin([0.0, 0.0, 0.0, -2.0, -2.0]) < -1.0);
    }
}
