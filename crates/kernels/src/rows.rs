//! One row for each sample out of its rows; samples lie behind each other without padding.

use crate::cpu::{self, Values};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

/// Checks that the lengths add up to the rows.
pub(crate) fn check(op: &str, rows: usize, lengths: &[usize]) -> Result<()> {
    let sum: usize = lengths.iter().sum();
    if sum != rows {
        bail!("{op}: {} samples of {sum} rows in all do not fit an input of {rows} rows", lengths.len());
    }
    Ok(())
}

/// First row of every sample.
pub(crate) fn starts(lengths: &[usize]) -> impl Iterator<Item = usize> {
    lengths.iter().scan(0, |next, &len| {
        let start = *next;
        *next += len;
        Some(start)
    })
}

struct Mean(Vec<usize>);

impl CustomOp1 for Mean {
    fn name(&self) -> &'static str {
        "pool_rows_mean"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        let x = cpu::values(storage, layout)?;
        let mut y = vec![0f32; self.0.len() * width];
        mean(x, width, &self.0, &mut y);
        Ok((CpuStorage::F32(y), (self.0.len(), width).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let (dy, (_, width)) = (Values::of(&dy)?, x.dims2()?);
        cpu::like(mean_gradient(&dy, width, &self.0), x).map(Some)
    }
}

/// Gradient of the rows from that of their means.
pub fn mean_gradient(dy: &[f32], width: usize, lengths: &[usize]) -> Vec<f32> {
    let mut dx = Vec::with_capacity(lengths.iter().sum::<usize>() * width);
    for (&len, dy) in lengths.iter().zip(dy.chunks_exact(width.max(1))) {
        for _ in 0..len {
            dx.extend(dy.iter().map(|dy| dy / len as f32));
        }
    }
    dx
}

/// Gradient of the rows from that of the first of each sample.
pub fn first_gradient(dy: &[f32], width: usize, lengths: &[usize]) -> Vec<f32> {
    let mut dx = vec![0f32; lengths.iter().sum::<usize>() * width];
    for (start, dy) in starts(lengths).zip(dy.chunks_exact(width.max(1))) {
        dx[start * width..][..width].copy_from_slice(dy);
    }
    dx
}

/// Mean of each sample's rows; 0 for a sample without rows.
pub(crate) fn mean(x: &[f32], width: usize, lengths: &[usize], out: &mut [f32]) {
    for ((start, &len), out) in starts(lengths).zip(lengths).zip(out.chunks_exact_mut(width.max(1))) {
        out.fill(0.0);
        for row in x[start * width..(start + len) * width].chunks_exact(width.max(1)) {
            out.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        out.iter_mut().for_each(|sum| *sum /= len.max(1) as f32);
    }
}

/// Largest value of each column over each sample's rows; 0 for a sample without rows.
pub(crate) fn max(x: &[f32], width: usize, lengths: &[usize], out: &mut [f32]) {
    for ((start, &len), out) in starts(lengths).zip(lengths).zip(out.chunks_exact_mut(width.max(1))) {
        out.fill(if len == 0 { 0.0 } else { f32::NEG_INFINITY });
        for row in x[start * width..(start + len) * width].chunks_exact(width.max(1)) {
            out.iter_mut().zip(row).for_each(|(most, &x)| *most = if x > *most { x } else { *most });
        }
    }
}

/// Gradient of the rows from that of their largest values; of equal ones, the first has it.
pub fn max_gradient(x: &[f32], dy: &[f32], width: usize, lengths: &[usize]) -> Vec<f32> {
    let mut dx = vec![0f32; x.len()];
    for ((start, &len), dy) in starts(lengths).zip(lengths).zip(dy.chunks_exact(width.max(1))) {
        for (column, &dy) in dy.iter().enumerate().filter(|_| len > 0) {
            let at = |row: usize| (start + row) * width + column;
            let best = (1..len).fold(0, |best, row| if x[at(row)] > x[at(best)] { row } else { best });
            dx[at(best)] = dy;
        }
    }
    dx
}

/// Mean of each sample's rows: `[rows, width]` to `[samples, width]`; 0 for a sample without rows.
///
/// Errors when `lengths` do not add up to the rows.
pub fn pool_rows_mean(x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    check("pool_rows_mean", x.dims2()?.0, lengths)?;
    if x.device().is_cpu() { x.contiguous()?.apply_op1(Mean(lengths.to_vec())) } else { mean_composed(x, lengths) }
}

fn mean_composed(x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    let row = |(start, &len): (usize, &usize)| match len {
        0 => Tensor::zeros((1, x.dim(1)?), x.dtype(), x.device()),
        _ => x.narrow(0, start, len)?.mean_keepdim(0),
    };
    let rows = starts(lengths).zip(lengths).map(row).collect::<Result<Vec<_>>>()?;
    if rows.is_empty() { Tensor::zeros((0, x.dim(1)?), x.dtype(), x.device()) } else { Tensor::cat(&rows, 0) }
}

/// Largest value of each column over each sample's rows: `[rows, width]` to `[samples, width]`; 0 for a sample without
/// rows.
///
/// Errors when `lengths` do not add up to the rows.
pub fn pool_rows_max(x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    check("pool_rows_max", rows, lengths)?;
    let row = |(start, &len): (usize, &usize)| match len {
        0 => Tensor::zeros((1, width), x.dtype(), x.device()),
        _ => x.narrow(0, start, len)?.max_keepdim(0),
    };
    let rows = starts(lengths).zip(lengths).map(row).collect::<Result<Vec<_>>>()?;
    if rows.is_empty() { Tensor::zeros((0, width), x.dtype(), x.device()) } else { Tensor::cat(&rows, 0) }
}

/// The first row of each sample: `[rows, width]` to `[samples, width]`.
///
/// Errors when `lengths` do not add up to the rows, or a sample has none.
pub fn pool_rows_first(x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    check("pool_rows_first", x.dims2()?.0, lengths)?;
    if let Some(sample) = lengths.iter().position(|&len| len == 0) {
        bail!("pool_rows_first: sample {sample} has no rows");
    }
    let firsts: Vec<u32> = starts(lengths).map(|start| start as u32).collect();
    x.contiguous()?.index_select(&Tensor::from_vec(firsts, lengths.len(), x.device())?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, close, flat, random};

    #[test]
    fn mean_of_each_sample() -> Result<()> {
        let x = Tensor::new(&[[1f32, 2.0], [3.0, 4.0], [5.0, 7.0]], &candle_core::Device::Cpu)?;
        assert_eq!(flat(&pool_rows_mean(&x, &[2, 0, 1])?), [2.0, 3.0, 0.0, 0.0, 5.0, 7.0]);
        Ok(())
    }

    #[test]
    fn first_of_each_sample() -> Result<()> {
        let x = Tensor::new(&[[1f32, 2.0], [3.0, 4.0], [5.0, 7.0]], &candle_core::Device::Cpu)?;
        assert_eq!(flat(&pool_rows_first(&x, &[2, 1])?), [1.0, 2.0, 5.0, 7.0]);
        assert!(pool_rows_first(&x, &[3, 0]).is_err());
        Ok(())
    }

    #[test]
    fn largest_of_each_sample_with_its_gradient() -> Result<()> {
        let (x, lengths) = (random(&[9, 5], 1, 1.0), [4usize, 0, 1, 4]);
        check_gradients(std::slice::from_ref(&x), 2e-3, |x| pool_rows_max(&x[0], &lengths));
        let var = candle_core::Var::from_tensor(&x)?;
        let (y, dy) = (pool_rows_max(var.as_tensor(), &lengths)?, random(&[4, 5], 2, 1.0));
        let mut values = vec![0f32; 20];
        max(&flat(&x), 5, &lengths, &mut values);
        assert_eq!(values, flat(&y));
        let grads = (&y * &dy)?.sum_all()?.backward()?;
        assert_eq!(max_gradient(&flat(&x), &flat(&dy), 5, &lengths), flat(grads.get(&var).expect("a gradient")));
        Ok(())
    }

    #[test]
    fn composition_gives_the_same_values() -> Result<()> {
        let x = random(&[9, 5], 1, 1.0);
        close(&pool_rows_mean(&x, &[4, 0, 5])?, &mean_composed(&x, &[4, 0, 5])?, 1e-6);
        Ok(())
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let x = [random(&[9, 5], 1, 1.0)];
        check_gradients(&x, 2e-3, |x| pool_rows_mean(&x[0], &[4, 0, 5]));
        check_gradients(&x, 2e-3, |x| pool_rows_first(&x[0], &[4, 5]));
    }

    #[test]
    fn lengths_must_add_up() {
        assert!(pool_rows_mean(&random(&[3, 2], 1, 1.0), &[1, 1]).is_err());
    }
}
