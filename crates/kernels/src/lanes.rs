//! Vectors of 16 values in registers, for the loops that LLVM does not block well by itself: one AVX-512 register, two of
//! AVX2, or whatever an array becomes.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m512, __m512bh, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_max_ps, _mm256_min_ps,
    _mm256_set1_ps, _mm256_storeu_ps, _mm256_sub_ps, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_max_ps, _mm512_min_ps, _mm512_set1_ps, _mm512_storeu_ps, _mm512_sub_ps,
};

/// 16 values.
///
/// # Safety
/// Every function asks for a processor that has the type's instructions; pointers must be valid for 16 values.
pub(crate) trait Lanes: Copy {
    /// The same value 16 times.
    unsafe fn splat(x: f32) -> Self;
    /// 16 values from memory.
    unsafe fn load(from: *const f32) -> Self;
    /// 16 values to memory.
    unsafe fn store(self, to: *mut f32);
    /// self + a b.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// self + a.
    unsafe fn plus(self, a: Self) -> Self;
    /// self - a.
    unsafe fn minus(self, a: Self) -> Self;
    /// Limits to `low`..=`high`; NaN stays NaN.
    unsafe fn clamp(self, low: Self, high: Self) -> Self;
}

#[cfg(target_arch = "x86_64")]
// SAFETY (of the calls): the caller promises AVX-512F and valid pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for __m512 {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        unsafe { _mm512_fmadd_ps(a, b, self) }
    }
    #[inline(always)]
    unsafe fn plus(self, a: Self) -> Self {
        unsafe { _mm512_add_ps(self, a) }
    }
    #[inline(always)]
    unsafe fn minus(self, a: Self) -> Self {
        unsafe { _mm512_sub_ps(self, a) }
    }
    #[inline(always)]
    unsafe fn clamp(self, low: Self, high: Self) -> Self {
        // Both return the second operand when one is NaN.
        unsafe { _mm512_min_ps(high, _mm512_max_ps(low, self)) }
    }
}

/// Two registers of AVX2.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Pair(__m256, __m256);

#[cfg(target_arch = "x86_64")]
// SAFETY (of the calls): the caller promises AVX2 and FMA and valid pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Pair {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Pair(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Pair(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        unsafe { Pair(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
    }
    #[inline(always)]
    unsafe fn plus(self, a: Self) -> Self {
        unsafe { Pair(_mm256_add_ps(self.0, a.0), _mm256_add_ps(self.1, a.1)) }
    }
    #[inline(always)]
    unsafe fn minus(self, a: Self) -> Self {
        unsafe { Pair(_mm256_sub_ps(self.0, a.0), _mm256_sub_ps(self.1, a.1)) }
    }
    #[inline(always)]
    unsafe fn clamp(self, low: Self, high: Self) -> Self {
        unsafe {
            Pair(
                _mm256_min_ps(high.0, _mm256_max_ps(low.0, self.0)),
                _mm256_min_ps(high.1, _mm256_max_ps(low.1, self.1)),
            )
        }
    }
}

/// One AVX-512 register that multiplies pairs of bf16: every 32 bits of a factor hold two of them, whose products are
/// both added to the sum, which is f32.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Pairs(__m512);

#[cfg(target_arch = "x86_64")]
// SAFETY (of the calls): the caller promises AVX-512F and its BF16 extension, and valid pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Pairs {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Pairs(_mm512_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Pairs(_mm512_loadu_ps(from)) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        let pairs = |x: Self| unsafe { std::mem::transmute::<__m512, __m512bh>(x.0) };
        unsafe { Pairs(_mm512_dpbf16_ps(self.0, pairs(a), pairs(b))) }
    }
    #[inline(always)]
    unsafe fn plus(self, a: Self) -> Self {
        unsafe { Pairs(self.0.plus(a.0)) }
    }
    #[inline(always)]
    unsafe fn minus(self, a: Self) -> Self {
        unsafe { Pairs(self.0.minus(a.0)) }
    }
    #[inline(always)]
    unsafe fn clamp(self, low: Self, high: Self) -> Self {
        unsafe { Pairs(self.0.clamp(low.0, high.0)) }
    }
}

// SAFETY (of the calls): the caller promises valid pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for [f32; 16] {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { from.cast::<Self>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<Self>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn fma(mut self, a: Self, b: Self) -> Self {
        for i in 0..16 {
            self[i] += a[i] * b[i];
        }
        self
    }
    #[inline(always)]
    unsafe fn plus(mut self, a: Self) -> Self {
        for i in 0..16 {
            self[i] += a[i];
        }
        self
    }
    #[inline(always)]
    unsafe fn minus(mut self, a: Self) -> Self {
        for i in 0..16 {
            self[i] -= a[i];
        }
        self
    }
    #[inline(always)]
    unsafe fn clamp(mut self, low: Self, high: Self) -> Self {
        for i in 0..16 {
            self[i] = if self[i] < low[i] { low[i] } else { self[i] };
            self[i] = if self[i] > high[i] { high[i] } else { self[i] };
        }
        self
    }
}

/// Defines a function over a type of [`Lanes`], `L` in its body, in one version for each instruction set.
macro_rules! lanes {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        $vis unsafe fn $name($($arg: $ty),*) {
            #[inline(always)]
            unsafe fn generic<L: $crate::lanes::Lanes>($($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                unsafe fn v4($($arg: $ty),*) {
                    // SAFETY: the caller's promises; this function has the instructions.
                    unsafe { generic::<std::arch::x86_64::__m512>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma")]
                unsafe fn v3($($arg: $ty),*) {
                    // SAFETY: as above.
                    unsafe { generic::<$crate::lanes::Pair>($($arg),*) }
                }
                match $crate::simd::level() {
                    // SAFETY: the level says that the processor has these instructions.
                    $crate::simd::Level::V4 => return unsafe { v4($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Level::V3 => return unsafe { v3($($arg),*) },
                    $crate::simd::Level::Portable => {}
                }
            }
            // SAFETY: the caller's promises; arrays need no special instructions.
            unsafe { generic::<[f32; 16]>($($arg),*) }
        }
    };
}
pub(crate) use lanes;
