//! Multinomial logistic regression by L-BFGS (Liu & Nocedal 1989) in double precision.
//!
//! The objective is scikit-learn's `LogisticRegression`:
//! `Σᵢ wᵢ · cross-entropy(softmax(W xᵢ + b), yᵢ) + ½ λ ‖W‖²`, the intercept free. With two classes scikit-learn fits one
//! weight vector, which equals two opposite ones under twice the penalty; so it is here. Sums run over chunks of rows
//! whose borders do not depend on the number of threads.

use std::collections::VecDeque;

use rayon::prelude::*;

/// Rows, targets and the settings of a fit.
pub struct Problem<'a> {
    /// `[samples × width]`, row-major.
    pub rows: &'a [f32],
    /// Number of features.
    pub width: usize,
    /// Class of each sample.
    pub targets: &'a [u32],
    /// Number of classes.
    pub classes: usize,
    /// Weight of each sample.
    pub weights: &'a [f64],
    /// λ.
    pub l2: f64,
    /// Share of the target spread evenly over all classes.
    pub smoothing: f64,
}

/// A fitted model.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// W, `[classes × width]`.
    pub weight: Vec<f64>,
    /// b.
    pub bias: Vec<f64>,
    /// Iterations taken.
    pub iterations: usize,
    /// Whether the gradient vanished before the last iteration.
    pub converged: bool,
}

const HISTORY: usize = 10;
const ITERATIONS: usize = 1000;
/// Of the gradient's largest entry, per unit of sample weight.
const TOLERANCE: f64 = 1e-7;
const CHUNKS: usize = 16;
const LEAST_CHUNK: usize = 64;

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (x, y) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = x.remainder().iter().zip(y.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in x.zip(y) {
        for i in 0..8 {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum::<f64>() + rest
}

fn add_scaled(to: &mut [f64], factor: f64, from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t += factor * f);
}

impl Problem<'_> {
    fn samples(&self) -> usize {
        self.targets.len()
    }

    fn penalty(&self) -> f64 {
        if self.classes == 2 { 2.0 * self.l2 } else { self.l2 }
    }

    /// Mean of each feature: fitting around it changes nothing but the conditioning, as the intercept is free.
    fn centre(&self) -> Vec<f64> {
        let mut mean = vec![0.0; self.width];
        for row in self.rows.chunks_exact(self.width) {
            mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x));
        }
        mean.iter_mut().for_each(|m| *m /= self.samples().max(1) as f64);
        mean
    }

    /// Objective and gradient at `theta` = (W, b) for rows less `centre`.
    fn evaluate(&self, theta: &[f64], centre: &[f64]) -> (f64, Vec<f64>) {
        let (d, k) = (self.width, self.classes);
        let size = self.samples().div_ceil(CHUNKS).max(LEAST_CHUNK);
        let chunks: Vec<(f64, Vec<f64>)> = (0..self.samples().div_ceil(size))
            .into_par_iter()
            .map(|chunk| {
                let mut loss = 0.0;
                let mut gradient = vec![0.0; theta.len()];
                let (mut x, mut z) = (vec![0.0; d], vec![0.0; k]);
                for i in chunk * size..self.samples().min((chunk + 1) * size) {
                    let row = &self.rows[i * d..(i + 1) * d];
                    x.iter_mut().zip(row.iter().zip(centre)).for_each(|(x, (&r, c))| *x = f64::from(r) - c);
                    for c in 0..k {
                        z[c] = dot(&theta[c * d..(c + 1) * d], &x) + theta[k * d + c];
                    }
                    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let log_sum = max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
                    for c in 0..k {
                        let hit = if self.targets[i] as usize == c { 1.0 - self.smoothing } else { 0.0 };
                        let target = hit + self.smoothing / k as f64;
                        loss += self.weights[i] * target * (log_sum - z[c]);
                        let slope = self.weights[i] * ((z[c] - log_sum).exp() - target);
                        add_scaled(&mut gradient[c * d..(c + 1) * d], slope, &x);
                        gradient[k * d + c] += slope;
                    }
                }
                (loss, gradient)
            })
            .collect();
        let weights = &theta[..k * d];
        let mut loss = 0.5 * self.penalty() * dot(weights, weights);
        let mut gradient = vec![0.0; theta.len()];
        add_scaled(&mut gradient[..k * d], self.penalty(), weights);
        for (part, slope) in chunks {
            loss += part;
            add_scaled(&mut gradient, 1.0, &slope);
        }
        (loss, gradient)
    }

    /// Minimizes the objective; `progress` is called with every iteration's number.
    pub fn fit(&self, mut progress: impl FnMut(usize)) -> Fit {
        let (d, k) = (self.width, self.classes);
        let centre = self.centre();
        let mut theta = vec![0.0; k * d + k];
        let (mut value, mut gradient) = self.evaluate(&theta, &centre);
        let enough = TOLERANCE * self.weights.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        let mut history: VecDeque<(Vec<f64>, Vec<f64>)> = VecDeque::new();
        let (mut iterations, mut converged) = (0, false);
        while iterations < ITERATIONS {
            if gradient.iter().all(|g| g.abs() <= enough) {
                converged = true;
                break;
            }
            progress(iterations);
            iterations += 1;
            let direction = direction(&gradient, &history);
            let Some((next, next_value, next_gradient)) = self.search(&theta, value, &gradient, &direction, &centre)
            else {
                // No lower value can be represented: this is the minimum in this precision.
                converged = true;
                break;
            };
            let step: Vec<f64> = next.iter().zip(&theta).map(|(a, b)| a - b).collect();
            let change: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(a, b)| a - b).collect();
            if dot(&step, &change) > 0.0 {
                history.push_back((step, change));
                if history.len() > HISTORY {
                    history.pop_front();
                }
            }
            (theta, value, gradient) = (next, next_value, next_gradient);
        }
        let weight = theta[..k * d].to_vec();
        let bias = (0..k).map(|c| theta[k * d + c] - dot(&weight[c * d..(c + 1) * d], &centre)).collect();
        Fit { weight, bias, iterations, converged }
    }

    /// A point along `direction` that satisfies the weak Wolfe conditions, by bisection (Lewis & Overton 2013).
    fn search(
        &self,
        theta: &[f64],
        value: f64,
        gradient: &[f64],
        direction: &[f64],
        centre: &[f64],
    ) -> Option<(Vec<f64>, f64, Vec<f64>)> {
        let slope = dot(gradient, direction);
        let (mut low, mut high, mut length) = (0.0, f64::INFINITY, 1.0);
        let mut lowest = None;
        for _ in 0..40 {
            let mut point = theta.to_vec();
            add_scaled(&mut point, length, direction);
            let (there, gradient) = self.evaluate(&point, centre);
            if !there.is_finite() || there > value + 1e-4 * length * slope {
                high = length;
            } else if dot(&gradient, direction) < 0.9 * slope {
                low = length;
                lowest = Some((point, there, gradient));
            } else {
                return Some((point, there, gradient));
            }
            length = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * low };
        }
        lowest.filter(|(_, there, _)| *there < value)
    }
}

/// -H g by the two-loop recursion.
fn direction(gradient: &[f64], history: &VecDeque<(Vec<f64>, Vec<f64>)>) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut alphas = Vec::with_capacity(history.len());
    for (step, change) in history.iter().rev() {
        let alpha = dot(step, &q) / dot(step, change);
        add_scaled(&mut q, -alpha, change);
        alphas.push(alpha);
    }
    let scale = match history.back() {
        Some((step, change)) => dot(step, change) / dot(change, change),
        None => 1.0 / dot(gradient, gradient).sqrt().max(f64::MIN_POSITIVE),
    };
    q.iter_mut().for_each(|q| *q *= scale);
    for ((step, change), alpha) in history.iter().zip(alphas.into_iter().rev()) {
        let beta = dot(change, &q) / dot(step, change);
        add_scaled(&mut q, alpha - beta, step);
    }
    q
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows and targets of `sk`: a formula that Python computes as well.
    fn data(n: usize, d: usize, k: usize) -> (Vec<f32>, Vec<u32>) {
        let value = |i: usize, j: usize| {
            let wave = (1.0 + 3.7 * i as f64 + 1.3 * (j * j) as f64).sin();
            wave + if i % k == j % k { 0.5 } else { 0.0 } + 2.0 * j as f64
        };
        let rows = (0..n).flat_map(|i| (0..d).map(move |j| value(i, j) as f32)).collect();
        let targets = (0..n).map(|i| (if i % 7 == 0 { i / 7 % k } else { i % k }) as u32).collect();
        (rows, targets)
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 2e-4 * e.abs().max(1.0), "{found:?} against {expected:?}");
        }
    }

    #[test]
    fn three_classes_agree_with_scikit_learn() {
        let (rows, targets) = data(60, 4, 3);
        let weights = [1.0; 60];
        let problem = Problem {
            rows: &rows,
            width: 4,
            targets: &targets,
            classes: 3,
            weights: &weights,
            l2: 0.5,
            smoothing: 0.0,
        };
        let fit = problem.fit(|_| ());
        assert!(fit.converged);
        // LogisticRegression(C=2, tol=1e-12)
        let expected = [
            1.421672512553314,
            -1.952671117218024,
            -3.1929729178140693,
            1.2590372346992473,
            -2.0760628040112232,
            2.1482740965515363,
            0.49713529931988426,
            1.8271700880491775,
            0.6543902914579011,
            -0.19560297933353912,
            2.6958376184941417,
            -3.0862073227484967,
        ];
        close(&fit.weight, &expected);
        close(&fit.bias, &[9.357798161775897, -17.418087534066434, 8.060289372286952]);
    }

    #[test]
    fn two_classes_agree_with_scikit_learn() {
        let (rows, targets) = data(60, 4, 2);
        let weights = [1.0; 60];
        let problem = Problem {
            rows: &rows,
            width: 4,
            targets: &targets,
            classes: 2,
            weights: &weights,
            l2: 1.0,
            smoothing: 0.0,
        };
        let fit = problem.fit(|_| ());
        let difference: Vec<f64> = (0..4).map(|j| fit.weight[4 + j] - fit.weight[j]).collect();
        // LogisticRegression(C=1, tol=1e-12): the coefficients of the second class against the first
        close(&difference, &[-1.8231753336302674, 1.3797863216536108, -1.2522594255267518, 2.864554933131523]);
        close(&[fit.bias[1] - fit.bias[0]], &[-15.232989880976262]);
    }

    #[test]
    fn balanced_weights_agree_with_scikit_learn() {
        let (rows, targets) = data(50, 4, 3);
        let keep: Vec<usize> = (0..50).filter(|&i| targets[i] != 2 || i % 2 == 0).collect();
        let rows: Vec<f32> = keep.iter().flat_map(|&i| rows[4 * i..4 * i + 4].to_vec()).collect();
        let targets: Vec<u32> = keep.iter().map(|&i| targets[i]).collect();
        let count = |c: u32| targets.iter().filter(|&&t| t == c).count() as f64;
        let weights: Vec<f64> = targets.iter().map(|&t| targets.len() as f64 / (3.0 * count(t))).collect();
        let problem = Problem {
            rows: &rows,
            width: 4,
            targets: &targets,
            classes: 3,
            weights: &weights,
            l2: 2.0,
            smoothing: 0.0,
        };
        // LogisticRegression(C=0.5, tol=1e-12, class_weight="balanced")
        let expected = [
            0.632954091876974,
            -0.7397136215624109,
            -1.2879963034975805,
            0.6658020425241367,
            -0.5977796208898879,
            0.7461651872563295,
            0.17777735241820997,
            0.32956651268741977,
            -0.03517447098708595,
            -0.006451565693921134,
            1.1102189510793699,
            -0.9953685552115531,
        ];
        close(&problem.fit(|_| ()).weight, &expected);
    }
}
