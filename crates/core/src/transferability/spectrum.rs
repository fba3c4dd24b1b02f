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
/// Rows of `width` features in the plane in which they vary most (principal components, Pearson 1901), each direction turned
/// so that the coordinate farthest from the mean is positive.
///
/// # Errors
/// When the eigenvalues do not converge.
pub fn plane(features: &[f32], width: usize) -> Result<Vec<[f64; 2]>> {
    let rows = features.len() / width.max(1);
    let mut mean = vec![0f64; width];
    for row in features.chunks_exact(width.max(1)) {
        mean.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) / rows as f64);
    }
    let centred = Mat::from_fn(rows, width, |i, j| f64::from(features[i * width + j]) - mean[j]);
    let coordinates = Spectrum::decompose(centred.as_ref())?.coordinates;
    let axis = |number: usize| {
        // The last ones are the largest.
        let Some(column) = coordinates.ncols().checked_sub(number) else { return vec![0.0; rows] };
        let values: Vec<f64> = coordinates.col(column).iter().copied().collect();
        let farthest = values.iter().copied().fold(0.0, |far: f64, x| if x.abs() > far.abs() { x } else { far });
        values.iter().map(|x| x * if farthest < 0.0 { -1.0 } else { 1.0 }).collect()
    };
    Ok(axis(1).into_iter().zip(axis(2)).map(|(x, y)| [x, y]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plane_is_that_of_the_most_variance() {
        // Four points of a rectangle with sides 4 and 2, turned by 3/5 and 4/5, and moved; a third feature says nothing.
        let corners = [[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0], [3.0, 0.0]];
        let turned = corners.map(|[x, y]| [0.6 * x - 0.8 * y + 7.0, 0.8 * x + 0.6 * y - 1.0, 5.0f32]);
        let plane = plane(&turned.concat(), 3).unwrap();
        let mean = 0.6;
        for (found, expected) in plane.iter().zip(corners) {
            assert!((found[0].abs() - f64::from(expected[0] - mean).abs()).abs() < 1e-5, "{found:?}");
            assert!((found[1].abs() - f64::from(expected[1]).abs()).abs() < 1e-5, "{found:?}");
        }
        // Whichever way the eigenvectors point, the farthest point is on the positive side.
        assert!(plane[2][0] > 0.0 || plane[3][0] > 0.0, "{plane:?}");
    }
}
