//! 3 × 3 and 5 × 5 convolutions of stride 1 by Winograd's F(4 × 4, 3 × 3) and F(2 × 2, 5 × 5) (Lavin & Gray 2016, *Fast
//! algorithms for convolutional neural networks*): 36 multiplications in place of 144, and of 100.
//!
//! Tiles of 6 × 6 inputs (which overlap) and the weights are transformed to 36 points each; at every point a matrix
//! product over the channels follows, and what comes out is transformed back ([`transform`]). The gradient by the input is
//! the same convolution with turned weights; the one by the weights multiplies transformed inputs with transformed
//! gradients.

mod transform;

use rayon::prelude::*;

use super::Geometry;
use crate::act::Act;
use crate::cpu::{Shared, output, with_scratch};
use crate::frozen::limits;
use crate::frozen::panels::{Format, Matrix, Rows, Start};
use crate::matmul::{Mat, serial_product};
use crate::simd::LANES;
use crate::transpose;

/// Inputs along one side of a tile.
const SIDE: usize = 6;
/// Products of a tile.
const POINTS: usize = SIDE * SIDE;
/// Outputs of the larger tile.
const MOST: usize = 16;
/// Tiles that are worked on together: their transforms stay in a core's own cache.
const BLOCK: usize = 48;

/// Outputs along one side of a tile.
fn side(g: &Geometry) -> usize {
    SIDE + 1 - g.kernel[0]
}

/// Whether this is the faster way: by shapes of one image alone, so that results do not depend on the batch.
pub(crate) fn suits(g: &Geometry) -> bool {
    let kernel = g.kernel == [3, 3] || g.kernel == [5, 5];
    let plain = kernel && g.spec.stride == [1, 1] && g.spec.dilation == [1, 1] && g.spec.groups == 1;
    if !plain || g.spec.pads.iter().any(|&pad| pad >= g.kernel[0]) {
        return false;
    }
    let wide = [g.inputs, g.outputs].iter().all(|c| *c >= 32 && c.is_multiple_of(LANES));
    let covered = g.oh.next_multiple_of(side(g)) * g.ow.next_multiple_of(side(g));
    wide && 2 * g.oh * g.ow > covered
}

/// Weights at the 36 points, each packed for the matrix product.
#[derive(Debug, Clone)]
pub(crate) struct Weights {
    format: Format,
    /// Point behind point.
    points: Vec<f32>,
}

impl Weights {
    /// Of weights `[outputs, inputs, k, k]`.
    pub(crate) fn new(w: &[f32], inputs: usize, outputs: usize, k: usize) -> Self {
        // 16 outputs' rows of all taps become columns.
        let taps = k * k;
        Self::pack(inputs, outputs, k, false, |block, i, to| {
            let row = inputs * taps;
            for from in (0..LANES * taps).step_by(LANES) {
                let w = &w[block * LANES * row + i * taps + from..];
                transpose::block(w, row, &mut to[from * LANES..], LANES);
            }
        })
    }

    /// Of the convolution that gives the input's gradient: inputs and outputs exchanged, the kernel turned by 180°.
    pub(crate) fn turned(w: &[f32], inputs: usize, outputs: usize, k: usize) -> Self {
        let taps = k * k;
        Self::pack(outputs, inputs, k, true, |block, i, to| {
            for (i, to) in (i..).zip(to.chunks_exact_mut(taps * LANES)) {
                let w = &w[(i * inputs + block * LANES) * taps..][..taps * LANES];
                for (lane, w) in w.chunks_exact(taps).enumerate() {
                    w.iter().zip(to.chunks_exact_mut(LANES)).for_each(|(w, to)| to[lane] = *w);
                }
            }
        })
    }

    /// `columns(block, i, to)` writes the taps of 16 columns for 16 rows from i on: `[16, k · k, 16]`.
    fn pack(
        depth: usize,
        outputs: usize,
        k: usize,
        turned: bool,
        columns: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) -> Self {
        let (format, taps) = (Format::new(depth, outputs), k * k);
        let len = format.len();
        let mut points = output(POINTS * len);
        let shared = Shared::new(&mut points);
        (0..outputs / LANES).into_par_iter().for_each(|block| {
            let (start, row) = format.place(block * LANES);
            let mut values = vec![0f32; LANES * taps * LANES];
            for first in (0..depth).step_by(LANES) {
                columns(block, first, &mut values);
                for (i, values) in (first..).zip(values.chunks_exact(taps * LANES)) {
                    let to = shared.at(start + i * row, (POINTS - 1) * len + LANES);
                    // SAFETY: these columns of every point belong to this task.
                    unsafe { transform::weights(values.as_ptr(), k, turned, to, len) };
                }
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
    side: usize,
    rows: usize,
    columns: usize,
}

impl<'a> Tiles<'a> {
    fn of(g: &'a Geometry) -> Self {
        Self { g, side: side(g), rows: g.oh.div_ceil(side(g)), columns: g.ow.div_ceil(side(g)) }
    }

    fn len(&self) -> usize {
        self.g.b * self.rows * self.columns
    }

    /// Image, and row and column of the first output.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let (n, rest) = (tile / (self.rows * self.columns), tile % (self.rows * self.columns));
        (n, rest / self.columns * self.side, rest % self.columns * self.side)
    }

    /// The input's pixels under a tile; `zeros` stand for the padding.
    fn inputs(&self, tile: usize, x: &[f32], zeros: &[f32]) -> [*const f32; POINTS] {
        let g = self.g;
        let (n, oy, ox) = self.place(tile);
        std::array::from_fn(|p| {
            let (iy, ix) = ((oy + p / SIDE).wrapping_sub(g.spec.pads[0]), (ox + p % SIDE).wrapping_sub(g.spec.pads[2]));
            if iy < g.h && ix < g.w { x[((n * g.h + iy) * g.w + ix) * g.inputs..].as_ptr() } else { zeros.as_ptr() }
        })
    }

    /// Where the tile's outputs begin in `[b, oh, ow, outputs]`; `None` outside of the image, and behind the last.
    fn outputs(&self, tile: usize) -> [Option<usize>; MOST] {
        let g = self.g;
        let (n, oy, ox) = self.place(tile);
        std::array::from_fn(|p| {
            let (y, x) = (oy + p / self.side, ox + p % self.side);
            (p < self.side * self.side && y < g.oh && x < g.ow).then(|| ((n * g.oh + y) * g.ow + x) * g.outputs)
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
                unsafe { transform::input(&from, c, inputs[t * c..].as_mut_ptr(), n * c) };
            }
            let to = Shared::new(products);
            let len = weights.format.len();
            (0..POINTS).into_par_iter().for_each(|p| {
                let rows = Rows {
                    x: &inputs[p * n * c..(p + 1) * n * c],
                    x_stride: c,
                    x_step: 1,
                    residual: None,
                    out_stride: o,
                };
                let w = &weights.points[p * len..(p + 1) * len];
                let (to, panels) = (to.at(p * n * o, n * o), 0..weights.format.panels());
                // SAFETY: one point's rows belong to one task.
                unsafe { weights.format.rows(Matrix::Packed(w), Start::Zero, n, rows, None, to, panels) };
            });
            for t in 0..n {
                let places = tiles.outputs(first + t);
                let residual = places.map(|at| match (residual, at) {
                    (Some(r), Some(at)) => r[at..].as_ptr(),
                    _ => std::ptr::null(),
                });
                let to = places.map(|at| at.map_or(std::ptr::null_mut(), |at| shared.at(at, o)));
                let (side, bias) = (tiles.side, bias.as_ptr());
                let finish = transform::Finish { side, bias, residual: &residual, to: &to, low, high };
                // SAFETY: products of this tile, and pixels of the output that belong to it alone.
                unsafe { transform::output(products[t * o..].as_ptr(), n * o, o, &finish) };
            }
        });
    });
    if let Some(act) = after {
        crate::cpu::for_rows(&mut y[..g.pixels() * o], 1, |_, y| crate::act::apply(act, y));
    }
}

/// Transformed values that are held at once for the weights' gradient: 8 MiB, which the cores' common cache keeps.
const HELD: usize = 2 << 20;

/// Gradient of the weights `[outputs, inputs, k, k]`.
pub(crate) fn weight_gradient(g: &Geometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let (tiles, zeros) = (Tiles::of(g), vec![0f32; g.inputs.max(g.outputs)]);
    let (c, o) = (g.inputs, g.outputs);
    assert!(x.len() >= g.b * g.h * g.w * c && dy.len() >= g.pixels() * o);
    let held = (HELD / (POINTS * (c + o))).clamp(64, tiles.len().max(64));
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
                unsafe { transform::input(&from, c, to, n * c) };
                let from = tiles.outputs(first + t).map(|at| at.map_or(zeros.as_ptr(), |at| dy[at..at + o].as_ptr()));
                let to = to_gradients.at(t * o, (POINTS - 1) * n * o + o);
                // SAFETY: as above.
                unsafe { transform::gradient(&from, tiles.side, o, to, n * o) };
            });
            points.par_chunks_exact_mut(c * o).enumerate().for_each(|(p, sums)| {
                let x = Mat::new(&inputs[p * n * c..(p + 1) * n * c], n, c, c);
                let dy = Mat::new(&gradients[p * n * o..(p + 1) * n * o], n, o, o);
                serial_product(x.t(), dy, 0..n, sums, o, first > 0);
            });
        }
    });
    let taps = g.taps();
    let mut dw = output(o * c * taps);
    dw.par_chunks_exact_mut(LANES * c * taps).enumerate().for_each(|(block, dw)| {
        let mut values = vec![0f32; LANES * taps * LANES];
        for first in (0..c).step_by(LANES) {
            for (i, values) in (first..).zip(values.chunks_exact_mut(taps * LANES)) {
                let from = points[i * o + block * LANES..].as_ptr();
                // SAFETY: 16 columns of one row at every point.
                unsafe { transform::weight_gradient(from, c * o, g.kernel[0], values.as_mut_ptr()) };
            }
            // The taps of 16 inputs, which lie behind each other for each of 16 outputs.
            for from in (0..LANES * taps).step_by(LANES) {
                transpose::block(&values[from * LANES..], LANES, &mut dw[first * taps + from..], c * taps);
            }
        }
    });
    dw
}
