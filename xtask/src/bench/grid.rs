//! Which cells the benchmark consists of.

use clap::ValueEnum;
use topwork_core::strategy::Options;

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

/// One strategy in a contest.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name.
    pub strategy: &'static str,
    /// It starts from pre-trained weights.
    pub pretrained: bool,
    /// The model, by name or folder.
    pub model: String,
    /// Settings are not chosen for it but are those of this strategy.
    pub follows: Option<&'static str>,
    /// Finished runs that it works on.
    pub aid: Option<Aid>,
    /// Numbers of labels with what is measured there.
    pub budgets: Vec<Budget>,
}

/// Finished runs that a strategy works on; they are of the followed strategy and the same labels, and count in its cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aid {
    /// One run, to be imitated.
    Teacher,
    /// Runs at several rates, to be averaged.
    Members,
}

/// What is measured at one number of labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    /// Labelled training samples.
    pub labels: usize,
    /// Seeds are 1 to this.
    pub seeds: u64,
    /// Settings to choose from, within the training part; of one alone there is nothing to choose.
    pub grid: Vec<Options>,
}

/// The numbers of labels for a strategy on a data set of `classes` classes, with the number of seeds of each. One that is
/// `slow`, because it moves the whole backbone, gets at most 64 labels and one seed, so that the whole stays within its
/// time.
pub fn budgets(size: Size, slow: bool, classes: usize) -> Vec<(usize, u64)> {
    let (per_class, seeds): (&[usize], u64) = match size {
        Size::Smallest => (&[4], 1),
        Size::Default => (&[4, 16, 64], 3),
        Size::Full => (&[1, 4, 16, 64, 128], 5),
    };
    let budgets = per_class.iter().map(|n| n * classes);
    if slow && size != Size::Full {
        let fitting = budgets.filter(|&n| n <= 64).max().unwrap_or(classes);
        return vec![(fitting, 1)];
    }
    budgets.map(|n| (n, seeds)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_and_seeds_multiply() {
        assert_eq!(budgets(Size::Default, false, 10), [(40, 3), (160, 3), (640, 3)]);
    }

    #[test]
    fn a_slow_strategy_gets_few_labels_and_one_seed() {
        assert_eq!(budgets(Size::Default, true, 10), [(40, 1)]);
        assert_eq!(budgets(Size::Smallest, true, 100), [(100, 1)]);
        assert_eq!(budgets(Size::Full, true, 10).len(), 5);
    }
}
