//! The sampler of pairs (Tunstall et al. 2022, section 3): every sample meets others of its class and of other classes.

use crate::seed::Seed;

/// Batches of at most `size` samples, two after each other being a pair. `target` is the class of a sample.
pub(super) fn batches(
    indices: &[usize],
    target: impl Fn(usize) -> u32,
    per_sample: usize,
    size: usize,
    seed: Seed,
) -> Vec<Vec<usize>> {
    let mut stream = seed.named("pairs").stream();
    let mut pairs = Vec::new();
    for &sample in indices {
        let (same, other): (Vec<usize>, Vec<usize>) =
            indices.iter().filter(|&&i| i != sample).partition(|&&i| target(i) == target(sample));
        for partners in [same, other] {
            if !partners.is_empty() {
                pairs.extend((0..per_sample).map(|_| [sample, partners[stream.below(partners.len())]]));
            }
        }
    }
    stream.shuffle(&mut pairs);
    pairs.chunks((size / 2).max(1)).map(<[_]>::concat).collect()
}

/// Rows of the pairs of `asked` of which both samples were `read`, in the order of `read`.
pub(super) fn rows(asked: &[usize], read: &[usize]) -> Vec<(u32, u32)> {
    let (mut next, mut row) = (read.iter().peekable(), 0);
    let mut find = |sample: usize| {
        next.next_if_eq(&&sample)?;
        row += 1;
        Some(row - 1)
    };
    asked.chunks_exact(2).map(|pair| (find(pair[0]), find(pair[1]))).filter_map(|(a, b)| Some((a?, b?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_meets_as_many_of_its_class_as_of_others() {
        let batches = batches(&[0, 1, 2, 3, 4, 5, 6], |i| (i % 3) as u32, 4, 6, Seed(1));
        assert!(batches.iter().rev().skip(1).all(|batch| batch.len() == 6));
        let pairs: Vec<usize> = batches.concat();
        let count = |sample: usize, same: bool| {
            pairs.chunks(2).filter(|p| p[0] == sample && p[1] != sample && (p[0] % 3 == p[1] % 3) == same).count()
        };
        for sample in 0..7 {
            assert_eq!((count(sample, true), count(sample, false)), (4, 4));
        }
    }

    #[test]
    fn a_pair_of_which_one_cannot_be_read_is_left_out() {
        assert_eq!(rows(&[5, 6, 7, 5, 8, 9], &[5, 7, 5, 8, 9]), [(1, 2), (3, 4)]);
        assert_eq!(rows(&[5, 6, 7, 5], &[6, 7]), []);
    }
}
