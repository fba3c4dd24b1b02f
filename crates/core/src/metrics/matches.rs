//! How well texts find what belongs to them: each first text of a couple asks, and all second ones are candidates.

use faer::Mat;
use serde::{Deserialize, Serialize};

use super::{bounded, mean};
use crate::data::Targets;
use crate::embedder::scale_to_one;
use crate::train::{SCALE, couples};

/// Texts that ask at a time: the scores of so many are in memory.
const BLOCK: usize = 256;

/// By the rank of the right candidate, nearest first; candidates that are the same text as the right one, or belong to the same
/// first text, are passed over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct OfMatches {
    /// Mean of 1 / rank.
    pub mean_reciprocal_rank: f64,
    /// Share whose match is the nearest.
    pub recall_at_1: f64,
    /// Share whose match is among the ten nearest.
    pub recall_at_10: f64,
}

/// Number of couples, loss and scores of embeddings, `[samples × width]` row-major.
pub(super) fn of_matches(targets: &Targets, outputs: &[f32]) -> (usize, f64, OfMatches) {
    let couples = couples(&targets.numbers);
    let width = outputs.len() / targets.numbers.len().max(1);
    if couples.is_empty() || width == 0 {
        return (0, 0.0, OfMatches::default());
    }
    let class = |couple: &[u32; 2], side: usize| targets.classes[couple[side] as usize];
    let side = |of: &[[u32; 2]], side: usize| {
        let mut rows = Mat::<f32>::zeros(of.len(), width);
        for (i, couple) in of.iter().enumerate() {
            let row = couple[side] as usize;
            let mut vector = outputs[row * width..(row + 1) * width].to_vec();
            scale_to_one(&mut vector);
            vector.into_iter().enumerate().for_each(|(k, value)| rows[(i, k)] = value);
        }
        rows
    };
    let candidates = side(&couples, 1);
    let (mut ranks, mut loss) = (Vec::with_capacity(couples.len()), 0.0);
    for (block, asking) in couples.chunks(BLOCK).enumerate() {
        let cosines = side(asking, 0) * candidates.transpose();
        for (row, own) in asking.iter().enumerate() {
            let right = block * BLOCK + row;
            let (mut nearer, mut powers) = (0usize, 1.0);
            for (j, other) in couples.iter().enumerate() {
                let counts = j != right && (0..2).all(|side| class(own, side) != class(other, side));
                if counts {
                    let ahead = cosines[(row, j)] - cosines[(row, right)];
                    nearer += usize::from(ahead > 0.0);
                    powers += (SCALE * f64::from(ahead)).exp();
                }
            }
            loss += powers.ln();
            ranks.push(1 + nearer);
        }
    }
    let share = |most: usize| ranks.iter().filter(|rank| **rank <= most).count() as f64 / ranks.len() as f64;
    let inverse: Vec<f64> = ranks.iter().map(|&rank| 1.0 / rank as f64).collect();
    let scores = OfMatches { mean_reciprocal_rank: mean(&inverse), recall_at_1: share(1), recall_at_10: share(10) };
    (ranks.len(), bounded(loss, ranks.len()), scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Angles of the texts in a plane.
    fn outputs(angles: &[f32]) -> Vec<f32> {
        angles.iter().flat_map(|angle| [3.0 * angle.cos(), 3.0 * angle.sin()]).collect()
    }

    #[test]
    fn the_rank_of_the_match_counts_and_what_is_as_right_is_passed_over() {
        // The first finds its own, the second finds that of the first nearer.
        let angles = [0.0, 0.1, 0.3, 0.9];
        let targets = Targets { classes: vec![0, 1, 2, 3], numbers: vec![0.0, 0.0, 1.0, 1.0] };
        let (couples, loss, scores) = of_matches(&targets, &outputs(&angles));
        assert_eq!((couples, scores.recall_at_1, scores.recall_at_10), (2, 0.5, 1.0));
        assert!((scores.mean_reciprocal_rank - 0.75).abs() < 1e-12);
        let entropy = |right: f64, wrong: f64| (1.0 + (20.0 * (wrong.cos() - right.cos())).exp()).ln();
        let expected = (entropy(0.1, 0.9) + entropy(0.6, 0.2)) / 2.0;
        assert!((loss - expected).abs() < 1e-4, "{loss} {expected}");
        // Were both firsts the same text, either match would be right.
        let same = Targets { classes: vec![0, 1, 0, 3], ..targets };
        assert_eq!(of_matches(&same, &outputs(&angles)).2.recall_at_1, 1.0);
    }

    #[test]
    fn a_text_whose_match_is_missing_is_not_judged() {
        let targets = Targets { classes: vec![0, 2, 3], numbers: vec![0.0, 1.0, 1.0] };
        assert_eq!(of_matches(&targets, &outputs(&[0.0, 0.3, 0.9])).0, 1);
        assert_eq!(of_matches(&Targets::default(), &[]), (0, 0.0, OfMatches::default()));
    }
}
