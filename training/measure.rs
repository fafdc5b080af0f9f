//! Figures: scores with their labels in, precision, recall, F1, areas and calibration error out. Counts and curves come from linfa.

use linfa::dataset::Pr;
use linfa::metrics::{BinaryClassification, ToConfusionMatrix};
use ndarray::Array1;
use serde::Serialize;

/// All figures of one signal on one slice. A figure that cannot be computed (one class only) is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figures {
    pub n: usize,
    pub n_positive: usize,
    /// Area under the ROC curve.
    pub auc: Option<f64>,
    /// Area under the precision-recall curve (average precision).
    pub average_precision: Option<f64>,
    /// At a score of one half: precision, recall and F1 of the signal, and the mean of F1 over present and absent.
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    pub macro_f1: f64,
    /// Share of what does not carry the signal that scores one half or more all the same.
    pub false_positive_rate: f64,
    /// Macro-F1 of saying yes to everything.
    pub always_yes_macro_f1: f64,
    /// Expected calibration error over 15 bins of equal width (Naeini, Cooper & Hauskrecht 2015).
    pub calibration_error: f64,
    pub brier: f64,
}

/// Computes all figures from scores and labels of equal length.
pub fn figures(scores: &[f64], labels: &[bool]) -> Figures {
    let n_positive = labels.iter().filter(|label| **label).count();
    let (precision, recall, f1, macro_f1) = at_threshold(scores, labels, 0.5);
    let (.., always_yes_macro_f1) = at_threshold(&vec![1.0; labels.len()], labels, 0.5);
    let both = n_positive > 0 && n_positive < labels.len();
    let n_false_alarms = scores.iter().zip(labels).filter(|(score, label)| **score >= 0.5 && !**label).count();
    let n = labels.len().max(1) as f64;
    Figures {
        n: labels.len(),
        n_positive,
        auc: both.then(|| area_under_roc(scores, labels)),
        average_precision: both.then(|| average_precision(scores, labels)),
        precision,
        recall,
        f1,
        macro_f1,
        false_positive_rate: n_false_alarms as f64 / (labels.len() - n_positive).max(1) as f64,
        always_yes_macro_f1,
        calibration_error: calibration_error(scores, labels, 15),
        brier: scores.iter().zip(labels).map(|(s, &l)| (s - f64::from(u8::from(l))).powi(2)).sum::<f64>() / n,
    }
}

/// Precision, recall, F1 and macro-F1 of `score >= threshold`; 0 where nothing was said or nothing was there.
pub fn at_threshold(scores: &[f64], labels: &[bool], threshold: f64) -> (f64, f64, f64, f64) {
    let said = Array1::from_iter(scores.iter().map(|score| *score >= threshold));
    let truth = Array1::from(labels.to_vec());
    let finite = |figure: f32| if figure.is_finite() { f64::from(figure) } else { 0.0 };
    let of = |said: &Array1<bool>, truth: &Array1<bool>| {
        // linfa orders its matrix by the labels that occur; with one class only it has no second row.
        let both = truth.iter().any(|t| *t)
            && truth.iter().any(|t| !*t)
            && said.iter().any(|s| *s)
            && said.iter().any(|s| !*s);
        if !both {
            return counted(said, truth);
        }
        match truth.confusion_matrix(said) {
            Ok(matrix) => (finite(matrix.precision()), finite(matrix.recall()), finite(matrix.f1_score())),
            Err(_) => (0.0, 0.0, 0.0),
        }
    };
    let (precision, recall, f1) = of(&said, &truth);
    let (.., f1_absent) = of(&said.mapv(|s| !s), &truth.mapv(|t| !t));
    (precision, recall, f1, (f1 + f1_absent) / 2.0)
}

fn counted(said: &Array1<bool>, truth: &Array1<bool>) -> (f64, f64, f64) {
    let count = |s: bool, t: bool| said.iter().zip(truth).filter(|(a, b)| (**a, **b) == (s, t)).count() as f64;
    let (hits, false_alarms, missed) = (count(true, true), count(true, false), count(false, true));
    let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    (
        share(hits, hits + false_alarms),
        share(hits, hits + missed),
        share(2.0 * hits, 2.0 * hits + false_alarms + missed),
    )
}

/// Area under the ROC curve, by linfa.
pub fn area_under_roc(scores: &[f64], labels: &[bool]) -> f64 {
    let scores = Array1::from_iter(scores.iter().map(|score| Pr::new_unchecked(score.clamp(0.0, 1.0) as f32)));
    scores.roc(labels).map_or(f64::NAN, |roc| f64::from(roc.area_under_curve()))
}

fn average_precision(scores: &[f64], labels: &[bool]) -> f64 {
    let mut ranked: Vec<(f64, bool)> = scores.iter().copied().zip(labels.iter().copied()).collect();
    ranked.sort_by(|left, right| right.0.total_cmp(&left.0));
    let n_positive = labels.iter().filter(|label| **label).count() as f64;
    let mut found = 0.0;
    let mut area = 0.0;
    for (index, &(_, label)) in ranked.iter().enumerate() {
        if label {
            found += 1.0;
            area += found / (index + 1) as f64;
        }
    }
    area / n_positive
}

/// Mean distance between score and share of positives, over bins of equal width, weighted by their size.
pub fn calibration_error(scores: &[f64], labels: &[bool], n_bins: usize) -> f64 {
    let mut bins = vec![(0.0, 0.0, 0.0); n_bins];
    for (&score, &label) in scores.iter().zip(labels) {
        let bin = &mut bins[((score * n_bins as f64) as usize).min(n_bins - 1)];
        *bin = (bin.0 + 1.0, bin.1 + score, bin.2 + f64::from(u8::from(label)));
    }
    bins.iter().map(|(_, scores, positives)| (scores - positives).abs()).sum::<f64>() / scores.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_small_case_are_right() {
        let scores = [0.9, 0.8, 0.7, 0.4, 0.2, 0.1];
        let labels = [true, true, false, true, false, false];
        let found = figures(&scores, &labels);
        assert_eq!((found.n, found.n_positive), (6, 3));
        assert!((found.auc.unwrap() - 8.0 / 9.0).abs() < 1e-6);
        assert!((found.precision - 2.0 / 3.0).abs() < 1e-6 && (found.recall - 2.0 / 3.0).abs() < 1e-6);
        assert!((found.macro_f1 - 2.0 / 3.0).abs() < 1e-6);
        assert!((found.false_positive_rate - 1.0 / 3.0).abs() < 1e-6);
        assert!((found.always_yes_macro_f1 - 1.0 / 3.0).abs() < 1e-6);
        assert!((found.average_precision.unwrap() - (1.0 + 1.0 + 0.75) / 3.0).abs() < 1e-9);
    }

    #[test]
    fn precision_and_recall_are_not_swapped() {
        let (precision, recall, ..) =
            at_threshold(&[0.9, 0.9, 0.9, 0.9, 0.1, 0.1], &[true, false, false, false, false, true], 0.5);
        assert!((precision - 0.25).abs() < 1e-6 && (recall - 0.5).abs() < 1e-6, "{precision} {recall}");
    }

    #[test]
    fn calibration_error_is_the_distance_from_the_shares() {
        assert!((calibration_error(&[0.25; 4], &[true, false, false, false], 15)).abs() < 1e-12);
        assert!((calibration_error(&[0.75; 4], &[true, false, false, false], 15) - 0.5).abs() < 1e-12);
    }
}
