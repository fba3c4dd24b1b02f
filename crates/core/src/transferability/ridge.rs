//! Accuracy of ridge regression of the classes (one against the rest, ±1) on the features, each sample predicted by the
//! model fitted on all others (Hoerl & Kennard 1970; the closed form of leaving one out: Allen 1974, PRESS).

use faer::Mat;

use super::spectrum::product;
use super::{Labelled, Spectrum};
use crate::train::ridge::penalties;

/// What ridge regression reaches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ridge {
    /// Share of samples whose own class has the largest prediction.
    pub accuracy: f64,
    /// The penalty with the smallest squared error, of those tried.
    pub penalty: f64,
}

/// Chooses the penalty by the squared error of the left-out predictions, and gives the accuracy there.
pub fn ridge(labelled: &Labelled, centred: &Spectrum) -> Ridge {
    let mut best = (f64::INFINITY, Ridge { accuracy: 0.0, penalty: 1.0 });
    for penalty in penalties(&centred.energies) {
        let predictions = left_out(labelled, centred, penalty);
        let (mut error, mut right) = (0.0, 0usize);
        for (class, members) in labelled.members.iter().enumerate() {
            for &i in members {
                let of = |c: usize| predictions[(i, c)];
                let all = 0..predictions.ncols();
                error += all.clone().map(|c| (of(c) - if c == class { 1.0 } else { -1.0 }).powi(2)).sum::<f64>();
                right += usize::from(all.fold(0, |top, c| if of(c) > of(top) { c } else { top }) == class);
            }
        }
        if error < best.0 {
            best = (error, Ridge { accuracy: right as f64 / labelled.samples() as f64, penalty });
        }
    }
    best.1
}

/// What the model without sample i predicts for it, `[samples, classes that occur]`.
///
/// Of the fit on all, `ŷ = H y`, follows the one without i: `y - (y - ŷ) / (1 - Hᵢᵢ)`.
pub(super) fn left_out(labelled: &Labelled, centred: &Spectrum, penalty: f64) -> Mat<f64> {
    let (x, energies) = (&centred.coordinates, &centred.energies);
    let samples = labelled.samples() as f64;
    let sums = labelled.sums(x);
    let coefficients = Mat::from_fn(x.ncols(), sums.len(), |k, c| 2.0 * sums[c][k] / (energies[k] + penalty));
    let mut predictions = product(x.as_ref(), coefficients.as_ref());
    let leverage = |i: usize| (0..x.ncols()).map(|k| x[(i, k)] * x[(i, k)] / (energies[k] + penalty)).sum::<f64>();
    let rest: Vec<f64> = (0..x.nrows()).map(|i| 1.0 - 1.0 / samples - leverage(i)).collect();
    for (c, members) in labelled.members.iter().enumerate() {
        let mean = 2.0 * members.len() as f64 / samples - 1.0;
        let mut truth = vec![-1.0; x.nrows()];
        members.iter().for_each(|&i| truth[i] = 1.0);
        for i in 0..x.nrows() {
            predictions[(i, c)] = truth[i] - (truth[i] - mean - predictions[(i, c)]) / rest[i];
        }
    }
    predictions
}
