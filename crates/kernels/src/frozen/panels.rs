//! y = act(x W + b + residual) with weights packed once into panels of up to 64 columns: the bias is where the sums start,
//! and the rest is done while they are in registers.

use std::ops::Range;

use super::limits;
use super::precision::{self, Precision};
use crate::act::{self, Act};
use crate::cpu::with_scratch;
use crate::lanes::{Lanes, lanes};
use crate::simd::{LANES, Level, level};

/// Inner dimension that is worked through before the next panel, so that a panel's piece stays in a core's own cache.
pub(crate) const DEPTH: usize = 256;

/// Columns of a whole panel, where the processor has registers for that.
pub(crate) const PANEL: usize = 4 * LANES;

/// What sums start from.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    Zero,
    /// One value for each column, filled up to whole vectors.
    Bias(&'a [f32]),
    /// What `out` holds.
    Out,
}

impl Start<'_> {
    /// From what is there when it is to be added to.
    pub(crate) fn from(add: bool) -> Self {
        if add { Self::Out } else { Self::Zero }
    }
}

static ZEROS: [f32; PANEL] = [0.0; PANEL];

/// How a weight matrix `[depth, outputs]` lies in memory: panel behind panel, each `[depth, 16 · vectors]`, the last
/// one filled up with zeros.
#[derive(Debug, Clone)]
pub(crate) struct Format {
    pub(crate) depth: usize,
    pub(crate) outputs: usize,
    /// Vectors of 16 columns in each panel.
    vectors: Vec<usize>,
    /// What is multiplied; `depth` counts words of it.
    precision: Precision,
}

/// The numbers of a weight matrix.
#[derive(Clone, Copy)]
pub(crate) enum Matrix<'a> {
    /// As the format says.
    Packed(&'a [f32]),
    /// Rows this far apart; the outputs are whole vectors.
    Plain(&'a [f32], usize),
}

impl Matrix<'_> {
    /// `depth` rows from `row` on of a panel of `width` columns, whose first is `column`: the start, and the distance of
    /// rows.
    fn panel(&self, format: &Format, row: usize, depth: usize, column: usize, width: usize) -> (*const f32, usize) {
        let (values, start, stride) = match *self {
            Self::Packed(values) => (values, column * format.depth + row * width, width),
            Self::Plain(values, stride) => (values, row * stride + column, stride),
        };
        assert!(depth == 0 || start + (depth - 1) * stride + width <= values.len());
        (values[start.min(values.len())..].as_ptr(), stride)
    }
}

/// A weight matrix and a bias, packed.
#[derive(Debug, Clone)]
pub(crate) struct Panels {
    pub(crate) format: Format,
    /// Rows of the matrix: numbers, where the format counts words.
    inputs: usize,
    weights: Vec<f32>,
    /// Filled up with zeros as the weights.
    bias: Vec<f32>,
}

/// Where a block of rows is read and written.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// Rows of `depth` values: the rows `x_stride` apart, their values `x_step`.
    pub(crate) x: &'a [f32],
    pub(crate) x_stride: usize,
    pub(crate) x_step: usize,
    /// Rows of `outputs` values, as far apart as those of `out`.
    pub(crate) residual: Option<&'a [f32]>,
    /// Distance of output rows.
    pub(crate) out_stride: usize,
}

/// One register tile: everything that the inner loop needs to know.
#[derive(Clone, Copy)]
struct Tile {
    x: *const f32,
    x_stride: usize,
    x_step: usize,
    depth: usize,
    panel: *const f32,
    panel_stride: usize,
    bias: *const f32,
    /// Whether the sums start at the bias or at what `out` holds.
    first: bool,
    residual: *const f32,
    out: *mut f32,
    out_stride: usize,
    /// Columns that exist; the others are padding of the panel.
    columns: usize,
    low: f32,
    high: f32,
}

/// Adds the tile's products.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn products<L: Lanes, const R: usize, const V: usize>(mut sums: [[L; V]; R], t: Tile) -> [[L; V]; R] {
    let (mut x, mut panel) = (t.x, t.panel);
    for _ in 0..t.depth {
        // SAFETY: the caller's promise; the pointers end behind the last row and column.
        unsafe {
            let mut w = [L::splat(0.0); V];
            for v in 0..V {
                w[v] = L::load(panel.add(v * LANES));
            }
            for r in 0..R {
                let x = L::splat(*x.add(r * t.x_stride));
                for v in 0..V {
                    sums[r][v] = sums[r][v].fma(x, w[v]);
                }
            }
            x = x.wrapping_add(t.x_step);
            panel = panel.add(t.panel_stride);
        }
    }
    sums
}

/// # Safety
/// `t` describes memory that is valid for R rows and V vectors; the processor has the instructions of `L`.
#[inline(always)]
unsafe fn tile<L: Lanes, const R: usize, const V: usize>(t: Tile) {
    // SAFETY: by the caller's promise; rows and columns outside of `out` go through `edge`, which has room for all.
    unsafe {
        let whole = t.columns >= V * LANES;
        let mut edge = [0f32; 64];
        let mut start = [[L::splat(0.0); V]; R];
        for (r, start) in start.iter_mut().enumerate() {
            if !t.first && !whole {
                std::ptr::copy_nonoverlapping(t.out.add(r * t.out_stride), edge.as_mut_ptr(), t.columns);
            }
            let from = match (t.first, whole) {
                (true, _) => t.bias,
                (false, true) => t.out.add(r * t.out_stride).cast_const(),
                (false, false) => edge.as_ptr(),
            };
            for (v, start) in start.iter_mut().enumerate() {
                *start = L::load(from.add(v * LANES));
            }
        }
        // A copy of its own, which nothing but the inner loop touches, stays in registers.
        let sums = products::<L, R, V>(start, t);
        let (low, high) = (L::splat(t.low), L::splat(t.high));
        for (r, sums) in sums.iter().enumerate() {
            let out = t.out.add(r * t.out_stride);
            if !t.residual.is_null() && !whole {
                edge.fill(0.0);
                std::ptr::copy_nonoverlapping(t.residual.add(r * t.out_stride), edge.as_mut_ptr(), t.columns);
            }
            for (v, &sum) in sums.iter().enumerate() {
                let mut y = sum;
                if !t.residual.is_null() {
                    let residual = if whole { t.residual.add(r * t.out_stride) } else { edge.as_ptr() };
                    y = y.plus(L::load(residual.add(v * LANES)));
                }
                let to = if whole { out } else { edge.as_mut_ptr() };
                y.clamp(low, high).store(to.add(v * LANES));
            }
            if !whole {
                std::ptr::copy_nonoverlapping(edge.as_ptr(), out, t.columns);
            }
        }
    }
}

/// Works through rows in tiles of R, then one by one.
///
/// # Safety
/// As [`tile`], for all rows.
#[inline(always)]
unsafe fn rows<L: Lanes, const R: usize, const V: usize>(mut t: Tile, mut rows: usize) {
    // SAFETY: the pointers move by rows that exist.
    unsafe {
        let step = |t: &mut Tile, rows: usize| {
            t.x = t.x.add(rows * t.x_stride);
            t.out = t.out.add(rows * t.out_stride);
            if !t.residual.is_null() {
                t.residual = t.residual.add(rows * t.out_stride);
            }
        };
        while rows >= R {
            tile::<L, R, V>(t);
            step(&mut t, R);
            rows -= R;
        }
        while rows >= 2 {
            tile::<L, 2, V>(t);
            step(&mut t, 2);
            rows -= 2;
        }
        if rows == 1 {
            tile::<L, 1, V>(t);
        }
    }
}

/// As many rows as leave registers for the weights; AVX2 has half as many, half as wide.
///
/// # Safety
/// As [`tile`], for all rows.
#[inline(always)]
unsafe fn any_rows<L: Lanes>(t: Tile, count: usize, vectors: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match vectors {
            4 => rows::<L, 6, 4>(t, count),
            3 => rows::<L, 8, 3>(t, count),
            2 => rows::<L, 12, 2>(t, count),
            _ => {
                if size_of::<L>() == 64 && align_of::<L>() == 64 {
                    rows::<L, 16, 1>(t, count)
                } else {
                    rows::<L, 6, 1>(t, count)
                }
            }
        }
    }
}

lanes! {
    /// # Safety
    /// As [`tile`], for all rows.
    unsafe fn run(t: Tile, count: usize, vectors: usize) {
        // SAFETY: the caller's promise.
        unsafe { any_rows::<L>(t, count, vectors) }
    }
}

/// [`run`] on pairs of bf16.
///
/// # Safety
/// As [`tile`], for all rows; [`Precision::Bf16`] is available.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))]
unsafe fn run_pairs(t: Tile, count: usize, vectors: usize) {
    // SAFETY: the caller's promise.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        any_rows::<crate::lanes::Pairs>(t, count, vectors)
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (t, count, vectors);
}

impl Panels {
    /// Packs a matrix of `inputs` rows given by `weight(row, column)`.
    ///
    /// # Panics
    /// When this processor has no instructions for `precision`.
    pub(crate) fn new(
        inputs: usize,
        outputs: usize,
        bias: Option<&[f32]>,
        precision: Precision,
        weight: impl Fn(usize, usize) -> f32,
    ) -> Self {
        assert!(precision.available(), "{} on this processor", precision.name());
        let format = Format { depth: precision.words(inputs), precision, ..Format::new(inputs, outputs) };
        let mut weights = Vec::with_capacity(format.len());
        let mut first = 0;
        let number = |k: usize, column: usize| if k < inputs && column < outputs { weight(k, column) } else { 0.0 };
        let word = |k: usize, column: usize| match precision {
            Precision::F32 => number(k, column),
            Precision::Bf16 => precision::pair(number(2 * k, column), number(2 * k + 1, column)),
        };
        for &count in &format.vectors {
            for k in 0..format.depth {
                weights.extend((first..first + count * LANES).map(|column| word(k, column)));
            }
            first += count * LANES;
        }
        let bias = format.bias(bias);
        Self { format, inputs, weights, bias }
    }

    /// Rows of the matrix.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// [`Format::rows`] with these weights.
    ///
    /// # Safety
    /// As there.
    pub(crate) unsafe fn rows(&self, count: usize, rows: Rows, act: Option<Act>, out: *mut f32, panels: Range<usize>) {
        let (matrix, start) = (Matrix::Packed(&self.weights), Start::Bias(&self.bias));
        match self.format.precision {
            // SAFETY: the caller's promise.
            Precision::F32 => unsafe { self.format.rows(matrix, start, count, rows, act, out, panels) },
            Precision::Bf16 => with_scratch(count * self.format.depth, |words| {
                assert!(rows.x_step == 1);
                precision::pairs(rows.x, rows.x_stride, self.inputs, words);
                let rows = Rows { x: words, x_stride: self.format.depth, ..rows };
                // SAFETY: the caller's promise.
                unsafe { self.format.rows(matrix, start, count, rows, act, out, panels) }
            }),
        }
    }
}

impl Format {
    pub(crate) fn new(depth: usize, outputs: usize) -> Self {
        let total = outputs.div_ceil(LANES);
        let most = if matches!(level(), Level::Portable) || crate::simd::instruction_set() == "avx2" { 1 } else { 4 };
        let panels = total.div_ceil(most);
        let vectors = (0..panels).map(|p| total / panels + usize::from(p < total % panels)).collect();
        Self { depth, outputs, vectors, precision: Precision::F32 }
    }

    /// Values of a packed matrix.
    pub(crate) fn len(&self) -> usize {
        self.depth * self.outputs.next_multiple_of(LANES)
    }

    /// A bias filled up with zeros.
    pub(crate) fn bias(&self, bias: Option<&[f32]>) -> Vec<f32> {
        let mut padded = bias.map_or_else(Vec::new, <[f32]>::to_vec);
        padded.resize(self.outputs.next_multiple_of(LANES), 0.0);
        padded
    }

    /// Where the 16 columns from `column` on, a multiple of 16, begin in row 0, and the distance to the next row.
    pub(crate) fn place(&self, column: usize) -> (usize, usize) {
        let mut first = 0;
        for &vectors in &self.vectors {
            if column < first + vectors * LANES {
                return (first * self.depth + column - first, vectors * LANES);
            }
            first += vectors * LANES;
        }
        (self.len(), LANES)
    }

    /// Rows that one task should take: about 0.1 ms of work, a multiple of every tile's height.
    pub(crate) fn block(&self) -> usize {
        ((4 << 20) / (self.depth * self.outputs).max(1)).clamp(48, 960) / 48 * 48
    }

    /// Computes some rows, for some of the panels.
    ///
    /// # Safety
    /// `out` is valid for `count` rows of `outputs` values, `out_stride` apart, and nobody else uses them meanwhile
    /// (in the columns of these panels).
    #[allow(clippy::too_many_arguments)]
    pub(crate) unsafe fn rows(
        &self,
        weights: Matrix,
        start: Start,
        count: usize,
        rows: Rows,
        act: Option<Act>,
        out: *mut f32,
        panels: Range<usize>,
    ) {
        if count == 0 || self.outputs == 0 {
            return;
        }
        let (limits, after) = limits(act);
        let pieces = self.depth.div_ceil(DEPTH).max(1);
        for piece in 0..pieces {
            let (from, to) = (piece * DEPTH, ((piece + 1) * DEPTH).min(self.depth));
            let (start, last) = (if piece == 0 { start } else { Start::Out }, piece + 1 == pieces);
            assert!(rows.x.len() >= from * rows.x_step);
            let part = Rows { x: &rows.x[from * rows.x_step..], residual: rows.residual.filter(|_| last), ..rows };
            let limits = if last { limits } else { (f32::NEG_INFINITY, f32::INFINITY) };
            // SAFETY: the caller's promise.
            unsafe { self.piece(weights, start, from..to, count, part, limits, out, panels.clone()) };
        }
        if let Some(act) = after {
            let start = self.column(panels.start);
            let width: usize = self.vectors[panels].iter().sum::<usize>() * LANES;
            for row in 0..count {
                // SAFETY: columns that were just written.
                let y = unsafe {
                    let len = width.min(self.outputs - start);
                    std::slice::from_raw_parts_mut(out.add(row * rows.out_stride + start), len)
                };
                act::apply(act, y);
            }
        }
    }

    /// Adds the products over part of the inner dimension, where `rows.x` begins; results are limited to a range.
    ///
    /// # Safety
    /// As [`Format::rows`].
    #[allow(clippy::too_many_arguments)]
    pub(crate) unsafe fn piece(
        &self,
        weights: Matrix,
        start: Start,
        inner: Range<usize>,
        count: usize,
        rows: Rows,
        (low, high): (f32, f32),
        out: *mut f32,
        panels: Range<usize>,
    ) {
        if count == 0 || self.outputs == 0 {
            return;
        }
        let depth = inner.len();
        assert!(depth == 0 || rows.x.len() > (count - 1) * rows.x_stride + (depth - 1) * rows.x_step);
        assert!(rows.residual.is_none_or(|r| r.len() >= (count - 1) * rows.out_stride + self.outputs));
        let mut column = self.column(panels.start);
        for &vectors in &self.vectors[panels] {
            let (panel, panel_stride) = weights.panel(self, inner.start, depth, column, vectors * LANES);
            let tile = Tile {
                x: rows.x.as_ptr(),
                x_stride: rows.x_stride,
                x_step: rows.x_step,
                depth,
                panel,
                panel_stride,
                bias: match start {
                    Start::Bias(bias) => bias[column..column + vectors * LANES].as_ptr(),
                    _ => ZEROS.as_ptr(),
                },
                first: !matches!(start, Start::Out),
                residual: rows.residual.map_or(std::ptr::null(), |r| r[column..].as_ptr()),
                // SAFETY: the column exists in every row of `out`.
                out: unsafe { out.add(column) },
                out_stride: rows.out_stride,
                columns: (self.outputs - column).min(vectors * LANES),
                low,
                high,
            };
            match self.precision {
                // SAFETY: x, panel, bias and residual were checked; `out` is the caller's promise.
                Precision::F32 => unsafe { run(tile, count, vectors) },
                // SAFETY: as above; panels of pairs are made only where their instructions are.
                Precision::Bf16 => unsafe { run_pairs(tile, count, vectors) },
            }
            column += vectors * LANES;
        }
    }

    /// The first column of a panel.
    pub(crate) fn column(&self, panel: usize) -> usize {
        self.vectors[..panel].iter().sum::<usize>() * LANES
    }

    pub(crate) fn panels(&self) -> usize {
        self.vectors.len()
    }
}
