//! Normalization of each channel over all but the last dimension.

mod rows;

use std::ops::Range;

use self::rows::{input_gradient, input_gradient_alone, moments, normalize, reduce, reduce_alone};
use super::width;
use crate::act::Act;
use crate::cpu::{self, CHUNK, Shared, Values, for_rows, output, sum_parts};
use crate::frozen::limits;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

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

/// The normalization of one batch on slices, forward and backward, with what commonly follows it: a sum, and an
/// activation that limits the result.
#[derive(Debug, Clone)]
pub struct BatchNormPass {
    mean: Vec<f32>,
    var: Vec<f32>,
    rstd: Vec<f32>,
    /// Whether mean and deviation are functions of the input, by channel.
    train: Vec<bool>,
    limits: (f32, f32),
}

/// Gradients of a [`BatchNormPass`]'s parameters, and what its input's takes.
#[derive(Debug, Clone)]
pub struct BatchNormSums {
    /// Of the factor, `[c]`.
    pub gamma: Vec<f32>,
    /// Of the additive term, `[c]`.
    pub beta: Vec<f32>,
}

impl BatchNormPass {
    /// Normalizes by the moments of `x`, rows of `width` values; `act` may be ReLU or ReLU6.
    pub fn of_batch(x: &[f32], width: usize, eps: f64, act: Option<Act>) -> Self {
        let (mean, var) = moments(x, width);
        let rstd = rstd(&var, eps);
        Self { train: vec![true; width], mean, var, rstd, limits: limits(act).0 }
    }

    /// Normalizes by given moments.
    pub fn of_moments(mean: Vec<f32>, var: Vec<f32>, eps: f64, act: Option<Act>) -> Self {
        let rstd = rstd(&var, eps);
        Self { train: vec![false; mean.len()], mean, var, rstd, limits: limits(act).0 }
    }

    /// Normalizes the channels that are `chosen` by given moments, the others as before.
    pub fn fix(&mut self, chosen: &[bool], mean: &[f32], var: &[f32], eps: f64) {
        let given = rstd(var, eps);
        for c in (0..self.mean.len()).filter(|&c| chosen[c]) {
            (self.mean[c], self.var[c], self.rstd[c], self.train[c]) = (mean[c], var[c], given[c], false);
        }
    }

    /// Mean of each channel.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// Biased variance of each channel.
    pub fn var(&self) -> &[f32] {
        &self.var
    }

    fn factor(&self, gamma: &[f32]) -> Vec<f32> {
        gamma.iter().zip(&self.rstd).map(|(g, r)| g * r).collect()
    }

    /// y = act(normalized x · gamma + beta + residual).
    pub fn forward(&self, x: &[f32], gamma: &[f32], beta: &[f32], residual: Option<&[f32]>) -> Vec<f32> {
        let (width, factor) = (self.mean.len(), self.factor(gamma));
        let mut y = output(x.len());
        for_rows(&mut y, width, |row, y| {
            let range = row * width..row * width + y.len();
            let residual = residual.map(|r| &r[range.clone()]);
            normalize(&x[range], &self.mean, &factor, beta, residual, self.limits, y);
        });
        y
    }

    /// The gradients where nothing was added: `dy` becomes that of the input, if it is `wanted`.
    pub fn backward(&self, x: &[f32], gamma: &[f32], beta: &[f32], dy: &mut [f32], wanted: bool) -> BatchNormSums {
        let (width, factor) = (self.mean.len(), self.factor(gamma));
        let sums = self.reduced(x.len(), |range, products, sums| {
            let (x, dy) = (&x[range.clone()], &dy[range]);
            reduce_alone(x, &self.mean, &factor, beta, self.limits, dy, products, sums);
        });
        if wanted {
            let [slope, shift] = self.slopes(&factor, &sums, x.len());
            for_rows(dy, width, |row, dy| {
                let x = &x[row * width..][..dy.len()];
                input_gradient_alone(x, &self.mean, &factor, beta, self.limits, &slope, &shift, dy);
            });
        }
        sums
    }

    /// The parameters' gradients. `dy` becomes the gradient of the sum before the activation, which is the residual's;
    /// `y` is what [`BatchNormPass::forward`] gave.
    pub fn sums(&self, x: &[f32], y: &[f32], dy: &mut [f32]) -> BatchNormSums {
        let limited = self.limits != (f32::NEG_INFINITY, f32::INFINITY);
        let shared = Shared::new(dy);
        self.reduced(x.len(), |range, products, sums| {
            // SAFETY: every part has rows of its own.
            let dy = unsafe { shared.part(range.start, range.len()) };
            let y = limited.then(|| &y[range.clone()]);
            reduce(&x[range], y, self.limits, dy, &self.mean, products, sums);
        })
    }

    /// The input's gradient, from a `dy` as [`BatchNormPass::sums`] left it.
    pub fn input_gradient(&self, x: &[f32], gamma: &[f32], sums: &BatchNormSums, dy: &[f32]) -> Vec<f32> {
        let (width, factor) = (self.mean.len(), self.factor(gamma));
        let [slope, shift] = self.slopes(&factor, sums, x.len());
        let mut dx = output(dy.len());
        for_rows(&mut dx, width, |row, dx| {
            let range = row * width..row * width + dx.len();
            input_gradient(&x[range.clone()], &self.mean, &factor, &slope, &shift, &dy[range], dx);
        });
        dx
    }

    /// Σ dy x̂ and Σ dy, of which `f` adds up Σ dy (x - mean) and Σ dy of some values.
    fn reduced(&self, len: usize, f: impl Fn(Range<usize>, &mut [f32], &mut [f32]) + Sync) -> BatchNormSums {
        let width = self.mean.len();
        let rows = len.checked_div(width).unwrap_or(0);
        let mut sums = sum_parts(rows.div_ceil(CHUNK), 2 * width, |part, sums| {
            let (products, sums) = sums.split_at_mut(width);
            f(part * CHUNK * width..((part + 1) * CHUNK).min(rows) * width, products, sums);
        });
        let beta = sums.split_off(width);
        sums.iter_mut().zip(&self.rstd).for_each(|(s, r)| *s *= r);
        BatchNormSums { gamma: sums, beta }
    }

    /// What mean and deviation, being functions of the input, take from its gradient.
    fn slopes(&self, factor: &[f32], sums: &BatchNormSums, len: usize) -> [Vec<f32>; 2] {
        let width = self.mean.len();
        let rows = len.checked_div(width).unwrap_or(0);
        let (mut slope, mut shift) = (vec![0f32; width], vec![0f32; width]);
        for c in (0..width).filter(|&c| self.train[c]) {
            slope[c] = factor[c] * self.rstd[c] * sums.gamma[c] / rows as f32;
            shift[c] = factor[c] * sums.beta[c] / rows as f32;
        }
        [slope, shift]
    }
}

struct Op(BatchNormPass);

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
        Ok((CpuStorage::F32(self.0.forward(x, gamma, beta, None)), lx.shape().clone()))
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
        let sums = self.0.backward(&Values::of(x)?, &Values::of(gamma)?, &Values::of(beta)?, &mut dy, x.track_op());
        let dx = x.track_op().then(|| cpu::like(dy, x)).transpose()?;
        let dgamma = gamma.track_op().then(|| cpu::like(sums.gamma, gamma)).transpose()?;
        let dbeta = beta.track_op().then(|| cpu::like(sums.beta, beta)).transpose()?;
        Ok((dx, dgamma, dbeta))
    }
}

fn rstd(var: &[f32], eps: f64) -> Vec<f32> {
    var.iter().map(|&var| (1.0 / (f64::from(var) + eps).sqrt()) as f32).collect()
}

/// Normalizes each channel by the batch's own mean and biased variance: `x` `[.., c]`, `gamma` and `beta` `[c]`.
///
/// Also returns the statistics, detached, for the running averages. Errors when a channel has fewer than two values.
pub fn batch_norm_train(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<(Tensor, BatchStats)> {
    train(x, gamma, beta, None, eps)
}

/// As [`batch_norm_train`], but the channels that are `chosen` are normalized by a given mean and variance (Kou et al.
/// 2020, *Stochastic Normalization*, equation 4).
pub fn batch_norm_mixed(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    chosen: &[bool],
    mean: &Tensor,
    var: &Tensor,
    eps: f64,
) -> Result<(Tensor, BatchStats)> {
    let width = width("batch_norm_mixed", x, &[gamma, beta, mean, var])?;
    if chosen.len() != width {
        bail!("batch_norm_mixed: {} choices for {width} channels", chosen.len());
    }
    train(x, gamma, beta, Some((chosen, mean, var)), eps)
}

/// Channels that are normalized by a mean and variance of their own.
type Given<'a> = (&'a [bool], &'a Tensor, &'a Tensor);

fn train(x: &Tensor, gamma: &Tensor, beta: &Tensor, given: Option<Given>, eps: f64) -> Result<(Tensor, BatchStats)> {
    let width = width("batch_norm_train", x, &[gamma, beta])?;
    let count = x.elem_count() / width.max(1);
    if count < 2 {
        bail!("batch_norm_train: {count} value per channel has no variance; use a larger batch or image");
    }
    if !x.device().is_cpu() {
        return match given {
            None => train_composed(x, gamma, beta, eps),
            Some(given) => mixed_composed(x, gamma, beta, given, eps),
        };
    }
    let x = x.contiguous()?;
    let mut pass = BatchNormPass::of_batch(&Values::of(&x)?, width, eps, None);
    let stats = BatchStats {
        mean: Tensor::from_slice(&pass.mean, width, x.device())?,
        var: Tensor::from_slice(&pass.var, width, x.device())?,
        count,
    };
    if let Some((chosen, mean, var)) = given {
        pass.fix(chosen, &mean.to_vec1()?, &var.to_vec1()?, eps);
    }
    Ok((x.apply_op3(&gamma.contiguous()?, &beta.contiguous()?, Op(pass))?, stats))
}

fn train_composed(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<(Tensor, BatchStats)> {
    let rows = x.contiguous()?.reshape(((), x.dim(candle_core::D::Minus1)?))?;
    let mean = rows.mean(0)?;
    let centred = rows.broadcast_sub(&mean)?;
    let var = centred.sqr()?.mean(0)?;
    let y = centred.broadcast_mul(&((&var + eps)?.sqrt()?.recip()? * gamma)?)?.broadcast_add(beta)?;
    Ok((y.reshape(x.shape())?, BatchStats { mean: mean.detach(), var: var.detach(), count: rows.dim(0)? }))
}

fn mixed_composed(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    (chosen, mean, var): Given,
    eps: f64,
) -> Result<(Tensor, BatchStats)> {
    let (batch, stats) = train_composed(x, gamma, beta, eps)?;
    let given = eval_composed(x, gamma, beta, mean, var, eps)?;
    let mask = |of: bool| -> Result<Tensor> {
        Tensor::new(chosen.iter().map(|&c| f32::from(c == of)).collect::<Vec<f32>>(), x.device())
    };
    Ok(((batch.broadcast_mul(&mask(false)?)? + given.broadcast_mul(&mask(true)?)?)?, stats))
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
    let pass = BatchNormPass::of_moments(mean.to_vec1()?, var.to_vec1()?, eps, None);
    x.contiguous()?.apply_op3(&gamma.contiguous()?, &beta.contiguous()?, Op(pass))
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
        let given: Given = (&[true, false, false, true, false], &mean, &var);
        check_gradients(&inputs, 3e-3, |x| Ok(train(&x[0], &x[1], &x[2], Some(given), 1e-1)?.0));
        check_gradients(&inputs, 3e-3, |x| Ok(mixed_composed(&x[0], &x[1], &x[2], given, 1e-1)?.0));
    }

    #[test]
    fn a_mixture_of_one_kind_is_that_kind() -> Result<()> {
        let (x, g, b) = (random(&[3, 4, 5, 7], 1, 2.0), random(&[7], 2, 1.0), random(&[7], 3, 1.0));
        let (m, v) = (random(&[7], 4, 1.0), random(&[7], 5, 1.0).abs()?);
        let mixed = |given| batch_norm_mixed(&x, &g, &b, &[given; 7], &m, &v, 1e-3);
        let (batch, stats) = batch_norm_train(&x, &g, &b, 1e-3)?;
        assert_eq!(flat(&mixed(false)?.0), flat(&batch));
        assert_eq!(flat(&mixed(true)?.0), flat(&batch_norm_eval(&x, &g, &b, &m, &v, 1e-3)?));
        assert_eq!(flat(&mixed(true)?.1.mean), flat(&stats.mean), "statistics are the batch's");
        Ok(())
    }

    #[test]
    fn one_value_per_channel_is_an_error() {
        let v = random(&[5], 2, 1.0);
        assert!(batch_norm_train(&random(&[1, 5], 1, 1.0), &v, &v, 1e-5).is_err());
    }
}
