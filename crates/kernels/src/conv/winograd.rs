//! 3 × 3 convolutions of stride 1 by Winograd's F(4 × 4, 3 × 3) (Lavin & Gray 2016, *Fast algorithms for convolutional
//! neural networks*): 4 × 4 outputs take 36 multiplications in place of 144.
//!
//! Tiles of 6 × 6 inputs (overlapping by 2) and the weights are transformed to 36 points each; at every point a matrix
//! product over the channels follows, and what comes out is transformed back. The gradient by the input is the same
//! convolution with turned weights; the one by the weights multiplies transformed inputs with transformed gradients.

#![allow(clippy::needless_range_loop)] // Rows and columns of tiles are numbered, not traversed.

use rayon::prelude::*;

use super::Geometry;
use crate::act::Act;
use crate::cpu::{Shared, with_scratch};
use crate::frozen::limits;
use crate::frozen::panels::{Format, Matrix, Rows, Start};
use crate::lanes::{Lanes, lanes};
use crate::matmul::{Mat, serial_product};
use crate::simd::LANES;

/// Outputs along one side of a tile.
const TILE: usize = 4;
/// Products of a tile.
const POINTS: usize = 36;
/// Tiles that are worked on together: their transforms stay in a core's own cache.
const BLOCK: usize = 48;

/// Whether this is the faster way: by shapes of one image alone, so that results do not depend on the batch.
pub(crate) fn suits(g: &Geometry) -> bool {
    let plain = g.kernel == [3, 3] && g.spec.stride == [1, 1] && g.spec.dilation == [1, 1] && g.spec.groups == 1;
    let wide = [g.inputs, g.outputs].iter().all(|c| *c >= 32 && c.is_multiple_of(LANES));
    let covered = g.oh.next_multiple_of(TILE) * g.ow.next_multiple_of(TILE);
    plain && wide && g.spec.pads.iter().all(|&pad| pad <= 2) && 2 * g.oh * g.ow > covered
}

/// The transforms evaluate polynomials at 0, ±A, ±B and ∞. These values have a third of the largest error of the usual
/// ±1 and ±2, and exact squares.
const A: f32 = 0.625;
const B: f32 = 1.5;
const AA: f32 = A * A;
const BB: f32 = B * B;
/// Scales of the weights' polynomials: the products of a point's differences to the others, inverted.
const SCALE_0: f32 = 1.0 / (AA * BB);
const SCALE_A: f32 = 1.0 / (2.0 * AA * (AA - BB));
const SCALE_B: f32 = 1.0 / (2.0 * BB * (BB - AA));

/// The input's transform along one axis.
///
/// # Safety
/// The processor has the instructions of `L`; likewise for all that follow.
#[inline(always)]
unsafe fn from_input<L: Lanes>([x0, x1, x2, x3, x4, x5]: [L; 6]) -> [L; 6] {
    // SAFETY: the caller's promise.
    unsafe {
        let n = |x: f32| L::splat(x);
        let (even_a, odd_a) = (x4.fma(x2, n(-BB)), x3.fma(x1, n(-BB)));
        let (even_b, odd_b) = (x4.fma(x2, n(-AA)), x3.fma(x1, n(-AA)));
        [
            x4.fma(x2, n(-AA - BB)).fma(x0, n(AA * BB)),
            even_a.fma(odd_a, n(A)),
            even_a.fma(odd_a, n(-A)),
            even_b.fma(odd_b, n(B)),
            even_b.fma(odd_b, n(-B)),
            x5.fma(x3, n(-AA - BB)).fma(x1, n(AA * BB)),
        ]
    }
}

/// The products' transform along one axis.
#[inline(always)]
unsafe fn to_output<L: Lanes>([m0, m1, m2, m3, m4, m5]: [L; 6]) -> [L; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let (zero, n) = (L::splat(0.0), |x: f32| L::splat(x));
        let (even_a, odd_a, even_b, odd_b) = (m1.plus(m2), m1.minus(m2), m3.plus(m4), m3.minus(m4));
        [
            m0.plus(even_a).plus(even_b),
            zero.fma(odd_a, n(A)).fma(odd_b, n(B)),
            zero.fma(even_a, n(AA)).fma(even_b, n(BB)),
            m5.fma(odd_a, n(A * AA)).fma(odd_b, n(B * BB)),
        ]
    }
}

/// The transposed of [`to_output`]: what a gradient of the outputs means for the products.
#[inline(always)]
unsafe fn from_output<L: Lanes>([y0, y1, y2, y3]: [L; 4]) -> [L; 6] {
    // SAFETY: the caller's promise.
    unsafe {
        let n = |x: f32| L::splat(x);
        let (even_a, odd_a) = (y0.fma(y2, n(AA)), y1.fma(y3, n(AA)));
        let (even_b, odd_b) = (y0.fma(y2, n(BB)), y1.fma(y3, n(BB)));
        let [a, b] = [n(A), n(B)];
        [y0, even_a.fma(odd_a, a), even_a.fma(odd_a, n(-A)), even_b.fma(odd_b, b), even_b.fma(odd_b, n(-B)), y3]
    }
}

/// The weights' transform along one axis.
#[inline(always)]
unsafe fn from_weights<L: Lanes>([w0, w1, w2]: [L; 3]) -> [L; 6] {
    // SAFETY: the caller's promise.
    unsafe {
        let (zero, n) = (L::splat(0.0), |x: f32| L::splat(x));
        let even_a = zero.fma(w0, n(SCALE_A)).fma(w2, n(SCALE_A * AA));
        let even_b = zero.fma(w0, n(SCALE_B)).fma(w2, n(SCALE_B * BB));
        [
            zero.fma(w0, n(SCALE_0)),
            even_a.fma(w1, n(SCALE_A * A)),
            even_a.fma(w1, n(-SCALE_A * A)),
            even_b.fma(w1, n(SCALE_B * B)),
            even_b.fma(w1, n(-SCALE_B * B)),
            w2,
        ]
    }
}

/// The transposed of [`from_weights`].
#[inline(always)]
unsafe fn to_weights<L: Lanes>([u0, u1, u2, u3, u4, u5]: [L; 6]) -> [L; 3] {
    // SAFETY: the caller's promise.
    unsafe {
        let (zero, n) = (L::splat(0.0), |x: f32| L::splat(x));
        let (even_a, odd_a, even_b, odd_b) = (u1.plus(u2), u1.minus(u2), u3.plus(u4), u3.minus(u4));
        [
            zero.fma(u0, n(SCALE_0)).fma(even_a, n(SCALE_A)).fma(even_b, n(SCALE_B)),
            zero.fma(odd_a, n(SCALE_A * A)).fma(odd_b, n(SCALE_B * B)),
            u5.fma(even_a, n(SCALE_A * AA)).fma(even_b, n(SCALE_B * BB)),
        ]
    }
}

lanes! {
    /// Transforms one tile: `from` are its pixels, of `channels` values; point p goes to `to` + p `stride`.
    ///
    /// # Safety
    /// All pointers are valid for `channels` values, a multiple of 16.
    unsafe fn transform_input(from: &[*const f32; POINTS], channels: usize, to: *mut f32, stride: usize) {
        for c in (0..channels).step_by(LANES) {
            // SAFETY: c < channels.
            unsafe {
                let mut columns = [[L::splat(0.0); 6]; 6];
                for j in 0..6 {
                    let x = |i: usize| L::load(from[i * 6 + j].add(c));
                    let v = from_input([x(0), x(1), x(2), x(3), x(4), x(5)]);
                    for i in 0..6 {
                        columns[i][j] = v[i];
                    }
                }
                for (i, row) in columns.into_iter().enumerate() {
                    for (j, v) in from_input(row).into_iter().enumerate() {
                        v.store(to.add((i * 6 + j) * stride + c));
                    }
                }
            }
        }
    }
}

lanes! {
    /// Transforms the gradient of one tile's outputs to that of its products: `from` are its 16 pixels.
    ///
    /// # Safety
    /// As [`transform_input`].
    unsafe fn transform_gradient(from: &[*const f32; TILE * TILE], channels: usize, to: *mut f32, stride: usize) {
        for c in (0..channels).step_by(LANES) {
            // SAFETY: c < channels.
            unsafe {
                let mut columns = [[L::splat(0.0); TILE]; 6];
                for j in 0..TILE {
                    let y = |i: usize| L::load(from[i * TILE + j].add(c));
                    let v = from_output([y(0), y(1), y(2), y(3)]);
                    for i in 0..6 {
                        columns[i][j] = v[i];
                    }
                }
                for (i, row) in columns.into_iter().enumerate() {
                    for (j, v) in from_output(row).into_iter().enumerate() {
                        v.store(to.add((i * 6 + j) * stride + c));
                    }
                }
            }
        }
    }
}

/// Where a tile's outputs go, and what is done to them on the way.
struct Finish {
    bias: *const f32,
    /// Pixels of the residual; null where there is none.
    residual: [*const f32; TILE * TILE],
    /// Pixels; null outside of the image.
    to: [*mut f32; TILE * TILE],
    low: f32,
    high: f32,
}

lanes! {
    /// Transforms one tile's products back.
    ///
    /// # Safety
    /// All pointers that are not null are valid for `channels` values, a multiple of 16.
    unsafe fn transform_output(from: *const f32, stride: usize, channels: usize, finish: &Finish) {
        // SAFETY: the caller's promise.
        unsafe {
            let (low, high) = (L::splat(finish.low), L::splat(finish.high));
            for c in (0..channels).step_by(LANES) {
                let bias = L::load(finish.bias.add(c));
                let mut columns = [[L::splat(0.0); 6]; TILE];
                for j in 0..6 {
                    let m = |i: usize| L::load(from.add((i * 6 + j) * stride + c));
                    let y = to_output([m(0), m(1), m(2), m(3), m(4), m(5)]);
                    for i in 0..TILE {
                        columns[i][j] = y[i];
                    }
                }
                for (i, row) in columns.into_iter().enumerate() {
                    for (j, y) in to_output(row).into_iter().enumerate() {
                        let (to, residual) = (finish.to[i * TILE + j], finish.residual[i * TILE + j]);
                        if to.is_null() {
                            continue;
                        }
                        let mut y = y.plus(bias);
                        if !residual.is_null() {
                            y = y.plus(L::load(residual.add(c)));
                        }
                        y.clamp(low, high).store(to.add(c));
                    }
                }
            }
        }
    }
}

lanes! {
    /// Transforms 16 columns of the weights for one channel: `from` are 9 taps of 16 values; point p goes to
    /// `to` + p `stride`.
    ///
    /// # Safety
    /// The pointers are valid for that.
    unsafe fn transform_weights(from: *const f32, to: *mut f32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut rows = [[L::splat(0.0); 3]; 6];
            for j in 0..3 {
                let w = |i: usize| L::load(from.add((i * 3 + j) * LANES));
                let u = from_weights([w(0), w(1), w(2)]);
                for i in 0..6 {
                    rows[i][j] = u[i];
                }
            }
            for (i, row) in rows.into_iter().enumerate() {
                for (j, u) in from_weights(row).into_iter().enumerate() {
                    u.store(to.add((i * 6 + j) * stride));
                }
            }
        }
    }
}

lanes! {
    /// The transposed of [`transform_weights`]: 36 points, `stride` apart, to 9 taps of 16 values.
    ///
    /// # Safety
    /// The pointers are valid for that.
    unsafe fn untransform_weights(from: *const f32, stride: usize, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut rows = [[L::splat(0.0); 6]; 3];
            for j in 0..6 {
                let u = |i: usize| L::load(from.add((i * 6 + j) * stride));
                let w = to_weights([u(0), u(1), u(2), u(3), u(4), u(5)]);
                for i in 0..3 {
                    rows[i][j] = w[i];
                }
            }
            for (i, row) in rows.into_iter().enumerate() {
                for (j, w) in to_weights(row).into_iter().enumerate() {
                    w.store(to.add((i * 3 + j) * LANES));
                }
            }
        }
    }
}

/// Weights at the 36 points, each packed for the matrix product.
#[derive(Debug, Clone)]
pub(crate) struct Weights {
    format: Format,
    /// Point behind point.
    points: Vec<f32>,
}

impl Weights {
    /// Of weights `[outputs, inputs, 3, 3]`.
    pub(crate) fn new(w: &[f32], inputs: usize, outputs: usize) -> Self {
        Self::pack(inputs, outputs, |output, input, k| w[(output * inputs + input) * 9 + k])
    }

    /// Of the convolution that gives the input's gradient: inputs and outputs exchanged, the kernel turned by 180°.
    pub(crate) fn turned(w: &[f32], inputs: usize, outputs: usize) -> Self {
        Self::pack(outputs, inputs, |input, output, k| w[(output * inputs + input) * 9 + 8 - k])
    }

    fn pack(depth: usize, outputs: usize, weight: impl Fn(usize, usize, usize) -> f32 + Sync) -> Self {
        let format = Format::new(depth, outputs);
        let len = format.len();
        let mut points = vec![0f32; POINTS * len];
        let shared = Shared::new(&mut points);
        (0..outputs / LANES).into_par_iter().for_each(|block| {
            let (start, row) = format.place(block * LANES);
            let mut taps = [0f32; 9 * LANES];
            for i in 0..depth {
                for lane in 0..LANES {
                    for k in 0..9 {
                        taps[k * LANES + lane] = weight(block * LANES + lane, i, k);
                    }
                }
                let to = shared.at(start + i * row, (POINTS - 1) * len + LANES);
                // SAFETY: these columns of every point belong to this task.
                unsafe { transform_weights(taps.as_ptr(), to, len) };
            }
        });
        Self { format, points }
    }
}

/// Number of tiles of a batch.
pub(crate) fn tiles_of(g: &Geometry) -> usize {
    Tiles::of(g).len()
}

/// The tiles of a batch.
struct Tiles<'a> {
    g: &'a Geometry,
    rows: usize,
    columns: usize,
}

impl<'a> Tiles<'a> {
    fn of(g: &'a Geometry) -> Self {
        Self { g, rows: g.oh.div_ceil(TILE), columns: g.ow.div_ceil(TILE) }
    }

    fn len(&self) -> usize {
        self.g.b * self.rows * self.columns
    }

    /// Image, and row and column of the first output.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let (n, rest) = (tile / (self.rows * self.columns), tile % (self.rows * self.columns));
        (n, rest / self.columns * TILE, rest % self.columns * TILE)
    }

    /// The input's pixels under a tile; `zeros` stand for the padding.
    fn inputs(&self, tile: usize, x: &[f32], zeros: &[f32]) -> [*const f32; POINTS] {
        let g = self.g;
        let (n, oy, ox) = self.place(tile);
        std::array::from_fn(|p| {
            let (iy, ix) = ((oy + p / 6).wrapping_sub(g.spec.pads[0]), (ox + p % 6).wrapping_sub(g.spec.pads[2]));
            if iy < g.h && ix < g.w { x[((n * g.h + iy) * g.w + ix) * g.inputs..].as_ptr() } else { zeros.as_ptr() }
        })
    }

    /// Where the tile's outputs begin in `[b, oh, ow, outputs]`; `None` outside of the image.
    fn outputs(&self, tile: usize) -> [Option<usize>; TILE * TILE] {
        let g = self.g;
        let (n, oy, ox) = self.place(tile);
        std::array::from_fn(|p| {
            let (y, x) = (oy + p / TILE, ox + p % TILE);
            (y < g.oh && x < g.ow).then(|| ((n * g.oh + y) * g.ow + x) * g.outputs)
        })
    }
}

/// y = act(x ∗ w + bias + residual); `bias` is as long as the outputs.
pub(crate) fn forward(
    g: &Geometry,
    x: &[f32],
    weights: &Weights,
    bias: &[f32],
    act: Option<Act>,
    residual: Option<&[f32]>,
    y: &mut [f32],
) {
    let (tiles, zeros) = (Tiles::of(g), vec![0f32; g.inputs]);
    let ((low, high), after) = limits(act);
    let (c, o) = (g.inputs, g.outputs);
    assert!(x.len() >= g.b * g.h * g.w * c && bias.len() >= o && y.len() >= g.pixels() * o);
    assert!(
        residual.is_none_or(|r| r.len() >= g.pixels() * o) && (c, o) == (weights.format.depth, weights.format.outputs)
    );
    let shared = Shared::new(y);
    let count = tiles.len();
    // Blocks of about the same size: no core waits long for the last one.
    let blocks = count.div_ceil(BLOCK);
    (0..blocks).into_par_iter().for_each(|block| {
        let (first, end) = (block * count / blocks, (block + 1) * count / blocks);
        let n = end - first;
        with_scratch(POINTS * n * (c + o), |scratch| {
            let (inputs, products) = scratch.split_at_mut(POINTS * n * c);
            for t in 0..n {
                let from = tiles.inputs(first + t, x, &zeros);
                // SAFETY: pixels within `x` or the zeros, and one row of every point.
                unsafe { transform_input(&from, c, inputs[t * c..].as_mut_ptr(), n * c) };
            }
            let to = Shared::new(products);
            let len = weights.format.len();
            (0..POINTS).into_par_iter().for_each(|p| {
                let rows = Rows { x: &inputs[p * n * c..(p + 1) * n * c], x_stride: c, residual: None, out_stride: o };
                let w = &weights.points[p * len..(p + 1) * len];
                let (to, panels) = (to.at(p * n * o, n * o), 0..weights.format.panels());
                // SAFETY: one point's rows belong to one task.
                unsafe { weights.format.rows(Matrix::Packed(w), Start::Zero, n, rows, None, to, panels) };
            });
            for t in 0..n {
                let places = tiles.outputs(first + t);
                let finish = Finish {
                    bias: bias.as_ptr(),
                    residual: places.map(|at| match (residual, at) {
                        (Some(r), Some(at)) => r[at..].as_ptr(),
                        _ => std::ptr::null(),
                    }),
                    to: places.map(|at| at.map_or(std::ptr::null_mut(), |at| shared.at(at, o))),
                    low,
                    high,
                };
                // SAFETY: products of this tile, and pixels of the output that belong to it alone.
                unsafe { transform_output(products[t * o..].as_ptr(), n * o, o, &finish) };
            }
        });
    });
    if let Some(act) = after {
        crate::cpu::for_rows(&mut y[..g.pixels() * o], 1, |_, y| crate::act::apply(act, y));
    }
}

/// Transformed values that are held at once for the weights' gradient: 32 MiB.
const HELD: usize = 8 << 20;

/// Gradient of the weights `[outputs, inputs, 3, 3]`.
pub(crate) fn weight_gradient(g: &Geometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let (tiles, zeros) = (Tiles::of(g), vec![0f32; g.inputs.max(g.outputs)]);
    let (c, o) = (g.inputs, g.outputs);
    assert!(x.len() >= g.b * g.h * g.w * c && dy.len() >= g.pixels() * o);
    let held = (HELD / (POINTS * (c + o))).clamp(1, tiles.len().max(1));
    let mut points = vec![0f32; POINTS * c * o];
    with_scratch(POINTS * held * (c + o), |scratch| {
        let (inputs, gradients) = scratch.split_at_mut(POINTS * held * c);
        for first in (0..tiles.len()).step_by(held) {
            let n = held.min(tiles.len() - first);
            let (to_inputs, to_gradients) = (Shared::new(inputs), Shared::new(gradients));
            (0..n).into_par_iter().with_min_len(8).for_each(|t| {
                let from = tiles.inputs(first + t, x, &zeros);
                let to = to_inputs.at(t * c, (POINTS - 1) * n * c + c);
                // SAFETY: pixels within `x` or the zeros; one row of every point belongs to one tile.
                unsafe { transform_input(&from, c, to, n * c) };
                let from = tiles.outputs(first + t).map(|at| at.map_or(zeros.as_ptr(), |at| dy[at..at + o].as_ptr()));
                let to = to_gradients.at(t * o, (POINTS - 1) * n * o + o);
                // SAFETY: as above.
                unsafe { transform_gradient(&from, o, to, n * o) };
            });
            points.par_chunks_exact_mut(c * o).enumerate().for_each(|(p, sums)| {
                let x = Mat::new(&inputs[p * n * c..(p + 1) * n * c], n, c, c);
                let dy = Mat::new(&gradients[p * n * o..(p + 1) * n * o], n, o, o);
                serial_product(x.t(), dy, 0..n, sums, o, first > 0);
            });
        }
    });
    let mut dw = vec![0f32; o * c * 9];
    dw.par_chunks_exact_mut(LANES * c * 9).enumerate().for_each(|(block, dw)| {
        let mut taps = [0f32; 9 * LANES];
        for i in 0..c {
            let from = points[i * o + block * LANES..].as_ptr();
            // SAFETY: 16 columns of one row at every point.
            unsafe { untransform_weights(from, c * o, taps.as_mut_ptr()) };
            for lane in 0..LANES {
                for k in 0..9 {
                    dw[(lane * c + i) * 9 + k] = taps[k * LANES + lane];
                }
            }
        }
    });
    dw
}
