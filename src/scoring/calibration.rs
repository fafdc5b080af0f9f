//! Makes probabilities of margins: a linear model's sum in, a calibrated score out.

use serde::{Deserialize, Serialize};

/// Platt scaling (Platt 1999, "Probabilistic outputs for support vector machines"): `1 / (1 + exp(a · margin + b))`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Platt {
    pub a: f64,
    pub b: f64,
}

impl Platt {
    /// The calibrated probability of a margin.
    pub fn score(self, margin: f64) -> f64 {
        1.0 / (1.0 + (self.a * margin + self.b).exp())
    }
}

/// From passages to a document: a document carries a signal when one of its passages does.
///
/// `1 / (1 + exp(-(slope · logit(p) + bias + per_log2_passages · log2(n))))` of the highest passage score `p`: the more passages, the
/// more chances for a false alarm among them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DocumentCalibration {
    pub slope: f64,
    pub bias: f64,
    pub per_log2_passages: f64,
}

impl DocumentCalibration {
    /// The highest passage score as it is.
    pub const NONE: DocumentCalibration = DocumentCalibration { slope: 1.0, bias: 0.0, per_log2_passages: 0.0 };

    /// The document's score from its highest passage score and its number of passages.
    pub fn score(self, highest: f64, n_passages: usize) -> f64 {
        if n_passages < 2 {
            return highest;
        }
        let p = highest.clamp(1e-9, 1.0 - 1e-9);
        let logit = (p / (1.0 - p)).ln();
        let margin = self.slope * logit + self.bias + self.per_log2_passages * (n_passages as f64).log2();
        1.0 / (1.0 + (-margin).exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_grow_with_margins_and_stay_probabilities() {
        let platt = Platt { a: -2.0, b: 0.5 };
        let scores: Vec<f64> = [-1e9, -1.0, 0.0, 1.0, 1e9].map(|margin| platt.score(margin)).to_vec();
        assert!(scores.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)));
    }

    #[test]
    fn one_passage_is_its_document() {
        let calibration = DocumentCalibration { slope: 2.0, bias: 1.0, per_log2_passages: -0.3 };
        assert_eq!(calibration.score(0.7, 1), 0.7);
        assert!(calibration.score(0.7, 4) < calibration.score(0.7, 2));
        assert!((DocumentCalibration::NONE.score(0.7, 5) - 0.7).abs() < 1e-12);
    }
}
