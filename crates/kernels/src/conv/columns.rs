//! Convolution as a matrix product: the windows of some output pixels side by side (im2col), times the weights.

use super::{Geometry, tap};
use crate::cpu::{for_rows, for_rows_by, with_scratch};
use crate::frozen::panels::Start;
use crate::matmul::{Mat, Packed, par_product};

/// Weights as one matrix `[kh · kw · in / groups, out / groups]` for each group.
fn pack(g: &Geometry, w: &[f32]) -> Vec<f32> {
    let (gi, go, taps) = (g.inputs / g.spec.groups, g.outputs / g.spec.groups, g.taps());
    let mut packed = vec![0f32; w.len()];
    for_rows(&mut packed, go, |first, rows| {
        for (row, to) in rows.chunks_exact_mut(go).enumerate() {
            let (group, k, i) = ((first + row) / (taps * gi), (first + row) / gi % taps, (first + row) % gi);
            let from = w[(group * go * gi + i) * taps + k..].iter().step_by(gi * taps);
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
    });
    packed
}

/// [`pack`], backwards.
fn unpack(g: &Geometry, packed: &[f32]) -> Vec<f32> {
    let (gi, go, taps) = (g.inputs / g.spec.groups, g.outputs / g.spec.groups, g.taps());
    let mut w = vec![0f32; packed.len()];
    for_rows(&mut w, gi * taps, |first, rows| {
        for (row, to) in rows.chunks_exact_mut(gi * taps).enumerate() {
            let (group, o) = ((first + row) / go, (first + row) % go);
            for (i, to) in to.chunks_exact_mut(taps).enumerate() {
                for (k, to) in to.iter_mut().enumerate() {
                    *to = packed[((group * taps + k) * gi + i) * go + o];
                }
            }
        }
    });
    w
}

/// Length of a window.
pub(crate) fn depth(g: &Geometry) -> usize {
    g.taps() * g.inputs / g.spec.groups
}

/// Output pixels whose windows are multiplied at once: their matrix should stay in a core's own cache.
pub(crate) fn block(g: &Geometry) -> usize {
    (128 * 1024 / depth(g).max(1)).clamp(32, 1024).next_multiple_of(16)
}

/// Gathers the windows of output pixels from `first` on, in one group, until `columns` is full.
pub(crate) fn gather(g: &Geometry, x: &[f32], group: usize, first: usize, columns: &mut [f32]) {
    let gi = g.inputs / g.spec.groups;
    for (p, window) in columns.chunks_exact_mut(depth(g)).enumerate() {
        let pixel = first + p;
        let (n, oy, ox) = (pixel / (g.oh * g.ow), pixel / g.ow % g.oh, pixel % g.ow);
        let span = g.kernel[1] * gi;
        let left = (ox * g.spec.stride[1]).checked_sub(g.spec.pads[2]).filter(|left| left + g.kernel[1] <= g.w);
        if let Some(left) = left.filter(|_| g.spec.groups == 1 && g.spec.dilation[1] == 1) {
            // All taps of a row are inside, and lie behind each other.
            for (ky, to) in window.chunks_exact_mut(span).enumerate() {
                match tap(oy, ky, g.spec.stride[0], g.spec.dilation[0], g.spec.pads[0], g.h) {
                    Some(iy) => to.copy_from_slice(&x[((n * g.h + iy) * g.w + left) * gi..][..span]),
                    None => to.fill(0.0),
                }
            }
            continue;
        }
        let mut taps = window.chunks_exact_mut(gi);
        for ky in 0..g.kernel[0] {
            let iy = tap(oy, ky, g.spec.stride[0], g.spec.dilation[0], g.spec.pads[0], g.h);
            for kx in 0..g.kernel[1] {
                let ix = tap(ox, kx, g.spec.stride[1], g.spec.dilation[1], g.spec.pads[2], g.w);
                let Some(to) = taps.next() else { return };
                match (iy, ix) {
                    (Some(iy), Some(ix)) => {
                        let from = ((n * g.h + iy) * g.w + ix) * g.inputs + group * gi;
                        to.copy_from_slice(&x[from..from + gi]);
                    }
                    _ => to.fill(0.0),
                }
            }
        }
    }
}

/// y = x ∗ w + bias, with weights as the checkpoint has them.
pub(crate) fn forward(g: &Geometry, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let (k, go) = (depth(g), g.outputs / g.spec.groups);
    let matrices = pack(g, w);
    let weights: Vec<Packed> = matrices.chunks_exact(k * go).map(|w| Packed::new(Mat::new(w, k, go, go))).collect();
    for_rows_by(y, g.outputs, block(g), |first, y| {
        let rows = y.len() / g.outputs;
        if let Some(bias) = bias {
            y.chunks_exact_mut(g.outputs).for_each(|y| y.copy_from_slice(bias));
        }
        with_scratch(rows * k, |columns| {
            for (group, weights) in weights.iter().enumerate() {
                gather(g, x, group, first, columns);
                weights.product(Mat::new(columns, rows, k, k), &mut y[group * go..], g.outputs, bias.is_some());
            }
        });
    });
}

/// Gradient of the input: `dx` must be zero on entry.
pub(crate) fn input_gradient(g: &Geometry, w: &[f32], dy: &[f32], dx: &mut [f32]) {
    let (k, gi, go) = (depth(g), g.inputs / g.spec.groups, g.outputs / g.spec.groups);
    let pixels = g.oh * g.ow;
    let block = block(g).min(pixels);
    let matrices = pack(g, w);
    let weights: Vec<Packed> = matrices.chunks_exact(k * go).map(|w| Packed::new(Mat::new(w, k, go, go).t())).collect();
    // One task for each image: windows overlap, so that two tasks in one image would meet.
    for_rows_by(dx, g.h * g.w * g.inputs, 1, |first, dx| {
        with_scratch(block * k, |columns| {
            for (n, dx) in dx.chunks_exact_mut(g.h * g.w * g.inputs).enumerate() {
                let dy = &dy[(first + n) * pixels * g.outputs..][..pixels * g.outputs];
                for start in (0..pixels).step_by(block) {
                    let rows = block.min(pixels - start);
                    for (group, weights) in weights.iter().enumerate() {
                        let dy = Mat::new(&dy[start * g.outputs + group * go..], rows, go, g.outputs);
                        weights.product(dy, columns, k, false);
                        scatter(g, &columns[..rows * k], group * gi, start, dx);
                    }
                }
            }
        });
    });
}

/// Adds windows back to the image that they came from.
fn scatter(g: &Geometry, columns: &[f32], channel: usize, first: usize, dx: &mut [f32]) {
    let gi = g.inputs / g.spec.groups;
    for (p, window) in columns.chunks_exact(depth(g)).enumerate() {
        let (oy, ox) = ((first + p) / g.ow, (first + p) % g.ow);
        for (k, from) in window.chunks_exact(gi).enumerate() {
            let iy = tap(oy, k / g.kernel[1], g.spec.stride[0], g.spec.dilation[0], g.spec.pads[0], g.h);
            let ix = tap(ox, k % g.kernel[1], g.spec.stride[1], g.spec.dilation[1], g.spec.pads[2], g.w);
            if let (Some(iy), Some(ix)) = (iy, ix) {
                let to = (iy * g.w + ix) * g.inputs + channel;
                dx[to..to + gi].iter_mut().zip(from).for_each(|(dx, from)| *dx += from);
            }
        }
    }
}

/// Values of windows that are held at once for the weights' gradient: 16 MiB.
const HELD: usize = 4 << 20;

/// Gradient of the weights, as the checkpoint has them.
pub(crate) fn weight_gradient(g: &Geometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let (k, go) = (depth(g), g.outputs / g.spec.groups);
    let mut packed = vec![0f32; k * g.outputs];
    let held = (HELD / k.max(1)).clamp(1, g.pixels().max(1));
    let mut columns = vec![0f32; held * k];
    for start in (0..g.pixels()).step_by(held) {
        let rows = held.min(g.pixels() - start);
        for group in 0..g.spec.groups {
            for_rows_by(&mut columns[..rows * k], k, block(g), |first, columns| {
                gather(g, x, group, start + first, columns)
            });
            let dy = Mat::new(&dy[start * g.outputs + group * go..], rows, go, g.outputs);
            let sums = &mut packed[group * k * go..][..k * go];
            par_product(Mat::new(&columns, rows, k, k).t(), dy, sums, go, Start::Out);
        }
    }
    unpack(g, &packed)
}
