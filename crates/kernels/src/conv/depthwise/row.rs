//! One output row of a depthwise convolution, in register tiles of up to eight columns by 16 channels.

use super::super::{Geometry, tap};
use crate::lanes::{Lanes, lanes};
use crate::simd::LANES;

/// What an output row is computed from.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    /// From the first input row that the window touches to the end of the image.
    pub(super) x: &'a [f32],
    /// Distance between the input rows of two taps.
    pub(super) x_stride: usize,
    /// From the weights of that first row on, `[.., kw, c]`.
    pub(super) weights: &'a [f32],
    /// Input rows that the window touches.
    pub(super) rows: usize,
    pub(super) bias: &'a [f32],
    pub(super) residual: Option<&'a [f32]>,
    pub(super) low: f32,
    pub(super) high: f32,
}

/// Computes a row of `g.ow` columns.
pub(super) fn compute(g: &Geometry, row: &Row, y: &mut [f32]) {
    let c = g.inputs;
    assert!(row.rows == 0 || row.x.len() >= (row.rows - 1) * row.x_stride + g.w * c);
    assert!(row.weights.len() >= row.rows * g.kernel[1] * c && row.bias.len() >= c);
    assert!(y.len() == g.ow * c && row.residual.is_none_or(|r| r.len() == y.len()));
    if c >= LANES {
        // SAFETY: the asserts above; every input column is checked by `tap`, or lies in the range where all are inside.
        unsafe { wide(g, row, y) }
    } else {
        narrow(g, row, y);
    }
}

/// For fewer channels than a vector has.
fn narrow(g: &Geometry, row: &Row, y: &mut [f32]) {
    let c = g.inputs;
    for (i, y) in y.iter_mut().enumerate() {
        let (ox, ch) = (i / c, i % c);
        let mut sum = row.bias[ch];
        for ky in 0..row.rows {
            for kx in 0..g.kernel[1] {
                if let Some(ix) = tap(ox, kx, g.spec.stride[1], g.spec.dilation[1], g.spec.pads[2], g.w) {
                    let w = row.weights[(ky * g.kernel[1] + kx) * c + ch];
                    sum = row.x[ky * row.x_stride + ix * c + ch].mul_add(w, sum);
                }
            }
        }
        let sum = sum + row.residual.map_or(0.0, |r| r[i]);
        let sum = if sum < row.low { row.low } else { sum };
        *y = if sum > row.high { row.high } else { sum };
    }
}

lanes! {
    /// # Safety
    /// The asserts of [`compute`] hold, and there are 16 channels or more.
    unsafe fn wide(g: &Geometry, row: &Row, y: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe {
            match (g.kernel[1], g.spec.stride[1], g.spec.dilation[1]) {
                (3, 1, 1) => columns::<L, 3, 1>(g, row, y),
                (3, 2, 1) => columns::<L, 3, 2>(g, row, y),
                (5, 1, 1) => columns::<L, 5, 1>(g, row, y),
                (5, 2, 1) => columns::<L, 5, 2>(g, row, y),
                _ => {
                    for ox in 0..g.ow {
                        edge::<L>(g, row, ox, y.as_mut_ptr().add(ox * g.inputs));
                    }
                }
            }
        }
    }
}

/// # Safety
/// As [`wide`]; the kernel is KW wide, the stride S, and there is no dilation across.
#[inline(always)]
unsafe fn columns<L: Lanes, const KW: usize, const S: usize>(g: &Geometry, row: &Row, y: &mut [f32]) {
    let c = g.inputs;
    // Columns whose window lies inside of the image.
    let first = g.spec.pads[2].div_ceil(S).min(g.ow);
    let end = (g.w + g.spec.pads[2]).checked_sub(KW).map_or(0, |free| free / S + 1).clamp(first, g.ow);
    let y = y.as_mut_ptr();
    // SAFETY: columns are below `g.ow`; those of tiles are inside of the image.
    unsafe {
        for ox in (0..first).chain(end..g.ow) {
            edge::<L>(g, row, ox, y.add(ox * c));
        }
        let mut ox = first;
        while ox + 8 <= end {
            tile::<L, KW, S, 8>(g, row, ox, y.add(ox * c));
            ox += 8;
        }
        if ox + 4 <= end {
            tile::<L, KW, S, 4>(g, row, ox, y.add(ox * c));
            ox += 4;
        }
        while ox + 2 <= end {
            tile::<L, KW, S, 2>(g, row, ox, y.add(ox * c));
            ox += 2;
        }
        if ox < end {
            tile::<L, KW, S, 1>(g, row, ox, y.add(ox * c));
        }
    }
}

/// T columns from `ox` on, all channels.
///
/// # Safety
/// As [`columns`]; the windows of these columns lie inside of the image; `y` points to the first one's output.
#[inline(always)]
unsafe fn tile<L: Lanes, const KW: usize, const S: usize, const T: usize>(
    g: &Geometry,
    row: &Row,
    ox: usize,
    y: *mut f32,
) {
    let c = g.inputs;
    let x = row.x[(ox * S - g.spec.pads[2]) * c..].as_ptr();
    let residual = row.residual.map(|r| r[ox * c..].as_ptr());
    let mut channel = 0;
    // SAFETY: rows, columns and channels are in range.
    unsafe {
        while channel < c {
            // The last vector overlaps the one before it when the channels do not fill it.
            let ch = channel.min(c - LANES);
            let mut sums = [L::load(row.bias.as_ptr().add(ch)); T];
            for ky in 0..row.rows {
                let x = x.add(ky * row.x_stride + ch);
                let weights = row.weights.as_ptr().add(ky * KW * c + ch);
                let mut w = [L::splat(0.0); KW];
                for (kx, w) in w.iter_mut().enumerate() {
                    *w = L::load(weights.add(kx * c));
                }
                for column in 0..(T - 1) * S + KW {
                    let x = L::load(x.add(column * c));
                    for (t, sum) in sums.iter_mut().enumerate() {
                        if column >= t * S && column - t * S < KW {
                            *sum = sum.fma(x, w[column - t * S]);
                        }
                    }
                }
            }
            for (t, &sum) in sums.iter().enumerate() {
                let sum = residual.map_or(sum, |r| sum.plus(L::load(r.add(t * c + ch))));
                sum.clamp(L::splat(row.low), L::splat(row.high)).store(y.add(t * c + ch));
            }
            channel += LANES;
        }
    }
}

/// One column whose window may reach over the edge.
///
/// # Safety
/// As [`wide`]; `y` points to the column's output.
#[inline(always)]
unsafe fn edge<L: Lanes>(g: &Geometry, row: &Row, ox: usize, y: *mut f32) {
    let c = g.inputs;
    let mut channel = 0;
    // SAFETY: columns were checked by `tap`; rows and channels are in range.
    unsafe {
        while channel < c {
            // Four vectors at a time hide the latency of the sums.
            if channel + 4 * LANES <= c {
                edge_channels::<L, 4>(g, row, ox, channel, y);
                channel += 4 * LANES;
            } else {
                edge_channels::<L, 1>(g, row, ox, channel.min(c - LANES), y);
                channel += LANES;
            }
        }
    }
}

/// # Safety
/// As [`edge`], for 16 V channels from `ch` on.
#[inline(always)]
unsafe fn edge_channels<L: Lanes, const V: usize>(g: &Geometry, row: &Row, ox: usize, ch: usize, y: *mut f32) {
    let c = g.inputs;
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [L::splat(0.0); V];
        for (v, sum) in sums.iter_mut().enumerate() {
            *sum = L::load(row.bias.as_ptr().add(ch + v * LANES));
        }
        for ky in 0..row.rows {
            for kx in 0..g.kernel[1] {
                let Some(ix) = tap(ox, kx, g.spec.stride[1], g.spec.dilation[1], g.spec.pads[2], g.w) else { continue };
                let x = row.x.as_ptr().add(ky * row.x_stride + ix * c + ch);
                let w = row.weights.as_ptr().add((ky * g.kernel[1] + kx) * c + ch);
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.fma(L::load(x.add(v * LANES)), L::load(w.add(v * LANES)));
                }
            }
        }
        for (v, &sum) in sums.iter().enumerate() {
            let at = ch + v * LANES;
            let sum = row.residual.map_or(sum, |r| sum.plus(L::load(r.as_ptr().add(ox * c + at))));
            sum.clamp(L::splat(row.low), L::splat(row.high)).store(y.add(at));
        }
    }
}
