//! Normalization of each row over the last dimension.

use super::width;
use crate::cpu::{self, CHUNK, Shared, Values, for_rows, output, sum_parts, with_scratch};
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
    /// The input's gradient in place of `dy`; adds up Σ dy x̂ and Σ dy. `normal` is scratch for a row.
    fn rows_backward(
        x: &[f32],
        gamma: &[f32],
        eps: f32,
        dy: &mut [f32],
        normal: &mut [f32],
        products: &mut [f32],
        sums: &mut [f32],
    ) {
        let width = gamma.len();
        let scale = 1.0 / width as f32;
        let (normal, products, sums) = (&mut normal[..width], &mut products[..width], &mut sums[..width]);
        for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact_mut(width)) {
            let mean = sum(x) * scale;
            for c in 0..width {
                normal[c] = x[c] - mean;
            }
            let rstd = 1.0 / (dot(normal, normal) * scale + eps).sqrt();
            for c in 0..width {
                normal[c] *= rstd;
                products[c] = dy[c].mul_add(normal[c], products[c]);
                sums[c] += dy[c];
                dy[c] *= gamma[c];
            }
            let (shift, slope) = (sum(dy) * scale, dot(dy, normal) * scale);
            for c in 0..width {
                dy[c] = rstd * (dy[c] - shift - normal[c] * slope);
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

/// Gradients of gamma and beta; `dy` becomes the input's.
pub fn backward(x: &[f32], gamma: &[f32], eps: f64, dy: &mut [f32]) -> (Vec<f32>, Vec<f32>) {
    let width = gamma.len();
    let rows = x.len() / width.max(1);
    let shared = Shared::new(dy);
    let mut sums = sum_parts(rows.div_ceil(CHUNK), 2 * width, |part, sums| {
        let range = part * CHUNK * width..((part + 1) * CHUNK).min(rows) * width;
        let (products, sums) = sums.split_at_mut(width);
        // SAFETY: every part has rows of its own.
        let dy = unsafe { shared.part(range.start, range.len()) };
        with_scratch(width, |normal| rows_backward(&x[range], gamma, eps as f32, dy, normal, products, sums));
    });
    let last = sums.split_off(width);
    (sums, last)
}

struct Op {
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
        let mut dy = Values::of(&dy.contiguous()?)?.to_vec();
        let (products, sums) = backward(&Values::of(x)?, &Values::of(gamma)?, self.eps, &mut dy);
        let dx = x.track_op().then(|| cpu::like(dy, x)).transpose()?;
        let dgamma = gamma.track_op().then(|| cpu::like(products, gamma)).transpose()?;
        let dbeta = beta.track_op().then(|| cpu::like(sums, beta)).transpose()?;
        Ok((dx, dgamma, dbeta))
    }
}

/// Normalizes each row of `x` `[.., width]` to mean 0 and variance 1, then scales by `gamma` and shifts by `beta`, both
/// `[width]`.
pub fn layer_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Tensor> {
    width("layer_norm", x, &[gamma, beta])?;
    if !x.device().is_cpu() {
        return composed(x, gamma, beta, eps);
    }
    x.contiguous()?.apply_op3(&gamma.contiguous()?, &beta.contiguous()?, Op { eps })
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
