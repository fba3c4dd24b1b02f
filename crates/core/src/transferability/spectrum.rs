//! The decomposition that most scores share: the features' principal directions, from the smaller of the two Gram
//! matrices, so that neither many samples nor wide features cost more than they must.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par, Side};
use rayon::prelude::*;

use super::Labelled;
use crate::{Error, Result};

/// The singular value decomposition X = U S Vᵀ of features, as far as scores need it.
pub struct Spectrum {
    /// S²: the squared singular values, `min(samples, width)` of them, none negative.
    pub energies: Vec<f64>,
    /// U S = X V, `[samples, energies]`: the features in their principal directions.
    pub coordinates: Mat<f64>,
    /// Number of features.
    pub width: usize,
}

impl Spectrum {
    /// Of the features as they are.
    ///
    /// # Errors
    /// When the eigenvalues do not converge.
    pub fn of(labelled: &Labelled) -> Result<Self> {
        Self::decompose(labelled.features.as_ref())
    }

    /// Of the features less their mean.
    ///
    /// # Errors
    /// As [`Spectrum::of`].
    pub fn centred(labelled: &Labelled) -> Result<Self> {
        let x = &labelled.features;
        let mean: Vec<f64> = (0..x.ncols()).map(|j| x.col(j).iter().sum::<f64>() / x.nrows().max(1) as f64).collect();
        Self::decompose(Mat::from_fn(x.nrows(), x.ncols(), |i, j| x[(i, j)] - mean[j]).as_ref())
    }

    /// Of rows `[samples, features]`.
    ///
    /// # Errors
    /// As [`Spectrum::of`].
    pub(crate) fn decompose(x: MatRef<'_, f64>) -> Result<Self> {
        let tall = x.nrows() >= x.ncols();
        let gram = if tall { product(x.transpose(), x) } else { product(x, x.transpose()) };
        let eigen = gram.self_adjoint_eigen(Side::Lower).map_err(|_| {
            Error::Tensor(candle_core::Error::Msg("the eigenvalues of the features did not converge".into()))
        })?;
        // What should be zero may come out below it.
        let energies: Vec<f64> = eigen.S().column_vector().iter().map(|&e| e.max(0.0)).collect();
        let coordinates = if tall {
            product(x, eigen.U())
        } else {
            Mat::from_fn(x.nrows(), energies.len(), |i, k| eigen.U()[(i, k)] * energies[k].sqrt())
        };
        Ok(Self { energies, coordinates, width: x.ncols() })
    }
}

/// Columns of a product that are computed together.
const BLOCK: usize = 64;

/// `lhs · rhs` in parallel; each number is summed in the same order whatever the number of threads.
pub(crate) fn product(lhs: MatRef<'_, f64>, rhs: MatRef<'_, f64>) -> Mat<f64> {
    let starts: Vec<usize> = (0..rhs.ncols()).step_by(BLOCK).collect();
    let block = |&start: &usize| {
        let columns = BLOCK.min(rhs.ncols() - start);
        let mut part = Mat::<f64>::zeros(lhs.nrows(), columns);
        matmul(part.as_mut(), Accum::Replace, lhs, rhs.subcols(start, columns), 1.0, Par::Seq);
        part
    };
    let parts: Vec<Mat<f64>> = starts.par_iter().map(block).collect();
    let mut whole = Mat::<f64>::zeros(lhs.nrows(), rhs.ncols());
    for (part, start) in parts.iter().zip(starts) {
        whole.as_mut().subcols_mut(start, part.ncols()).copy_from(part);
    }
    whole
}
