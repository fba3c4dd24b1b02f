//! Choosing instructions at run time, and elementary functions that compilers turn into vector code.
//!
//! A function defined with [`simd!`] is compiled three times (AVX-512, AVX2 with FMA, whatever the target has) and the
//! best one that the processor can run is called. Loops inside should be plain enough for LLVM to vectorize.

/// Defines a function in one version for each instruction set.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn portable($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn v4($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn v3($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                match $crate::simd::level() {
                    // SAFETY: the level says that the processor has these instructions.
                    $crate::simd::Level::V4 => return unsafe { v4($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Level::V3 => return unsafe { v3($($arg),*) },
                    $crate::simd::Level::Portable => {}
                }
            }
            portable($($arg),*)
        }
    };
}
pub(crate) use simd;

/// Which version of a function runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// AVX-512.
    #[cfg(target_arch = "x86_64")]
    V4,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    V3,
    /// What the compilation target guarantees.
    Portable,
}

/// `TOPWORK_INSTRUCTIONS` asks for something that this processor does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoInstructions {
    /// What it asks for.
    pub asked: String,
    /// What can be asked for here.
    pub known: Vec<&'static str>,
}

impl std::fmt::Display for NoInstructions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TOPWORK_INSTRUCTIONS={}: this processor has {}", self.asked, self.known.join(", "))
    }
}

impl std::error::Error for NoInstructions {}

/// The best version for this processor, or the one that `TOPWORK_INSTRUCTIONS` asks for: by it one machine can test what
/// others will run.
fn chosen() -> &'static Result<Level, NoInstructions> {
    static LEVEL: std::sync::OnceLock<Result<Level, NoInstructions>> = std::sync::OnceLock::new();
    LEVEL.get_or_init(|| choose(std::env::var("TOPWORK_INSTRUCTIONS").unwrap_or_default()))
}

fn choose(asked: String) -> Result<Level, NoInstructions> {
    let found = levels().into_iter().find(|level| asked.is_empty() || level.name() == asked);
    found.ok_or_else(|| NoInstructions { asked, known: instruction_sets() })
}

/// The version that runs.
///
/// # Panics
/// When there is none: see [`check_instructions`].
#[inline]
pub(crate) fn level() -> Level {
    match chosen() {
        Ok(level) => *level,
        Err(error) => panic!("{error}"),
    }
}

/// Whether the environment variable `TOPWORK_INSTRUCTIONS`, where it is set, is one of the instruction sets that this
/// processor has: `avx512`, `avx2`, `portable`. Programs ask first; the kernels panic where it is not.
///
/// # Errors
/// With what could be asked for.
pub fn check_instructions() -> Result<&'static str, NoInstructions> {
    chosen().clone().map(Level::name)
}

/// The versions that this processor can run, the best first.
fn levels() -> Vec<Level> {
    let mut levels = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        if fma
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            levels.push(Level::V4);
        }
        if fma {
            levels.push(Level::V3);
        }
    }
    levels.push(Level::Portable);
    levels
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::V4 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::V3 => "avx2",
            Self::Portable => "portable",
        }
    }
}

/// The instruction sets that this processor has, the best first: what `TOPWORK_INSTRUCTIONS` may ask for.
pub fn instruction_sets() -> Vec<&'static str> {
    levels().into_iter().map(Level::name).collect()
}

/// The instruction set that the kernels use here: results may differ in the last bits between two of them.
pub fn instruction_set() -> &'static str {
    level().name()
}

/// eˣ; relative error below 2e-7, 0 below -87.3, NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 · 2²³ rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > 88.02 { 88.02 } else { x };
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    // Taylor with the last terms economized on |r| <= ln 2 / 2.
    let mut p = 1.987_569_2e-4f32;
    p = p.mul_add(r, 1.398_2e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 0.166_666_66);
    p = p.mul_add(r, 0.5);
    let y = p.mul_add(r * r, r) + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < -87.3 { 0.0 } else { y * scale }
}

/// tanh x; relative error below 3e-7.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let magnitude = x.abs();
    let square = x * x;
    let mut p = -5.704_989e-3f32;
    p = p.mul_add(square, 2.063_909e-2);
    p = p.mul_add(square, -5.373_971_6e-2);
    p = p.mul_add(square, 0.133_314_42);
    p = p.mul_add(square, -0.333_332_8);
    let near = (p * square).mul_add(x, x);
    let far = (1.0 - 2.0 / (exp(2.0 * magnitude) + 1.0)).copysign(x);
    if magnitude < 0.625 { near } else { far }
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// (Φ(x), e^(-x²/2)): the normal distribution's cumulative and its unscaled density; Φ has a relative error below 1e-6
/// down to -5 and an absolute one below 1e-7 everywhere.
#[inline(always)]
pub(crate) fn normal(x: f32) -> (f32, f32) {
    // erfc(z) = e^(-z²) t p(t), t = 1 / (1 + 0.45 z): least squares on z in 0..10, reweighted towards the minimax.
    const P: [f32; 10] = [
        0.253_869_8,
        0.254_222_35,
        0.225_157_6,
        0.191_052_77,
        0.070_990_56,
        0.074_058_96,
        0.021_258_908,
        -0.206_578_38,
        0.149_658_25,
        -0.033_690_777,
    ];
    let density = exp(-0.5 * x * x);
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / z.mul_add(0.45, 1.0);
    let mut p = P[9];
    p = p.mul_add(t, P[8]);
    p = p.mul_add(t, P[7]);
    p = p.mul_add(t, P[6]);
    p = p.mul_add(t, P[5]);
    p = p.mul_add(t, P[4]);
    p = p.mul_add(t, P[3]);
    p = p.mul_add(t, P[2]);
    p = p.mul_add(t, P[1]);
    p = p.mul_add(t, P[0]);
    let tail = 0.5 * density * t * p;
    (if x < 0.0 { tail } else { 1.0 - tail }, density)
}

/// 16 values at a time: the width of the widest registers; narrower ones take several.
pub(crate) const LANES: usize = 16;

/// Sum of products, in 16 parallel sums.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let mut rest = 0f32;
    for (&a, &b) in a_chunks.remainder().iter().zip(b_chunks.remainder()) {
        rest = a.mul_add(b, rest);
    }
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            sums[i] = a[i].mul_add(b[i], sums[i]);
        }
    }
    rest + tree(sums)
}

/// Sum of 16 values, pairwise.
#[inline(always)]
pub(crate) fn tree(mut sums: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
        half /= 2;
    }
    sums[0]
}

/// Sum, in 16 parallel sums.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    for x in chunks {
        for i in 0..LANES {
            sums[i] += x[i];
        }
    }
    rest + tree(sums)
}

/// Largest value; -∞ of nothing.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let mut top = f32::NEG_INFINITY;
    for &x in chunks.remainder() {
        top = if x > top { x } else { top };
    }
    for x in chunks {
        for i in 0..LANES {
            lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
        }
    }
    lanes.iter().fold(top, |top, &x| if x > top { x } else { top })
}
