//! What the processor's units for multiply-adds can do at most: the measure of every matrix product.

use crate::lanes::lanes;
use crate::simd::LANES;

/// Independent sums, so that no multiply-add waits for another: as many as a tile of the matrix products has.
const SUMS: usize = 24;

lanes! {
    /// Multiply-adds on registers alone; `out` gets the sums, so that they are computed.
    ///
    /// # Safety
    /// `out` is valid for 16 values for each of the sums.
    unsafe fn multiply_adds(rounds: usize, out: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [L::load(out); SUMS];
            let (a, b) = (L::load(out), L::load(out.add(LANES)));
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = sum.fma(a, b);
                }
            }
            for (i, sum) in sums.into_iter().enumerate() {
                sum.store(out.add(i * LANES));
            }
        }
    }
}

/// Does nothing but multiply-adds on every thread of the pool, `rounds` times 384 each; returns the number of operations,
/// each multiply-add being two.
pub fn run(rounds: usize) -> u64 {
    let threads = rayon::broadcast(|_| {
        let mut values = [1e-3f32; SUMS * LANES];
        // SAFETY: the array has room for all sums.
        unsafe { multiply_adds(rounds, values.as_mut_ptr()) };
        std::hint::black_box(values);
    });
    (threads.len() * rounds * SUMS * LANES * 2) as u64
}
