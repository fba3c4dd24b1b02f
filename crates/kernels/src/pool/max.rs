//! Largest values of windows.

use crate::conv::{out_size, tap};
use crate::cpu::{self, Values, for_rows_by, output};
use crate::simd::simd;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::sync::OnceLock;

/// Window and input size of a pooling.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pool {
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: [usize; 2],
    pub(crate) pads: [usize; 4],
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
}

impl Pool {
    pub(crate) fn out_size(&self) -> (usize, usize) {
        out_size(self.height, self.width, self.kernel, self.stride, self.pads, [1, 1])
    }
}

simd! {
    /// y ← max(y, x), and where x was larger, `index` ← `position`. NaN counts as larger than anything.
    fn take_larger(x: &[f32], position: u32, y: &mut [f32], index: &mut [u32]) {
        for ((y, index), &x) in y.iter_mut().zip(index.iter_mut()).zip(x) {
            let larger = x > *y || x.is_nan();
            *index = if larger { position } else { *index };
            *y = if larger { x } else { *y };
        }
    }
}

simd! {
    fn larger(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = if x > *y || x.is_nan() { x } else { *y };
        }
    }
}

/// Largest values of one image's windows, for a range of output rows; with `index`, also where in the image they were.
pub(crate) fn max_rows(pool: &Pool, x: &[f32], first: usize, y: &mut [f32], mut index: Option<&mut [u32]>) {
    let (_, out_width) = pool.out_size();
    let c = pool.channels;
    y.fill(f32::NEG_INFINITY);
    for (i, y) in y.chunks_exact_mut(c).enumerate() {
        let (oy, ox) = (first + i / out_width, i % out_width);
        for ky in 0..pool.kernel[0] {
            let Some(iy) = tap(oy, ky, pool.stride[0], 1, pool.pads[0], pool.height) else { continue };
            for kx in 0..pool.kernel[1] {
                let Some(ix) = tap(ox, kx, pool.stride[1], 1, pool.pads[2], pool.width) else { continue };
                let position = iy * pool.width + ix;
                let x = &x[position * c..][..c];
                match &mut index {
                    Some(index) => take_larger(x, position as u32, y, &mut index[i * c..][..c]),
                    None => larger(x, y),
                }
            }
        }
    }
}

/// Largest values of windows on slices, with where they were.
#[derive(Debug, Clone)]
pub struct MaxPoolPass {
    pool: Pool,
    index: Vec<u32>,
}

impl MaxPoolPass {
    /// Of images `[b, h, w, c]`: the pass, the output, and its height and width. The arguments are those of
    /// [`max_pool2d`], which checks them.
    pub fn forward(
        x: &[f32],
        [b, height, width, channels]: [usize; 4],
        kernel: [usize; 2],
        stride: [usize; 2],
        pads: [usize; 4],
    ) -> (Self, Vec<f32>, [usize; 2]) {
        let pool = Pool { kernel, stride, pads, height, width, channels };
        let (oh, ow) = pool.out_size();
        let (mut y, mut index) = (output(b * oh * ow * channels), vec![0u32; b * oh * ow * channels]);
        let (row, image) = ((ow * channels).max(1), height * width * channels);
        y.par_chunks_mut(row).zip(index.par_chunks_mut(row)).enumerate().for_each(|(i, (y, index))| {
            max_rows(&pool, &x[i / oh * image..][..image], i % oh, y, Some(index));
        });
        (Self { pool, index }, y, [oh, ow])
    }

    /// Gradient of the input.
    pub fn input_gradient(&self, dy: &[f32]) -> Vec<f32> {
        let (oh, ow) = self.pool.out_size();
        let c = self.pool.channels;
        let (image, result) = ((self.pool.height * self.pool.width * c).max(1), (oh * ow * c).max(1));
        let mut dx = output(dy.len() / result * image);
        for_rows_by(&mut dx, image, 1, |first, dx| {
            for (sample, dx) in (first..).zip(dx.chunks_exact_mut(image)) {
                dx.fill(0.0);
                let range = sample * result..(sample + 1) * result;
                for (dy, index) in dy[range.clone()].chunks_exact(c).zip(self.index[range].chunks_exact(c)) {
                    for (channel, (&dy, &position)) in dy.iter().zip(index).enumerate() {
                        dx[position as usize * c + channel] += dy;
                    }
                }
            }
        });
        dx
    }
}

struct Max {
    pool: Pool,
    pass: OnceLock<MaxPoolPass>,
}

impl CustomOp1 for Max {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, h, w, c) = layout.shape().dims4()?;
        let Pool { kernel, stride, pads, .. } = self.pool;
        let (pass, y, [oh, ow]) =
            MaxPoolPass::forward(cpu::values(storage, layout)?, [b, h, w, c], kernel, stride, pads);
        let _ = self.pass.set(pass);
        Ok((CpuStorage::F32(y), (b, oh, ow, c).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let Some(pass) = self.pass.get() else { bail!("max_pool2d: backward before forward") };
        cpu::like(pass.input_gradient(&Values::of(&dy.contiguous()?)?), x).map(Some)
    }
}

/// Largest value of each window: `[b, h, w, c]` to `[b, h', w', c]`; `pads` are top, bottom, left, right and count as -∞.
///
/// Of equal values the first, row by row, gets the gradient, as in PyTorch. Errors when a window does not fit, or lies
/// in the padding alone.
pub fn max_pool2d(x: &Tensor, kernel: [usize; 2], stride: [usize; 2], pads: [usize; 4]) -> Result<Tensor> {
    let (_, height, width, channels) = x.dims4()?;
    if kernel.contains(&0) || stride.contains(&0) {
        bail!("max_pool2d: kernel {kernel:?} and stride {stride:?} must be positive");
    }
    if pads[0].max(pads[1]) >= kernel[0] || pads[2].max(pads[3]) >= kernel[1] {
        bail!("max_pool2d: padding {pads:?} must be smaller than the kernel {kernel:?}");
    }
    let pool = Pool { kernel, stride, pads, height, width, channels };
    if height + pads[0] + pads[1] < kernel[0] || width + pads[2] + pads[3] < kernel[1] {
        bail!("max_pool2d: a window of {kernel:?} does not fit an image of {height} x {width}");
    }
    if x.device().is_cpu() {
        x.contiguous()?.apply_op1(Max { pool, pass: OnceLock::new() })
    } else {
        max_composed(x, &pool)
    }
}

fn max_composed(x: &Tensor, pool: &Pool) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let (oh, ow) = pool.out_size();
    // The windows' positions in the image, laid out first by tap; a position of padding repeats the first one inside.
    let mut taps = Vec::new();
    for i in 0..oh * ow {
        let inside = |ky, kx| {
            let iy = tap(i / ow, ky, pool.stride[0], 1, pool.pads[0], h)?;
            Some(iy * w + tap(i % ow, kx, pool.stride[1], 1, pool.pads[2], w)?)
        };
        let all = (0..pool.kernel[0] * pool.kernel[1]).map(|k| inside(k / pool.kernel[1], k % pool.kernel[1]));
        let Some(first) = all.clone().flatten().next() else { bail!("max_pool2d: a window of padding alone") };
        taps.push(all.map(|p| p.unwrap_or(first) as u32).collect::<Vec<_>>());
    }
    let x = x.contiguous()?.reshape((b, h * w, c))?;
    let mut best: Option<Tensor> = None;
    for k in 0..pool.kernel[0] * pool.kernel[1] {
        let index: Vec<u32> = taps.iter().map(|t| t[k]).collect();
        let y = x.index_select(&Tensor::from_vec(index, oh * ow, x.device())?, 1)?;
        best = Some(match best {
            None => y,
            Some(best) => y.gt(&best)?.where_cond(&y, &best)?,
        });
    }
    best.map_or_else(|| bail!("max_pool2d: an empty window"), |y| y.reshape((b, oh, ow, c)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, close, close_values, flat, random};

    /// Shape, kernel, stride, paddings.
    type Case = ([usize; 4], [usize; 2], [usize; 2], [usize; 4]);

    const CASES: [Case; 4] = [
        ([2, 8, 8, 3], [2, 2], [2, 2], [0; 4]),
        ([1, 7, 9, 5], [3, 3], [2, 2], [1; 4]),
        ([2, 5, 6, 17], [3, 2], [1, 2], [1, 2, 0, 1]),
        ([1, 1, 1, 1], [1, 1], [1, 1], [0; 4]),
    ];

    #[test]
    fn agrees_with_plain_loops() -> Result<()> {
        for (shape, kernel, stride, pads) in CASES {
            let x = random(&shape, 1, 1.0);
            let y = max_pool2d(&x, kernel, stride, pads)?;
            let [b, h, w, c] = shape;
            let (_, oh, ow, _) = y.dims4()?;
            let xs = flat(&x);
            let mut want = Vec::new();
            for i in 0..b * oh * ow * c {
                let (n, oy, ox, ch) = (i / (oh * ow * c), i / (ow * c) % oh, i / c % ow, i % c);
                let mut top = f32::NEG_INFINITY;
                for iy in (0..h).filter(|iy| (oy * stride[0]..oy * stride[0] + kernel[0]).contains(&(iy + pads[0]))) {
                    for ix in (0..w).filter(|ix| (ox * stride[1]..ox * stride[1] + kernel[1]).contains(&(ix + pads[2])))
                    {
                        top = top.max(xs[((n * h + iy) * w + ix) * c + ch]);
                    }
                }
                want.push(top);
            }
            close_values(&flat(&y), &want, 0.0);
        }
        Ok(())
    }

    #[test]
    fn composition_gives_the_same_values() -> Result<()> {
        for (shape, kernel, stride, pads) in CASES {
            let x = random(&shape, 1, 1.0);
            let pool = Pool { kernel, stride, pads, height: shape[1], width: shape[2], channels: shape[3] };
            close(&max_pool2d(&x, kernel, stride, pads)?, &max_composed(&x, &pool)?, 0.0);
        }
        Ok(())
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        for (shape, kernel, stride, pads) in CASES {
            // Far enough apart for the differences to stay on one side.
            let n: usize = shape.iter().product();
            let x = (0..n).map(|i| ((i * 7919 + 13) % 10_007) as f32 * 0.02).collect::<Vec<_>>();
            let x = Tensor::from_vec(x, &shape, &candle_core::Device::Cpu).expect("shape fits");
            check_gradients(&[x], 3e-2, |x| max_pool2d(&x[0], kernel, stride, pads));
        }
    }

    #[test]
    fn the_first_of_equal_values_gets_the_gradient() -> Result<()> {
        let x = candle_core::Var::zeros((1, 2, 2, 1), candle_core::DType::F32, &candle_core::Device::Cpu)?;
        let grads = max_pool2d(&x, [2, 2], [2, 2], [0; 4])?.sum_all()?.backward()?;
        assert_eq!(grads.get(&x).map(flat), Some(vec![1.0, 0.0, 0.0, 0.0]));
        Ok(())
    }

    #[test]
    fn a_window_larger_than_the_image_is_an_error() {
        assert!(max_pool2d(&random(&[1, 2, 2, 1], 1, 1.0), [3, 3], [1, 1], [0; 4]).is_err());
    }
}
