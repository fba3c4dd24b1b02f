//! The sampler of classes in equal shares, whatever their frequency.

use std::collections::BTreeMap;

use crate::seed::Seed;

/// The samples of epoch number `epoch`: as many as `indices`, and of each class as many as of any other, give or take one.
///
/// A class goes through all its samples in a random order before it begins again in another, across epochs: of a frequent one
/// every sample has its turn, of a rare one none is repeated more than another.
pub(super) fn drawn(indices: &[usize], target: impl Fn(usize) -> u32, epoch: usize, seed: Seed) -> Vec<usize> {
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for &index in indices {
        classes.entry(target(index)).or_default().push(index);
    }
    let count = classes.len().max(1);
    // Class c draws number c, c + count, … of all: what an epoch has too many of one goes on to the next.
    let draws = |class: usize, upto: usize| (upto + count - 1 - class) / count;
    let mut all = Vec::with_capacity(indices.len());
    for (number, (class, members)) in classes.into_iter().enumerate() {
        let begin = draws(number, epoch * indices.len());
        let end = draws(number, (epoch + 1) * indices.len());
        let mut round = (usize::MAX, members.clone());
        for draw in begin..end {
            if round.0 != draw / members.len() {
                round = (draw / members.len(), members.clone());
                seed.child(u64::from(class)).child(round.0 as u64).stream().shuffle(&mut round.1);
            }
            all.push(round.1[draw % members.len()]);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 20 samples of class 0, 7 of class 1, 3 of class 2.
    fn class(i: usize) -> u32 {
        if i < 20 { 0 } else { 1 + u32::from(i >= 27) }
    }

    fn epoch(number: usize) -> Vec<usize> {
        drawn(&(0..30).collect::<Vec<_>>(), class, number, Seed(3))
    }

    fn counts(drawn: &[usize]) -> [usize; 3] {
        [0, 1, 2].map(|c| drawn.iter().filter(|&&i| class(i) == c).count())
    }

    #[test]
    fn classes_come_equally_often() {
        assert_eq!(counts(&epoch(0)), [10, 10, 10]);
        // 29 samples in three epochs: 87 draws, 29 of each.
        let few: Vec<usize> = (0..29).collect();
        let all: Vec<Vec<usize>> = (0..3).map(|n| drawn(&few, class, n, Seed(3))).collect();
        assert!(all.iter().all(|epoch| epoch.len() == 29 && counts(epoch).iter().all(|n| (9..=10).contains(n))));
        assert_eq!(counts(&all.concat()), [29, 29, 29]);
    }

    #[test]
    fn no_sample_has_a_second_turn_before_all_of_its_class_had_one() {
        let both = [epoch(0), epoch(1)].concat();
        let turns = |i: usize| both.iter().filter(|&&drawn| drawn == i).count();
        assert!((0..20).all(|i| turns(i) == 1));
        assert!((20..27).all(|i| (2..=3).contains(&turns(i))));
        assert!((27..30).all(|i| (6..=7).contains(&turns(i))));
    }

    #[test]
    fn rounds_are_in_orders_of_their_own() {
        let of_last: Vec<usize> = epoch(0).into_iter().filter(|i| class(*i) == 2).collect();
        assert!(of_last.chunks(3).any(|round| round.len() == 3 && *round != of_last[..3]), "{of_last:?}");
    }
}
