//! The smallest singular values of a batch's features: what transfers badly is in their directions (Chen et al. 2019,
//! *Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage*, equation 2).

use candle_core::Tensor;

use super::{Seen, Term};
use crate::Result;
use crate::cache::host_values;

/// `weight · Σ σ²` over the `smallest` singular values of the features F `[samples, width]`.
///
/// With u the singular vectors, Σ σ² = Σ ‖uᵀ F‖²; and as σ is stationary in its vectors, the gradient of the right-hand
/// side at constant u, 2 Σ σ u vᵀ, is that of the left.
pub struct SingularValues {
    /// The number of the output that is F.
    pub output: usize,
    /// Factor.
    pub weight: f64,
    /// How many.
    pub smallest: usize,
}

impl Term for SingularValues {
    fn observes(&self) -> Vec<usize> {
        vec![self.output]
    }

    fn loss(&self, seen: &Seen<'_>) -> Result<Tensor> {
        let features = seen.output(self.output)?;
        let (rows, width) = features.dims2()?;
        // Of F, as many as the smaller side has: the eigenvectors of the smaller Gram matrix.
        let wide = if rows <= width { features.clone() } else { features.t()?.contiguous()? };
        let size = rows.min(width);
        let fixed = wide.detach();
        let gram: Vec<f64> = host_values(&fixed.matmul(&fixed.t()?)?)?.into_iter().map(f64::from).collect();
        let vectors = smallest_eigenvectors(gram, size, self.smallest.min(size));
        let vectors: Vec<f32> = vectors.into_iter().map(|v| v as f32).collect();
        let u = Tensor::from_vec(vectors, (self.smallest.min(size), size), features.device())?;
        Ok((u.matmul(&wide)?.sqr()?.sum_all()? * self.weight)?)
    }
}

const SWEEPS: usize = 60;

/// The eigenvectors of a symmetric matrix `[n × n]` that belong to its `count` smallest eigenvalues, one a row: cyclic
/// Jacobi rotations (Golub & Van Loan, *Matrix Computations*, algorithm 8.4.3).
fn smallest_eigenvectors(mut a: Vec<f64>, n: usize, count: usize) -> Vec<f64> {
    let mut v = vec![0.0; n * n];
    (0..n).for_each(|i| v[i * n + i] = 1.0);
    let whole: f64 = a.iter().map(|x| x * x).sum();
    for _ in 0..SWEEPS {
        let off: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i * n + j].powi(2)).sum();
        if off <= 1e-28 * whole {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p * n + q] == 0.0 {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * a[p * n + q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for k in 0..n {
                    let (x, y) = (a[k * n + p], a[k * n + q]);
                    (a[k * n + p], a[k * n + q]) = (c * x - s * y, s * x + c * y);
                }
                for k in 0..n {
                    let (x, y) = (a[p * n + k], a[q * n + k]);
                    (a[p * n + k], a[q * n + k]) = (c * x - s * y, s * x + c * y);
                    let (x, y) = (v[p * n + k], v[q * n + k]);
                    (v[p * n + k], v[q * n + k]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| a[i * n + i].total_cmp(&a[j * n + j]));
    order[..count].iter().flat_map(|&i| v[i * n..(i + 1) * n].to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eigenvectors_are_those_of_a_matrix_made_of_them() {
        // Rotations in two planes of diag(5, 1, 3).
        let (c, s) = (0.8, 0.6);
        let rows = [[c, s, 0.0], [-s * c, c * c, s], [s * s, -c * s, c]];
        let values = [5.0, 1.0, 3.0];
        let entry = |i: usize, j: usize| (0..3).map(|k| values[k] * rows[k][i] * rows[k][j]).sum::<f64>();
        let matrix = (0..9).map(|at| entry(at / 3, at % 3)).collect();
        let found = smallest_eigenvectors(matrix, 3, 2);
        for (found, expected) in found.chunks(3).zip([rows[1], rows[2]]) {
            let dot: f64 = found.iter().zip(expected).map(|(a, b)| a * b).sum();
            assert!((dot.abs() - 1.0).abs() < 1e-12, "{found:?} against {expected:?}");
        }
    }
}
