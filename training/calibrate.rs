//! Makes probabilities and bands: margins of passages that a fit has not seen, with their labels, in; calibration and thresholds out.

use anyhow::{Result, anyhow};
use linfa::ParamGuard;
use linfa::composing::platt_scaling::{Platt as LinfaPlatt, platt_newton_method};
use ndarray::Array1;
use vigie::scoring::calibration::Platt;
use vigie::scoring::signals::Thresholds;

/// How bands are chosen.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BandSettings {
    /// Of what carries the signal, so much scores at least the low threshold.
    pub low_recall: f64,
    /// Of what scores at least the high threshold, so much carries the signal …
    pub high_precision: f64,
    /// … in a stream in which this share carries it.
    pub base_rate: f64,
}

/// Fits Platt scaling with linfa (Lin, Lin & Weng 2007).
pub fn fit_platt(margins: &[f64], labels: &[bool]) -> Result<Platt> {
    let params = LinfaPlatt::<f64, ()>::params().maxiter(200).check().map_err(|e| anyhow!("{e}"))?;
    let (margins, labels) = (Array1::from(margins.to_vec()), Array1::from(labels.to_vec()));
    let (a, b) =
        platt_newton_method(margins.view(), labels.view(), &params).map_err(|e| anyhow!("calibration failed: {e}"))?;
    Ok(Platt { a, b })
}

/// Chooses the two thresholds from scores with their labels.
///
/// Precision is measured at the stated base rate π: `π·TPR / (π·TPR + (1 − π)·FPR)`, with one false alarm added so that a handful of lucky
/// negatives does not make a threshold.
pub fn choose_thresholds(scores: &[f64], labels: &[bool], settings: &BandSettings) -> Thresholds {
    let mut ranked: Vec<(f64, bool)> = scores.iter().copied().zip(labels.iter().copied()).collect();
    ranked.sort_by(|left, right| right.0.total_cmp(&left.0));
    let n_positive = labels.iter().filter(|label| **label).count().max(1) as f64;
    let n_negative = (labels.len() as f64 - n_positive).max(1.0);
    let (mut found, mut false_alarms) = (0.0, 0.0);
    let mut low = 0.0;
    let mut high = None;
    for (index, &(score, label)) in ranked.iter().enumerate() {
        if label {
            found += 1.0;
        } else {
            false_alarms += 1.0;
        }
        let ties = ranked.get(index + 1).is_some_and(|next| next.0 == score);
        if ties {
            continue;
        }
        let true_rate = settings.base_rate * found / n_positive;
        let false_rate = (1.0 - settings.base_rate) * (false_alarms + 1.0) / n_negative;
        if true_rate / (true_rate + false_rate) >= settings.high_precision {
            high = Some(score);
        }
        if found / n_positive >= settings.low_recall {
            low = score;
            break;
        }
    }
    // Never surer than the best score that was seen, and never below an even chance.
    let high = high.unwrap_or_else(|| ranked.first().map_or(1.0, |best| best.0)).clamp(0.5, 0.99);
    Thresholds { low: low.min(high), high }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calibration_gives_back_known_rates() {
        let margins: Vec<f64> = (0..4000).map(|n| f64::from(n % 40) / 10.0 - 2.0).collect();
        // Of a hundred at one margin, as many are positive as the sigmoid says.
        let labels: Vec<bool> = (0..4000)
            .map(|n| f64::from(n / 40) / 100.0 < 1.0 / (1.0 + (-2.0 * margins[n as usize] + 0.5).exp()))
            .collect();
        let platt = fit_platt(&margins, &labels).unwrap();
        assert!((platt.a + 2.0).abs() < 0.1 && (platt.b - 0.5).abs() < 0.1, "{platt:?}");
    }

    #[test]
    fn thresholds_keep_recall_and_precision() {
        let scores: Vec<f64> = (0..1000).map(|n| f64::from(n) / 1000.0).collect();
        let labels: Vec<bool> = (0..1000).map(|n| n >= 900 || n % 50 == 0).collect();
        let settings = BandSettings { low_recall: 0.95, high_precision: 0.9, base_rate: 0.1 };
        let thresholds = choose_thresholds(&scores, &labels, &settings);
        assert!(thresholds.low < thresholds.high && thresholds.high >= 0.85, "{thresholds:?}");
        let reached = scores.iter().zip(&labels).filter(|(s, l)| **l && **s >= thresholds.low).count();
        assert!(reached as f64 >= 0.95 * labels.iter().filter(|l| **l).count() as f64);
    }
}
