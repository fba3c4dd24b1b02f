//! One step of an optimizer as one pass over a parameter, the pull towards a fixed point, and the norm of a gradient.

use crate::cpu::{self, GRAIN, Values};
use crate::simd::{dot, simd};
use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Result, Shape, Tensor, Var, bail};
use rayon::prelude::*;
use std::sync::Mutex;

/// What one step of [`adamw_step`] depends on besides parameter, gradient and state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWHyper {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, per unit of learning rate.
    pub weight_decay: f64,
    /// Number of this step, from 1.
    pub step: u64,
    /// The gradient is multiplied by this: the clip factor.
    pub scale: f32,
}

/// What one step of [`sgd_step`] depends on besides parameter, gradient and state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdHyper {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the velocity.
    pub momentum: f64,
    /// Nesterov's form.
    pub nesterov: bool,
    /// Added to the gradient, times the parameter.
    pub weight_decay: f64,
    /// The gradient is multiplied by this: the clip factor.
    pub scale: f32,
}

/// Running values of one parameter: plain memory on the CPU, tensors elsewhere.
#[derive(Debug, Clone)]
enum Slots<const N: usize> {
    Cpu([Vec<f32>; N], Shape),
    Device([Tensor; N]),
}

impl<const N: usize> Slots<N> {
    fn new(var: &Var) -> Result<Self> {
        if var.dtype() != DType::F32 {
            bail!("optimizer: parameters must be f32, got {:?}", var.dtype());
        }
        if var.device().is_cpu() {
            let values = std::array::from_fn(|_| vec![0f32; var.elem_count()]);
            return Ok(Self::Cpu(values, var.shape().clone()));
        }
        let zeros = var.as_tensor().zeros_like()?.detach();
        Ok(Self::Device(std::array::from_fn(|_| zeros.clone())))
    }

    fn from_tensors(tensors: [&Tensor; N]) -> Result<Self> {
        let shape = tensors[0].shape().clone();
        if tensors.iter().any(|t| t.shape() != &shape || t.dtype() != DType::F32) {
            bail!("optimizer: the tensors of a state must be f32 and of one shape");
        }
        if !tensors[0].device().is_cpu() {
            return Ok(Self::Device(tensors.map(Tensor::detach)));
        }
        let mut values: [Vec<f32>; N] = std::array::from_fn(|_| Vec::new());
        for (values, tensor) in values.iter_mut().zip(tensors) {
            *values = tensor.flatten_all()?.to_vec1()?;
        }
        Ok(Self::Cpu(values, shape))
    }

    fn tensors(&self, names: [&'static str; N]) -> Vec<(&'static str, Tensor)> {
        let one = |i: usize| match self {
            Self::Cpu(values, shape) => {
                Tensor::from_slice(&values[i], shape, &candle_core::Device::Cpu).map(|tensor| (names[i], tensor)).ok()
            }
            Self::Device(tensors) => Some((names[i], tensors[i].clone())),
        };
        (0..N).filter_map(one).collect()
    }
}

/// First and second moment of one parameter's gradient (Kingma & Ba 2015).
#[derive(Debug, Clone)]
pub struct AdamWState(Slots<2>);

impl AdamWState {
    const NAMES: [&'static str; 2] = ["exp_avg", "exp_avg_sq"];

    /// Zeros for a parameter. Errors unless it is `f32`.
    pub fn new(var: &Var) -> Result<Self> {
        Slots::new(var).map(Self)
    }

    /// A copy of the state: `exp_avg` and `exp_avg_sq`, of the parameter's shape.
    pub fn tensors(&self) -> Vec<(&'static str, Tensor)> {
        self.0.tensors(Self::NAMES)
    }

    /// The state from what [`AdamWState::tensors`] gave.
    pub fn from_tensors(exp_avg: &Tensor, exp_avg_sq: &Tensor) -> Result<Self> {
        Slots::from_tensors([exp_avg, exp_avg_sq]).map(Self)
    }
}

/// Velocity of one parameter.
#[derive(Debug, Clone)]
pub struct SgdState(Slots<1>);

impl SgdState {
    /// Zeros for a parameter. Errors unless it is `f32`.
    pub fn new(var: &Var) -> Result<Self> {
        Slots::new(var).map(Self)
    }

    /// A copy of the state: `momentum_buffer`, of the parameter's shape.
    pub fn tensors(&self) -> Vec<(&'static str, Tensor)> {
        self.0.tensors(["momentum_buffer"])
    }

    /// The state from what [`SgdState::tensors`] gave.
    pub fn from_tensors(momentum_buffer: &Tensor) -> Result<Self> {
        Slots::from_tensors([momentum_buffer]).map(Self)
    }
}

#[derive(Clone, Copy)]
struct AdamW {
    keep: f32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    rate: f32,
    root_correction: f32,
    eps: f32,
    scale: f32,
}

impl AdamW {
    fn new(h: &AdamWHyper) -> Result<Self> {
        if h.step == 0 {
            bail!("adamw_step: steps count from 1");
        }
        let correction = |beta: f64| 1.0 - beta.powf(h.step as f64);
        Ok(Self {
            keep: (1.0 - h.lr * h.weight_decay) as f32,
            beta1: h.beta1 as f32,
            one_minus_beta1: (1.0 - h.beta1) as f32,
            beta2: h.beta2 as f32,
            one_minus_beta2: (1.0 - h.beta2) as f32,
            rate: (h.lr / correction(h.beta1)) as f32,
            root_correction: (1.0 / correction(h.beta2).sqrt()) as f32,
            eps: h.eps as f32,
            scale: h.scale,
        })
    }
}

simd! {
    fn adamw(h: AdamW, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m.iter_mut()).zip(v.iter_mut()) {
            let g = g * h.scale;
            *m = h.beta1.mul_add(*m, h.one_minus_beta1 * g);
            *v = h.beta2.mul_add(*v, h.one_minus_beta2 * g * g);
            *p = *p * h.keep - h.rate * *m / v.sqrt().mul_add(h.root_correction, h.eps);
        }
    }
}

simd! {
    fn sgd(h: SgdHyper, p: &mut [f32], g: &[f32], buffer: &mut [f32]) {
        let (lr, momentum, decay) = (h.lr as f32, h.momentum as f32, h.weight_decay as f32);
        let look_ahead = if h.nesterov { momentum } else { 0.0 };
        let own = if h.nesterov { 1.0 } else { 0.0 };
        for ((p, &g), b) in p.iter_mut().zip(g).zip(buffer.iter_mut()) {
            let g = decay.mul_add(*p, g * h.scale);
            *b = momentum.mul_add(*b, g);
            // Plain: the velocity. Nesterov: gradient + momentum · velocity.
            let step = if own > 0.0 { look_ahead.mul_add(*b, g) } else { *b };
            *p -= lr * step;
        }
    }
}

/// An update of a parameter and its N running values, from its gradient, in pieces that tasks take.
struct Update<'a, const N: usize, F> {
    slots: Mutex<&'a mut [Vec<f32>; N]>,
    step: F,
}

impl<const N: usize, F: Fn(&mut [f32], &[f32], [&mut [f32]; N]) + Sync> InplaceOp2 for Update<'_, N, F> {
    fn name(&self) -> &'static str {
        "optimizer"
    }

    fn cpu_fwd(&self, p: &mut CpuStorage, lp: &Layout, g: &CpuStorage, lg: &Layout) -> Result<()> {
        let g = cpu::values(g, lg)?;
        let (CpuStorage::F32(p), Some((start, end))) = (p, lp.contiguous_offsets()) else {
            bail!("optimizer: a parameter must be contiguous and f32");
        };
        let mut slots = self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let slots: &mut [Vec<f32>; N] = &mut slots;
        let mut slots = slots.each_mut().map(|s| s.chunks_mut(GRAIN));
        let tasks: Vec<_> = p[start..end]
            .chunks_mut(GRAIN)
            .zip(g.chunks(GRAIN))
            .map(|(p, g)| (p, g, slots.each_mut().map(|s| s.next().unwrap_or_default())))
            .collect();
        tasks.into_par_iter().for_each(|(p, g, slots)| (self.step)(p, g, slots));
        Ok(())
    }
}

fn same_shape(op: &str, var: &Var, grad: &Tensor, shape: &Shape) -> Result<()> {
    if grad.shape() != var.shape() || shape != var.shape() || grad.dtype() != DType::F32 {
        bail!("{op}: parameter {:?}, gradient {:?} and state {shape:?} do not fit", var.dims(), grad.dims());
    }
    Ok(())
}

/// PyTorch's AdamW (Loshchilov & Hutter 2019), in place. Errors when the shapes differ or the step is 0.
pub fn adamw_step(var: &Var, grad: &Tensor, state: &mut AdamWState, hyper: &AdamWHyper) -> Result<()> {
    let h = AdamW::new(hyper)?;
    match &mut state.0 {
        Slots::Cpu(slots, shape) => {
            same_shape("adamw_step", var, grad, shape)?;
            let step = move |p: &mut [f32], g: &[f32], [m, v]: [&mut [f32]; 2]| adamw(h, p, g, m, v);
            var.inplace_op2(&grad.contiguous()?, &Update { slots: Mutex::new(slots), step })
        }
        Slots::Device(slots) => adamw_composed(var, grad, slots, h),
    }
}

fn adamw_composed(var: &Var, grad: &Tensor, [m, v]: &mut [Tensor; 2], h: AdamW) -> Result<()> {
    let g = (grad.detach() * f64::from(h.scale))?;
    *m = ((&*m * f64::from(h.beta1))? + (&g * f64::from(h.one_minus_beta1))?)?;
    *v = ((&*v * f64::from(h.beta2))? + (g.sqr()? * f64::from(h.one_minus_beta2))?)?;
    let root = v.sqrt()?.affine(f64::from(h.root_correction), f64::from(h.eps))?;
    var.set(&((var.as_detached_tensor() * f64::from(h.keep))? - (&*m / root)?.affine(f64::from(h.rate), 0.0)?)?)
}

/// PyTorch's SGD with momentum (dampening 0), in place. Errors when the shapes differ.
pub fn sgd_step(var: &Var, grad: &Tensor, state: &mut SgdState, hyper: &SgdHyper) -> Result<()> {
    let h = *hyper;
    match &mut state.0 {
        Slots::Cpu(slots, shape) => {
            same_shape("sgd_step", var, grad, shape)?;
            let step = move |p: &mut [f32], g: &[f32], [buffer]: [&mut [f32]; 1]| sgd(h, p, g, buffer);
            var.inplace_op2(&grad.contiguous()?, &Update { slots: Mutex::new(slots), step })
        }
        Slots::Device(slots) => sgd_composed(var, grad, slots, h),
    }
}

fn sgd_composed(var: &Var, grad: &Tensor, [buffer]: &mut [Tensor; 1], h: SgdHyper) -> Result<()> {
    let p = var.as_detached_tensor();
    let g = ((grad.detach() * f64::from(h.scale))? + (&p * h.weight_decay)?)?;
    *buffer = ((&*buffer * h.momentum)? + &g)?;
    let step = if h.nesterov { (g + (&*buffer * h.momentum)?)? } else { buffer.clone() };
    var.set(&(p - (step * h.lr)?)?)
}

simd! {
    fn pull(share: f32, p: &mut [f32], anchor: &[f32]) {
        for (p, &a) in p.iter_mut().zip(anchor) {
            *p = (*p - a).mul_add(share, a);
        }
    }
}

/// Moves a parameter towards `anchor` until `share` of the distance is left, in place. Errors when the shapes differ.
pub fn pull_step(var: &Var, anchor: &Tensor, share: f64) -> Result<()> {
    same_shape("pull_step", var, anchor, var.shape())?;
    if !var.device().is_cpu() {
        return var.set(&(anchor + ((var.as_detached_tensor() - anchor)? * share)?)?);
    }
    let step = move |p: &mut [f32], anchor: &[f32], []: [&mut [f32]; 0]| pull(share as f32, p, anchor);
    var.inplace_op2(&anchor.contiguous()?, &Update { slots: Mutex::new(&mut []), step })
}

simd! {
    fn squares(x: &[f32]) -> f32 {
        dot(x, x)
    }
}

/// Σ x², with the same bits for every number of threads.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    if !x.device().is_cpu() {
        return Ok(f64::from(x.sqr()?.sum_all()?.to_scalar::<f32>()?));
    }
    let x = x.contiguous()?;
    let x = Values::of(&x)?;
    let part = |x: &[f32]| x.chunks(1024).map(|x| f64::from(squares(x))).sum::<f64>();
    Ok(x.par_chunks(GRAIN).map(part).collect::<Vec<_>>().iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, close_values, flat, random, values};

    const ADAMW: AdamWHyper =
        AdamWHyper { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, step: 1, scale: 0.5 };
    const SGD: SgdHyper = SgdHyper { lr: 0.1, momentum: 0.9, nesterov: false, weight_decay: 0.01, scale: 2.0 };

    #[test]
    fn adamw_follows_the_formula() -> Result<()> {
        let n = GRAIN + 7;
        let var = Var::from_tensor(&random(&[n], 1, 1.0))?;
        let mut p: Vec<f64> = flat(&var).iter().map(|&p| f64::from(p)).collect();
        let (mut m, mut v) = (vec![0f64; n], vec![0f64; n]);
        let mut state = AdamWState::new(&var)?;
        for step in 1..=3 {
            let g = values(n, 10 + step, 1.0);
            adamw_step(&var, &Tensor::new(g.as_slice(), var.device())?, &mut state, &AdamWHyper { step, ..ADAMW })?;
            for i in 0..n {
                let g = f64::from(g[i]) * 0.5;
                p[i] *= 1.0 - 0.01 * 0.1;
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.99 * v[i] + 0.01 * g * g;
                let (m, v) = (m[i] / (1.0 - 0.9f64.powi(step as i32)), v[i] / (1.0 - 0.99f64.powi(step as i32)));
                p[i] -= 0.01 * m / (v.sqrt() + 1e-8);
            }
        }
        close_values(&flat(&var), &p.iter().map(|&p| p as f32).collect::<Vec<_>>(), 1e-6);
        Ok(())
    }

    #[test]
    fn sgd_follows_the_formula() -> Result<()> {
        for (momentum, nesterov) in [(0.0, false), (0.9, false), (0.9, true)] {
            let var = Var::from_tensor(&random(&[33], 1, 1.0))?;
            let mut p: Vec<f64> = flat(&var).iter().map(|&p| f64::from(p)).collect();
            let mut buffer = [0f64; 33];
            let mut state = SgdState::new(&var)?;
            for step in 0..3 {
                let g = values(33, 10 + step, 1.0);
                let hyper = SgdHyper { momentum, nesterov, ..SGD };
                sgd_step(&var, &Tensor::new(g.as_slice(), var.device())?, &mut state, &hyper)?;
                for i in 0..33 {
                    let g = 2.0 * f64::from(g[i]) + 0.01 * p[i];
                    buffer[i] = momentum * buffer[i] + g;
                    p[i] -= 0.1 * if nesterov { g + momentum * buffer[i] } else { buffer[i] };
                }
            }
            close_values(&flat(&var), &p.iter().map(|&p| p as f32).collect::<Vec<_>>(), 1e-6);
        }
        Ok(())
    }

    #[test]
    fn compositions_give_the_same_values() -> Result<()> {
        let (a, b) = (Var::from_tensor(&random(&[9, 4], 1, 1.0))?, Var::from_tensor(&random(&[9, 4], 1, 1.0))?);
        let zeros = a.as_tensor().zeros_like()?.detach();
        let (mut state, mut moments) = (AdamWState::new(&a)?, [zeros.clone(), zeros.clone()]);
        let (mut velocity, mut buffer) = (SgdState::new(&a)?, [zeros]);
        for step in 1..4 {
            let g = random(&[9, 4], step, 1.0);
            let hyper = AdamWHyper { step, ..ADAMW };
            adamw_step(&a, &g, &mut state, &hyper)?;
            adamw_composed(&b, &g, &mut moments, AdamW::new(&hyper)?)?;
            sgd_step(&a, &g, &mut velocity, &SGD)?;
            sgd_composed(&b, &g, &mut buffer, SGD)?;
        }
        close(&a, &b, 1e-6);
        Ok(())
    }

    #[test]
    fn a_restored_state_goes_on_in_the_same_bits() -> Result<()> {
        let var = Var::from_tensor(&random(&[5, 3], 1, 1.0))?;
        let mut state = AdamWState::new(&var)?;
        adamw_step(&var, &random(&[5, 3], 2, 1.0), &mut state, &ADAMW)?;
        let copy = Var::from_tensor(&var.as_detached_tensor().copy()?)?;
        let tensors = state.tensors();
        let mut restored = AdamWState::from_tensors(&tensors[0].1, &tensors[1].1)?;
        let second = AdamWHyper { step: 2, ..ADAMW };
        adamw_step(&var, &random(&[5, 3], 3, 1.0), &mut state, &second)?;
        adamw_step(&copy, &random(&[5, 3], 3, 1.0), &mut restored, &second)?;
        assert_eq!(flat(&var), flat(&copy));
        Ok(())
    }

    #[test]
    fn a_pulled_parameter_keeps_its_share_of_the_distance() -> Result<()> {
        let (start, anchor) = (random(&[GRAIN + 7], 1, 1.0), random(&[GRAIN + 7], 2, 1.0));
        let var = Var::from_tensor(&start)?;
        pull_step(&var, &anchor, 0.25)?;
        close(&var, &(&anchor + ((start - &anchor)? * 0.25)?)?, 1e-6);
        assert!(pull_step(&var, &random(&[3], 1, 1.0), 0.25).is_err());
        Ok(())
    }

    #[test]
    fn step_zero_is_an_error() -> Result<()> {
        let var = Var::from_tensor(&random(&[2], 1, 1.0))?;
        let step = AdamWHyper { step: 0, ..ADAMW };
        assert!(adamw_step(&var, &random(&[2], 2, 1.0), &mut AdamWState::new(&var)?, &step).is_err());
        Ok(())
    }

    #[test]
    fn sum_of_squares_agrees_with_f64() -> Result<()> {
        for n in [0, 1, 100, 3 * GRAIN + 5] {
            let x = random(&[n], 1, 3.0);
            let want: f64 = flat(&x).iter().map(|&x| f64::from(x).powi(2)).sum();
            assert!((sum_of_squares(&x)? - want).abs() <= 1e-6 * want);
        }
        Ok(())
    }
}
