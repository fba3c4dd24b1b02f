//! H-score: how much of the features' variance is between the classes, `tr(cov(f)⁻¹ cov(E[f | y]))`.
//!
//! Bao et al., An Information-Theoretic Approach to Transferability in Task Transfer Learning, 2019; the covariance with
//! the shrinkage of Ledoit & Wolf 2004, as Ibrahim et al., Newer is not Always Better, 2021, have it. Without shrinkage the
//! score of any features wider than there are samples is the number of classes less one, and says nothing.

use super::{Labelled, Spectrum};

/// Directions with less than this share of the largest variance are not inverted.
const RANK: f64 = 1e-15;

/// The score, between 0 and the number of classes less one.
pub fn h_score(labelled: &Labelled, centred: &Spectrum) -> f64 {
    let (samples, width) = (labelled.samples() as f64, centred.width as f64);
    let shrinkage = shrinkage(centred, samples);
    let mean_variance = centred.energies.iter().sum::<f64>() / samples / width;
    let variance = |energy: f64| (1.0 - shrinkage) * energy / samples + shrinkage * mean_variance;
    let floor = RANK * centred.energies.iter().map(|&energy| variance(energy)).fold(0.0, f64::max);
    let mut between = 0.0;
    for (sums, members) in labelled.sums(&centred.coordinates).iter().zip(&labelled.members) {
        for (sum, &energy) in sums.iter().zip(&centred.energies) {
            if variance(energy) > floor {
                between += sum * sum / members.len() as f64 / variance(energy);
            }
        }
    }
    (1.0 - shrinkage) * between / (samples - 1.0)
}

/// The share of the scaled identity in the covariance that Ledoit & Wolf's estimate takes; 0 … 1.
fn shrinkage(centred: &Spectrum, samples: f64) -> f64 {
    let width = centred.width as f64;
    let trace = centred.energies.iter().sum::<f64>() / samples;
    let square = centred.energies.iter().map(|e| e * e).sum::<f64>() / (samples * samples);
    let x = &centred.coordinates;
    let length = |i: usize| (0..x.ncols()).map(|k| x[(i, k)] * x[(i, k)]).sum::<f64>();
    let fourth = (0..x.nrows()).map(|i| length(i).powi(2)).sum::<f64>();
    let noise = (fourth / samples - square) / (width * samples);
    let spread = (square - trace * trace / width) / width;
    if noise <= 0.0 || spread <= 0.0 { 0.0 } else { noise.min(spread) / spread }
}
