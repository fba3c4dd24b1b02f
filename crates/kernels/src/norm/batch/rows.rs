//! The loops over rows: moments, normalization, and the two passes of its gradient.

use rayon::prelude::*;

use crate::cpu::CHUNK;
use crate::simd::simd;

simd! {
    /// Mean, and sum of squared differences from it, of a chunk of rows.
    fn chunk_moments(x: &[f32], mean: &mut [f32], squares: &mut [f32]) {
        let width = mean.len();
        let scale = width as f32 / x.len() as f32;
        // About the first row: sums of large values would lose the digits that differ.
        let first = &x[..width];
        for row in x.chunks_exact(width) {
            for ((sum, &x), &first) in mean.iter_mut().zip(row).zip(first) {
                *sum += x - first;
            }
        }
        for (sum, &first) in mean.iter_mut().zip(first) {
            *sum = sum.mul_add(scale, first);
        }
        for row in x.chunks_exact(width) {
            for ((sum, &x), &mean) in squares.iter_mut().zip(row).zip(mean.iter()) {
                *sum = (x - mean).mul_add(x - mean, *sum);
            }
        }
    }
}

simd! {
    /// Takes a chunk's moments into those of the `count` rows before it (Chan et al. 1983).
    fn combine(count: f64, rows: f64, chunk: [&[f32]; 2], means: &mut [f64], squares: &mut [f64]) {
        let (share, cross) = (rows / (count + rows), count * rows / (count + rows));
        let of_chunk = chunk[0].iter().zip(chunk[1]);
        for ((mean, square), (&m, &s)) in means.iter_mut().zip(squares.iter_mut()).zip(of_chunk) {
            let delta = f64::from(m) - *mean;
            *mean += delta * share;
            *square += f64::from(s) + delta * delta * cross;
        }
    }
}

/// Mean and biased variance of each column: chunks in f32 about their own mean, combined in f64.
pub(super) fn moments(x: &[f32], width: usize) -> (Vec<f32>, Vec<f32>) {
    let chunks: Vec<(usize, Vec<f32>, Vec<f32>)> = x
        .par_chunks(CHUNK * width)
        .map(|x| {
            let (mut mean, mut squares) = (vec![0f32; width], vec![0f32; width]);
            chunk_moments(x, &mut mean, &mut squares);
            (x.len() / width, mean, squares)
        })
        .collect();
    let (mut means, mut squares, mut count) = (vec![0f64; width], vec![0f64; width], 0.0);
    for (rows, mean, square) in &chunks {
        combine(count, *rows as f64, [mean, square], &mut means, &mut squares);
        count += *rows as f64;
    }
    let narrow = |x: Vec<f64>, scale: f64| x.into_iter().map(|x| (x * scale) as f32).collect();
    (narrow(means, 1.0), narrow(squares, 1.0 / count.max(1.0)))
}

simd! {
    /// y = clamp((x - mean) factor + beta + residual).
    pub(super) fn normalize(
        x: &[f32],
        mean: &[f32],
        factor: &[f32],
        beta: &[f32],
        residual: Option<&[f32]>,
        limits: (f32, f32),
        y: &mut [f32],
    ) {
        let (width, (low, high)) = (mean.len(), limits);
        let (factor, beta) = (&factor[..width], &beta[..width]);
        for (i, (y, x)) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).enumerate() {
            match residual {
                Some(r) => {
                    let r = &r[i * width..][..width];
                    for c in 0..width {
                        let v = (x[c] - mean[c]).mul_add(factor[c], beta[c]) + r[c];
                        let v = if v < low { low } else { v };
                        y[c] = if v > high { high } else { v };
                    }
                }
                None => {
                    for c in 0..width {
                        let v = (x[c] - mean[c]).mul_add(factor[c], beta[c]);
                        let v = if v < low { low } else { v };
                        y[c] = if v > high { high } else { v };
                    }
                }
            }
        }
    }
}

simd! {
    /// Adds up Σ dy (x - mean) and Σ dy, after `dy` was set to 0 wherever `y` is at a limit.
    pub(super) fn reduce(
        x: &[f32],
        y: Option<&[f32]>,
        limits: (f32, f32),
        dy: &mut [f32],
        mean: &[f32],
        products: &mut [f32],
        sums: &mut [f32],
    ) {
        let (width, (low, high)) = (mean.len(), limits);
        let (products, sums) = (&mut products[..width], &mut sums[..width]);
        for (i, (x, dy)) in x.chunks_exact(width).zip(dy.chunks_exact_mut(width)).enumerate() {
            if let Some(y) = y {
                let y = &y[i * width..][..width];
                for c in 0..width {
                    let d = if y[c] > low && y[c] < high { dy[c] } else { 0.0 };
                    dy[c] = d;
                    products[c] = (x[c] - mean[c]).mul_add(d, products[c]);
                    sums[c] += d;
                }
            } else {
                for c in 0..width {
                    products[c] = (x[c] - mean[c]).mul_add(dy[c], products[c]);
                    sums[c] += dy[c];
                }
            }
        }
    }
}

simd! {
    /// [`reduce`] where nothing was added: that a result is at a limit is computed again, and `dy` stays.
    pub(super) fn reduce_alone(
        x: &[f32],
        mean: &[f32],
        factor: &[f32],
        beta: &[f32],
        limits: (f32, f32),
        dy: &[f32],
        products: &mut [f32],
        sums: &mut [f32],
    ) {
        let (width, (low, high)) = (mean.len(), limits);
        let (factor, beta) = (&factor[..width], &beta[..width]);
        let (products, sums) = (&mut products[..width], &mut sums[..width]);
        for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact(width)) {
            for c in 0..width {
                let apart = x[c] - mean[c];
                let y = apart.mul_add(factor[c], beta[c]);
                let d = if y > low && y < high { dy[c] } else { 0.0 };
                products[c] = apart.mul_add(d, products[c]);
                sums[c] += d;
            }
        }
    }
}

simd! {
    /// dx = factor dy - slope (x - mean) - shift.
    pub(super) fn input_gradient(
        x: &[f32],
        mean: &[f32],
        factor: &[f32],
        slope: &[f32],
        shift: &[f32],
        dy: &[f32],
        dx: &mut [f32],
    ) {
        let width = mean.len();
        let (factor, slope, shift) = (&factor[..width], &slope[..width], &shift[..width]);
        let rows = dx.chunks_exact_mut(width).zip(dy.chunks_exact(width)).zip(x.chunks_exact(width));
        for ((dx, dy), x) in rows {
            for c in 0..width {
                dx[c] = factor[c].mul_add(dy[c], -slope[c].mul_add(x[c] - mean[c], shift[c]));
            }
        }
    }
}

simd! {
    /// [`input_gradient`] in place of a `dy` that [`reduce_alone`] saw.
    pub(super) fn input_gradient_alone(
        x: &[f32],
        mean: &[f32],
        factor: &[f32],
        beta: &[f32],
        limits: (f32, f32),
        slope: &[f32],
        shift: &[f32],
        dy: &mut [f32],
    ) {
        let (width, (low, high)) = (mean.len(), limits);
        let (factor, beta, slope, shift) = (&factor[..width], &beta[..width], &slope[..width], &shift[..width]);
        for (dy, x) in dy.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            for c in 0..width {
                let apart = x[c] - mean[c];
                let y = apart.mul_add(factor[c], beta[c]);
                let d = if y > low && y < high { dy[c] } else { 0.0 };
                dy[c] = factor[c].mul_add(d, -slope[c].mul_add(apart, shift[c]));
            }
        }
    }
}
