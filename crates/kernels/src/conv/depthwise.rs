//! Depthwise convolution: one filter for each channel, vectors along the channels.

mod row;

use super::{Geometry, tap};
use crate::cpu::{for_rows_by, sum_parts};
use crate::simd::simd;

/// Weights with the channels last, `[kh · kw, c]`.
pub(crate) fn pack(w: &[f32], taps: usize) -> Vec<f32> {
    let channels = w.len() / taps;
    (0..w.len()).map(|i| w[i % channels * taps + i / channels]).collect()
}

simd! {
    /// y += x w.
    fn add_product(x: &[f32], w: &[f32], y: &mut [f32]) {
        for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
            *y = x.mul_add(w, *y);
        }
    }
}

/// Calls `f(tap, output column, input column)` for every pair of columns that touch.
#[inline]
fn columns(g: &Geometry, ky: usize, mut f: impl FnMut(usize, usize, usize)) {
    for kx in 0..g.kernel[1] {
        for ox in 0..g.ow {
            if let Some(ix) = tap(ox, kx, g.spec.stride[1], g.spec.dilation[1], g.spec.pads[2], g.w) {
                f(ky * g.kernel[1] + kx, ox, ix);
            }
        }
    }
}

/// Output values that one task computes, about.
const TASK: usize = 64 * 1024;

/// y = clamp(x ∗ w + bias + residual), with packed weights; `limits` are the lowest and highest result.
pub(crate) fn forward(g: &Geometry, x: &[f32], packed: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    forward_fused(g, x, packed, bias, None, (f32::NEG_INFINITY, f32::INFINITY), y);
}

/// [`forward`] with a residual and limits.
pub(crate) fn forward_fused(
    g: &Geometry,
    x: &[f32],
    packed: &[f32],
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    (low, high): (f32, f32),
    y: &mut [f32],
) {
    let c = g.inputs;
    let none = if bias.is_none() { vec![0f32; c] } else { Vec::new() };
    let bias = bias.unwrap_or(&none);
    assert!(x.len() >= g.b * g.h * g.w * c && packed.len() >= g.taps() * c && bias.len() >= c);
    assert!(residual.is_none_or(|r| r.len() >= y.len()));
    for_rows_by(y, g.ow * c, (TASK / (g.ow * c).max(1)).max(1), |first, y| {
        for (i, y) in y.chunks_exact_mut(g.ow * c).enumerate() {
            let (n, oy) = ((first + i) / g.oh, (first + i) % g.oh);
            let inside = |ky: usize| tap(oy, ky, g.spec.stride[0], g.spec.dilation[0], g.spec.pads[0], g.h);
            let mut kys = (0..g.kernel[0]).filter(|&ky| inside(ky).is_some());
            let (ky, rows) = kys.next().map_or((0, 0), |ky| (ky, 1 + kys.count()));
            let top = (n * g.h + inside(ky).unwrap_or(0)) * g.w * c;
            let row = row::Row {
                x: &x[top..(n + 1) * g.h * g.w * c],
                x_stride: g.spec.dilation[0] * g.w * c,
                weights: &packed[ky * g.kernel[1] * c..],
                rows,
                bias,
                residual: residual.map(|r| &r[(first + i) * g.ow * c..][..g.ow * c]),
                low,
                high,
            };
            row::compute(g, &row, y);
        }
    });
}

/// The output row that reads input row `iy` through tap `ky`.
fn reader(g: &Geometry, iy: usize, ky: usize) -> Option<usize> {
    let offset = (iy + g.spec.pads[0]).checked_sub(ky * g.spec.dilation[0])?;
    (offset % g.spec.stride[0] == 0 && offset / g.spec.stride[0] < g.oh).then(|| offset / g.spec.stride[0])
}

/// Gradient of the input: `dx` must be zero on entry.
pub(crate) fn input_gradient(g: &Geometry, packed: &[f32], dy: &[f32], dx: &mut [f32]) {
    let c = g.inputs;
    for_rows_by(dx, g.w * c, 1, |first, dx| {
        for (i, dx) in dx.chunks_exact_mut(g.w * c).enumerate() {
            let (n, iy) = ((first + i) / g.h, (first + i) % g.h);
            for ky in 0..g.kernel[0] {
                let Some(oy) = reader(g, iy, ky) else { continue };
                let dy = &dy[(n * g.oh + oy) * g.ow * c..][..g.ow * c];
                columns(g, ky, |k, ox, ix| {
                    add_product(&dy[ox * c..][..c], &packed[k * c..][..c], &mut dx[ix * c..][..c])
                });
            }
        }
    });
}

/// Output rows whose products one task sums.
const ROWS: usize = 16;

/// Gradient of the weights, as the checkpoint has them.
pub(crate) fn weight_gradient(g: &Geometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let (c, taps) = (g.inputs, g.taps());
    let rows = g.b * g.oh;
    let packed = sum_parts(rows.div_ceil(ROWS), taps * c, |part, dw| {
        for row in part * ROWS..((part + 1) * ROWS).min(rows) {
            let (n, oy) = (row / g.oh, row % g.oh);
            let dy = &dy[row * g.ow * c..][..g.ow * c];
            for ky in 0..g.kernel[0] {
                let Some(iy) = tap(oy, ky, g.spec.stride[0], g.spec.dilation[0], g.spec.pads[0], g.h) else { continue };
                let x = &x[(n * g.h + iy) * g.w * c..][..g.w * c];
                columns(g, ky, |k, ox, ix| add_product(&x[ix * c..][..c], &dy[ox * c..][..c], &mut dw[k * c..][..c]));
            }
        }
    });
    (0..packed.len()).map(|i| packed[i % taps * c + i / taps]).collect()
}
