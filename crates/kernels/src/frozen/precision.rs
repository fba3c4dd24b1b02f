//! What the matrix products of the frozen path multiply: f32, or bf16 with sums in f32, twice as many at a time.
//!
//! bf16 has the exponents of f32 and 8 bits of precision. Two neighbours of the inner dimension share 32 bits, so that
//! packed matrices and tiles look as they do in f32, half as deep.

use crate::simd::simd;

/// The numbers that matrix products of the frozen path multiply. Sums, activations and all else are f32 in both; so are
/// Winograd's convolutions, which lose more to rounding than they would gain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// IEEE single precision.
    #[default]
    F32,
    /// Both factors rounded to bfloat16.
    Bf16,
}

impl Precision {
    /// `f32` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Whether this processor has instructions for it.
    pub fn available(self) -> bool {
        match self {
            Self::F32 => true,
            #[cfg(target_arch = "x86_64")]
            Self::Bf16 => crate::simd::level() == crate::simd::Level::V4 && is_x86_feature_detected!("avx512bf16"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Bf16 => false,
        }
    }

    /// 32-bit words that `depth` numbers take.
    pub(crate) fn words(self, depth: usize) -> usize {
        match self {
            Self::F32 => depth,
            Self::Bf16 => depth.div_ceil(2),
        }
    }
}

/// The nearest bf16, the even one of two.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() { (bits >> 16) | 0x40 } else { (bits + 0x7fff + (bits >> 16 & 1)) >> 16 }
}

/// Two numbers as bf16 in one word.
#[inline(always)]
pub(crate) fn pair(low: f32, high: f32) -> f32 {
    f32::from_bits(round(low) | round(high) << 16)
}

simd! {
    /// Rows of `depth` numbers, `stride` apart, as rows of pairs behind each other; an odd last number is paired with 0.
    pub(crate) fn pairs(x: &[f32], stride: usize, depth: usize, to: &mut [f32]) {
        for (x, to) in x.chunks(stride.max(1)).zip(to.chunks_exact_mut(Precision::Bf16.words(depth).max(1))) {
            let (twos, rest) = x[..depth].as_chunks::<2>();
            for (to, [low, high]) in to.iter_mut().zip(twos) {
                *to = pair(*low, *high);
            }
            if let ([last], Some(to)) = (rest, to.last_mut()) {
                *to = pair(*last, 0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        let bits = (0..=u16::MAX)
            .flat_map(|high| [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| (high as u32) << 16 | low));
        for x in bits.map(f32::from_bits) {
            assert_eq!(round(x), u32::from(bf16::from_f32(x).to_bits()), "{x:e}");
        }
    }

    #[test]
    fn rows_become_pairs() {
        let mut to = [0.0; 4];
        pairs(&[1.0, 2.0, 3.0, 9.0, 4.0, 5.0, 6.0], 4, 3, &mut to);
        assert_eq!(to.map(f32::to_bits), [0x4000_3f80, 0x0000_4040, 0x40a0_4080, 0x0000_40c0]);
    }
}
