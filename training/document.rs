//! From passages to documents: cross-fitted scores of the paragraphs of labelled articles in, a calibration of the highest score out.
//!
//! A document carries a signal when one of its passages does. The more passages, the higher the highest score by chance alone: a logistic
//! regression (`linfa-logistic`) on the logit of the highest score and the logarithm of the number of passages takes that back.

use std::collections::BTreeMap;

use linfa::Dataset;
use linfa::traits::Fit;
use linfa_logistic::LogisticRegression;
use ndarray::{Array1, Array2};
use vigie::scoring::Signal;
use vigie::scoring::calibration::DocumentCalibration;
use vigie::scoring::signals::N_SIGNALS;

use crate::corpus::Passage;

/// Fewer labelled documents of either kind calibrate nothing.
const FEWEST_DOCUMENTS: usize = 12;

/// One calibration a signal, over both languages; [`DocumentCalibration::NONE`] where there are too few documents.
pub fn fit_documents(passages: &[&Passage], scores: &[[f64; N_SIGNALS]]) -> [DocumentCalibration; N_SIGNALS] {
    let mut articles: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (row, passage) in passages.iter().enumerate() {
        if let Some(article) = &passage.article {
            articles.entry(article).or_default().push(row);
        }
    }
    Signal::ALL.map(|signal| {
        let documents: Vec<(f64, f64, bool)> = articles
            .values()
            .filter(|rows| rows.len() > 1 && rows.iter().all(|&row| !scores[row][signal.index()].is_nan()))
            .filter_map(|rows| {
                let labels: Vec<Option<bool>> = rows.iter().map(|&row| passages[row].label(signal)).collect();
                let carries = labels.contains(&Some(true));
                // With an open label and no certain one the document is open too.
                (carries || !labels.contains(&None)).then(|| {
                    let highest =
                        rows.iter().map(|&row| scores[row][signal.index()]).fold(0.0, f64::max).clamp(1e-9, 1.0 - 1e-9);
                    ((highest / (1.0 - highest)).ln(), (rows.len() as f64).log2(), carries)
                })
            })
            .collect();
        fit(&documents)
    })
}

fn fit(documents: &[(f64, f64, bool)]) -> DocumentCalibration {
    let n_positive = documents.iter().filter(|document| document.2).count();
    if n_positive < FEWEST_DOCUMENTS || documents.len() - n_positive < FEWEST_DOCUMENTS {
        return DocumentCalibration::NONE;
    }
    let records =
        Array2::from_shape_fn(
            (documents.len(), 2),
            |(row, column)| if column == 0 { documents[row].0 } else { documents[row].1 },
        );
    let labels: Array1<bool> = documents.iter().map(|document| document.2).collect();
    let fitted = LogisticRegression::default().alpha(1.0).max_iterations(200).fit(&Dataset::new(records, labels));
    let Ok(model) = fitted else { return DocumentCalibration::NONE };
    // linfa calls one of the two classes positive; turn the signs when it chose "absent".
    let sign = if model.labels().pos.class { 1.0 } else { -1.0 };
    let (slope, per_log2_passages) = (sign * model.params()[0], sign * model.params()[1]);
    if !slope.is_finite() || slope <= 0.0 {
        return DocumentCalibration::NONE;
    }
    DocumentCalibration { slope, bias: sign * model.intercept(), per_log2_passages }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_documents_need_a_higher_passage() {
        let documents: Vec<(f64, f64, bool)> = (0..200)
            .map(|n| {
                let (logit, n_log2) = (f64::from(n % 20) / 4.0 - 2.5, f64::from(n % 5));
                (logit, n_log2, 2.0 * logit - n_log2 + 1.0 > 0.0)
            })
            .collect();
        let found = fit(&documents);
        assert!(found.slope > 0.0 && found.per_log2_passages < 0.0, "{found:?}");
        assert!(found.score(0.7, 16) < found.score(0.7, 2));
    }

    #[test]
    fn too_few_documents_change_nothing() {
        assert_eq!(fit(&[(1.0, 2.0, true), (-1.0, 2.0, false)]), DocumentCalibration::NONE);
    }
}
