//! Exchanging rows and columns of 16 × 16 values in registers.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    _mm512_castpd_ps, _mm512_castps_pd, _mm512_loadu_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_storeu_ps,
    _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

use crate::simd::{LANES, Level, level};

/// `to[j][i] = from[i][j]` for 16 × 16 values, rows `from_stride` and `to_stride` apart.
///
/// # Panics
/// When the slices are too short.
pub(crate) fn block(from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize) {
    assert!(to.len() >= (LANES - 1) * to_stride + LANES);
    // SAFETY: the length was checked.
    unsafe { block_to(from, from_stride, to.as_mut_ptr(), to_stride) };
}

/// [`block`] to memory that no slice can describe.
///
/// # Safety
/// 16 rows of 16 values, `to_stride` apart, are valid behind `to`, and nobody else uses them meanwhile.
///
/// # Panics
/// When `from` is too short.
pub(crate) unsafe fn block_to(from: &[f32], from_stride: usize, to: *mut f32, to_stride: usize) {
    assert!(from.len() >= (LANES - 1) * from_stride + LANES);
    match level() {
        // SAFETY: the level says that the processor has these instructions; the rest is checked or promised.
        #[cfg(target_arch = "x86_64")]
        Level::V4 => unsafe { v4(from.as_ptr(), from_stride, to, to_stride) },
        _ => {
            for i in 0..LANES {
                for j in 0..LANES {
                    // SAFETY: the caller's promise.
                    unsafe { *to.add(j * to_stride + i) = from[i * from_stride + j] };
                }
            }
        }
    }
}

/// # Safety
/// The processor has AVX-512F, and 16 rows of 16 values are valid behind both pointers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[allow(clippy::needless_range_loop)]
unsafe fn v4(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut rows = [_mm512_setzero_ps(); LANES];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = _mm512_loadu_ps(from.add(i * from_stride));
        }
        // Pairs of values of two rows, then quadruples of four: in each quarter of a register one column of them.
        let mut pairs = rows;
        for i in 0..8 {
            pairs[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        let mut fours = pairs;
        for i in 0..4 {
            for half in 0..2 {
                let (a, b) = (_mm512_castps_pd(pairs[4 * i + half]), _mm512_castps_pd(pairs[4 * i + 2 + half]));
                fours[4 * i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                fours[4 * i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
            }
        }
        // fours[4 i + j]: rows 4 i .. 4 i + 4 of the columns j, j + 4, j + 8, j + 12.
        for j in 0..4 {
            let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
            let (ab_even, ab_odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
            let (cd_even, cd_odd) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
            _mm512_storeu_ps(to.add(j * to_stride), _mm512_shuffle_f32x4::<0x88>(ab_even, cd_even));
            _mm512_storeu_ps(to.add((j + 4) * to_stride), _mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd));
            _mm512_storeu_ps(to.add((j + 8) * to_stride), _mm512_shuffle_f32x4::<0xdd>(ab_even, cd_even));
            _mm512_storeu_ps(to.add((j + 12) * to_stride), _mm512_shuffle_f32x4::<0xdd>(ab_odd, cd_odd));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        let from: Vec<f32> = (0..16 * 19).map(|i| i as f32).collect();
        let mut to = vec![-1.0; 16 * 17];
        block(&from, 19, &mut to, 17);
        for i in 0..16 {
            for j in 0..17 {
                assert_eq!(to[j.min(15) * 17 + i], from[i * 19 + j.min(15)], "{i} {j}");
            }
            assert!(i == 15 || to[i * 17 + 16] == -1.0);
        }
    }
}
