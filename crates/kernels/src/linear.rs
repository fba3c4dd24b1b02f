//! y = x Wᵀ + b, whose backward pass computes gradients only for what learns.

use crate::cpu::{self, Values, column_sums, output};
use crate::frozen::panels::Start;
use crate::matmul::{Mat, par_product};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

/// y = x Wᵀ + b for rows of `inputs` values: `w` is `[outputs, inputs]`.
pub fn forward(x: &[f32], w: &[f32], b: Option<&[f32]>, inputs: usize, outputs: usize) -> Vec<f32> {
    let rows = x.len() / inputs.max(1);
    let mut y = output(rows * outputs);
    let (x, w) = (Mat::new(x, rows, inputs, inputs), Mat::new(w, outputs, inputs, inputs));
    par_product(x, w.t(), &mut y, outputs, b.map_or(Start::Zero, Start::Bias));
    y
}

/// dx = dy W.
pub fn input_gradient(w: &[f32], dy: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let rows = dy.len() / outputs.max(1);
    let mut dx = output(rows * inputs);
    let (dy, w) = (Mat::new(dy, rows, outputs, outputs), Mat::new(w, outputs, inputs, inputs));
    par_product(dy, w, &mut dx, inputs, Start::Zero);
    dx
}

/// dW = dyᵀ x.
pub fn weight_gradient(x: &[f32], dy: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let rows = x.len() / inputs.max(1);
    let mut dw = output(outputs * inputs);
    let (dy, x) = (Mat::new(dy, rows, outputs, outputs), Mat::new(x, rows, inputs, inputs));
    par_product(dy.t(), x, &mut dw, inputs, Start::Zero);
    dw
}

struct Op {
    inputs: usize,
    outputs: usize,
}

impl Op {
    fn forward(&self, x: &[f32], w: &[f32], b: Option<&[f32]>, shape: &Shape) -> (CpuStorage, Shape) {
        let mut dims = shape.dims().to_vec();
        *dims.last_mut().unwrap_or(&mut 0) = self.outputs;
        (CpuStorage::F32(forward(x, w, b, self.inputs, self.outputs)), dims.into())
    }

    fn backward(&self, x: &Tensor, w: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = Values::of(dy)?;
        let (mut dx, mut dw) = (None, None);
        if x.track_op() {
            dx = Some(cpu::like(input_gradient(&Values::of(w)?, &dy, self.inputs, self.outputs), x)?);
        }
        if w.track_op() {
            dw = Some(cpu::like(weight_gradient(&Values::of(x)?, &dy, self.inputs, self.outputs), w)?);
        }
        Ok((dx, dw))
    }
}

impl CustomOp2 for Op {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(self.forward(cpu::values(x, lx)?, cpu::values(w, lw)?, None, lx.shape()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.backward(x, w, &dy.contiguous()?)
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(self.forward(cpu::values(x, lx)?, cpu::values(w, lw)?, Some(cpu::values(b, lb)?), lx.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (dx, dw) = self.backward(x, w, &dy)?;
        let db = if b.track_op() { Some(cpu::like(column_sums(&Values::of(&dy)?, self.outputs), b)?) } else { None };
        Ok((dx, dw, db))
    }
}

/// y = x Wᵀ + b: `[.., inputs]` to `[.., outputs]`, with `w` `[outputs, inputs]` and `b` `[outputs]`.
///
/// Inputs that are not tracked get no gradient computed. Errors when the shapes do not fit.
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = w.dims2()?;
    if x.dims().last() != Some(&inputs) {
        bail!("linear: an input of shape {:?} does not fit a weight of shape {:?}", x.dims(), w.dims());
    }
    if let Some(b) = b
        && b.dims() != [outputs]
    {
        bail!("linear: a bias of shape {:?} does not fit a weight of shape {:?}", b.dims(), w.dims());
    }
    if !x.device().is_cpu() {
        return composed(x, w, b);
    }
    let (x, w, op) = (x.contiguous()?, w.contiguous()?, Op { inputs, outputs });
    match b {
        Some(b) => x.apply_op3(&w, &b.contiguous()?, op),
        None => x.apply_op2(&w, op),
    }
}

fn composed(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let y = x.contiguous()?.reshape(((), w.dim(1)?))?.matmul(&w.t()?)?;
    if let Some(last) = dims.last_mut() {
        *last = w.dim(0)?;
    }
    let y = y.reshape(dims)?;
    b.map_or(Ok(y.clone()), |b| y.broadcast_add(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, close, flat, random};
    use candle_core::Var;

    #[test]
    fn agrees_with_plain_loops() -> Result<()> {
        let (x, w, b) = (random(&[3, 5, 7], 1, 1.0), random(&[11, 7], 2, 1.0), random(&[11], 3, 1.0));
        let y = linear(&x, &w, Some(&b))?;
        assert_eq!(y.dims(), [3, 5, 11]);
        let (xs, ws, bs) = (flat(&x), flat(&w), flat(&b));
        for (i, y) in flat(&y).iter().enumerate() {
            let (row, out) = (i / 11, i % 11);
            let want: f64 = (0..7).map(|j| f64::from(xs[row * 7 + j]) * f64::from(ws[out * 7 + j])).sum();
            assert!((f64::from(*y) - want - f64::from(bs[out])).abs() < 1e-5);
        }
        Ok(())
    }

    #[test]
    fn composition_gives_the_same_values() -> Result<()> {
        let (x, w, b) = (random(&[2, 9, 5], 1, 1.0), random(&[6, 5], 2, 1.0), random(&[6], 3, 1.0));
        close(&linear(&x, &w, Some(&b))?, &composed(&x, &w, Some(&b))?, 1e-6);
        close(&linear(&x, &w, None)?, &composed(&x, &w, None)?, 1e-6);
        Ok(())
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let inputs = [random(&[4, 9], 1, 1.0), random(&[6, 9], 2, 1.0), random(&[6], 3, 1.0)];
        check_gradients(&inputs, 2e-3, |x| linear(&x[0], &x[1], Some(&x[2])));
        check_gradients(&inputs[..2], 2e-3, |x| linear(&x[0], &x[1], None));
    }

    #[test]
    fn a_frozen_weight_gets_no_gradient() -> Result<()> {
        let x = Var::from_tensor(&random(&[2, 3], 1, 1.0))?;
        let w = random(&[4, 3], 2, 1.0);
        let grads = linear(&x, &w, None)?.sum_all()?.backward()?;
        assert!(grads.get(&w).is_none() && grads.get(&x).is_some());
        Ok(())
    }

    #[test]
    fn no_rows_give_no_rows() -> Result<()> {
        let y = linear(&random(&[0, 3], 1, 1.0), &random(&[4, 3], 2, 1.0), None)?;
        assert_eq!(y.dims(), [0, 4]);
        Ok(())
    }
}
