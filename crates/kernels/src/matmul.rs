//! Matrix products through `gemm`, split into tiles that depend on the shapes alone.

use gemm::Parallelism;
use rayon::prelude::*;

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
pub(crate) unsafe fn product_to(a: Mat, b: Mat, c: *mut f32, row_stride: usize) {
    let target = Target { data: c, row_stride };
    // SAFETY: the caller's promise.
    unsafe { tile(a, b, target, (0, a.rows), (0, b.columns), (0, a.columns), false) }
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

/// Work that is worth a task: about 0.1 ms.
const TILE_WORK: usize = 4 << 20;
/// Inner dimension that one task sums up when a product is small but deep.
const DEPTH: usize = 4096;

/// [`product`] in parallel.
pub(crate) fn par_product(a: Mat, b: Mat, c: &mut [f32], row_stride: usize, add: bool) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    let work = m * n * k;
    if work <= TILE_WORK {
        return product(a, b, c, row_stride, add);
    }
    if m * n <= 128 * 128 && k >= 2 * DEPTH {
        return deep_product(a, b, c, row_stride, add);
    }
    assert!((m - 1) * row_stride + n <= c.len());
    let tiles = (work / TILE_WORK).clamp(1, 64);
    // Rows are cut first: in a cut of columns every task packs all of `a` again.
    let row_tiles = tiles.min(m.div_ceil(64));
    let column_tiles = (tiles / row_tiles).clamp(1, n.div_ceil(128));
    let (height, width) = (m.div_ceil(row_tiles).next_multiple_of(8), n.div_ceil(column_tiles).next_multiple_of(16));
    let (row_tiles, column_tiles) = (m.div_ceil(height), n.div_ceil(width));
    let target = Target { data: c.as_mut_ptr(), row_stride };
    (0..row_tiles * column_tiles).into_par_iter().for_each(|i| {
        let (row, column) = (i / column_tiles * height, i % column_tiles * width);
        let rows = (row, (row + height).min(m));
        let columns = (column, (column + width).min(n));
        let whole = target;
        // SAFETY: tiles lie within `c`, as asserted above, and do not overlap.
        unsafe { tile(a, b, whole, rows, columns, (0, k), add) }
    });
}

/// A small product over a long inner dimension: parts of it are summed by tasks of their own, then in order.
fn deep_product(a: Mat, b: Mat, c: &mut [f32], row_stride: usize, add: bool) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    let depth = DEPTH.max(k.div_ceil(64));
    let sums = crate::cpu::sum_parts(k.div_ceil(depth), m * n, |part, out| {
        let target = Target { data: out.as_mut_ptr(), row_stride: n };
        // SAFETY: `out` has m n elements and belongs to this part.
        unsafe { tile(a, b, target, (0, m), (0, n), (part * depth, ((part + 1) * depth).min(k)), false) }
    });
    for (i, sums) in sums.chunks_exact(n).enumerate() {
        let row = &mut c[i * row_stride..i * row_stride + n];
        for (value, sum) in row.iter_mut().zip(sums) {
            *value = if add { *value + sum } else { *sum };
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
        for (m, n, k) in [(1, 1, 1), (3, 17, 5), (130, 33, 1100), (5, 7, 20_000), (700, 300, 40), (4, 4, 0)] {
            let (a, b) = (values(m * k, 1, 1.0), values(k * n, 2, 1.0));
            let mut c = vec![f32::NAN; m * n];
            par_product(Mat::new(&a, m, k, k), Mat::new(&b, k, n, n), &mut c, n, false);
            close_values(&c, &naive(&a, &b, m, n, k), 2e-4);
        }
    }

    #[test]
    fn adds_to_what_is_there() {
        let (m, n, k) = (6, 5, 20_000);
        let (a, b) = (values(m * k, 1, 1.0), values(k * n, 2, 1.0));
        let mut c = vec![1.0; m * n];
        par_product(Mat::new(&a, m, k, k), Mat::new(&b, k, n, n), &mut c, n, true);
        let want: Vec<f32> = naive(&a, &b, m, n, k).iter().map(|x| x + 1.0).collect();
        close_values(&c, &want, 2e-4);
    }

    #[test]
    fn transposed_views() {
        let (m, n, k) = (9, 4, 31);
        let (a, b) = (values(m * k, 1, 1.0), values(k * n, 2, 1.0));
        let a_t: Vec<f32> = (0..m * k).map(|i| a[(i % m) * k + i / m]).collect();
        let mut c = vec![0.0; m * n];
        product(Mat::new(&a_t, k, m, m).t(), Mat::new(&b, k, n, n), &mut c, n, false);
        close_values(&c, &naive(&a, &b, m, n, k), 1e-5);
    }
}
