//! Scores of an order: of samples ranked by what a model says of them.

/// Area under the precision-recall curve by steps, Σ (Rₙ - Rₙ₋₁) Pₙ over the different scores from the highest down
/// (scikit-learn's `average_precision_score`); `None` where none `is` positive.
pub(super) fn average_precision(scores: &[f64], is: impl Fn(usize) -> bool) -> Option<f64> {
    let positives = (0..scores.len()).filter(|&i| is(i)).count();
    let order = descending(scores);
    let (mut sum, mut found, mut passed) = (0.0, 0usize, 0usize);
    while passed < order.len() {
        let tied = order[passed..].iter().take_while(|&&i| scores[i] == scores[order[passed]]).count();
        let gained = order[passed..passed + tied].iter().filter(|&&i| is(i)).count();
        (found, passed) = (found + gained, passed + tied);
        sum += gained as f64 * found as f64 / passed as f64;
    }
    (positives > 0).then(|| sum / positives as f64)
}

/// Probability that a sample that `is` positive scores above one that is not, ties counting half (Mann & Whitney 1947);
/// `None` where there are not both.
pub(super) fn roc_auc(scores: &[f64], is: impl Fn(usize) -> bool) -> Option<f64> {
    let ranks = ranks(scores);
    let positives: Vec<usize> = (0..scores.len()).filter(|&i| is(i)).collect();
    let (p, n) = (positives.len() as f64, (scores.len() - positives.len()) as f64);
    let sum: f64 = positives.iter().map(|&i| ranks[i]).sum();
    (p > 0.0 && n > 0.0).then(|| (sum - p * (p + 1.0) / 2.0) / (p * n))
}

/// The place of each value in ascending order, from 1; those of equal ones are their mean.
pub(super) fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order = descending(values);
    order.reverse();
    let mut ranks = vec![0.0; values.len()];
    let mut passed = 0;
    while passed < order.len() {
        let tied = order[passed..].iter().take_while(|&&i| values[i] == values[order[passed]]).count();
        let rank = passed as f64 + (tied as f64 + 1.0) / 2.0;
        order[passed..passed + tied].iter().for_each(|&i| ranks[i] = rank);
        passed += tied;
    }
    ranks
}

/// Pearson's correlation; 0 where one side does not vary.
pub(super) fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let (of_a, of_b) = (mean(a), mean(b));
    let product =
        |x: &[f64], mx: f64, y: &[f64], my: f64| x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum::<f64>();
    let scale = (product(a, of_a, a, of_a) * product(b, of_b, b, of_b)).sqrt();
    if scale > 0.0 { product(a, of_a, b, of_b) / scale } else { 0.0 }
}

fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCORES: [f64; 8] = [0.9, 0.8, 0.8, 0.7, 0.6, 0.3, 0.3, 0.1];
    const POSITIVE: [bool; 8] = [true, false, true, true, false, true, false, false];

    #[test]
    fn curves_with_ties_agree_with_counts_by_hand() {
        let is = |i: usize| POSITIVE[i];
        // Steps at 0.9, 0.8 (one of two), 0.7 and 0.3 (one of two).
        let expected = (1.0 + 2.0 / 3.0 + 3.0 / 4.0 + 4.0 / 7.0) / 4.0;
        assert!((average_precision(&SCORES, is).unwrap() - expected).abs() < 1e-12);
        // Of 16 pairs: 4 + 3.5 + 3 + 1.5 are rightly ordered.
        assert!((roc_auc(&SCORES, is).unwrap() - 12.0 / 16.0).abs() < 1e-12);
        assert_eq!((average_precision(&SCORES, |_| false), roc_auc(&SCORES, |_| true)), (None, None));
    }

    #[test]
    fn equal_values_share_their_ranks() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(pearson(&[1.0, 1.0], &[2.0, 3.0]), 0.0);
    }
}
