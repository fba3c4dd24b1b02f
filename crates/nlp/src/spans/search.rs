//! The passages that a model finds in the windows of a text: the best pairs of a first and a last token, as the script of
//! `transformers` for SQuAD searches them.

use std::ops::Range;

/// First and last tokens that are looked at in a window, and passages that are kept.
pub const BEST: usize = 20;
/// Tokens of the longest passage.
pub const LONGEST: usize = 30;

/// What a model says of a window.
pub struct Said<'a> {
    /// The tokens of the text that are in it.
    pub tokens: Range<usize>,
    /// The row of the first of them.
    pub row: usize,
    /// Of each row, how much a passage begins there and ends there.
    pub logits: &'a [f32],
}

/// A passage: tokens of the text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Passage {
    /// First token.
    pub first: usize,
    /// Last token.
    pub last: usize,
    /// Sum of the two logits.
    pub score: f32,
}

/// The best passages of all windows, best first, and how much is said for none: the least over windows.
pub fn passages(windows: &[Said<'_>]) -> (Vec<Passage>, f32) {
    let (mut found, mut none) = (Vec::new(), f32::INFINITY);
    for Said { tokens, row, logits } in windows {
        let rows = logits.len() / 2;
        none = none.min(logits[0] + logits[1]);
        let best = |side: usize| {
            let mut order: Vec<usize> = (0..rows).collect();
            order.sort_by(|&a, &b| logits[2 * b + side].total_cmp(&logits[2 * a + side]));
            order.truncate(BEST);
            order.retain(|at| (*row..row + tokens.len()).contains(at));
            order
        };
        let lasts = best(1);
        for first in best(0) {
            for &last in lasts.iter().filter(|&&last| last >= first && last - first < LONGEST) {
                let score = logits[2 * first] + logits[2 * last + 1];
                found.push(Passage { first: tokens.start + first - row, last: tokens.start + last - row, score });
            }
        }
    }
    found.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.first.cmp(&b.first)).then(a.last.cmp(&b.last)));
    found.truncate(BEST);
    (found, none)
}

/// Probabilities of these scores against each other.
pub fn shares(scores: impl Iterator<Item = f32> + Clone) -> Vec<f32> {
    let largest = scores.clone().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = scores.map(|score| (score - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passages_lie_in_the_text_and_end_behind_their_start() {
        // Rows: one in front, three of the text, one behind; the best start is in front, the best end before the start.
        let logits = [9.0, 9.0, 0.0, 5.0, 4.0, 1.0, 1.0, 3.0, 0.0, 8.0];
        let (found, none) = passages(&[Said { tokens: 10..13, row: 1, logits: &logits }]);
        assert_eq!(none, 18.0);
        assert_eq!(found[0], Passage { first: 11, last: 12, score: 7.0 });
        assert!(found.iter().all(|p| p.first <= p.last && (10..13).contains(&p.first) && p.last < 13));
        assert_eq!(found.len(), 6);
    }

    #[test]
    fn the_best_of_all_windows_wins_and_none_is_the_least_of_them() {
        let [one, two] = [[1.0, 1.0, 2.0, 2.0], [0.0, 0.5, 3.0, 2.0]];
        let windows = [Said { tokens: 0..1, row: 1, logits: &one }, Said { tokens: 1..2, row: 1, logits: &two }];
        let (found, none) = passages(&windows);
        assert_eq!((found[0].first, found[0].score, none), (1, 5.0, 0.5));
        assert_eq!(shares([0.0, 0.0].into_iter()), [0.5, 0.5]);
    }

    #[test]
    fn passages_have_a_longest_length() {
        let mut logits = vec![0.0; 2 * 60];
        (logits[2], logits[2 * 50 + 1], logits[2 * 30 + 1]) = (9.0, 9.0, 8.0);
        let (found, _) = passages(&[Said { tokens: 0..59, row: 1, logits: &logits }]);
        assert_eq!((found[0].first, found[0].last), (0, 29));
    }
}
