//! TransRate: what the labels save of the bits that it takes to code the features to a given distortion.
//!
//! Huang et al., Frustratingly Easy Transferability Estimation, 2022 (equation 5), ε = 10⁻⁴, with the mean over the
//! classes that their implementation and TLlib's take.

use faer::{Mat, Side};

use super::spectrum::product;
use super::{Labelled, Spectrum};
use crate::{Error, Result};

/// Squared distortion.
const EPSILON: f64 = 1e-4;

/// The score, `R(f) - mean over classes R(f | class)`, in nats; features less their mean.
///
/// # Errors
/// When the features are so large that a determinant overflows.
pub fn transrate(labelled: &Labelled, centred: &Spectrum) -> Result<f64> {
    let scale = 1.0 / (labelled.samples() as f64 * EPSILON);
    let whole = 0.5 * centred.energies.iter().map(|energy| (scale * energy).ln_1p()).sum::<f64>();
    let rates = labelled.members.iter().map(|members| coding_rate(&centred.coordinates, members));
    let within = rates.sum::<Result<f64>>()?;
    Ok(whole - within / labelled.members.len() as f64)
}

/// `½ log det(I + ZᵀZ / (n ε))` of the rows `members` of `coordinates`.
fn coding_rate(coordinates: &Mat<f64>, members: &[usize]) -> Result<f64> {
    let rows = Mat::from_fn(members.len(), coordinates.ncols(), |i, k| coordinates[(members[i], k)]);
    let scale = 1.0 / (members.len() as f64 * EPSILON);
    let tall = rows.nrows() >= rows.ncols();
    let gram = if tall { product(rows.transpose(), rows.as_ref()) } else { product(rows.as_ref(), rows.transpose()) };
    let inner = Mat::from_fn(gram.nrows(), gram.ncols(), |i, j| scale * gram[(i, j)] + if i == j { 1.0 } else { 0.0 });
    let factor = inner.llt(Side::Lower).map_err(|_| {
        Error::input("the features", "they are too large for a coding rate", "check the model's weights")
    })?;
    Ok((0..inner.nrows()).map(|i| factor.L()[(i, i)].ln()).sum())
}
