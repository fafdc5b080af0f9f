//! Weighs what the models say of a passage against each other: their margins and the passage's shape in, five margins out.
//!
//! Each linear model sees words only. That a text rejects hate is less likely when it also sounds like an attack, more likely when hate is what
//! it is about, and all of it is rarer in posts as they are found than in passages that were written to teach. A second, small model a signal
//! and language learns this from cross-fitted margins (stacked generalization, Wolpert 1992); a gate (Jacobs et al. 1991) that reads nothing
//! but the shape of the text says which of the two kinds it resembles.

use serde::{Deserialize, Serialize};

use super::features::Shape;
use super::signals::N_SIGNALS;

/// What the gate reads of a shape: words, quotes, exclamation marks, question marks, quarters of capitals, sentences. Not links, handles, hashtags
/// and disguises, which tell found text best: who adds one to a post would change its scores.
const GATE_COUNTS: [usize; 6] = [0, 4, 5, 6, 7, 8];
/// How many counts the gate reads.
pub const N_GATE_COUNTS: usize = GATE_COUNTS.len();
/// Size classes of a count that the gate tells apart: 0, 1, 2 to 3, 4 to 7 …; the last holds everything from 256.
pub const N_SIZES: usize = 10;

const N_PAIRS: usize = N_SIGNALS * (N_SIGNALS - 1) / 2;
/// What a second model reads: five margins, the gate, five margins times the gate, and outside the gate five probabilities and their products.
pub const N_INPUTS: usize = N_SIGNALS + 1 + N_SIGNALS + N_SIGNALS + N_PAIRS;
/// What it reads of a network beside that.
pub const N_NETWORK_INPUTS: usize = 2 * N_SIGNALS;

/// How like found text a passage is, by its shape.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    pub bias: f64,
    /// By count, then size class.
    pub weights: [[f64; N_SIZES]; N_GATE_COUNTS],
}

impl Gate {
    /// 0 (as written to teach) to 1 (as found).
    pub fn openness(&self, shape: &Shape) -> f64 {
        let sum = size_classes(shape).zip(&self.weights).map(|(size, weights)| weights[size]).sum::<f64>();
        sigmoid(self.bias + sum)
    }
}

/// The size class of every count that the gate reads.
pub fn size_classes(shape: &Shape) -> impl Iterator<Item = usize> {
    GATE_COUNTS.into_iter().map(|count| (shape[count] as usize).min(N_SIZES - 1))
}

/// The second models of one language.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    pub gate: Gate,
    /// By signal.
    pub bias: [f64; N_SIGNALS],
    /// By signal, then input.
    pub weights: [[f64; N_INPUTS]; N_SIGNALS],
    /// By signal, then [`network_inputs`]; for a model with a network.
    #[serde(default)]
    pub network_weights: Option<[[f64; N_NETWORK_INPUTS]; N_SIGNALS]>,
}

impl Stack {
    /// The five margins after they have been weighed against each other. `network` are those of the network alone, if there is one.
    pub fn margins(
        &self,
        margins: &[f64; N_SIGNALS],
        network: Option<&[f64; N_SIGNALS]>,
        shape: &Shape,
    ) -> [f64; N_SIGNALS] {
        let openness = self.gate.openness(shape);
        let inputs = inputs(margins, openness);
        let mut weighed: [f64; N_SIGNALS] =
            std::array::from_fn(|signal| self.bias[signal] + dot(&self.weights[signal], &inputs));
        if let (Some(weights), Some(network)) = (&self.network_weights, network) {
            let inputs = network_inputs(network, openness);
            weighed.iter_mut().zip(weights).for_each(|(weighed, weights)| *weighed += dot(weights, &inputs));
        }
        weighed
    }

    /// All numbers in it, to check.
    pub fn numbers(&self) -> impl Iterator<Item = f64> {
        let gate = self.gate.weights.into_iter().flatten().chain([self.gate.bias]);
        let of_network = self.network_weights.into_iter().flatten().flatten();
        gate.chain(self.bias).chain(self.weights.into_iter().flatten()).chain(of_network)
    }
}

fn dot(weights: &[f64], inputs: &[f64]) -> f64 {
    weights.iter().zip(inputs).map(|(weight, input)| weight * input).sum()
}

/// What the second models read of a network: its margins, and its margins times the gate.
pub fn network_inputs(network: &[f64; N_SIGNALS], openness: f64) -> [f64; N_NETWORK_INPUTS] {
    std::array::from_fn(|input| match input.checked_sub(N_SIGNALS) {
        None => network[input],
        Some(signal) => openness * network[signal],
    })
}

/// What the second models read of a passage; `openness` is the gate's.
pub fn inputs(margins: &[f64; N_SIGNALS], openness: f64) -> [f64; N_INPUTS] {
    let closed = 1.0 - openness;
    let probabilities = margins.map(sigmoid);
    let outside = probabilities.map(|probability| closed * probability);
    let pairs = (0..N_SIGNALS).flat_map(|left| (left + 1..N_SIGNALS).map(move |right| (left, right)));
    let products = pairs.map(|(left, right)| outside[left] * probabilities[right]);
    let gated = margins.map(|margin| openness * margin);
    let mut all = margins.iter().copied().chain([openness]).chain(gated).chain(outside).chain(products);
    std::array::from_fn(|_| all.next().unwrap_or_default())
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack() -> Stack {
        Stack {
            gate: Gate { bias: -20.0, weights: [[0.0; N_SIZES]; N_GATE_COUNTS] },
            bias: [0.0; N_SIGNALS],
            weights: [[0.0; N_INPUTS]; N_SIGNALS],
            network_weights: None,
        }
    }

    #[test]
    fn every_input_has_its_place() {
        let margins = [1.0, -1.0, 2.0, 0.5, -3.0];
        let closed = inputs(&margins, 0.0);
        assert_eq!(closed[..5], margins);
        assert_eq!(closed[5..11], [0.0; 6]);
        assert!(closed[11..].iter().all(|input| (0.0..1.0).contains(input) && *input > 0.0));
        assert!(
            (closed[N_INPUTS - 1] - sigmoid(0.5) * sigmoid(-3.0)).abs() < 1e-12,
            "the last pair is the last two signals"
        );
        let open = inputs(&margins, 1.0);
        assert_eq!(open[5], 1.0);
        assert_eq!(open[6..11], margins);
        assert_eq!(open[11..], [0.0; 15]);
    }

    #[test]
    fn another_signal_and_the_shape_move_a_margin() {
        let mut stack = stack();
        stack.weights[4][4] = 1.0;
        stack.weights[4][3] = -0.5;
        let calm = stack.margins(&[0.0, 0.0, 0.0, -2.0, 1.0], None, &[0; 10])[4];
        let angry = stack.margins(&[0.0, 0.0, 0.0, 2.0, 1.0], None, &[0; 10])[4];
        assert_eq!((calm, angry), (2.0, 0.0));
        stack.weights[4][5] = -3.0;
        stack.gate.weights[1][2] = 40.0;
        let mut shape = [0; 10];
        shape[4] = 2;
        let found = stack.margins(&[0.0, 0.0, 0.0, 2.0, 1.0], None, &shape)[4];
        assert!((found + 3.0).abs() < 1e-6, "{found}");
    }

    #[test]
    fn a_network_speaks_where_it_is_weighed() {
        let mut stack = stack();
        let margins = [0.0; N_SIGNALS];
        let network = [1.0, 2.0, 3.0, 4.0, 5.0];
        assert_eq!(stack.margins(&margins, Some(&network), &[0; 10]), [0.0; N_SIGNALS]);
        let mut weights = [[0.0; N_NETWORK_INPUTS]; N_SIGNALS];
        (weights[0][4], weights[1][N_SIGNALS + 4]) = (2.0, 2.0);
        stack.network_weights = Some(weights);
        let shut = stack.margins(&margins, Some(&network), &[0; 10]);
        assert!(shut[0] == 10.0 && shut[1] < 1e-6, "{shut:?}");
        stack.gate.bias = 40.0;
        assert_eq!(stack.margins(&margins, Some(&network), &[0; 10])[1], 10.0);
        assert_eq!(stack.margins(&margins, None, &[0; 10])[0], 0.0);
    }

    #[test]
    fn counts_beyond_the_last_size_class_are_in_it() {
        let sizes: Vec<usize> = size_classes(&[32; 10]).collect();
        assert_eq!(sizes, [N_SIZES - 1; N_GATE_COUNTS]);
    }

    #[test]
    fn a_link_a_handle_or_a_hashtag_more_changes_nothing() {
        let plain = [5, 0, 0, 0, 1, 1, 0, 1, 2, 0];
        let adorned = [5, 1, 1, 2, 1, 1, 0, 1, 2, 3];
        assert!(size_classes(&plain).eq(size_classes(&adorned)));
    }
}
