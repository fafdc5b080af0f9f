//! What the figures are made of: scores with their labels in, points to plot and rates at stated base rates out.

use serde::Serialize;
use vigie::scoring::Band;

/// Shares of a stream that carry a signal, at which precision is worked out.
pub const BASE_RATES: [f64; 3] = [0.01, 0.05, 0.50];
/// Bins of the reliability plot and of the calibration error.
pub const N_BINS: usize = 15;
const N_HISTOGRAM_BARS: usize = 20;
const MOST_CURVE_POINTS: usize = 60;

/// All curves of one signal on one slice.
#[derive(Debug, Clone, Serialize)]
pub struct Curves {
    /// `[threshold, precision, recall]`, from the highest threshold down.
    pub precision_recall: Vec<[f64; 3]>,
    /// Bins of equal width that hold something: `[mean score, share that carries the signal, passages]`.
    pub reliability: Vec<[f64; 3]>,
    /// Passages by score, bars of 0.05: those that carry the signal, and the others.
    pub scores_of_present: Vec<usize>,
    pub scores_of_absent: Vec<usize>,
    /// `[share answered, share of the answers that is wrong]`, surest answers first (El-Yaniv & Wiener 2010).
    pub risk_coverage: Vec<[f64; 2]>,
    /// Passages by band (low, uncertain, high) and label (absent, present).
    pub bands: [[usize; 2]; 3],
}

/// Draws all curves of `scores` with their `labels`.
pub fn curves(scores: &[f64], labels: &[bool], bands: &[Band]) -> Curves {
    let mut counts = [[0; 2]; 3];
    for (&band, &label) in bands.iter().zip(labels) {
        counts[band as usize][usize::from(label)] += 1;
    }
    let bars = |wanted: bool| {
        let mut bars = vec![0; N_HISTOGRAM_BARS];
        for (&score, _) in scores.iter().zip(labels).filter(|(_, label)| **label == wanted) {
            bars[((score * N_HISTOGRAM_BARS as f64) as usize).min(N_HISTOGRAM_BARS - 1)] += 1;
        }
        bars
    };
    Curves {
        precision_recall: precision_recall(scores, labels),
        reliability: reliability(scores, labels),
        scores_of_present: bars(true),
        scores_of_absent: bars(false),
        risk_coverage: risk_coverage(scores, labels),
        bands: counts,
    }
}

fn precision_recall(scores: &[f64], labels: &[bool]) -> Vec<[f64; 3]> {
    let mut ranked: Vec<(f64, bool)> = scores.iter().copied().zip(labels.iter().copied()).collect();
    ranked.sort_by(|left, right| right.0.total_cmp(&left.0));
    let n_positive = labels.iter().filter(|label| **label).count() as f64;
    let mut found = 0.0;
    let mut points = Vec::new();
    for (index, &(score, label)) in ranked.iter().enumerate() {
        found += f64::from(u8::from(label));
        let last_of_its_score = ranked.get(index + 1).is_none_or(|next| next.0 < score);
        if last_of_its_score && found > 0.0 {
            points.push([score, found / (index + 1) as f64, found / n_positive]);
        }
    }
    thin(points)
}

fn reliability(scores: &[f64], labels: &[bool]) -> Vec<[f64; 3]> {
    let mut bins = [[0.0; 3]; N_BINS];
    for (&score, &label) in scores.iter().zip(labels) {
        let bin = &mut bins[((score * N_BINS as f64) as usize).min(N_BINS - 1)];
        *bin = [bin[0] + score, bin[1] + f64::from(u8::from(label)), bin[2] + 1.0];
    }
    bins.into_iter().filter(|bin| bin[2] > 0.0).map(|[score, share, n]| [score / n, share / n, n]).collect()
}

fn risk_coverage(scores: &[f64], labels: &[bool]) -> Vec<[f64; 2]> {
    let mut answers: Vec<(f64, bool)> =
        scores.iter().zip(labels).map(|(&score, &label)| ((score - 0.5).abs(), (score >= 0.5) != label)).collect();
    answers.sort_by(|left, right| right.0.total_cmp(&left.0).then(left.1.cmp(&right.1)));
    let n = answers.len() as f64;
    let mut n_wrong = 0.0;
    let points = answers.iter().enumerate().map(|(index, &(_, wrong))| {
        n_wrong += f64::from(u8::from(wrong));
        [(index + 1) as f64 / n, n_wrong / (index + 1) as f64]
    });
    thin(points.collect())
}

/// Keeps some points at even distances, the last one among them.
fn thin<const N: usize>(points: Vec<[f64; N]>) -> Vec<[f64; N]> {
    let step = points.len().div_ceil(MOST_CURVE_POINTS).max(1);
    let last = points.len().saturating_sub(1);
    points.into_iter().enumerate().filter(|(index, _)| index % step == 0 || *index == last).map(|(_, p)| p).collect()
}

/// What a band says of a signal: how much of it is caught, at what cost, and how often it is right in streams of different kinds.
#[derive(Debug, Clone, Serialize)]
pub struct BandRates {
    pub n_present: usize,
    pub n_absent: usize,
    /// Share caught of what carries the signal (true positive rate).
    pub recall: f64,
    /// Share caught of what does not.
    pub false_positive_rate: f64,
    /// By base rate, in the order of [`BASE_RATES`].
    pub precision: [f64; 3],
    /// The same with one false alarm more than was counted: what few passages without a false alarm still leave open.
    pub cautious_precision: [f64; 3],
}

/// Rates of "band high" and of "band uncertain or high".
pub fn band_rates(bands: &[Band], labels: &[bool]) -> [BandRates; 2] {
    [Band::High, Band::Uncertain].map(|lowest| {
        let caught = |wanted: bool| {
            let of_kind = bands.iter().zip(labels).filter(|(_, label)| **label == wanted);
            of_kind.fold((0, 0), |(n, caught), (&band, _)| {
                (n + 1, caught + usize::from(band == Band::High || band == lowest))
            })
        };
        let ((n_present, hits), (n_absent, alarms)) = (caught(true), caught(false));
        let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
        let recall = share(hits, n_present);
        let precision = |false_positive_rate: f64| {
            BASE_RATES.map(|rate| {
                let (right, wrong) = (rate * recall, (1.0 - rate) * false_positive_rate);
                if right + wrong > 0.0 { right / (right + wrong) } else { 0.0 }
            })
        };
        BandRates {
            n_present,
            n_absent,
            recall,
            false_positive_rate: share(alarms, n_absent),
            precision: precision(share(alarms, n_absent)),
            cautious_precision: precision(share(alarms + 1, n_absent)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vigie::scoring::signals::Thresholds;

    const SCORES: [f64; 6] = [0.9, 0.8, 0.7, 0.4, 0.2, 0.1];
    const LABELS: [bool; 6] = [true, true, false, true, false, false];
    const THRESHOLDS: Thresholds = Thresholds { low: 0.3, high: 0.75 };

    fn bands_of(scores: &[f64]) -> Vec<Band> {
        scores.iter().map(|&score| THRESHOLDS.band(score)).collect()
    }

    #[test]
    fn curves_of_a_small_case_are_right() {
        let found = curves(&SCORES, &LABELS, &bands_of(&SCORES));
        assert_eq!(found.bands, [[2, 0], [1, 1], [0, 2]]);
        assert_eq!(found.precision_recall[3], [0.4, 0.75, 1.0]);
        assert_eq!(found.risk_coverage.last(), Some(&[1.0, 2.0 / 6.0]));
        assert_eq!(found.scores_of_present.iter().sum::<usize>(), 3);
        assert_eq!(found.reliability.iter().map(|bin| bin[2]).sum::<f64>(), 6.0);
    }

    #[test]
    fn precision_falls_with_the_base_rate() {
        let [high, low] = band_rates(&bands_of(&SCORES), &LABELS);
        assert_eq!((high.recall, high.false_positive_rate), (2.0 / 3.0, 0.0));
        assert_eq!((low.recall, low.false_positive_rate), (1.0, 1.0 / 3.0));
        assert!((low.precision[0] - 0.01 / (0.01 + 0.99 / 3.0)).abs() < 1e-12);
        assert!(low.precision[0] < low.precision[1] && high.cautious_precision[0] < high.precision[0]);
    }
}
