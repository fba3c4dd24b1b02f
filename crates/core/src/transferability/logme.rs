//! LogME: the logarithm of the maximum evidence of a linear model of the labels on the features, a sample's share.
//!
//! You et al., LogME: Practical Assessment of Pre-trained Models for Transfer Learning, 2021; here with the fixed-point
//! iteration of its extension, You et al., Ranking and Tuning Pre-trained Models, 2022 (algorithm 3), with its bound of
//! eleven iterations, its tolerance and its stabilizers.

use super::{Labelled, Spectrum};

const ITERATIONS: usize = 11;
/// Relative change of α / β at which the iteration ends.
const TOLERANCE: f64 = 1e-3;
/// Keeps α and β finite where the features explain the labels to the last bit.
const STABILIZER: f64 = 1e-5;

/// The score: the mean over the classes of the log evidence of "is of this class", divided by the number of samples.
pub fn logme(labelled: &Labelled, plain: &Spectrum) -> f64 {
    let sums = labelled.sums(&plain.coordinates);
    let evidence = |(sums, members): (&Vec<f64>, &Vec<usize>)| {
        evidence(&plain.energies, sums, members.len() as f64, labelled.samples() as f64)
    };
    sums.iter().zip(&labelled.members).map(evidence).sum::<f64>() / sums.len() as f64
}

/// Log evidence a sample of `y = X w + noise` for a `y` of zeros and `ones` ones: `w ~ N(0, 1/α)`, noise `~ N(0, 1/β)`.
/// `projections` are `(U S)ᵀ y`.
fn evidence(energies: &[f64], projections: &[f64], ones: f64, samples: f64) -> f64 {
    let pairs = || energies.iter().zip(projections).filter(|(energy, _)| **energy > 0.0);
    let (mut alpha, mut beta) = (1.0, 1.0);
    let (mut weights, mut residual) = (0.0, 0.0);
    for _ in 0..ITERATIONS {
        let ratio: f64 = alpha / beta;
        let (mut effective, mut explained) = (0.0, 0.0);
        weights = 0.0;
        for (&energy, &projection) in pairs() {
            let square = (projection / (ratio + energy)).powi(2);
            effective += energy / (ratio + energy);
            weights += square;
            explained += square * (energy + 2.0 * ratio);
        }
        residual = (ones - explained).max(0.0);
        alpha = effective / (weights + STABILIZER);
        beta = (samples - effective) / (residual + STABILIZER);
        if (alpha / beta - ratio).abs() <= TOLERANCE * ratio {
            break;
        }
    }
    // The directions without energy cancel: log α on both sides.
    let volume: f64 = pairs().map(|(&energy, _)| (beta * energy / alpha).ln_1p()).sum();
    let log = samples * (beta / std::f64::consts::TAU).ln() - volume - beta * residual - alpha * weights;
    log / (2.0 * samples)
}
