//! Normalization of each channel over all but the last dimension.

use super::width;
use crate::cpu::{self, CHUNK, Values, for_rows, sum_parts};
use crate::simd::simd;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// The statistics that a batch was normalized with. They are not differentiated.
#[derive(Debug, Clone)]
pub struct BatchStats {
    /// Per channel, `[c]`.
    pub mean: Tensor,
    /// Biased (divided by `count`), per channel, `[c]`.
    pub var: Tensor,
    /// Values per channel.
    pub count: usize,
}

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

/// Mean and biased variance of each column: chunks in f32 about their own mean, combined in f64 (Chan et al. 1983).
fn moments(x: &[f32], width: usize) -> (Vec<f32>, Vec<f32>) {
    let chunks: Vec<(usize, Vec<f32>, Vec<f32>)> = x
        .par_chunks(CHUNK * width)
        .map(|x| {
            let (mut mean, mut squares) = (vec![0f32; width], vec![0f32; width]);
            chunk_moments(x, &mut mean, &mut squares);
            (x.len() / width, mean, squares)
        })
        .collect();
    let (mut means, mut vars) = (vec![0f32; width], vec![0f32; width]);
    for c in 0..width {
        let (mut count, mut mean, mut squares) = (0f64, 0f64, 0f64);
        for (rows, m, s) in &chunks {
            let (rows, delta) = (*rows as f64, f64::from(m[c]) - mean);
            let total = count + rows;
            mean += delta * rows / total;
            squares += f64::from(s[c]) + delta * delta * count * rows / total;
            count = total;
        }
        means[c] = mean as f32;
        vars[c] = (squares / count.max(1.0)) as f32;
    }
    (means, vars)
}

simd! {
    fn normalize(x: &[f32], mean: &[f32], factor: &[f32], beta: &[f32], y: &mut [f32]) {
        let width = mean.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            for c in 0..width {
                y[c] = (x[c] - mean[c]).mul_add(factor[c], beta[c]);
            }
        }
    }
}

simd! {
    /// Adds up Σ dy (x - mean) and Σ dy.
    fn reduce(x: &[f32], dy: &[f32], mean: &[f32], products: &mut [f32], sums: &mut [f32]) {
        let width = mean.len();
        for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact(width)) {
            for c in 0..width {
                products[c] = (x[c] - mean[c]).mul_add(dy[c], products[c]);
                sums[c] += dy[c];
            }
        }
    }
}

simd! {
    /// dx = factor dy - slope (x - mean) - shift.
    fn input_gradient(x: &[f32], dy: &[f32], mean: &[f32], factor: &[f32], slope: &[f32], shift: &[f32], dx: &mut [f32]) {
        let width = mean.len();
        for ((dx, x), dy) in dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(dy.chunks_exact(width)) {
            for c in 0..width {
                dx[c] = factor[c].mul_add(dy[c], -slope[c].mul_add(x[c] - mean[c], shift[c]));
            }
        }
    }
}

struct Op {
    mean: Vec<f32>,
    rstd: Vec<f32>,
    /// Whether mean and deviation are functions of the input.
    train: bool,
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        gamma: &CpuStorage,
        lg: &Layout,
        beta: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, gamma, beta) = (cpu::values(x, lx)?, cpu::values(gamma, lg)?, cpu::values(beta, lb)?);
        let width = self.mean.len();
        let factor: Vec<f32> = gamma.iter().zip(&self.rstd).map(|(g, r)| g * r).collect();
        let mut y = vec![0f32; x.len()];
        for_rows(&mut y, width, |row, y| normalize(&x[row * width..][..y.len()], &self.mean, &factor, beta, y));
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (xs, gammas, dy) = (Values::of(x)?, Values::of(gamma)?, Values::of(&dy)?);
        let width = self.mean.len();
        let rows = xs.len().checked_div(width).unwrap_or(0);
        let mut sums = Vec::new();
        if gamma.track_op() || beta.track_op() || (self.train && x.track_op()) {
            sums = sum_parts(rows.div_ceil(CHUNK), 2 * width, |part, sums| {
                let range = part * CHUNK * width..((part + 1) * CHUNK).min(rows) * width;
                let (products, sums) = sums.split_at_mut(width);
                reduce(&xs[range.clone()], &dy[range], &self.mean, products, sums);
            });
        }
        let dx = if x.track_op() {
            let factor: Vec<f32> = gammas.iter().zip(&self.rstd).map(|(g, r)| g * r).collect();
            let (mut slope, mut shift) = (vec![0f32; width], vec![0f32; width]);
            if self.train {
                for c in 0..width {
                    slope[c] = factor[c] * self.rstd[c] * self.rstd[c] * sums[c] / rows as f32;
                    shift[c] = factor[c] * sums[width + c] / rows as f32;
                }
            }
            let mut dx = vec![0f32; xs.len()];
            for_rows(&mut dx, width, |row, dx| {
                let range = row * width..row * width + dx.len();
                input_gradient(&xs[range.clone()], &dy[range], &self.mean, &factor, &slope, &shift, dx);
            });
            Some(cpu::like(dx, x)?)
        } else {
            None
        };
        let dgamma = gamma.track_op().then(|| sums[..width].iter().zip(&self.rstd).map(|(s, r)| s * r).collect());
        let dbeta = beta.track_op().then(|| sums[width..].to_vec());
        Ok((dx, dgamma.map(|g| cpu::like(g, gamma)).transpose()?, dbeta.map(|b| cpu::like(b, beta)).transpose()?))
    }
}

fn rstd(var: &[f32], eps: f64) -> Vec<f32> {
    var.iter().map(|&var| (1.0 / (f64::from(var) + eps).sqrt()) as f32).collect()
}

/// Normalizes each channel by the batch's own mean and biased variance: `x` `[.., c]`, `gamma` and `beta` `[c]`.
///
/// Also returns the statistics, detached, for the running averages. Errors when a channel has fewer than two values.
pub fn batch_norm_train(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<(Tensor, BatchStats)> {
    let width = width("batch_norm_train", x, &[gamma, beta])?;
    let count = x.elem_count() / width.max(1);
    if count < 2 {
        bail!("batch_norm_train: {count} value per channel has no variance; use a larger batch or image");
    }
    if !x.device().is_cpu() {
        return train_composed(x, gamma, beta, eps);
    }
    let x = x.contiguous()?;
    let (mean, var) = moments(&Values::of(&x)?, width);
    let stats = BatchStats {
        mean: Tensor::from_slice(&mean, width, x.device())?,
        var: Tensor::from_slice(&var, width, x.device())?,
        count,
    };
    let op = Op { mean, rstd: rstd(&var, eps), train: true };
    Ok((x.apply_op3(&gamma.contiguous()?, &beta.contiguous()?, op)?, stats))
}

fn train_composed(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<(Tensor, BatchStats)> {
    let rows = x.contiguous()?.reshape(((), x.dim(candle_core::D::Minus1)?))?;
    let mean = rows.mean(0)?;
    let centred = rows.broadcast_sub(&mean)?;
    let var = centred.sqr()?.mean(0)?;
    let y = centred.broadcast_mul(&((&var + eps)?.sqrt()?.recip()? * gamma)?)?.broadcast_add(beta)?;
    Ok((y.reshape(x.shape())?, BatchStats { mean: mean.detach(), var: var.detach(), count: rows.dim(0)? }))
}

/// Normalizes each channel by a given mean and variance; differentiable in `x`, `gamma` and `beta`.
pub fn batch_norm_eval(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    width("batch_norm_eval", x, &[gamma, beta, mean, var])?;
    if !x.device().is_cpu() {
        return eval_composed(x, gamma, beta, mean, var, eps);
    }
    let op = Op { mean: mean.to_vec1()?, rstd: rstd(&var.to_vec1::<f32>()?, eps), train: false };
    x.contiguous()?.apply_op3(&gamma.contiguous()?, &beta.contiguous()?, op)
}

fn eval_composed(x: &Tensor, gamma: &Tensor, beta: &Tensor, mean: &Tensor, var: &Tensor, eps: f64) -> Result<Tensor> {
    let factor = ((var.detach() + eps)?.sqrt()?.recip()? * gamma)?;
    x.broadcast_sub(&mean.detach())?.broadcast_mul(&factor)?.broadcast_add(beta)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, close, close_values, flat, random};

    #[test]
    fn statistics_survive_a_large_offset() -> Result<()> {
        let x = (random(&[2, 31, 17, 5], 1, 1.0) + 1000.0)?;
        let (_, stats) = batch_norm_train(&x, &random(&[5], 2, 1.0), &random(&[5], 3, 1.0), 1e-5)?;
        let values = flat(&x);
        for c in 0..5 {
            let column: Vec<f64> = values.iter().skip(c).step_by(5).map(|&x| f64::from(x)).collect();
            let mean = column.iter().sum::<f64>() / column.len() as f64;
            let var = column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / column.len() as f64;
            close_values(&[flat(&stats.mean)[c], flat(&stats.var)[c]], &[mean as f32, var as f32], 1e-5);
        }
        assert_eq!(stats.count, 2 * 31 * 17);
        Ok(())
    }

    #[test]
    fn output_has_the_asked_for_moments() -> Result<()> {
        let x = random(&[400, 3], 1, 3.0);
        let (gamma, beta) = (Tensor::new(&[2f32; 3], x.device())?, Tensor::new(&[0.5f32; 3], x.device())?);
        let (y, _) = batch_norm_train(&x, &gamma, &beta, 0.0)?;
        let (mean, var) = moments(&flat(&y), 3);
        close_values(&mean, &[0.5; 3], 1e-5);
        close_values(&var, &[4.0; 3], 1e-4);
        Ok(())
    }

    #[test]
    fn compositions_give_the_same_values() -> Result<()> {
        let (x, g, b) = (random(&[3, 4, 5, 7], 1, 2.0), random(&[7], 2, 1.0), random(&[7], 3, 1.0));
        let (m, v) = (random(&[7], 4, 1.0), random(&[7], 5, 1.0).abs()?);
        let ((y, s), (y2, s2)) = (batch_norm_train(&x, &g, &b, 1e-5)?, train_composed(&x, &g, &b, 1e-5)?);
        close(&y, &y2, 1e-5);
        close(&s.var, &s2.var, 1e-5);
        close(&batch_norm_eval(&x, &g, &b, &m, &v, 1e-3)?, &eval_composed(&x, &g, &b, &m, &v, 1e-3)?, 1e-5);
        Ok(())
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let inputs = [random(&[4, 3, 5], 1, 1.0), random(&[5], 2, 1.0), random(&[5], 3, 1.0)];
        let (mean, var) = (random(&[5], 4, 1.0), random(&[5], 5, 1.0).abs().expect("abs"));
        check_gradients(&inputs, 3e-3, |x| Ok(batch_norm_train(&x[0], &x[1], &x[2], 1e-5)?.0));
        check_gradients(&inputs, 3e-3, |x| Ok(train_composed(&x[0], &x[1], &x[2], 1e-5)?.0));
        check_gradients(&inputs, 3e-3, |x| batch_norm_eval(&x[0], &x[1], &x[2], &mean, &var, 1e-1));
    }

    #[test]
    fn one_value_per_channel_is_an_error() {
        let v = random(&[5], 2, 1.0);
        assert!(batch_norm_train(&random(&[1, 5], 1, 1.0), &v, &v, 1e-5).is_err());
    }
}
