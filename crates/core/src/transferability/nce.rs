//! NCE: how much of the labels the source head's own labels leave open.
//!
//! Tran et al., Transferability and Hardness of Supervised Classification Tasks, 2019 (section 3).

use std::collections::BTreeMap;

/// The score, `-H(target | source)` in nats; at most 0.
pub fn nce(sources: &[u32], targets: &[u32]) -> f64 {
    let mut joint: BTreeMap<(u32, u32), f64> = BTreeMap::new();
    let mut marginal: BTreeMap<u32, f64> = BTreeMap::new();
    for (&source, &target) in sources.iter().zip(targets) {
        *joint.entry((source, target)).or_default() += 1.0;
        *marginal.entry(source).or_default() += 1.0;
    }
    joint.iter().map(|((source, _), n)| n * (n / marginal[source]).ln()).sum::<f64>() / targets.len() as f64
}
