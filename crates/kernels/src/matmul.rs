//! Matrix products on the panels of the frozen path, split into tiles that depend on the shapes alone.

use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::{Shared, with_scratch};
use crate::frozen::panels::{DEPTH, Format, Matrix, PANEL, Rows, Start};
use crate::simd::LANES;
use crate::transpose;

/// A matrix within a slice.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Mat<'a> {
    /// `rows` of `columns` values, `row_stride` apart.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        let mat = Self { data, rows, columns, row_stride, column_stride: 1 };
        assert!(mat.fits());
        mat
    }

    fn fits(&self) -> bool {
        self.rows == 0
            || self.columns == 0
            || (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride < self.data.len()
    }

    /// The same values with rows and columns exchanged.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// `c` (rows of `row_stride`) = `a` `b`, or `c` += `a` `b`, on this thread.
pub(crate) fn product(a: Mat, b: Mat, c: &mut [f32], row_stride: usize, add: bool) {
    serial_product(a, b, 0..a.columns, c, row_stride, add);
}

/// [`product`] to memory that no slice can describe.
///
/// # Safety
/// `c` is valid for the product's rows, `row_stride` apart, and nobody else uses them meanwhile.
pub(crate) unsafe fn product_to(a: Mat, b: Mat, c: *mut f32, row_stride: usize, add: bool) {
    // SAFETY: the caller's promise.
    unsafe { accumulate(a, b, 0..a.columns, c, row_stride, add) }
}

/// Work below which a product is left to one thread and not packed: about 0.1 ms.
const SMALL: usize = 1 << 20;
/// Rows that one task multiplies: enough to use each piece of the packed matrix often.
const ROWS: usize = 192;
/// Tasks that a product is cut into at least, where it can be.
const TASKS: usize = 16;
/// Inner dimension from which tasks sum up parts of it, when the result is small.
const LONG: usize = 8192;
/// Of such a part, what is packed at a time.
const PIECE: usize = 512;
/// Rows that one task copies when all of a matrix is packed.
const COPIED: usize = 32;
/// Distance of columns up to which a task reads them where they are.
const STRIP: usize = 256;

/// `c` (rows of `row_stride`) = `start` + `a` `b`, in parallel: `b` is packed into panels. A bias has a value for each
/// column.
pub(crate) fn par_product(a: Mat, b: Mat, c: &mut [f32], row_stride: usize, start: Start) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert!(a.columns == b.rows && (m == 0 || n == 0 || (m - 1) * row_stride + n <= c.len()));
    let way = if m * n * k <= SMALL {
        product
    } else if k >= LONG && m * n <= 1 << 20 {
        deep_product
    } else if m < 64 {
        flat_product
    } else {
        return wide_product(a, b, c, row_stride, start);
    };
    if let Start::Bias(bias) = start {
        c.chunks_mut(row_stride.max(1)).take(m).for_each(|c| c[..n].copy_from_slice(bias));
    }
    way(a, b, c, row_stride, !matches!(start, Start::Zero));
}

/// Many rows and columns.
fn wide_product(a: Mat, b: Mat, c: &mut [f32], row_stride: usize, start: Start) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    let bias;
    let start = match start {
        Start::Bias(values) => {
            bias = Format::new(k, n).bias(Some(values));
            Start::Bias(&bias)
        }
        other => other,
    };
    let format = Format::new(k, n);
    with_scratch(format.len(), |packed| {
        pack(b, &format, packed);
        let packed = Matrix::Packed(packed);
        // Where the columns of `a` lie behind each other, a task copies what it needs of them: once, so all panels are its.
        let least = if a.column_stride == 1 { 1 } else { TASKS.min(m.div_ceil(48)) };
        let row_tasks = m.div_ceil(ROWS).max(least);
        let split = a.column_stride == 1 && row_tasks < TASKS;
        let groups = if split { TASKS.div_ceil(row_tasks).min(format.panels()) } else { 1 };
        let target = Shared::new(c);
        (0..row_tasks * groups).into_par_iter().for_each(|task| {
            let (rows, group) = (task / groups, task % groups);
            // Whole register tiles, as even as they come.
            let edge = |i: usize| if i == row_tasks { m } else { i * m / row_tasks / 24 * 24 };
            let panels = format.panels() * group / groups..format.panels() * (group + 1) / groups;
            // SAFETY: these columns of these rows belong to this task alone.
            unsafe { multiply(a, (edge(rows), edge(rows + 1)), packed, &format, &target, row_stride, panels, start) };
        });
    });
}

/// Rows of `a` times some panels.
///
/// # Safety
/// No other task writes these columns of these rows.
#[allow(clippy::too_many_arguments)]
unsafe fn multiply(
    a: Mat,
    (first, end): (usize, usize),
    matrix: Matrix,
    format: &Format,
    c: &Shared,
    row_stride: usize,
    panels: Range<usize>,
    start: Start,
) {
    if first == end {
        return;
    }
    let rows = Mat { data: &a.data[first * a.row_stride..], rows: end - first, ..a };
    let out = c.at(first * row_stride, (end - first - 1) * row_stride + format.outputs);
    // SAFETY: the caller's promise.
    unsafe { multiply_to(rows, matrix, format, out, row_stride, panels, start) };
}

/// All rows of `a` times some panels.
///
/// # Safety
/// `out` is valid for these columns of as many rows, and nobody else uses them meanwhile.
unsafe fn multiply_to(
    a: Mat,
    matrix: Matrix,
    format: &Format,
    out: *mut f32,
    row_stride: usize,
    panels: Range<usize>,
    start: Start,
) {
    let count = a.rows;
    let rows =
        Rows { x: a.data, x_stride: a.row_stride, x_step: a.column_stride, residual: None, out_stride: row_stride };
    if a.column_stride <= STRIP || a.column_stride == count || a.columns <= LANES {
        // SAFETY: the caller's promise.
        return unsafe { format.rows(matrix, start, count, rows, None, out, panels) };
    }
    assert!(a.row_stride == 1);
    // Strips of the columns, for a core's own cache: read where they are, their values would get in each other's way.
    with_scratch(DEPTH.min(a.columns) * count, |strip| {
        for from in (0..a.columns).step_by(DEPTH) {
            let inner = from..(from + DEPTH).min(a.columns);
            for (k, to) in inner.clone().zip(strip.chunks_exact_mut(count)) {
                to.copy_from_slice(&rows.x[k * a.column_stride..][..count]);
            }
            let rows = Rows { x: strip, x_stride: 1, x_step: count, ..rows };
            let start = if from == 0 { start } else { Start::Out };
            let (limits, panels) = ((f32::NEG_INFINITY, f32::INFINITY), panels.clone());
            // SAFETY: the caller's promise.
            unsafe { format.piece(matrix, start, inner, count, rows, limits, out, panels) };
        }
    });
}

/// The right side of several products, packed once.
pub(crate) struct Packed {
    format: Format,
    values: Vec<f32>,
}

impl Packed {
    /// Packs `b`.
    pub(crate) fn new(b: Mat) -> Self {
        let format = Format::new(b.rows, b.columns);
        let mut values = vec![0f32; format.len()];
        pack(b, &format, &mut values);
        Self { format, values }
    }

    /// `c` (rows of `row_stride`) = `a` `b`, or `c` += `a` `b`, on this thread; rows of `a` lie behind each other.
    pub(crate) fn product(&self, a: Mat, c: &mut [f32], row_stride: usize, add: bool) {
        assert!(a.column_stride == 1 && a.columns == self.format.depth);
        let (out, panels, start) = (Shared::new(c), 0..self.format.panels(), Start::from(add));
        // SAFETY: `c` is borrowed by this thread alone.
        unsafe {
            multiply(a, (0, a.rows), Matrix::Packed(&self.values), &self.format, &out, row_stride, panels, start)
        };
    }
}

/// Few rows: packing all of `b` first would take longer than the product.
fn flat_product(a: Mat, b: Mat, c: &mut [f32], row_stride: usize, add: bool) {
    if b.row_stride == 1 {
        return turned_product(a, b, c, row_stride, add);
    }
    let (m, n, k) = (a.rows, b.columns, a.columns);
    let plain = b.column_stride == 1 && n.is_multiple_of(LANES);
    let target = Shared::new(c);
    // Every task has a panel of its own, and packs it piece by piece if it must.
    (0..n.div_ceil(PANEL)).into_par_iter().for_each(|panel| {
        let (first, count) = (panel * PANEL, PANEL.min(n - panel * PANEL));
        with_scratch(if plain { 0 } else { PIECE * PANEL }, |scratch| {
            for from in (0..k).step_by(PIECE) {
                let format = Format::new(PIECE.min(k - from), count);
                let matrix = if plain {
                    Matrix::Plain(&b.data[from * b.row_stride + first..], b.row_stride)
                } else {
                    pack_part(b, from, first, &format, scratch);
                    Matrix::Packed(scratch)
                };
                let rows = Rows {
                    x: &a.data[from * a.column_stride..],
                    x_stride: a.row_stride,
                    x_step: a.column_stride,
                    residual: None,
                    out_stride: row_stride,
                };
                let out = target.at(first, (m - 1) * row_stride + count);
                // SAFETY: these columns belong to this task alone.
                unsafe { format.rows(matrix, Start::from(add || from > 0), m, rows, None, out, 0..format.panels()) };
            }
        });
    });
}

/// Few rows, and a `b` whose columns are what lies behind each other: `bᵀ aᵀ`, for which only the small `a` is packed.
fn turned_product(a: Mat, b: Mat, c: &mut [f32], row_stride: usize, add: bool) {
    let (m, n) = (a.rows, b.columns);
    let packed = Packed::new(a.t());
    let target = Shared::new(c);
    (0..n.div_ceil(ROWS)).into_par_iter().for_each(|task| {
        let (first, count) = (task * ROWS, ROWS.min(n - task * ROWS));
        with_scratch(count * m, |products| {
            let rows = Mat::new(&b.data[first * b.column_stride..], count, b.rows, b.column_stride);
            packed.product(rows, products, m, false);
            for i in 0..m {
                // SAFETY: these columns belong to this task alone.
                let to = unsafe { target.part(i * row_stride + first, count) };
                for (to, product) in to.iter_mut().zip(products[i..].iter().step_by(m)) {
                    *to = if add { *to + product } else { *product };
                }
            }
        });
    });
}

/// A small product over a long inner dimension: parts of it are summed by tasks of their own, then in order.
fn deep_product(a: Mat, b: Mat, c: &mut [f32], row_stride: usize, add: bool) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    // Even, so that no core waits for the last part.
    let parts = if m * n <= 1 << 16 { 16 } else { 8 };
    let sums = crate::cpu::sum_parts(parts, m * n, |part, out| {
        serial_product(a, b, part * k / parts..(part + 1) * k / parts, out, n, false);
    });
    for (i, sums) in sums.chunks_exact(n).enumerate() {
        let row = &mut c[i * row_stride..i * row_stride + n];
        for (value, sum) in row.iter_mut().zip(sums) {
            *value = if add { *value + sum } else { *sum };
        }
    }
}

/// Part of the inner dimension of a product, on this thread.
pub(crate) fn serial_product(a: Mat, b: Mat, inner: Range<usize>, c: &mut [f32], row_stride: usize, add: bool) {
    let (m, n) = (a.rows, b.columns);
    assert!(m == 0 || n == 0 || (m - 1) * row_stride + n <= c.len());
    // SAFETY: the last element was just checked to lie within `c`, which is borrowed mutably.
    unsafe { accumulate(a, b, inner, c.as_mut_ptr(), row_stride, add) };
}

/// [`serial_product`] to memory: pieces of `b` are packed as they are needed, unless its rows are as good as packed.
///
/// # Safety
/// As [`product_to`].
unsafe fn accumulate(a: Mat, b: Mat, inner: Range<usize>, c: *mut f32, row_stride: usize, add: bool) {
    let (m, n) = (a.rows, b.columns);
    assert!(a.columns == b.rows && inner.end <= a.columns && a.fits() && b.fits());
    if m == 0 || n == 0 {
        return;
    }
    if inner.is_empty() && !add {
        // SAFETY: the product's rows.
        (0..m).for_each(|row| unsafe { std::slice::from_raw_parts_mut(c.add(row * row_stride), n) }.fill(0.0));
    }
    let plain = b.column_stride == 1 && n.is_multiple_of(LANES);
    with_scratch(if plain { 0 } else { PIECE.min(inner.len()) * n.next_multiple_of(LANES) }, |packed| {
        for from in inner.clone().step_by(PIECE) {
            let piece = PIECE.min(inner.end - from);
            let format = Format::new(piece, n);
            let matrix = if plain {
                Matrix::Plain(&b.data[from * b.row_stride..], b.row_stride)
            } else {
                pack_part(b, from, 0, &format, packed);
                Matrix::Packed(packed)
            };
            let a = Mat { data: &a.data[from * a.column_stride..], columns: piece, ..a };
            let start = Start::from(add || from > inner.start);
            // SAFETY: the caller's promise.
            unsafe { multiply_to(a, matrix, &format, c, row_stride, 0..format.panels(), start) };
        }
    });
}

/// Packs all of `b`.
pub(crate) fn pack(b: Mat, format: &Format, packed: &mut [f32]) {
    let target = Shared::new(&mut packed[..format.len()]);
    if b.column_stride != 1 {
        return (0..format.outputs.div_ceil(LANES)).into_par_iter().for_each(|block| {
            // SAFETY: every task has 16 columns of its own.
            unsafe { pack_columns(b, 0, block * LANES, block * LANES, format, &target) };
        });
    }
    // Whole rows, as they lie in memory.
    (0..format.depth.div_ceil(COPIED)).into_par_iter().for_each(|task| {
        let rows = task * COPIED..((task + 1) * COPIED).min(format.depth);
        for panel in 0..format.panels() {
            let (first, end) = (format.column(panel), format.column(panel + 1));
            let (width, count) = (end - first, end.min(format.outputs) - first);
            // SAFETY: every task has rows of its own, which lie behind each other in a panel.
            let to = unsafe { target.part(first * format.depth + rows.start * width, rows.len() * width) };
            for (row, to) in rows.clone().zip(to.chunks_exact_mut(width)) {
                to[..count].copy_from_slice(&b.data[row * b.row_stride + first..][..count]);
                to[count..].fill(0.0);
            }
        }
    });
}

/// Packs `format.depth` rows of `b` from `row` on, of as many columns from `column` on as the format has.
fn pack_part(b: Mat, row: usize, column: usize, format: &Format, packed: &mut [f32]) {
    let target = Shared::new(&mut packed[..format.len()]);
    for to in (0..format.outputs).step_by(LANES) {
        // SAFETY: nobody else uses `packed`.
        unsafe { pack_columns(b, row, column + to, to, format, &target) };
    }
}

/// Packs up to 16 columns of `b` from `column` on as those from `to` on.
///
/// # Safety
/// No other task writes these columns.
unsafe fn pack_columns(b: Mat, row: usize, column: usize, to: usize, format: &Format, packed: &Shared) {
    let (start, stride) = format.place(to);
    let count = LANES.min(format.outputs - to);
    if b.column_stride == 1 {
        for k in 0..format.depth {
            // SAFETY: the caller's promise.
            let to = unsafe { packed.part(start + k * stride, LANES) };
            let from = &b.data[(row + k) * b.row_stride + column..][..count];
            if count == LANES {
                to.copy_from_slice(from);
            } else {
                to[..count].copy_from_slice(from);
                to[count..].fill(0.0);
            }
        }
        return;
    }
    let whole = if count == LANES && b.row_stride == 1 { format.depth / LANES * LANES } else { 0 };
    for k in (0..whole).step_by(LANES) {
        let from = &b.data[row + k + column * b.column_stride..];
        // SAFETY: the caller's promise: rows of 16 columns, `stride` apart. Other tasks' columns lie between them, so
        // that no slice may reach from the first to the last.
        unsafe { transpose::block_to(from, b.column_stride, packed.at(start + k * stride, 15 * stride + 16), stride) };
    }
    for k in (whole..format.depth).step_by(LANES) {
        let depth = LANES.min(format.depth - k);
        let mut block = [[0f32; LANES]; LANES];
        for j in 0..count {
            let from = &b.data[(row + k) * b.row_stride + (column + j) * b.column_stride..];
            for (i, block) in block.iter_mut().take(depth).enumerate() {
                block[j] = from[i * b.row_stride];
            }
        }
        for (i, block) in block.iter().take(depth).enumerate() {
            // SAFETY: the caller's promise.
            unsafe { packed.part(start + (k + i) * stride, LANES) }.copy_from_slice(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close_values, values};

    fn naive(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Vec<f32> {
        let at = |i: usize, j: usize| (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j])).sum::<f64>();
        (0..m * n).map(|i| at(i / n, i % n) as f32).collect()
    }

    #[test]
    fn agrees_with_plain_loops() {
        for (m, n, k) in [
            (1, 1, 1),
            (3, 17, 5),
            (130, 33, 1100),
            (5, 7, 20_000),
            (700, 300, 40),
            (4, 4, 0),
            (20, 700, 900),
            (500, 150, 70),
            (70, 90, 9000),
        ] {
            let (a, b) = (values(m * k, 1, 1.0), values(k * n, 2, 1.0));
            let mut c = vec![f32::NAN; m * n];
            par_product(Mat::new(&a, m, k, k), Mat::new(&b, k, n, n), &mut c, n, Start::Zero);
            close_values(&c, &naive(&a, &b, m, n, k), 2e-4);
        }
    }

    #[test]
    fn adds_to_what_is_there() {
        for (m, n, k) in [(6, 5, 20_000), (20, 700, 900), (300, 150, 700)] {
            let (a, b) = (values(m * k, 1, 1.0), values(k * n, 2, 1.0));
            let mut c = vec![1.0; m * n];
            par_product(Mat::new(&a, m, k, k), Mat::new(&b, k, n, n), &mut c, n, Start::Out);
            let want: Vec<f32> = naive(&a, &b, m, n, k).iter().map(|x| x + 1.0).collect();
            close_values(&c, &want, 2e-4);
        }
    }

    #[test]
    fn transposed_views() {
        for (m, n, k) in [(9, 4, 31), (20, 700, 900), (500, 150, 70), (70, 90, 9000)] {
            let (a, b) = (values(m * k, 1, 1.0), values(k * n, 2, 1.0));
            let a_t: Vec<f32> = (0..m * k).map(|i| a[(i % m) * k + i / m]).collect();
            let b_t: Vec<f32> = (0..k * n).map(|i| b[(i % k) * n + i / k]).collect();
            let mut c = vec![f32::NAN; m * n];
            par_product(Mat::new(&a_t, k, m, m).t(), Mat::new(&b_t, n, k, k).t(), &mut c, n, Start::Zero);
            close_values(&c, &naive(&a, &b, m, n, k), 2e-4);
        }
    }
}
