//! Normalization of each row over the last dimension.

use super::width;
use crate::cpu::{self, CHUNK, Values, for_rows, output, sum_parts};
use crate::simd::{dot, simd, sum};
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};

simd! {
    /// Normalizes rows of `gamma.len()` values.
    pub(crate) fn rows(x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
        let width = gamma.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let mean = sum(x) / width as f32;
            for (y, &x) in y.iter_mut().zip(x) {
                *y = x - mean;
            }
            let rstd = 1.0 / (dot(y, y) / width as f32 + eps).sqrt();
            for ((y, &gamma), &beta) in y.iter_mut().zip(gamma).zip(beta) {
                *y = (*y * rstd).mul_add(gamma, beta);
            }
        }
    }
}

simd! {
    /// Gradient of the input; `dx` also serves as scratch.
    fn input_gradient(x: &[f32], dy: &[f32], gamma: &[f32], eps: f32, dx: &mut [f32]) {
        let width = gamma.len();
        let scale = 1.0 / width as f32;
        for ((dx, x), dy) in dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(dy.chunks_exact(width)) {
            let mean = sum(x) * scale;
            for (d, &x) in dx.iter_mut().zip(x) {
                *d = x - mean;
            }
            let rstd = 1.0 / (dot(dx, dx) * scale + eps).sqrt();
            for d in dx.iter_mut() {
                *d *= rstd;
            }
            let g_mean = dot(dy, gamma) * scale;
            let mut product = 0f32;
            // In pieces, so that the triple product uses the vector sums as well.
            let mut piece = [0f32; 64];
            for ((dx, dy), gamma) in dx.chunks(64).zip(dy.chunks(64)).zip(gamma.chunks(64)) {
                for ((p, &dy), &gamma) in piece.iter_mut().zip(dy).zip(gamma) {
                    *p = dy * gamma;
                }
                product += dot(&piece[..dx.len()], dx);
            }
            let slope = product * scale;
            for ((d, &dy), &gamma) in dx.iter_mut().zip(dy).zip(gamma) {
                *d = rstd * (dy.mul_add(gamma, -g_mean) - *d * slope);
            }
        }
    }
}

simd! {
    /// Adds up Σ dy x̂ and Σ dy.
    fn reduce(x: &[f32], dy: &[f32], eps: f32, products: &mut [f32], sums: &mut [f32]) {
        let width = sums.len();
        let scale = 1.0 / width as f32;
        for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact(width)) {
            let mean = sum(x) * scale;
            let mut squares = [0f32; 16];
            for x in x.chunks(16) {
                for (s, &x) in squares.iter_mut().zip(x) {
                    *s = (x - mean).mul_add(x - mean, *s);
                }
            }
            let rstd = 1.0 / (crate::simd::tree(squares) * scale + eps).sqrt();
            for c in 0..width {
                products[c] = ((x[c] - mean) * rstd).mul_add(dy[c], products[c]);
                sums[c] += dy[c];
            }
        }
    }
}

/// y = normalized x · gamma + beta, rows of `gamma.len()` values.
pub fn forward(x: &[f32], gamma: &[f32], beta: &[f32], eps: f64) -> Vec<f32> {
    let width = gamma.len();
    let mut y = output(x.len());
    for_rows(&mut y, width, |row, y| rows(&x[row * width..][..y.len()], gamma, beta, eps as f32, y));
    y
}

/// Gradient of the input.
pub fn input_gradients(x: &[f32], gamma: &[f32], eps: f64, dy: &[f32]) -> Vec<f32> {
    let width = gamma.len();
    let mut dx = output(x.len());
    for_rows(&mut dx, width, |row, dx| {
        let range = row * width..row * width + dx.len();
        input_gradient(&x[range.clone()], &dy[range], gamma, eps as f32, dx);
    });
    dx
}

/// Gradients of gamma and beta.
pub fn parameter_gradients(x: &[f32], width: usize, eps: f64, dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let rows = x.len() / width.max(1);
    let mut sums = sum_parts(rows.div_ceil(CHUNK), 2 * width, |part, sums| {
        let range = part * CHUNK * width..((part + 1) * CHUNK).min(rows) * width;
        let (products, sums) = sums.split_at_mut(width);
        reduce(&x[range.clone()], &dy[range], eps as f32, products, sums);
    });
    let last = sums.split_off(width);
    (sums, last)
}

struct Op {
    width: usize,
    eps: f64,
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "layer_norm"
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
        Ok((CpuStorage::F32(forward(x, gamma, beta, self.eps)), lx.shape().clone()))
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
        let dx = x.track_op().then(|| cpu::like(input_gradients(&xs, &gammas, self.eps, &dy), x)).transpose()?;
        let (mut dgamma, mut dbeta) = (None, None);
        if gamma.track_op() || beta.track_op() {
            let (products, sums) = parameter_gradients(&xs, self.width, self.eps, &dy);
            dgamma = if gamma.track_op() { Some(cpu::like(products, gamma)?) } else { None };
            dbeta = if beta.track_op() { Some(cpu::like(sums, beta)?) } else { None };
        }
        Ok((dx, dgamma, dbeta))
    }
}

/// Normalizes each row of `x` `[.., width]` to mean 0 and variance 1, then scales by `gamma` and shifts by `beta`, both
/// `[width]`.
pub fn layer_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Tensor> {
    let width = width("layer_norm", x, &[gamma, beta])?;
    if !x.device().is_cpu() {
        return composed(x, gamma, beta, eps);
    }
    x.contiguous()?.apply_op3(&gamma.contiguous()?, &beta.contiguous()?, Op { width, eps })
}

fn composed(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let rstd = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    centred.broadcast_mul(&rstd)?.broadcast_mul(gamma)?.broadcast_add(beta)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, close, close_values, flat, random};

    #[test]
    fn agrees_with_plain_loops() -> Result<()> {
        for width in [1, 5, 16, 67, 384] {
            let (x, g, b) = (random(&[3, width], 1, 2.0), random(&[width], 2, 1.0), random(&[width], 3, 1.0));
            let (xs, gs, bs) = (flat(&x), flat(&g), flat(&b));
            let mut want = Vec::new();
            for row in xs.chunks(width) {
                let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / width as f64;
                let var = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / width as f64;
                let normal = |x: f32| (f64::from(x) - mean) / (var + 1e-5).sqrt();
                want.extend((0..width).map(|i| (normal(row[i]) * f64::from(gs[i]) + f64::from(bs[i])) as f32));
            }
            close_values(&flat(&layer_norm(&x, &g, &b, 1e-5)?), &want, 1e-5);
        }
        Ok(())
    }

    #[test]
    fn composition_gives_the_same_values() -> Result<()> {
        let (x, g, b) = (random(&[3, 4, 37], 1, 2.0), random(&[37], 2, 1.0), random(&[37], 3, 1.0));
        close(&layer_norm(&x, &g, &b, 1e-5)?, &composed(&x, &g, &b, 1e-5)?, 1e-5);
        Ok(())
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        for width in [7, 80] {
            let inputs = [random(&[5, width], 1, 1.0), random(&[width], 2, 1.0), random(&[width], 3, 1.0)];
            check_gradients(&inputs, 3e-3, |x| layer_norm(&x[0], &x[1], &x[2], 1e-5));
        }
    }
}
