//! Means of windows: of a fixed size, or as many as are wanted.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::conv::out_size;
use crate::cpu::{self, Values, for_rows_by, output};
use crate::simd::simd;

/// The inputs along one axis that each output averages, and the factor that makes a mean of their sum.
#[derive(Debug, Clone)]
pub(crate) struct Bins(Vec<(Range<usize>, f32)>);

impl Bins {
    /// `outputs` bins that cover `inputs`: bin i from ⌊i n / m⌋ to ⌈(i + 1) n / m⌉, as in PyTorch.
    pub(crate) fn adaptive(inputs: usize, outputs: usize) -> Self {
        let bin = |i: usize| {
            let range = i * inputs / outputs..((i + 1) * inputs).div_ceil(outputs);
            let scale = 1.0 / range.len() as f32;
            (range, scale)
        };
        Self((0..outputs).map(bin).collect())
    }

    /// Windows of `kernel`, `stride` apart, of `inputs` with `before` zeros in front; the zeros count where `count_pads`.
    fn windows(inputs: usize, outputs: usize, kernel: usize, stride: usize, before: usize, count_pads: bool) -> Self {
        let bin = |i: usize| {
            let clip = |at: usize| at.saturating_sub(before).min(inputs);
            let range = clip(i * stride)..clip(i * stride + kernel);
            let count = if count_pads { kernel } else { range.len().max(1) };
            (range, 1.0 / count as f32)
        };
        Self((0..outputs).map(bin).collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The same as a matrix `[outputs, inputs]`.
    fn matrix(&self, inputs: usize) -> Vec<f32> {
        let row = |(range, scale): &(Range<usize>, f32)| {
            let (range, scale) = (range.clone(), *scale);
            (0..inputs).map(move |i| if range.contains(&i) { scale } else { 0.0 })
        };
        self.0.iter().flat_map(row).collect()
    }
}

simd! {
    fn add_rows(x: &[f32], sums: &mut [f32]) {
        for row in x.chunks_exact(sums.len()) {
            for (sum, &x) in sums.iter_mut().zip(row) {
                *sum += x;
            }
        }
    }
}

simd! {
    /// y ← y + scale x.
    fn add_scaled(x: &[f32], scale: f32, y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x.mul_add(scale, *y);
        }
    }
}

/// Means of one image of `width` pixels a row: `y` is `[rows, columns, c]`. `part` holds one pixel.
pub(crate) fn averages(x: &[f32], width: usize, rows: &Bins, columns: &Bins, part: &mut [f32], y: &mut [f32]) {
    let c = part.len();
    let bins = rows.0.iter().flat_map(|row| columns.0.iter().map(move |column| (row, column)));
    for ((row, column), y) in bins.zip(y.chunks_exact_mut(c)) {
        y.fill(0.0);
        // Sums of rows first, then of those: that keeps the rounding of large images small.
        for iy in row.0.clone() {
            part.fill(0.0);
            add_rows(&x[(iy * width + column.0.start) * c..(iy * width + column.0.end) * c], part);
            add_scaled(part, row.1 * column.1, y);
        }
    }
}

/// Means of windows on slices.
#[derive(Debug, Clone)]
pub struct AveragePass {
    rows: Bins,
    columns: Bins,
    /// Height, width and channels of the images.
    image: [usize; 3],
}

impl AveragePass {
    /// As many windows as asked for, of images `[h, w, c]`.
    pub fn adaptive([h, w, c]: [usize; 3], size: [usize; 2]) -> Self {
        Self { rows: Bins::adaptive(h, size[0]), columns: Bins::adaptive(w, size[1]), image: [h, w, c] }
    }

    /// `[b, h', w', c]`.
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let [h, w, c] = self.image;
        let result = (self.rows.len() * self.columns.len() * c).max(1);
        let mut y = output(x.len() / (h * w * c).max(1) * result);
        for_rows_by(&mut y, result, 1, |first, y| {
            for (sample, y) in (first..).zip(y.chunks_exact_mut(result)) {
                averages(&x[sample * h * w * c..][..h * w * c], w, &self.rows, &self.columns, &mut vec![0f32; c], y);
            }
        });
        y
    }

    /// Gradient of the input.
    pub fn input_gradient(&self, dy: &[f32]) -> Vec<f32> {
        let [h, w, c] = self.image;
        let (oh, ow) = (self.rows.len(), self.columns.len());
        let mut dx = vec![0f32; dy.len() / (oh * ow * c).max(1) * h * w * c];
        for_rows_by(&mut dx, (h * w * c).max(1), 1, |first, dx| {
            for (sample, dx) in (first..).zip(dx.chunks_exact_mut(h * w * c)) {
                for (oy, row) in self.rows.0.iter().enumerate() {
                    for (ox, column) in self.columns.0.iter().enumerate() {
                        let dy = &dy[((sample * oh + oy) * ow + ox) * c..][..c];
                        for iy in row.0.clone() {
                            for ix in column.0.clone() {
                                add_scaled(dy, row.1 * column.1, &mut dx[(iy * w + ix) * c..][..c]);
                            }
                        }
                    }
                }
            }
        });
        dx
    }
}

struct Op(AveragePass);

impl CustomOp1 for Op {
    fn name(&self) -> &'static str {
        "avg_pool2d"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, _, _, c) = layout.shape().dims4()?;
        let y = self.0.forward(cpu::values(storage, layout)?);
        Ok((CpuStorage::F32(y), (b, self.0.rows.len(), self.0.columns.len(), c).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        cpu::like(self.0.input_gradient(&Values::of(&dy.contiguous()?)?), x).map(Some)
    }
}

fn pool(x: &Tensor, rows: Bins, columns: Bins) -> Result<Tensor> {
    let (_, h, w, c) = x.dims4()?;
    if x.device().is_cpu() {
        x.contiguous()?.apply_op1(Op(AveragePass { rows, columns, image: [h, w, c] }))
    } else {
        composed(x, &rows, &columns)
    }
}

/// Two matrix products: the mean of a window is one along the rows of means along the columns.
fn composed(x: &Tensor, rows: &Bins, columns: &Bins) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let (oh, ow) = (rows.len(), columns.len());
    let matrix = |bins: &Bins, inputs| Tensor::from_vec(bins.matrix(inputs), (1, bins.len(), inputs), x.device());
    let y = matrix(rows, h)?.broadcast_matmul(&x.contiguous()?.reshape((b, h, w * c))?)?;
    let y = matrix(columns, w)?.broadcast_matmul(&y.reshape((b * oh, w, c))?)?;
    y.reshape((b, oh, ow, c))
}

/// Mean of each window: `[b, h, w, c]` to `[b, h', w', c]`; `pads` are top, bottom, left, right: zeros, which count in
/// the mean where `count_pads` (PyTorch's `count_include_pad`).
///
/// Errors when a window does not fit, or lies in the padding alone.
pub fn avg_pool2d(
    x: &Tensor,
    kernel: [usize; 2],
    stride: [usize; 2],
    pads: [usize; 4],
    count_pads: bool,
) -> Result<Tensor> {
    let (_, h, w, _) = x.dims4()?;
    if kernel.contains(&0) || stride.contains(&0) {
        bail!("avg_pool2d: kernel {kernel:?} and stride {stride:?} must be positive");
    }
    if pads[0].max(pads[1]) >= kernel[0] || pads[2].max(pads[3]) >= kernel[1] {
        bail!("avg_pool2d: padding {pads:?} must be smaller than the kernel {kernel:?}");
    }
    let (oh, ow) = out_size(h, w, kernel, stride, pads, [1, 1]);
    if oh == 0 || ow == 0 {
        bail!("avg_pool2d: a window of {kernel:?} does not fit an image of {h} x {w}");
    }
    let rows = Bins::windows(h, oh, kernel[0], stride[0], pads[0], count_pads);
    pool(x, rows, Bins::windows(w, ow, kernel[1], stride[1], pads[2], count_pads))
}

/// Means of as many windows as asked for, which cover the image: `[b, h, w, c]` to `[b, size[0], size[1], c]`.
///
/// Errors for an image or a size of nothing.
pub fn adaptive_avg_pool2d(x: &Tensor, size: [usize; 2]) -> Result<Tensor> {
    let (_, h, w, _) = x.dims4()?;
    if h * w == 0 || size.contains(&0) {
        bail!("adaptive_avg_pool2d: an image of {h} x {w} has no means of {size:?} windows");
    }
    pool(x, Bins::adaptive(h, size[0]), Bins::adaptive(w, size[1]))
}

/// Mean over height and width: `[b, h, w, c]` to `[b, c]`. Errors for an image of nothing.
pub fn global_avg_pool(x: &Tensor) -> Result<Tensor> {
    adaptive_avg_pool2d(x, [1, 1])?.squeeze(1)?.squeeze(1)
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
        for ((shape, kernel, stride, pads), count_pads) in CASES.iter().flat_map(|&c| [(c, true), (c, false)]) {
            let x = random(&shape, 1, 1.0);
            let y = avg_pool2d(&x, kernel, stride, pads, count_pads)?;
            let [_, h, w, c] = shape;
            let (b, oh, ow, _) = y.dims4()?;
            let xs = flat(&x);
            let mut want = Vec::new();
            for i in 0..b * oh * ow * c {
                let (n, oy, ox, ch) = (i / (oh * ow * c), i / (ow * c) % oh, i / c % ow, i % c);
                let (mut sum, mut count) = (0f64, 0);
                for iy in (0..h).filter(|iy| (oy * stride[0]..oy * stride[0] + kernel[0]).contains(&(iy + pads[0]))) {
                    for ix in (0..w).filter(|ix| (ox * stride[1]..ox * stride[1] + kernel[1]).contains(&(ix + pads[2])))
                    {
                        sum += f64::from(xs[((n * h + iy) * w + ix) * c + ch]);
                        count += 1;
                    }
                }
                want.push((sum / f64::from(if count_pads { (kernel[0] * kernel[1]) as i32 } else { count })) as f32);
            }
            close_values(&flat(&y), &want, 1e-6);
        }
        Ok(())
    }

    #[test]
    fn adaptive_windows_are_those_of_pytorch() {
        // torch.nn.functional.adaptive_avg_pool1d(torch.arange(7.), 3): [1, 3, 5].
        let x = Tensor::arange(0f32, 7.0, &candle_core::Device::Cpu).and_then(|x| x.reshape((1, 7, 1, 1))).unwrap();
        close_values(&flat(&adaptive_avg_pool2d(&x, [3, 1]).unwrap()), &[1.0, 3.0, 5.0], 1e-6);
        // More windows than pixels repeat them.
        close_values(&flat(&adaptive_avg_pool2d(&x, [14, 1]).unwrap())[..4], &[0.0, 0.0, 1.0, 1.0], 1e-6);
    }

    #[test]
    fn composition_gives_the_same_values() -> Result<()> {
        for (shape, kernel, stride, pads) in CASES {
            let x = random(&shape, 1, 1.0);
            let y = avg_pool2d(&x, kernel, stride, pads, false)?;
            let bins = |axis: usize, size| {
                Bins::windows(shape[axis + 1], size, kernel[axis], stride[axis], pads[2 * axis], false)
            };
            close(&y, &composed(&x, &bins(0, y.dim(1)?), &bins(1, y.dim(2)?))?, 1e-6);
        }
        Ok(())
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        for (shape, kernel, stride, pads) in CASES {
            check_gradients(&[random(&shape, 1, 1.0)], 2e-3, |x| avg_pool2d(&x[0], kernel, stride, pads, true));
        }
        check_gradients(&[random(&[2, 7, 5, 3], 1, 1.0)], 2e-3, |x| adaptive_avg_pool2d(&x[0], [3, 4]));
    }

    #[test]
    fn the_mean_of_all_pixels() -> Result<()> {
        let x = random(&[2, 9, 11, 5], 1, 1.0);
        close(&global_avg_pool(&x)?, &x.reshape((2, 99, 5))?.mean(1)?, 1e-5);
        check_gradients(&[x], 2e-3, |x| global_avg_pool(&x[0]));
        Ok(())
    }

    #[test]
    fn an_image_of_nothing_is_an_error() {
        assert!(global_avg_pool(&random(&[1, 0, 2, 1], 1, 1.0)).is_err());
    }
}
