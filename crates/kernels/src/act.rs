//! Elementwise non-linearities, in place on slices and as a tensor operation with a gradient.

use crate::cpu::{self, Values};
use crate::simd::{exp, normal, sigmoid, simd, tanh};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// Elementwise non-linearities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// max(x, 0).
    Relu,
    /// min(max(x, 0), 6).
    Relu6,
    /// x Φ(x) (Hendrycks & Gimpel 2016).
    Gelu,
    /// Its tanh approximation.
    GeluTanh,
    /// tanh x.
    Tanh,
    /// x σ(x) (Ramachandran et al. 2017).
    Silu,
    /// 1 / (1 + e⁻ˣ).
    Sigmoid,
    /// x min(max(x + 3, 0), 6) / 6 (Howard et al. 2019).
    HardSwish,
    /// min(max(x + 3, 0), 6) / 6.
    HardSigmoid,
}

/// √(2 / π) and the cubic coefficient of the tanh approximation of GELU.
const GELU_TANH: (f32, f32) = (0.797_884_6, 0.044_715);
/// 1 / √(2 π).
const DENSITY: f32 = 0.398_942_3;

#[inline(always)]
fn relu6(x: f32) -> f32 {
    let x = if x < 0.0 { 0.0 } else { x };
    if x > 6.0 { 6.0 } else { x }
}

impl Act {
    /// The function, on one value.
    #[inline(always)]
    pub(crate) fn value(self, x: f32) -> f32 {
        match self {
            // Written so that NaN stays NaN.
            Act::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Act::Relu6 => relu6(x),
            Act::Gelu => x * normal(x).0,
            Act::GeluTanh => {
                let (a, b) = GELU_TANH;
                0.5 * x * (1.0 + tanh(a * x * (b * x).mul_add(x, 1.0)))
            }
            Act::Tanh => tanh(x),
            Act::Silu => x * sigmoid(x),
            Act::Sigmoid => sigmoid(x),
            Act::HardSwish => x * relu6(x + 3.0) / 6.0,
            Act::HardSigmoid => relu6(x + 3.0) / 6.0,
        }
    }

    /// Its derivative; 0 at the kinks of relu and relu6.
    #[inline(always)]
    fn slope(self, x: f32) -> f32 {
        let between = |low: f32, high: f32, y: f32| if x > low && x < high { y } else { 0.0 };
        match self {
            Act::Relu => {
                if x > 0.0 {
                    1.0
                } else {
                    0.0
                }
            }
            Act::Relu6 => between(0.0, 6.0, 1.0),
            Act::Gelu => {
                let (cumulative, density) = normal(x);
                (x * DENSITY).mul_add(density, cumulative)
            }
            Act::GeluTanh => {
                let (a, b) = GELU_TANH;
                let t = tanh(a * x * (b * x).mul_add(x, 1.0));
                let inner = a * (3.0 * b * x).mul_add(x, 1.0);
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner
            }
            Act::Tanh => {
                let t = tanh(x);
                1.0 - t * t
            }
            Act::Silu => {
                let s = sigmoid(x);
                s * (x * (1.0 - s) + 1.0)
            }
            Act::Sigmoid => {
                let e = exp(-x.abs());
                e / ((1.0 + e) * (1.0 + e))
            }
            Act::HardSwish => {
                if x >= 3.0 {
                    1.0
                } else {
                    between(-3.0, 3.0, (2.0 * x + 3.0) / 6.0)
                }
            }
            Act::HardSigmoid => between(-3.0, 3.0, 1.0 / 6.0),
        }
    }
}

/// Runs the body once for each function, known to the compiler, so that loops contain no branch.
macro_rules! each_act {
    ($act:expr, $name:ident => $body:expr) => {
        each_act!(@ $act, $name, $body, Relu Relu6 Gelu GeluTanh Tanh Silu Sigmoid HardSwish HardSigmoid)
    };
    (@ $act:expr, $name:ident, $body:expr, $($case:ident)*) => {
        match $act { $(Act::$case => { const $name: Act = Act::$case; $body })* }
    };
}

simd! {
    /// x ← act(x).
    pub(crate) fn apply(act: Act, x: &mut [f32]) {
        each_act!(act, ACT => for x in x.iter_mut() { *x = ACT.value(*x); })
    }
}

simd! {
    fn map(act: Act, x: &[f32], y: &mut [f32]) {
        each_act!(act, ACT => for (y, &x) in y.iter_mut().zip(x) { *y = ACT.value(x); })
    }
}

/// y = act(x).
pub fn forward(act: Act, x: &[f32]) -> Vec<f32> {
    let mut y = cpu::output(x.len());
    cpu::for_rows(&mut y, 1, |i, y| map(act, &x[i..i + y.len()], y));
    y
}

simd! {
    fn backward_in_place(act: Act, x: &[f32], dy: &mut [f32]) {
        each_act!(act, ACT => for (dy, &x) in dy.iter_mut().zip(x) { *dy *= ACT.slope(x); })
    }
}

/// dx = act'(x) dy, in place of dy. For ReLU and ReLU6, `x` may as well be act(x): the slopes are the same.
pub fn gradient(act: Act, x: &[f32], dy: &mut [f32]) {
    cpu::for_rows(dy, 1, |i, dy| backward_in_place(act, &x[i..i + dy.len()], dy));
}

struct Op(Act);

impl CustomOp1 for Op {
    fn name(&self) -> &'static str {
        "act"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(forward(self.0, cpu::values(storage, layout)?)), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let mut dx = Values::of(&dy.contiguous()?)?.to_vec();
        gradient(self.0, &Values::of(x)?, &mut dx);
        cpu::like(dx, x).map(Some)
    }
}

/// Applies a non-linearity to every element.
pub fn act(x: &Tensor, act: Act) -> Result<Tensor> {
    if x.device().is_cpu() { x.contiguous()?.apply_op1(Op(act)) } else { composed(x, act) }
}

fn composed(x: &Tensor, act: Act) -> Result<Tensor> {
    let sigmoid = |x: &Tensor| x.neg()?.exp()?.affine(1.0, 1.0)?.recip();
    // Products with masks: candle's own relu has slope 1 at 0.
    let above = |x: &Tensor, low: f64| x.gt(low)?.to_dtype(x.dtype());
    match act {
        Act::Relu => x * above(x, 0.0)?,
        Act::Relu6 => {
            let (zero, six) = (above(x, 0.0)?, x.ge(6.0)?.to_dtype(x.dtype())?);
            (x * (zero - &six)?)? + (six * 6.0)?
        }
        Act::Gelu => x * ((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()?.affine(0.5, 0.5))?,
        Act::GeluTanh => {
            let inner = (x * (x.sqr()?.affine(f64::from(GELU_TANH.1), 1.0))?)?.affine(f64::from(GELU_TANH.0), 0.0)?;
            x * inner.tanh()?.affine(0.5, 0.5)?
        }
        Act::Tanh => x.tanh(),
        Act::Silu => x * sigmoid(x)?,
        Act::Sigmoid => sigmoid(x),
        Act::HardSwish => x * composed(x, Act::HardSigmoid)?,
        Act::HardSigmoid => composed(&x.affine(1.0, 3.0)?, Act::Relu6)?.affine(1.0 / 6.0, 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, close, random};

    const ALL: [Act; 9] = [
        Act::Relu,
        Act::Relu6,
        Act::Gelu,
        Act::GeluTanh,
        Act::Tanh,
        Act::Silu,
        Act::Sigmoid,
        Act::HardSwish,
        Act::HardSigmoid,
    ];

    #[test]
    fn exp_is_within_3e_7_of_f64() {
        for i in -8700..8700 {
            let x = i as f32 * 0.01;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((got / want - 1.0).abs() < 3e-7, "{x}: {got} {want}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_within_3e_7_of_f64() {
        for i in -4000..4000 {
            let x = i as f32 * 0.0025 + 1e-4;
            let (got, want) = (f64::from(tanh(x)), f64::from(x).tanh());
            assert!((got / want - 1.0).abs() < 3e-7, "{x}: {got} {want}");
        }
    }

    #[test]
    fn normal_cumulative_agrees_with_known_values() {
        // Φ from tables with more digits than f32 has.
        for (x, want) in [
            (0.0, 0.5),
            (0.1, 0.539_827_837_277_029),
            (1.0, 0.841_344_746_068_543),
            (-1.0, 0.158_655_253_931_457),
            (2.0, 0.977_249_868_051_821),
            (-3.0, 0.001_349_898_031_630_1),
            (-5.0, 2.866_515_718_791_94e-7),
        ] {
            let got = f64::from(normal(x).0);
            assert!((got / want - 1.0).abs() < 1e-6 && (got - want).abs() < 1e-7, "{x}: {got} {want}");
        }
    }

    #[test]
    fn composition_gives_the_same_values() -> Result<()> {
        for act_ in ALL {
            let x = random(&[7, 33], 3, 4.0);
            close(&act(&x, act_)?, &composed(&x, act_)?, 2e-6);
        }
        Ok(())
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        for act_ in ALL {
            check_gradients(&[random(&[5, 19], 4, 4.0)], 2e-3, |x| act(&x[0], act_));
            check_gradients(&[random(&[5, 19], 4, 4.0)], 2e-3, |x| composed(&x[0], act_));
        }
    }

    #[test]
    fn slope_of_relu_at_zero_is_zero() -> Result<()> {
        for f in [act, composed] {
            let x = candle_core::Var::new(&[0f32], &candle_core::Device::Cpu)?;
            let grads = f(&x, Act::Relu)?.sum_all()?.backward()?;
            let grad = grads.get(&x).map(Tensor::to_vec1::<f32>).transpose()?;
            assert_eq!(grad, Some(vec![0.0]));
        }
        Ok(())
    }

    #[test]
    fn nothing_in_gives_nothing_out() -> Result<()> {
        assert_eq!(act(&random(&[0, 4], 0, 1.0), Act::Gelu)?.dims(), [0, 4]);
        Ok(())
    }
}
