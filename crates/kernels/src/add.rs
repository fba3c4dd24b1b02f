//! Sums of two tensors of one shape: residual connections.
//!
//! candle's own sum runs on a second thread pool that spins while it waits, beside rayon's.

use crate::cpu::{self, for_rows};
use crate::simd::simd;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

simd! {
    fn sum(x: &[f32], y: &[f32], out: &mut [f32]) {
        for ((out, &x), &y) in out.iter_mut().zip(x).zip(y) {
            *out = x + y;
        }
    }
}

simd! {
    pub(crate) fn sum_in_place(x: &mut [f32], y: &[f32]) {
        for (x, &y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}

/// x ← x + y.
pub fn in_place(x: &mut [f32], y: &[f32]) {
    assert!(y.len() >= x.len());
    for_rows(x, 1, |i, x| sum_in_place(x, &y[i..i + x.len()]));
}

struct Op;

impl CustomOp2 for Op {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, y: &CpuStorage, ly: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, y) = (cpu::values(x, lx)?, cpu::values(y, ly)?);
        let mut out = cpu::output(x.len());
        for_rows(&mut out, 1, |i, out| sum(&x[i..i + out.len()], &y[i..i + out.len()], out));
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(dy.clone()), Some(dy.clone())))
    }
}

/// x + y, both of the same shape.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if x.shape() != y.shape() {
        bail!("add: shapes {:?} and {:?}", x.shape(), y.shape());
    }
    if x.device().is_cpu() { x.contiguous()?.apply_op2(&y.contiguous()?, Op) } else { x + y }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, close, random};

    #[test]
    fn is_the_sum() -> Result<()> {
        let (x, y) = (random(&[3, 70_001], 1, 1.0), random(&[3, 70_001], 2, 1.0));
        close(&add(&x, &y)?, &(&x + &y)?, 0.0);
        assert!(add(&x, &random(&[3, 1], 3, 1.0)).is_err());
        Ok(())
    }

    #[test]
    fn both_terms_get_the_gradient() {
        check_gradients(&[random(&[4, 5], 1, 1.0), random(&[4, 5], 2, 1.0)], 1e-3, |x| add(&x[0], &x[1]));
    }
}
