//! Which cells the benchmark consists of, at each size.

use clap::ValueEnum;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Size {
    /// One seed, one budget: shows that everything works, in under a minute
    Smallest,
    /// The comparison that fits into five minutes on two cores
    Default,
    /// More budgets and seeds
    Full,
}

/// How one strategy is measured in a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The strategy starts from pre-trained weights.
    pub pretrained: bool,
    /// A run moves the whole backbone, which takes long.
    pub slow: bool,
}

/// The (budget, seed) pairs for a strategy on a data set of `classes` classes; slow ones get at most 64 labels and one
/// seed, so that the whole stays within its time.
pub fn points(size: Size, limits: Limits, classes: usize) -> Vec<(usize, u64)> {
    let (per_class, seeds): (&[usize], u64) = match size {
        Size::Smallest => (&[4], 1),
        Size::Default => (&[4, 16, 64], 3),
        Size::Full => (&[1, 4, 16, 64, 128], 5),
    };
    let budgets = per_class.iter().map(|n| n * classes);
    if limits.slow && size != Size::Full {
        let fitting = budgets.filter(|&n| n <= 64).max().unwrap_or(classes);
        return vec![(fitting, 1)];
    }
    budgets.flat_map(|n| (1..=seeds).map(move |seed| (n, seed))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Limits = Limits { pretrained: true, slow: false };

    #[test]
    fn budgets_and_seeds_multiply() {
        let points = points(Size::Default, QUICK, 10);
        assert_eq!(points.len(), 9);
        assert!(points.contains(&(640, 3)));
    }

    #[test]
    fn a_slow_strategy_gets_few_labels_and_one_seed() {
        let slow = Limits { slow: true, ..QUICK };
        assert_eq!(points(Size::Default, slow, 10), [(40, 1)]);
        assert_eq!(points(Size::Smallest, slow, 100), [(100, 1)]);
        assert_eq!(points(Size::Full, slow, 10).len(), 25);
    }
}
