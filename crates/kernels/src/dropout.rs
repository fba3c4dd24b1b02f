//! Random zeroing (Srivastava et al. 2014), decided for each element by its index and a seed, so that the same bits come
//! out for any number of threads.

use crate::cpu::{self, Values};
use crate::simd::simd;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

/// 32 well mixed bits for a counter (the finalizer of SplitMix64: Steele et al. 2014).
#[inline(always)]
pub(crate) fn hash(seed: u64, index: u64) -> u32 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 32) as u32
}

/// What keeps an element: its hash is at least `threshold`; then it is multiplied by `scale`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mask {
    seed: u64,
    threshold: u64,
    scale: f32,
}

impl Mask {
    /// For a probability of zeroing in 0..1.
    pub(crate) fn new(p: f32, seed: u64) -> Result<Self> {
        if !(0.0..1.0).contains(&p) {
            bail!("dropout: the probability must be at least 0 and below 1, got {p}");
        }
        // Mixed once more, so that neighbouring seeds do not give shifted copies of one sequence.
        let mixed = (u64::from(hash(seed, 0)) << 32) | u64::from(hash(seed, 1));
        Ok(Self { seed: mixed, threshold: (f64::from(p) * 4_294_967_296.0) as u64, scale: 1.0 / (1.0 - p) })
    }

    /// 0, or the scale.
    #[inline(always)]
    pub(crate) fn factor(self, index: u64) -> f32 {
        if u64::from(hash(self.seed, index)) >= self.threshold { self.scale } else { 0.0 }
    }
}

simd! {
    fn run(mask: Mask, first: usize, x: &[f32], y: &mut [f32]) {
        for (i, (y, &x)) in y.iter_mut().zip(x).enumerate() {
            *y = x * mask.factor((first + i) as u64);
        }
    }
}

simd! {
    fn run_in_place(mask: Mask, first: usize, x: &mut [f32]) {
        for (i, x) in x.iter_mut().enumerate() {
            *x *= mask.factor((first + i) as u64);
        }
    }
}

/// [`dropout`] in place; likewise of its gradient.
///
/// # Errors
/// Unless 0 <= p < 1.
pub fn in_place(x: &mut [f32], p: f32, seed: u64) -> Result<()> {
    let mask = Mask::new(p, seed)?;
    cpu::for_rows(x, 1, |i, x| run_in_place(mask, i, x));
    Ok(())
}

struct Op(Mask);

impl Op {
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut y = cpu::output(x.len());
        cpu::for_rows(&mut y, 1, |i, y| run(self.0, i, &x[i..i + y.len()], y));
        y
    }
}

impl CustomOp1 for Op {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.apply(cpu::values(storage, layout)?)), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        cpu::like(self.apply(&Values::of(&dy)?), x).map(Some)
    }
}

/// Zeroes each element with probability `p` and multiplies the others by 1 / (1 - p).
///
/// Which ones depends on `seed` and on the element's index alone. Errors unless 0 <= p < 1.
pub fn dropout(x: &Tensor, p: f32, seed: u64) -> Result<Tensor> {
    let mask = Mask::new(p, seed)?;
    if p == 0.0 {
        return Ok(x.clone());
    }
    if x.device().is_cpu() { x.contiguous()?.apply_op1(Op(mask)) } else { composed(x, mask) }
}

fn composed(x: &Tensor, mask: Mask) -> Result<Tensor> {
    let factors: Vec<f32> = (0..x.elem_count() as u64).map(|i| mask.factor(i)).collect();
    x * Tensor::from_vec(factors, x.shape(), x.device())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, close, flat, random};

    #[test]
    fn keeps_the_mean() -> Result<()> {
        let x = Tensor::ones(100_000, candle_core::DType::F32, &candle_core::Device::Cpu)?;
        let y = flat(&dropout(&x, 0.3, 5)?);
        let zeros = y.iter().filter(|&&y| y == 0.0).count();
        assert!((29_500..30_500).contains(&zeros), "{zeros}");
        assert!(y.iter().all(|&y| y == 0.0 || y == 1.0 / 0.7));
        Ok(())
    }

    #[test]
    fn seeds_differ() -> Result<()> {
        let x = random(&[1000], 1, 1.0);
        assert_ne!(flat(&dropout(&x, 0.5, 1)?), flat(&dropout(&x, 0.5, 2)?));
        assert_eq!(flat(&dropout(&x, 0.5, 1)?), flat(&dropout(&x, 0.5, 1)?));
        Ok(())
    }

    #[test]
    fn composition_gives_the_same_values() -> Result<()> {
        let x = random(&[37, 11], 1, 1.0);
        close(&dropout(&x, 0.4, 9)?, &composed(&x, Mask::new(0.4, 9)?)?, 0.0);
        Ok(())
    }

    #[test]
    fn gradient_is_the_mask() {
        check_gradients(&[random(&[40], 2, 1.0)], 1e-3, |x| dropout(&x[0], 0.5, 3));
    }

    #[test]
    fn probability_one_is_an_error() {
        assert!(dropout(&random(&[4], 1, 1.0), 1.0, 0).is_err());
    }
}
