//! What tests of the domains share: numbers by a formula, to compare with outputs computed elsewhere, and the memory of a pass.
//!
//! `xtask/parity/formula.py` is the other side: both compute the same weights and inputs bit for bit, so that only the
//! expected outputs need to be stored. The rule is written down in `xtask/parity/README.md`. Not part of the library.

use crate::Result;
use crate::data::Activation;
use crate::memory::{of_pass, of_scratch};
use crate::net::forward::Mode;
use crate::net::{Network, Params};
use crate::plan::BatchNormMode;
use crate::seed::Seed;
use crate::train::gradient::Objective;

/// FNV-1a, 64 bits, of the UTF-8 bytes of `name`.
pub fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Element `i` of the sequence called `name`: a multiple of 2⁻²⁴ in `[0, 1)`.
pub fn uniform(name: &str, i: usize) -> f64 {
    element(fnv1a(name), i)
}

fn element(hash: u64, i: usize) -> f64 {
    let mut z = hash.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 40) as f64 / f64::from(1 << 24)
}

/// The first `n` elements of `name`, moved to `[-scale, scale)`: `(2u - 1) · scale` in double precision, rounded once.
pub fn centred(name: &str, n: usize, scale: f64) -> Vec<f32> {
    let hash = fnv1a(name);
    (0..n).map(|i| ((2.0 * element(hash, i) - 1.0) * scale) as f32).collect()
}

/// The parameter or buffer called `name` (its name in the checkpoint), row-major in the checkpoint's layout.
///
/// Matrices and kernels have variance `gain² / fan-in`, tables of embeddings ±0.05, additive terms and running means
/// ±0.1, factors of normalizations and running variances lie in `[0.75, 1.25)`, counters are 0.
pub fn parameter(name: &str, shape: &[usize], gain: f64) -> Vec<f32> {
    let n = shape.iter().product();
    let last = name.rsplit('.').next().unwrap_or(name);
    match (last, shape.len()) {
        ("num_batches_tracked", _) => vec![0.0; n],
        ("bias" | "running_mean", _) => centred(name, n, 0.1),
        ("running_var", _) | (_, 0 | 1) => {
            let hash = fnv1a(name);
            (0..n).map(|i| (0.75 + 0.5 * element(hash, i)) as f32).collect()
        }
        _ if name.contains("embeddings.") => centred(name, n, 0.05),
        _ => {
            let fan_in: usize = shape[1..].iter().product();
            centred(name, n, gain * (3.0 / fan_in as f64).sqrt())
        }
    }
}

/// The largest difference, as a share of the largest expected magnitude; infinite when the lengths differ or a number
/// is not finite.
pub fn relative_error(actual: &[f32], expected: &[f32]) -> f64 {
    if actual.len() != expected.len() || actual.iter().chain(expected).any(|v| !v.is_finite()) {
        return f64::INFINITY;
    }
    let largest = expected.iter().fold(0.0, |most: f64, &v| most.max(f64::from(v).abs()));
    let difference = |(&a, &e): (&f32, &f32)| (f64::from(a) - f64::from(e)).abs();
    let worst = actual.iter().zip(expected).map(difference).fold(0.0, f64::max);
    if worst == 0.0 { 0.0 } else { worst / largest }
}

/// Memory that a pass forward and back through `network` takes, as `heap` finds it, of what [`crate::memory`] says; everything learns.
///
/// # Errors
/// When the pass fails.
pub fn share_of_said(
    network: &Network,
    input: &Activation,
    recompute: bool,
    heap: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<usize>,
) -> Result<f64> {
    let samples = input.samples();
    let rows = input.data.dims()[0] / samples.max(1);
    let mut params = Params::initial(&network.params(), Seed(1), input.data.device())?;
    params.set_learning(&network.params().into_iter().map(|spec| spec.name).collect())?;
    let classes: Vec<u32> = (0..samples).map(|i| (i % network.classes()) as u32).collect();
    let mode = Mode::Train { batch_norm: BatchNormMode::Frozen, seed: Seed(0) };
    let stages = network.stages.iter().chain([&network.head]).map(|stage| (stage, true)).collect();
    let objective = Objective { recompute, ..Objective::of_classes(stages) };
    let taken = heap(&mut || objective.gradient(&params, mode, input, &classes).map(drop))?;
    let costs = network.costs(rows);
    // Beside what it leaves behind on its way, a pass gives a gradient for each parameter.
    let numbers = samples * of_pass(costs.iter().map(|cost| (cost, true)), recompute);
    Ok(taken as f64 / (4 * (numbers + network.parameters() + of_scratch(network))) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The expected numbers are printed by `python xtask/parity/formula.py`.
    #[test]
    fn elements_are_those_of_the_python_side() {
        assert_eq!(fnv1a("fc.weight"), 0x79fb_28a7_5603_c7a0);
        assert_eq!(uniform("fc.weight", 0) * f64::from(1 << 24), 8_131_007.0);
        assert_eq!(uniform("layer1.0.bn1.running_var", 12_345) * f64::from(1 << 24), 440_297.0);
    }

    #[test]
    fn parameters_are_those_of_the_python_side() {
        assert_eq!(parameter("fc.weight", &[4, 8], 2f64.sqrt())[31], -0.230_576_9);
        assert_eq!(parameter("bn1.weight", &[4], 1.0)[3], 0.874_698_9);
        assert_eq!(parameter("embeddings.word_embeddings.weight", &[4, 8], 1.0)[9], 0.035_763_543);
        assert_eq!(parameter("fc.bias", &[4], 1.0)[1], -0.003_853_642_9);
    }

    #[test]
    fn an_error_is_relative_to_the_largest_expected_number() {
        assert!((relative_error(&[1.0, 4.1], &[1.0, 4.0]) - 0.025).abs() < 1e-6);
        assert_eq!(relative_error(&[1.0], &[1.0, 4.0]), f64::INFINITY);
        assert_eq!(relative_error(&[f32::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(relative_error(&[0.0], &[0.0]), 0.0);
    }
}
