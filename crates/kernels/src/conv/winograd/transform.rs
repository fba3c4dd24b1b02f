//! The transforms of tiles and weights: polynomials evaluated at 0, ±A, ±B and ∞, and the transposed of that.
//!
//! A side of a tile has N outputs or a kernel N taps, with N + N' = 7 for the two: both are coefficients, and six points
//! determine their product.

#![allow(clippy::needless_range_loop)] // Rows and columns of tiles are numbered, not traversed.

use super::{POINTS, SIDE};
use crate::lanes::{Lanes, lanes};
use crate::simd::LANES;

/// These values have a third of the largest error of the usual ±1 and ±2, and exact squares.
const A: f32 = 0.625;
const B: f32 = 1.5;
const AA: f32 = A * A;
const BB: f32 = B * B;
/// A to the power of 0 … 4.
const POWERS_A: [f32; 5] = [1.0, A, AA, A * AA, AA * AA];
const POWERS_B: [f32; 5] = [1.0, B, BB, B * BB, BB * BB];
/// Scales of the weights' polynomials: the products of a point's differences to the others, inverted.
const SCALE_0: f32 = 1.0 / (AA * BB);
const SCALE_A: f32 = 1.0 / (2.0 * AA * (AA - BB));
const SCALE_B: f32 = 1.0 / (2.0 * BB * (BB - AA));

/// The input's transform along one axis.
///
/// # Safety
/// The processor has the instructions of `L`; likewise for all that follow.
#[inline(always)]
unsafe fn from_input<L: Lanes>([x0, x1, x2, x3, x4, x5]: [L; SIDE]) -> [L; SIDE] {
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

/// A polynomial's values at the points, those of weights `SCALED`: what weights, and gradients of outputs, become.
///
/// # Safety
/// As [`from_input`].
#[inline(always)]
unsafe fn evaluate<L: Lanes, const N: usize, const SCALED: bool>(c: [L; N]) -> [L; SIDE] {
    // SAFETY: the caller's promise.
    unsafe {
        let (zero, n) = (L::splat(0.0), |x: f32| L::splat(x));
        let scaled = |x: L, scale: f32| if SCALED { zero.fma(x, n(scale)) } else { x };
        let both = |powers: [f32; 5], scale: f32| {
            let scale = if SCALED { scale } else { 1.0 };
            let (mut even, mut odd) = (scaled(c[0], scale), c[1]);
            for k in 2..N {
                match k % 2 {
                    0 => even = even.fma(c[k], n(scale * powers[k])),
                    _ => odd = odd.fma(c[k], n(powers[k - 1])),
                }
            }
            [even.fma(odd, n(scale * powers[1])), even.fma(odd, n(-scale * powers[1]))]
        };
        let ([plus_a, minus_a], [plus_b, minus_b]) = (both(POWERS_A, SCALE_A), both(POWERS_B, SCALE_B));
        [scaled(c[0], SCALE_0), plus_a, minus_a, plus_b, minus_b, c[N - 1]]
    }
}

/// The transposed of [`evaluate`]: what products, and gradients of weights, become.
///
/// # Safety
/// As [`from_input`].
#[inline(always)]
unsafe fn collect<L: Lanes, const N: usize, const SCALED: bool>([m0, m1, m2, m3, m4, m5]: [L; SIDE]) -> [L; N] {
    // SAFETY: the caller's promise.
    unsafe {
        let (zero, n) = (L::splat(0.0), |x: f32| L::splat(x));
        let (even_a, odd_a, even_b, odd_b) = (m1.plus(m2), m1.minus(m2), m3.plus(m4), m3.minus(m4));
        let (scale_a, scale_b) = if SCALED { (SCALE_A, SCALE_B) } else { (1.0, 1.0) };
        let mut y = [zero; N];
        for k in 0..N {
            let (a, b) = if k % 2 == 0 { (even_a, even_b) } else { (odd_a, odd_b) };
            y[k] = match k {
                0 if !SCALED => m0.plus(a).plus(b),
                0 => zero.fma(m0, n(SCALE_0)).fma(a, n(scale_a)).fma(b, n(scale_b)),
                _ => {
                    let start = if k == N - 1 { m5 } else { zero };
                    start.fma(a, n(scale_a * POWERS_A[k])).fma(b, n(scale_b * POWERS_B[k]))
                }
            };
        }
        y
    }
}

/// [`evaluate`] along both axes: `from(row, column)` of N × N values to 36 points, `stride` apart.
///
/// # Safety
/// As [`from_input`]; the pointer is valid for 16 values at every point.
#[inline(always)]
unsafe fn spread<L: Lanes, const N: usize, const SCALED: bool>(
    from: impl Fn(usize, usize) -> L,
    to: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut rows = [[L::splat(0.0); N]; SIDE];
        for j in 0..N {
            let values = evaluate::<L, N, SCALED>(std::array::from_fn(|i| from(i, j)));
            for i in 0..SIDE {
                rows[i][j] = values[i];
            }
        }
        for (i, row) in rows.into_iter().enumerate() {
            for (j, value) in evaluate::<L, N, SCALED>(row).into_iter().enumerate() {
                value.store(to.add((i * SIDE + j) * stride));
            }
        }
    }
}

/// [`collect`] along both axes: 36 points, `stride` apart, to N × N values.
///
/// # Safety
/// As [`spread`].
#[inline(always)]
unsafe fn gather<L: Lanes, const N: usize, const SCALED: bool>(from: *const f32, stride: usize) -> [[L; N]; N] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut rows = [[L::splat(0.0); SIDE]; N];
        for j in 0..SIDE {
            let m = |i: usize| L::load(from.add((i * SIDE + j) * stride));
            let values = collect::<L, N, SCALED>([m(0), m(1), m(2), m(3), m(4), m(5)]);
            for i in 0..N {
                rows[i][j] = values[i];
            }
        }
        let mut result = [[L::splat(0.0); N]; N];
        for i in 0..N {
            result[i] = collect::<L, N, SCALED>(rows[i]);
        }
        result
    }
}

lanes! {
    /// Transforms one tile: `from` are its pixels, of `channels` values; point p goes to `to` + p `stride`.
    ///
    /// # Safety
    /// All pointers are valid for `channels` values, a multiple of 16.
    pub(super) unsafe fn input(from: &[*const f32; POINTS], channels: usize, to: *mut f32, stride: usize) {
        for c in (0..channels).step_by(LANES) {
            // SAFETY: c < channels.
            unsafe {
                let mut columns = [[L::splat(0.0); SIDE]; SIDE];
                for j in 0..SIDE {
                    let x = |i: usize| L::load(from[i * SIDE + j].add(c));
                    let v = from_input([x(0), x(1), x(2), x(3), x(4), x(5)]);
                    for i in 0..SIDE {
                        columns[i][j] = v[i];
                    }
                }
                for (i, row) in columns.into_iter().enumerate() {
                    for (j, v) in from_input(row).into_iter().enumerate() {
                        v.store(to.add((i * SIDE + j) * stride + c));
                    }
                }
            }
        }
    }
}

lanes! {
    /// Transforms the gradient of one tile's outputs to that of its products: `from` are its pixels, `side` × `side`.
    ///
    /// # Safety
    /// As [`input`].
    pub(super) unsafe fn gradient(from: &[*const f32], side: usize, channels: usize, to: *mut f32, stride: usize) {
        for c in (0..channels).step_by(LANES) {
            // SAFETY: c < channels.
            unsafe {
                let y = |i: usize, j: usize| L::load(from[i * side + j].add(c));
                match side {
                    2 => spread::<L, 2, false>(y, to.add(c), stride),
                    _ => spread::<L, 4, false>(y, to.add(c), stride),
                }
            }
        }
    }
}

/// Where a tile's outputs go, and what is done to them on the way.
pub(super) struct Finish<'a> {
    pub(super) side: usize,
    pub(super) bias: *const f32,
    /// Pixels of the residual; null where there is none.
    pub(super) residual: &'a [*const f32],
    /// Pixels; null outside of the image.
    pub(super) to: &'a [*mut f32],
    pub(super) low: f32,
    pub(super) high: f32,
}

/// Puts 16 channels of a tile's outputs where they belong.
///
/// # Safety
/// As [`output`].
#[inline(always)]
unsafe fn put<L: Lanes, const N: usize>(values: [[L; N]; N], channel: usize, finish: &Finish) {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high, bias) = (L::splat(finish.low), L::splat(finish.high), L::load(finish.bias.add(channel)));
        for (i, row) in values.into_iter().enumerate() {
            for (j, y) in row.into_iter().enumerate() {
                let (to, residual) = (finish.to[i * N + j], finish.residual[i * N + j]);
                if to.is_null() {
                    continue;
                }
                let mut y = y.plus(bias);
                if !residual.is_null() {
                    y = y.plus(L::load(residual.add(channel)));
                }
                y.clamp(low, high).store(to.add(channel));
            }
        }
    }
}

lanes! {
    /// Transforms one tile's products back.
    ///
    /// # Safety
    /// All pointers that are not null are valid for `channels` values, a multiple of 16.
    pub(super) unsafe fn output(from: *const f32, stride: usize, channels: usize, finish: &Finish) {
        for c in (0..channels).step_by(LANES) {
            // SAFETY: c < channels.
            unsafe {
                match finish.side {
                    2 => put(gather::<L, 2, false>(from.add(c), stride), c, finish),
                    _ => put(gather::<L, 4, false>(from.add(c), stride), c, finish),
                }
            }
        }
    }
}

lanes! {
    /// Transforms 16 columns of the weights for one channel: `from` are `taps` × `taps` times 16 values; point p goes to
    /// `to` + p `stride`. `turned` reads the taps from the last to the first.
    ///
    /// # Safety
    /// The pointers are valid for that.
    pub(super) unsafe fn weights(from: *const f32, taps: usize, turned: bool, to: *mut f32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let last = taps * taps - 1;
            let w = |i: usize, j: usize| {
                let k = i * taps + j;
                L::load(from.add(if turned { last - k } else { k } * LANES))
            };
            match taps {
                5 => spread::<L, 5, true>(w, to, stride),
                _ => spread::<L, 3, true>(w, to, stride),
            }
        }
    }
}

/// Stores taps behind each other.
///
/// # Safety
/// As [`weight_gradient`].
#[inline(always)]
unsafe fn put_taps<L: Lanes, const N: usize>(values: [[L; N]; N], to: *mut f32) {
    for (k, value) in values.into_iter().flatten().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { value.store(to.add(k * LANES)) };
    }
}

lanes! {
    /// The transposed of [`weights`]: 36 points, `stride` apart, to `taps` × `taps` times 16 values.
    ///
    /// # Safety
    /// The pointers are valid for that.
    pub(super) unsafe fn weight_gradient(from: *const f32, stride: usize, taps: usize, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            match taps {
                5 => put_taps(gather::<L, 5, true>(from, stride), to),
                _ => put_taps(gather::<L, 3, true>(from, stride), to),
            }
        }
    }
}
