//! Ridge regression in closed form (Hoerl & Kennard 1970), in double precision.
//!
//! The objective is `Σᵢ wᵢ ‖yᵢ - W xᵢ - b‖² + λ ‖W‖²`, the intercept free; of classes, `yᵢ` is 1 for the sample's own
//! and -1 for every other. One decomposition of the rows serves every λ: with `X = U S Vᵀ` of rows that are centred and scaled by `√wᵢ`, the
//! fit is `Ŷ = U S² (S² + λ)⁻¹ Uᵀ Y` and `Wᵀ = Xᵀ (Y - Ŷ) / λ`. Without a λ, the one is taken that predicts best what is left
//! out one row at a time: of the fit on all rows follows the one without row i, `(y - ŷ)ᵢ / (1 - Hᵢᵢ)` (Allen 1974, PRESS).

use faer::Mat;

use crate::Result;
use crate::transferability::Spectrum;
use crate::transferability::spectrum::product;

/// Rows, targets and the weights of a fit.
pub struct Problem<'a> {
    /// `[samples × width]`, row-major.
    pub rows: &'a [f32],
    /// Number of features.
    pub width: usize,
    /// yᵢ, `[samples × outputs]`, row-major.
    pub truth: &'a [f32],
    /// Number of outputs.
    pub outputs: usize,
    /// Weight of each sample, above 0.
    pub weights: &'a [f64],
}

/// 1 for the class of each sample, -1 for every other one: `[samples × classes]`.
pub fn signs(targets: &[u32], classes: usize) -> Vec<f32> {
    targets.iter().flat_map(|&t| (0..classes).map(move |c| if t as usize == c { 1.0 } else { -1.0 })).collect()
}

/// A fitted model.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// W, `[outputs × width]`.
    pub weight: Vec<f64>,
    /// b.
    pub bias: Vec<f64>,
    /// λ.
    pub penalty: f64,
}

/// The penalties that are tried: from 10⁻⁴ to 10² mean energies of the directions, half a decade apart.
pub(crate) fn penalties(energies: &[f64]) -> impl Iterator<Item = f64> {
    let mean = energies.iter().sum::<f64>() / energies.len() as f64;
    let unit = if mean > 0.0 { mean } else { 1.0 };
    (-8..=4).map(move |half_decades| unit * 10f64.powf(0.5 * f64::from(half_decades)))
}

/// Rows and targets around their weighted means, each row scaled by the root of its weight.
struct Centred {
    x: Mat<f64>,
    y: Mat<f64>,
    x_mean: Vec<f64>,
    y_mean: Vec<f64>,
    /// wᵢ of all weights.
    shares: Vec<f64>,
}

impl Problem<'_> {
    /// Minimizes the objective under `penalty`, or under the one of `penalties` with the least squared error of the rows
    /// left out in turn.
    ///
    /// # Errors
    /// When the decomposition does not converge.
    pub fn fit(&self, penalty: Option<f64>) -> Result<Fit> {
        let centred = self.centred();
        let spectrum = Spectrum::decompose(centred.x.as_ref())?;
        let projections = product(spectrum.coordinates.transpose(), centred.y.as_ref());
        let residuals = |penalty: f64| {
            let scaled = |k: usize, c: usize| projections[(k, c)] / (spectrum.energies[k] + penalty);
            let coefficients = Mat::from_fn(projections.nrows(), projections.ncols(), scaled);
            let fitted = product(spectrum.coordinates.as_ref(), coefficients.as_ref());
            Mat::from_fn(fitted.nrows(), fitted.ncols(), |i, c| centred.y[(i, c)] - fitted[(i, c)])
        };
        let left_out = |penalty: f64| {
            let residuals = residuals(penalty);
            let error = |i: usize| {
                let direction = |k: usize| spectrum.coordinates[(i, k)].powi(2) / (spectrum.energies[k] + penalty);
                let leverage = centred.shares[i] + (0..spectrum.energies.len()).map(direction).sum::<f64>();
                residuals.row(i).iter().map(|r| (r / (1.0 - leverage)).powi(2)).sum::<f64>()
            };
            (0..residuals.nrows()).map(error).sum::<f64>()
        };
        let best = || {
            let tried = penalties(&spectrum.energies).map(|penalty| (left_out(penalty), penalty));
            tried.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(1.0, |(_, penalty)| penalty)
        };
        let penalty = penalty.unwrap_or_else(best);
        let of_residuals = product(centred.x.transpose(), residuals(penalty).as_ref());
        let weight: Vec<f64> = (0..self.outputs)
            .flat_map(|c| of_residuals.col(c).iter().map(|v| v / penalty).collect::<Vec<_>>())
            .collect();
        let at_mean = |c: usize| weight[c * self.width..][..self.width].iter().zip(&centred.x_mean).map(|(w, m)| w * m);
        let bias = (0..self.outputs).map(|c| centred.y_mean[c] - at_mean(c).sum::<f64>()).collect();
        Ok(Fit { weight, bias, penalty })
    }

    fn centred(&self) -> Centred {
        let all: f64 = self.weights.iter().sum();
        let shares: Vec<f64> = self.weights.iter().map(|w| w / all).collect();
        let truth = |i: usize, c: usize| f64::from(self.truth[i * self.outputs + c]);
        let mut x_mean = vec![0.0; self.width];
        let mut y_mean = vec![0.0; self.outputs];
        for (i, row) in self.rows.chunks_exact(self.width).enumerate() {
            x_mean.iter_mut().zip(row).for_each(|(m, &x)| *m += shares[i] * f64::from(x));
            y_mean.iter_mut().enumerate().for_each(|(c, m)| *m += shares[i] * truth(i, c));
        }
        let root = |i: usize| self.weights[i].sqrt();
        let value = |i: usize, j: usize| root(i) * (f64::from(self.rows[i * self.width + j]) - x_mean[j]);
        let x = Mat::from_fn(self.weights.len(), self.width, value);
        let y = Mat::from_fn(self.weights.len(), self.outputs, |i, c| root(i) * (truth(i, c) - y_mean[c]));
        Centred { x, y, x_mean, y_mean, shares }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{centred, uniform};

    struct Data {
        rows: Vec<f32>,
        targets: Vec<u32>,
        truth: Vec<f32>,
        weights: Vec<f64>,
    }

    const CLASSES: usize = 3;

    fn data(samples: usize, width: usize) -> Data {
        let mut rows = centred("ridge", samples * width, 1.0);
        let targets: Vec<u32> = (0..samples).map(|i| (i % CLASSES) as u32).collect();
        rows.iter_mut()
            .enumerate()
            .for_each(|(at, x)| *x += if at % width == targets[at / width] as usize { 0.7 } else { 2.0 });
        let weights = (0..samples).map(|i| 0.5 + uniform("ridge.weight", i)).collect();
        Data { truth: signs(&targets, CLASSES), rows, targets, weights }
    }

    impl Data {
        fn without(&self, i: Option<usize>) -> Self {
            let keep: Vec<usize> = (0..self.targets.len()).filter(|&j| Some(j) != i).collect();
            let width = self.rows.len() / self.targets.len();
            let targets: Vec<u32> = keep.iter().map(|&j| self.targets[j]).collect();
            Self {
                rows: keep.iter().flat_map(|&j| self.rows[j * width..][..width].to_vec()).collect(),
                truth: signs(&targets, CLASSES),
                targets,
                weights: keep.iter().map(|&j| self.weights[j]).collect(),
            }
        }

        fn problem(&self) -> Problem<'_> {
            let Self { rows, targets, truth, weights } = self;
            Problem { rows, width: rows.len() / targets.len(), truth, outputs: CLASSES, weights }
        }

        /// The normal equations of (W, b) with λ on all but the intercept, solved by elimination in plain loops.
        fn reference(&self, penalty: f64) -> Vec<Vec<f64>> {
            let width = self.rows.len() / self.targets.len();
            let row = |i: usize| -> Vec<f64> {
                self.rows[i * width..][..width].iter().map(|&x| f64::from(x)).chain([1.0]).collect()
            };
            (0..CLASSES)
                .map(|class| {
                    let mut system = vec![vec![0.0; width + 2]; width + 1];
                    for i in 0..self.targets.len() {
                        let (x, w) = (row(i), self.weights[i]);
                        let y = if self.targets[i] as usize == class { 1.0 } else { -1.0 };
                        for j in 0..=width {
                            (0..=width).for_each(|k| system[j][k] += w * x[j] * x[k]);
                            system[j][width + 1] += w * x[j] * y;
                        }
                    }
                    (0..width).for_each(|j| system[j][j] += penalty);
                    eliminate(system)
                })
                .collect()
        }
    }

    fn eliminate(mut system: Vec<Vec<f64>>) -> Vec<f64> {
        let n = system.len();
        for column in 0..n {
            let pivot =
                (column..n).max_by(|&a, &b| system[a][column].abs().total_cmp(&system[b][column].abs())).unwrap();
            system.swap(column, pivot);
            let (lead, at) = (system[column].clone(), system[column][column]);
            for (_, row) in system.iter_mut().enumerate().filter(|(r, _)| *r != column) {
                let factor = row[column] / at;
                row.iter_mut().zip(&lead).for_each(|(x, l)| *x -= factor * l);
            }
        }
        (0..n).map(|i| system[i][n] / system[i][i]).collect()
    }

    #[test]
    fn the_fit_is_that_of_the_normal_equations_with_more_rows_than_features_and_with_fewer() {
        for (samples, width) in [(40, 5), (9, 14)] {
            let data = data(samples, width);
            for penalty in [1e-2, 1.0, 50.0] {
                let fit = data.problem().fit(Some(penalty)).unwrap();
                for (c, expected) in data.reference(penalty).iter().enumerate() {
                    let found = fit.weight[c * width..][..width].iter().chain([&fit.bias[c]]);
                    for (f, e) in found.zip(expected) {
                        assert!((f - e).abs() < 1e-9 * e.abs().max(1.0), "{samples} {penalty}: {f} and {e}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_penalty_is_the_one_that_predicts_best_what_is_left_out() {
        for (samples, width) in [(30, 4), (8, 12)] {
            let data = data(samples, width);
            let problem = data.problem();
            let spectrum = Spectrum::decompose(problem.centred().x.as_ref()).unwrap();
            let error = |penalty: f64| -> f64 {
                let of = |i: usize| {
                    let models = data.without(Some(i)).reference(penalty);
                    let x: Vec<f64> =
                        data.rows[i * width..][..width].iter().map(|&x| f64::from(x)).chain([1.0]).collect();
                    let truth = |c: usize| if data.targets[i] as usize == c { 1.0 } else { -1.0 };
                    let predicted = |m: &Vec<f64>| m.iter().zip(&x).map(|(m, x)| m * x).sum::<f64>();
                    let squares = models.iter().enumerate().map(|(c, m)| (predicted(m) - truth(c)).powi(2));
                    data.weights[i] * squares.sum::<f64>()
                };
                (0..samples).map(of).sum()
            };
            let best = penalties(&spectrum.energies).min_by(|&a, &b| error(a).total_cmp(&error(b))).unwrap();
            assert_eq!(problem.fit(None).unwrap().penalty, best, "{samples} samples");
        }
    }

    #[test]
    fn equal_weights_change_nothing_but_the_scale_of_the_penalty() {
        let plain = Data { weights: vec![1.0; 20], ..data(20, 3) };
        let twice = Data { weights: vec![2.0; 20], ..data(20, 3) };
        let (a, b) = (plain.problem().fit(Some(3.0)).unwrap(), twice.problem().fit(Some(6.0)).unwrap());
        assert!(a.weight.iter().zip(&b.weight).all(|(a, b)| (a - b).abs() < 1e-12));
    }
}
