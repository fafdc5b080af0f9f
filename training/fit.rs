//! Fits the five linear models: sparse rows with targets in, weights out. A learner in linfa's form, because linfa's own take dense arrays.
//!
//! Multi-label logistic regression, one binary problem a signal over shared rows, unknown targets left out of the loss, L2 penalty on the
//! weights but not on the intercept, minimized by L-BFGS (Liu & Nocedal 1989; `argmin`, as in `linfa-logistic`). Deterministic.

use argmin::core::{CostFunction, Error, Executor, Gradient};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;
use linfa::dataset::Records;
use linfa::prelude::*;
use linfa::traits::{Fit, PredictInplace};
use ndarray::{Array1, Array2};

use crate::examples::{Examples, SparseRows};
use crate::parallel;

/// Settings, checked.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SparseLogisticValidParams {
    /// Strength of the L2 penalty `l2 / 2 · |w|²` against the weighted sum of losses.
    pub l2: f64,
    pub max_iterations: u64,
    /// Stops when the gradient's norm falls below this share of the root of the sum of weights.
    pub tolerance: f64,
    /// How much more freely a telling feature may be weighted: features are scaled with the power `telling` of their absolute log-count ratio
    /// (NB-weighted features, Wang & Manning 2012); 0 treats all alike.
    pub telling: f64,
}

/// Settings not yet checked.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct SparseLogisticParams(pub SparseLogisticValidParams);

/// Why settings or data are refused.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    #[error("l2 must be positive and finite, it is {0}")]
    Penalty(f64),
    #[error("tolerance must be positive, it is {0}")]
    Tolerance(f64),
    #[error("target {0} has no positive or no negative row")]
    OneClass(usize),
    #[error("minimizing failed: {0}")]
    Minimizer(String),
    #[error(transparent)]
    Linfa(#[from] linfa::Error),
}

impl ParamGuard for SparseLogisticParams {
    type Checked = SparseLogisticValidParams;
    type Error = FitError;

    fn check_ref(&self) -> Result<&Self::Checked, Self::Error> {
        let SparseLogisticValidParams { l2, tolerance, .. } = self.0;
        if !(l2 > 0.0 && l2.is_finite()) {
            return Err(FitError::Penalty(l2));
        }
        if tolerance.is_nan() || tolerance <= 0.0 {
            return Err(FitError::Tolerance(tolerance));
        }
        Ok(&self.0)
    }

    fn check(self) -> Result<Self::Checked, Self::Error> {
        self.check_ref().copied()
    }
}

/// A fitted model: `margin = x · weights + intercept`, a column a target.
#[derive(Debug, Clone, PartialEq)]
pub struct SparseLogistic {
    /// Features × targets.
    pub weights: Array2<f64>,
    pub intercepts: Array1<f64>,
}

impl Fit<SparseRows, Array2<f32>, FitError> for SparseLogisticValidParams {
    type Object = SparseLogistic;

    /// Fits one binary model a target column. Errors when a target has only one class or the minimizer fails.
    fn fit(&self, examples: &Examples) -> Result<SparseLogistic, FitError> {
        let n_targets = examples.targets().ncols();
        // Targets do not depend on each other.
        let columns = parallel::map(n_targets, |target| fit_target(examples, target, self));
        let n_features = examples.records().nfeatures();
        let mut model =
            SparseLogistic { weights: Array2::zeros((n_features, n_targets)), intercepts: Array1::zeros(n_targets) };
        for (target, column) in columns.into_iter().enumerate() {
            let column = column?;
            model.intercepts[target] = column[n_features];
            model.weights.column_mut(target).iter_mut().zip(&column).for_each(|(weight, value)| *weight = *value);
        }
        Ok(model)
    }
}

impl PredictInplace<SparseRows, Array2<f64>> for SparseLogistic {
    /// Writes margins (not probabilities): rows × targets.
    fn predict_inplace(&self, rows: &SparseRows, margins: &mut Array2<f64>) {
        for row in 0..rows.nsamples() {
            let (columns, values) = rows.row(row);
            let mut out = margins.row_mut(row);
            out.assign(&self.intercepts);
            for (&column, &value) in columns.iter().zip(values) {
                out.scaled_add(f64::from(value), &self.weights.row(column as usize));
            }
        }
    }

    fn default_target(&self, rows: &SparseRows) -> Array2<f64> {
        Array2::zeros((rows.nsamples(), self.intercepts.len()))
    }
}

/// One target's problem: known rows, their signs and weights.
struct Problem<'a> {
    rows: &'a SparseRows,
    known: Vec<(usize, f64, f64)>,
    /// What a column's values are multiplied with.
    scales: Vec<f64>,
    l2: f64,
}

impl Problem<'_> {
    fn margin(&self, row: usize, parameters: &[f64]) -> f64 {
        let (columns, values) = self.rows.row(row);
        let intercept = parameters[self.rows.n_columns];
        columns.iter().zip(values).fold(intercept, |sum, (&column, &value)| {
            let column = column as usize;
            sum + f64::from(value) * self.scales[column] * parameters[column]
        })
    }
}

impl CostFunction for &Problem<'_> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, parameters: &Vec<f64>) -> Result<f64, Error> {
        let loss: f64 = self
            .known
            .iter()
            .map(|&(row, sign, weight)| weight * log1p_exp(-sign * self.margin(row, parameters)))
            .sum();
        let penalty: f64 = parameters[..self.rows.n_columns].iter().map(|w| w * w).sum();
        Ok(loss + 0.5 * self.l2 * penalty)
    }
}

impl Gradient for &Problem<'_> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, parameters: &Vec<f64>) -> Result<Vec<f64>, Error> {
        let n = self.rows.n_columns;
        let mut gradient: Vec<f64> = parameters.iter().map(|w| self.l2 * w).collect();
        gradient[n] = 0.0;
        for &(row, sign, weight) in &self.known {
            let margin = self.margin(row, parameters);
            let slope = -sign * weight / (1.0 + (sign * margin).exp());
            let (columns, values) = self.rows.row(row);
            for (&column, &value) in columns.iter().zip(values) {
                gradient[column as usize] += slope * f64::from(value) * self.scales[column as usize];
            }
            gradient[n] += slope;
        }
        Ok(gradient)
    }
}

fn fit_target(examples: &Examples, target: usize, params: &SparseLogisticValidParams) -> Result<Vec<f64>, FitError> {
    let weights = examples.weights();
    let known: Vec<(usize, f64, f64)> = examples
        .targets()
        .column(target)
        .iter()
        .enumerate()
        .filter(|(_, label)| !label.is_nan())
        .map(|(row, &label)| {
            (row, if label > 0.5 { 1.0 } else { -1.0 }, weights.map_or(1.0, |weights| f64::from(weights[row])))
        })
        .filter(|&(.., weight)| weight > 0.0)
        .collect();
    if !known.iter().any(|k| k.1 > 0.0) || !known.iter().any(|k| k.1 < 0.0) {
        return Err(FitError::OneClass(target));
    }
    let total: f64 = known.iter().map(|k| k.2).sum();
    let scales = telling_scales(examples.records(), &known, params.telling);
    let problem = Problem { rows: examples.records(), known, scales, l2: params.l2 };
    let minimizer_failed = |e: Error| FitError::Minimizer(e.to_string());
    let solver = LBFGS::new(MoreThuenteLineSearch::new(), 8)
        .with_tolerance_grad(params.tolerance * total.sqrt())
        .and_then(|solver| solver.with_tolerance_cost(1e-9))
        .map_err(minimizer_failed)?;
    let result = Executor::new(&problem, solver)
        .configure(|state| state.param(vec![0.0; problem.rows.n_columns + 1]).max_iters(params.max_iterations))
        .run()
        .map_err(minimizer_failed)?;
    let mut found =
        result.state.best_param.ok_or_else(|| FitError::Minimizer("no parameters were found".to_owned()))?;
    found.iter_mut().zip(&problem.scales).for_each(|(weight, scale)| *weight *= scale);
    Ok(found)
}

/// `|ln(p / q)|^power` for every column, with p and q the smoothed shares of positive and negative rows that have it; root mean square 1.
fn telling_scales(rows: &SparseRows, known: &[(usize, f64, f64)], power: f64) -> Vec<f64> {
    if power == 0.0 {
        return vec![1.0; rows.n_columns];
    }
    let mut counts = vec![[1.0; 2]; rows.n_columns];
    let mut totals = [1.0; 2];
    for &(row, sign, weight) in known {
        let class = usize::from(sign > 0.0);
        totals[class] += weight;
        rows.row(row).0.iter().for_each(|&column| counts[column as usize][class] += weight);
    }
    let ratio = |count: &[f64; 2]| (count[1] / totals[1] / (count[0] / totals[0])).ln().abs().powf(power);
    let mut scales: Vec<f64> = counts.iter().map(ratio).collect();
    let mean_square = scales.iter().map(|scale| scale * scale).sum::<f64>() / scales.len().max(1) as f64;
    scales.iter_mut().for_each(|scale| *scale /= mean_square.sqrt().max(1e-12));
    scales
}

/// `ln(1 + exp(x))` without overflow.
fn log1p_exp(x: f64) -> f64 {
    if x > 0.0 { x + (-x).exp().ln_1p() } else { x.exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linfa_logistic::LogisticRegression;
    use ndarray::array;

    const VALID: SparseLogisticValidParams =
        SparseLogisticValidParams { l2: 0.5, max_iterations: 200, tolerance: 1e-8, telling: 0.0 };
    const PARAMS: SparseLogisticParams = SparseLogisticParams(VALID);

    fn sparse_of_dense(dense: &Array2<f64>) -> SparseRows {
        let mut rows = SparseRows { row_starts: vec![0], n_columns: dense.ncols(), ..SparseRows::default() };
        for row in dense.rows() {
            for (column, &value) in row.iter().enumerate().filter(|(_, value)| **value != 0.0) {
                rows.columns.push(column as u32);
                rows.values.push(value as f32);
            }
            rows.row_starts.push(rows.columns.len());
        }
        rows
    }

    fn problem() -> (Array2<f64>, Array1<bool>) {
        let dense = array![
            [0.0, 1.0, 0.5],
            [1.0, 0.0, 0.0],
            [0.5, 0.5, 0.0],
            [0.0, 0.0, 1.0],
            [1.0, 1.0, 0.0],
            [0.0, 2.0, 0.0],
            [2.0, 0.0, 1.0],
            [0.0, 0.0, 0.0]
        ];
        (dense, array![true, false, true, false, false, true, false, false])
    }

    fn examples(dense: &Array2<f64>, labels: &Array1<bool>) -> Examples {
        let targets = labels.mapv(|label| f32::from(u8::from(label))).insert_axis(ndarray::Axis(1));
        DatasetBase::new(sparse_of_dense(dense), targets)
    }

    #[test]
    fn agrees_with_linfa_logistic_on_a_dense_problem() {
        let (dense, labels) = problem();
        let ours = PARAMS.check().unwrap().fit(&examples(&dense, &labels)).unwrap();
        let theirs = LogisticRegression::default()
            .alpha(VALID.l2)
            .gradient_tolerance(1e-8)
            .max_iterations(200)
            .fit(&Dataset::new(dense.clone(), labels))
            .unwrap();
        // linfa names one class positive; its sign may be turned.
        let turned = if theirs.labels().pos.class { 1.0 } else { -1.0 };
        for (our, their) in ours.weights.column(0).iter().zip(theirs.params()) {
            assert!((our - turned * their).abs() < 1e-4, "{our} {their}");
        }
        assert!((ours.intercepts[0] - turned * theirs.intercept()).abs() < 1e-4);
    }

    #[test]
    fn unknown_targets_count_for_nothing() {
        let (dense, labels) = problem();
        let all = examples(&dense, &labels);
        let mut targets = all.targets().clone();
        targets[(7, 0)] = f32::NAN;
        let with_unknown = DatasetBase::new(all.records().clone(), targets);
        let without = DatasetBase::new(
            all.records().select(&[0, 1, 2, 3, 4, 5, 6]),
            all.targets().slice(ndarray::s![..7, ..]).to_owned(),
        );
        let fit = |examples: &Examples| PARAMS.check().unwrap().fit(examples).unwrap();
        assert_eq!(fit(&with_unknown), fit(&without));
    }

    #[test]
    fn bad_settings_and_one_class_are_refused() {
        assert!(matches!(
            SparseLogisticParams(SparseLogisticValidParams { l2: 0.0, ..VALID }).check(),
            Err(FitError::Penalty(_))
        ));
        assert!(matches!(
            SparseLogisticParams(SparseLogisticValidParams { tolerance: f64::NAN, ..VALID }).check(),
            Err(FitError::Tolerance(_))
        ));
        let (dense, _) = problem();
        let examples = examples(&dense, &Array1::from_elem(8, true));
        assert!(matches!(PARAMS.check().unwrap().fit(&examples), Err(FitError::OneClass(0))));
    }
}
