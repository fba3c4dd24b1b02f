//! Cross entropy with class weights and label smoothing (Szegedy et al. 2016), as PyTorch defines it.

use std::sync::{Mutex, PoisonError};

use crate::attention::softmax_rows;
use crate::cpu::{self, Values};
use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// The loss is -Σ coefficient · log softmax, with `coefficients` `[b, c]`.
struct Op {
    coefficients: Vec<f32>,
    classes: usize,
}

/// ln Σ eˣ.
fn log_sum_exp(row: &[f32]) -> f64 {
    let top = row.iter().fold(f64::NEG_INFINITY, |top, &x| top.max(f64::from(x)));
    top + row.iter().map(|&x| (f64::from(x) - top).exp()).sum::<f64>().ln()
}

impl CustomOp1 for Op {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut loss = 0f64;
        let rows = cpu::values(storage, layout)?.chunks_exact(self.classes);
        for (row, coefficients) in rows.zip(self.coefficients.chunks_exact(self.classes)) {
            let total = log_sum_exp(row);
            loss += row.iter().zip(coefficients).map(|(&x, &a)| f64::from(a) * (total - f64::from(x))).sum::<f64>();
        }
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let scale = f64::from(dy.to_scalar::<f32>()?);
        let mut dx = Vec::with_capacity(x.elem_count());
        let values = Values::of(x)?;
        for (row, coefficients) in values.chunks_exact(self.classes).zip(self.coefficients.chunks_exact(self.classes)) {
            let log = log_sum_exp(row);
            let total: f64 = coefficients.iter().map(|&a| f64::from(a)).sum();
            dx.extend(row.iter().zip(coefficients).map(|(&x, &a)| {
                let p = (f64::from(x) - log).exp();
                (scale * (p * total - f64::from(a))) as f32
            }));
        }
        cpu::like(dx, x).map(Some)
    }
}

/// From this many classes on, exponentials of all logits are most of the work.
const MANY: usize = 512;

/// The mean of log Σ eˣ - x\[target\] over many classes, in `f32` and several rows at a time.
struct Plain {
    targets: Vec<u32>,
    classes: usize,
    /// The softmax, for the way back.
    shares: Mutex<Vec<f32>>,
}

impl CustomOp1 for Plain {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = cpu::values(storage, layout)?;
        let mut shares = x.to_vec();
        cpu::for_rows(&mut shares, self.classes, |_, rows| {
            let mut logs = vec![0f32; rows.len() / self.classes];
            softmax_rows(rows, self.classes, 1.0, &mut logs);
        });
        // A share is e^(x - log), so that any of them tells the logarithm; the largest tells it best.
        let of_row = |(i, row): (usize, &[f32])| {
            let own = &x[i * self.classes..(i + 1) * self.classes];
            let best = (1..row.len()).fold(0, |best, c| if row[c] > row[best] { c } else { best });
            f64::from(own[best]) - f64::from(row[best]).ln() - f64::from(own[self.targets[i] as usize])
        };
        let losses: Vec<f64> = shares.par_chunks(self.classes).enumerate().map(of_row).collect();
        let loss = losses.iter().sum::<f64>() / self.targets.len() as f64;
        *self.shares.lock().unwrap_or_else(PoisonError::into_inner) = shares;
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let scale = dy.to_scalar::<f32>()? / self.targets.len() as f32;
        let mut dx = std::mem::take(&mut *self.shares.lock().unwrap_or_else(PoisonError::into_inner));
        if dx.len() != x.elem_count() {
            bail!("cross_entropy: its gradient was taken already");
        }
        cpu::for_rows(&mut dx, self.classes, |first, rows| {
            for (row, &target) in rows.chunks_exact_mut(self.classes).zip(&self.targets[first..]) {
                row[target as usize] -= 1.0;
                row.iter_mut().for_each(|x| *x *= scale);
            }
        });
        cpu::like(dx, x).map(Some)
    }
}

/// Mean cross entropy of `logits` `[b, c]` against class indices `targets` (`u32` `[b]`): a scalar.
///
/// PyTorch's `F.cross_entropy(weight, label_smoothing, reduction='mean')`: the mean is weighted by the targets' class
/// weights. Errors on an empty batch, an index that is not below `c`, or weights or smoothing out of range.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, weights: Option<&[f32]>, smoothing: f64) -> Result<Tensor> {
    let (rows, classes) = logits.dims2()?;
    if rows == 0 || classes == 0 {
        bail!("cross_entropy: logits of shape {:?} have no mean loss", logits.dims());
    }
    if targets.dims() != [rows] || targets.dtype() != DType::U32 {
        bail!("cross_entropy: {rows} u32 targets wanted, got {:?} {:?}", targets.dims(), targets.dtype());
    }
    if weights.is_some_and(|w| w.len() != classes) || !(0.0..=1.0).contains(&smoothing) {
        bail!(
            "cross_entropy: one weight for each of {classes} classes and a smoothing in 0..1 wanted, got {smoothing}"
        );
    }
    let targets = targets.to_vec1::<u32>()?;
    if let Some(target) = targets.iter().find(|&&t| t as usize >= classes) {
        bail!("cross_entropy: target {target} is not one of {classes} classes");
    }
    if weights.is_none() && smoothing == 0.0 && classes >= MANY && logits.device().is_cpu() {
        return logits.contiguous()?.apply_op1(Plain { targets, classes, shares: Mutex::default() });
    }
    let weight = |class: usize| weights.map_or(1.0, |w| f64::from(w[class]));
    let total: f64 = targets.iter().map(|&t| weight(t as usize)).sum();
    let mut coefficients = vec![0f32; rows * classes];
    for (row, &target) in coefficients.chunks_exact_mut(classes).zip(&targets) {
        for (class, a) in row.iter_mut().enumerate() {
            let hit = if class == target as usize { 1.0 - smoothing } else { 0.0 };
            *a = ((hit + smoothing / classes as f64) * weight(class) / total) as f32;
        }
    }
    let op = Op { coefficients, classes };
    if logits.device().is_cpu() { logits.contiguous()?.apply_op1(op) } else { composed(logits, op) }
}

fn composed(logits: &Tensor, op: Op) -> Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let logs = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?;
    (logs * Tensor::from_vec(op.coefficients, logits.shape(), logits.device())?)?.sum_all()?.neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, flat, random};
    use candle_core::Device;

    fn targets(values: &[u32]) -> Tensor {
        Tensor::new(values, &Device::Cpu).expect("indices")
    }

    #[test]
    fn agrees_with_pytorch() -> Result<()> {
        // F.cross_entropy([[1, 2, 0.5], [-1, 0, 3]], [1, 0], ..) in f64, written out by hand:
        // log softmax is [-1.463..., -0.463..., -1.963...] and [-4.065..., -3.065..., -0.065...].
        let rows = [[1f64, 2.0, 0.5], [-1.0, 0.0, 3.0]];
        let logs = rows.map(|r| {
            let total = r.iter().map(|x| x.exp()).sum::<f64>().ln();
            r.map(|x| x - total)
        });
        let x = Tensor::new(&[[1f32, 2.0, 0.5], [-1.0, 0.0, 3.0]], &Device::Cpu)?;
        let y = targets(&[1, 0]);
        let w = [0.5f64, 2.0, 1.0];
        let plain = -(logs[0][1] + logs[1][0]) / 2.0;
        let weighted = -(w[1] * logs[0][1] + w[0] * logs[1][0]) / (w[1] + w[0]);
        let spread: f64 = logs.iter().map(|l| -(0..3).map(|c| w[c] * l[c]).sum::<f64>()).sum();
        let smooth = 0.9 * weighted + 0.1 / 3.0 * spread / (w[1] + w[0]);
        let weights = [0.5f32, 2.0, 1.0];
        for (got, want) in [
            (cross_entropy(&x, &y, None, 0.0)?, plain),
            (cross_entropy(&x, &y, Some(&weights), 0.0)?, weighted),
            (cross_entropy(&x, &y, Some(&weights), 0.1)?, smooth),
        ] {
            assert!((f64::from(got.to_scalar::<f32>()?) - want).abs() < 1e-6, "{got} {want}");
        }
        Ok(())
    }

    #[test]
    fn composition_gives_the_same_value() -> Result<()> {
        let (x, coefficients) = (random(&[4, 6], 1, 5.0), crate::testing::values(24, 2, 1.0));
        let op = || Op { coefficients: coefficients.clone(), classes: 6 };
        crate::testing::close(&x.apply_op1(op())?, &composed(&x, op())?, 1e-5);
        Ok(())
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let y = targets(&[2, 0, 5, 5]);
        let weights = [1.0f32, 0.5, 2.0, 1.0, 0.1, 3.0];
        check_gradients(&[random(&[4, 6], 1, 2.0)], 2e-3, |x| cross_entropy(&x[0], &y, Some(&weights), 0.1));
    }

    #[test]
    fn many_classes_have_the_loss_and_gradient_of_few() -> Result<()> {
        let (x, y) = (random(&[5, MANY], 3, 4.0), targets(&[0, 7, 511, 7, 100]));
        let weights = vec![1f32; MANY];
        let run = |weights: Option<&[f32]>| -> Result<(Tensor, Tensor)> {
            let x = candle_core::Var::from_tensor(&x)?;
            let loss = (cross_entropy(&x, &y, weights, 0.0)? * 3.0)?;
            let dx = loss.backward()?.get(&x).cloned();
            Ok((loss, dx.ok_or_else(|| candle_core::Error::Msg("no gradient".into()))?))
        };
        let ((loss, dx), (expected, gradient)) = (run(None)?, run(Some(&weights))?);
        crate::testing::close(&loss, &expected, 1e-5);
        crate::testing::close(&dx, &gradient, 1e-5);
        Ok(())
    }

    #[test]
    fn large_logits_do_not_overflow() -> Result<()> {
        let x = Tensor::new(&[[1000f32, -1000.0]], &Device::Cpu)?;
        assert_eq!(flat(&cross_entropy(&x, &targets(&[1]), None, 0.0)?), [2000.0]);
        Ok(())
    }

    #[test]
    fn wrong_targets_are_errors() {
        let x = random(&[2, 3], 1, 1.0);
        assert!(cross_entropy(&x, &targets(&[0, 3]), None, 0.0).is_err());
        assert!(cross_entropy(&x, &targets(&[0]), None, 0.0).is_err());
        assert!(cross_entropy(&random(&[0, 3], 1, 1.0), &targets(&[]), None, 0.0).is_err());
    }
}
