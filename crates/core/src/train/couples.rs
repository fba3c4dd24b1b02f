//! The sampler of couples: samples 2i and 2i + 1 belong to each other and come together.

use crate::loader::epoch_batches;
use crate::seed::Seed;

/// Batches of at most `size` samples, in an order drawn anew; couples of which one sample is not among `indices`, which ascend,
/// are left out.
pub(super) fn batches(indices: &[usize], size: usize, seed: Seed) -> Vec<Vec<usize>> {
    let whole = indices.windows(2).filter(|two| two[0].is_multiple_of(2) && two[1] == two[0] + 1);
    let couples: Vec<usize> = whole.map(|two| two[0] / 2).collect();
    let samples = |batch: Vec<usize>| batch.into_iter().flat_map(|couple| [2 * couple, 2 * couple + 1]).collect();
    epoch_batches(&couples, size / 2, seed).into_iter().map(samples).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn couples_stay_together_and_half_ones_are_left_out() {
        let batches = batches(&[0, 1, 3, 4, 5, 6, 7, 9, 10, 11], 4, Seed(1));
        assert!(batches.iter().all(|batch| batch.len() >= 4 && batch.len() <= 6), "{batches:?}");
        let mut firsts: Vec<usize> = Vec::new();
        for couple in batches.concat().chunks(2) {
            assert_eq!(couple[1], couple[0] + 1);
            firsts.push(couple[0]);
        }
        firsts.sort_unstable();
        assert_eq!(firsts, [0, 4, 6, 10]);
    }
}
