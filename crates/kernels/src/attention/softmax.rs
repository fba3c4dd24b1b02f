//! Softmax: in rows, and of tensors with its gradient.

use crate::cpu::{self, Values, for_rows, output};
use crate::simd::{dot, exp, max, simd, sum};
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};

simd! {
    /// Softmax of `scale` x in rows of `width`; `logs` gets the logarithms of the denominators.
    pub(crate) fn softmax_rows(x: &mut [f32], width: usize, scale: f32, logs: &mut [f32]) {
        for (x, log) in x.chunks_exact_mut(width).zip(logs) {
            let top = max(x) * scale;
            for x in x.iter_mut() {
                *x = exp(x.mul_add(scale, -top));
            }
            let total = sum(x);
            let factor = 1.0 / total;
            for x in x.iter_mut() {
                *x *= factor;
            }
            *log = top + total.ln();
        }
    }
}

pub(super) fn softmax_composed(x: &Tensor) -> Result<Tensor> {
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

struct Softmax;

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = cpu::values(storage, layout)?.to_vec();
        let width = layout.dims().last().copied().unwrap_or(1).max(1);
        for_rows(&mut y, width, |_, y| {
            let mut logs = vec![0f32; y.len() / width];
            softmax_rows(y, width, 1.0, &mut logs);
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let (y, gradient) = (Values::of(y)?, Values::of(&dy)?);
        let width = dy.dims().last().copied().unwrap_or(1).max(1);
        let mut dx = output(y.len());
        for_rows(&mut dx, width, |row, dx| softmax_gradient(&y[row * width..], &gradient[row * width..], width, dx));
        cpu::like(dx, &dy).map(Some)
    }
}

simd! {
    fn softmax_gradient(y: &[f32], dy: &[f32], width: usize, dx: &mut [f32]) {
        for ((dx, y), dy) in dx.chunks_exact_mut(width).zip(y.chunks_exact(width)).zip(dy.chunks_exact(width)) {
            let mean = dot(y, dy);
            for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = y * (dy - mean);
            }
        }
    }
}

/// Softmax over the last dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { x.contiguous()?.apply_op1(Softmax) } else { softmax_composed(x) }
}
