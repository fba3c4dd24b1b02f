//! Matrix products through `gemm`, split into tiles that depend on the shapes alone.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use crate::cpu::{Shared, with_scratch};
use crate::frozen::panels::{Format, Matrix, PANEL, Rows, Start};
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

/// Where a product goes: rows of a row-major matrix.
#[derive(Clone, Copy)]
struct Target {
    data: *mut f32,
    row_stride: usize,
}

// SAFETY: tiles of one target are written by one task each and do not overlap.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

/// `c` (rows of `row_stride`) = `a` `b`, or `c` += `a` `b`, on this thread.
pub(crate) fn product(a: Mat, b: Mat, c: &mut [f32], row_stride: usize, add: bool) {
    let (m, n) = (a.rows, b.columns);
    assert!(m == 0 || n == 0 || (m - 1) * row_stride + n <= c.len());
    let target = Target { data: c.as_mut_ptr(), row_stride };
    // SAFETY: the target's last element was just checked to lie within `c`, which is borrowed mutably.
    unsafe { tile(a, b, target, (0, m), (0, n), (0, a.columns), add) }
}

/// [`product`] to memory that no slice can describe.
///
/// # Safety
/// `c` is valid for the product's rows, `row_stride` apart, and nobody else uses them meanwhile.
pub(crate) unsafe fn product_to(a: Mat, b: Mat, c: *mut f32, row_stride: usize, add: bool) {
    let target = Target { data: c, row_stride };
    // SAFETY: the caller's promise.
    unsafe { tile(a, b, target, (0, a.rows), (0, b.columns), (0, a.columns), add) }
}

/// Computes one tile of the product, over part of the inner dimension.
///
/// # Safety
/// Rows and columns of the tile lie within memory that `c` points to and that nobody else uses meanwhile.
unsafe fn tile(
    a: Mat,
    b: Mat,
    c: Target,
    rows: (usize, usize),
    columns: (usize, usize),
    inner: (usize, usize),
    add: bool,
) {
    assert!(a.columns == b.rows && a.fits() && b.fits());
    assert!(rows.1 <= a.rows && columns.1 <= b.columns && inner.1 <= a.columns);
    let (m, n, k) = (rows.1 - rows.0, columns.1 - columns.0, inner.1 - inner.0);
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !add {
            for row in rows.0..rows.1 {
                // SAFETY: a row of the tile.
                unsafe { std::slice::from_raw_parts_mut(c.data.add(row * c.row_stride + columns.0), n) }.fill(0.0);
            }
        }
        return;
    }
    // SAFETY: the ranges were checked against the matrices, which fit their slices; `c` is the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.data.add(rows.0 * c.row_stride + columns.0),
            1,
            c.row_stride as isize,
            add,
            a.data.as_ptr().add(rows.0 * a.row_stride + inner.0 * a.column_stride),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr().add(inner.0 * b.row_stride + columns.0 * b.column_stride),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Work below which a product is left to one thread and not packed: about 0.1 ms.
const SMALL: usize = 1 << 20;
/// Rows that one task multiplies: enough to use each piece of the packed matrix often.
const ROWS: usize = 192;
/// Tasks that a product is cut into at least, where it can be.
const TASKS: usize = 16;
/// Inner dimension that one task sums up when the result is small and the sums are long.
const DEPTH: usize = 4096;
/// Of that, what is packed at a time.
const PIECE: usize = 512;

/// [`product`] in parallel: `b` is packed into panels, `a` turned where its rows do not lie behind each other.
pub(crate) fn par_product(a: Mat, b: Mat, c: &mut [f32], row_stride: usize, add: bool) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    if m * n * k <= SMALL {
        return product(a, b, c, row_stride, add);
    }
    assert!(a.columns == b.rows && (m - 1) * row_stride + n <= c.len());
    if k >= 2 * DEPTH && m * n <= 1 << 20 {
        return deep_product(a, b, c, row_stride, add);
    }
    if m < 64 {
        return flat_product(a, b, c, row_stride, add);
    }
    let format = Format::new(k, n);
    let turned = if a.column_stride == 1 { 0 } else { m * k };
    with_scratch(format.len() + turned, |scratch| {
        let (packed, turned) = scratch.split_at_mut(format.len());
        pack(b, &format, packed);
        let a = if turned.is_empty() {
            a
        } else {
            turned.par_chunks_mut(k * 16).enumerate().for_each(|(i, to)| turn(a, i * 16, 0, k, to));
            Mat::new(turned, m, k, k)
        };
        let row_tasks = m.div_ceil(ROWS);
        let groups = if row_tasks >= TASKS { 1 } else { TASKS.div_ceil(row_tasks).min(format.panels()) };
        let target = Shared::new(c);
        (0..row_tasks * groups).into_par_iter().for_each(|task| {
            let (rows, group) = (task / groups, task % groups);
            // Whole register tiles, as even as they come.
            let edge = |i: usize| if i == row_tasks { m } else { i * m / row_tasks / 24 * 24 };
            let panels = format.panels() * group / groups..format.panels() * (group + 1) / groups;
            // SAFETY: these columns of these rows belong to this task alone.
            unsafe { multiply(a, (edge(rows), edge(rows + 1)), packed, &format, &target, row_stride, panels, add) };
        });
    });
}

/// Rows of `a`, which lie behind each other, times some panels.
///
/// # Safety
/// No other task writes these columns of these rows.
#[allow(clippy::too_many_arguments)]
unsafe fn multiply(
    a: Mat,
    (first, end): (usize, usize),
    packed: &[f32],
    format: &Format,
    c: &Shared,
    row_stride: usize,
    panels: Range<usize>,
    add: bool,
) {
    if first == end {
        return;
    }
    let rows =
        Rows { x: &a.data[first * a.row_stride..], x_stride: a.row_stride, residual: None, out_stride: row_stride };
    let out = c.at(first * row_stride, (end - first - 1) * row_stride + format.outputs);
    // SAFETY: the caller's promise.
    unsafe { format.rows(Matrix::Packed(packed), Start::from(add), end - first, rows, None, out, panels) };
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
        let out = Shared::new(c);
        // SAFETY: `c` is borrowed by this thread alone.
        unsafe { multiply(a, (0, a.rows), &self.values, &self.format, &out, row_stride, 0..self.format.panels(), add) };
    }
}

/// Few rows: packing all of `b` first would take longer than the product.
fn flat_product(a: Mat, b: Mat, c: &mut [f32], row_stride: usize, add: bool) {
    if b.row_stride == 1 {
        return turned_product(a, b, c, row_stride, add);
    }
    let (m, n, k) = (a.rows, b.columns, a.columns);
    let mut turned = Vec::new();
    let a = if a.column_stride == 1 {
        a
    } else {
        turned.resize(m * k, 0.0);
        turned.chunks_mut(k * 16).enumerate().for_each(|(i, to)| turn(a, i * 16, 0, k, to));
        Mat::new(&turned, m, k, k)
    };
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
                let rows = Rows { x: &a.data[from..], x_stride: a.row_stride, residual: None, out_stride: row_stride };
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
    let depth = DEPTH.max(k.div_ceil(64));
    let sums = crate::cpu::sum_parts(k.div_ceil(depth), m * n, |part, out| {
        let end = ((part + 1) * depth).min(k);
        serial_product(a, b, part * depth..end, out, n, false);
    });
    for (i, sums) in sums.chunks_exact(n).enumerate() {
        let row = &mut c[i * row_stride..i * row_stride + n];
        for (value, sum) in row.iter_mut().zip(sums) {
            *value = if add { *value + sum } else { *sum };
        }
    }
}

/// Part of the inner dimension of a product, on this thread: pieces of both matrices are packed as they are needed.
pub(crate) fn serial_product(a: Mat, b: Mat, inner: Range<usize>, c: &mut [f32], row_stride: usize, add: bool) {
    let (m, n) = (a.rows, b.columns);
    assert!(inner.end <= a.columns && a.columns == b.rows && (m == 0 || (m - 1) * row_stride + n <= c.len()));
    let out = Shared::new(c);
    with_scratch(PIECE * (m.next_multiple_of(LANES) + n.next_multiple_of(LANES)), |scratch| {
        let (packed, turned) = scratch.split_at_mut(PIECE * n.next_multiple_of(LANES));
        for from in inner.clone().step_by(PIECE) {
            let piece = PIECE.min(inner.end - from);
            let format = Format::new(piece, n);
            pack_part(b, from, 0, &format, packed);
            let a = if a.column_stride == 1 {
                Mat::new(&a.data[from..], m, piece, a.row_stride)
            } else {
                let turned = &mut turned[..m * piece];
                turned.chunks_mut(piece * LANES).enumerate().for_each(|(i, to)| turn(a, i * LANES, from, piece, to));
                Mat::new(turned, m, piece, piece)
            };
            let add = add || from > inner.start;
            // SAFETY: `c` is borrowed by this thread alone.
            unsafe { multiply(a, (0, m), packed, &format, &out, row_stride, 0..format.panels(), add) };
        }
    });
}

/// Up to 16 rows of `a` from `first` on, whose columns lie behind each other, `depth` columns from `from` on, as rows.
fn turn(a: Mat, first: usize, from: usize, depth: usize, to: &mut [f32]) {
    let count = to.len() / depth;
    let whole = if count == LANES && a.row_stride == 1 { depth / LANES * LANES } else { 0 };
    for k in (0..whole).step_by(LANES) {
        transpose::block(&a.data[(from + k) * a.column_stride + first..], a.column_stride, &mut to[k..], depth);
    }
    for k in whole..depth {
        let column = &a.data[(from + k) * a.column_stride + first * a.row_stride..];
        for i in 0..count {
            to[i * depth + k] = column[i * a.row_stride];
        }
    }
}

/// Packs all of `b`.
pub(crate) fn pack(b: Mat, format: &Format, packed: &mut [f32]) {
    let target = Shared::new(&mut packed[..format.len()]);
    (0..format.outputs.div_ceil(LANES)).into_par_iter().for_each(|block| {
        // SAFETY: every task has 16 columns of its own.
        unsafe { pack_columns(b, 0, block * LANES, block * LANES, format, &target) };
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
            par_product(Mat::new(&a, m, k, k), Mat::new(&b, k, n, n), &mut c, n, false);
            close_values(&c, &naive(&a, &b, m, n, k), 2e-4);
        }
    }

    #[test]
    fn adds_to_what_is_there() {
        for (m, n, k) in [(6, 5, 20_000), (20, 700, 900), (300, 150, 700)] {
            let (a, b) = (values(m * k, 1, 1.0), values(k * n, 2, 1.0));
            let mut c = vec![1.0; m * n];
            par_product(Mat::new(&a, m, k, k), Mat::new(&b, k, n, n), &mut c, n, true);
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
            par_product(Mat::new(&a_t, k, m, m).t(), Mat::new(&b_t, n, k, k).t(), &mut c, n, false);
            close_values(&c, &naive(&a, &b, m, n, k), 2e-4);
        }
    }
}
