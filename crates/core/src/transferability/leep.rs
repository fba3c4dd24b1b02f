//! LEEP: how well the labels can be told from what the source head says.
//!
//! Nguyen et al., LEEP: A New Measure to Evaluate Transferability of Learned Representations, 2020 (equation 2).

use super::Source;

/// The score: the mean log probability of the labels `targets` under `Σ_z P(y | z) θ(x)_z`; at most 0.
pub fn leep(source: &Source, targets: &[u32]) -> f64 {
    let classes = targets.iter().max().map_or(0, |&t| t as usize + 1);
    let mut joint = vec![0.0; source.classes * classes];
    for (row, &target) in source.probabilities.chunks_exact(source.classes).zip(targets) {
        for (z, probability) in row.iter().enumerate() {
            joint[z * classes + target as usize] += probability;
        }
    }
    // P(y | z); a source class that no sample gives any probability takes no part.
    for of_source in joint.chunks_exact_mut(classes.max(1)) {
        let sum: f64 = of_source.iter().sum();
        if sum > 0.0 {
            of_source.iter_mut().for_each(|p| *p /= sum);
        }
    }
    let log = |(row, &target): (&[f64], &u32)| {
        row.iter().enumerate().map(|(z, p)| p * joint[z * classes + target as usize]).sum::<f64>().ln()
    };
    let rows = source.probabilities.chunks_exact(source.classes);
    rows.zip(targets).map(log).sum::<f64>() / targets.len() as f64
}
