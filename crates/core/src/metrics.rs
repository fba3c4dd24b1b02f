//! How good predictions are: confusion matrix, accuracy, F1, per-class precision and recall, loss.

use serde::{Deserialize, Serialize};

/// The scores of one class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClassScores {
    /// The class.
    pub name: String,
    /// Share of the samples predicted to be of this class that are; 0 without any.
    pub precision: f64,
    /// Share of the samples of this class that were found; 0 without any.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
    /// Samples of this class.
    pub samples: u64,
}

/// Everything reported about one pass over a labelled set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Samples judged.
    pub samples: u64,
    /// Share predicted correctly.
    pub accuracy: f64,
    /// Mean F1 over the classes that occur in targets or predictions (scikit-learn's `macro`).
    pub macro_f1: f64,
    /// Mean cross-entropy, natural logarithm.
    pub loss: f64,
    /// By class, in the order of the classes.
    pub classes: Vec<ClassScores>,
    /// `confusion[target][prediction]`: numbers of samples.
    pub confusion: Vec<Vec<u64>>,
}

impl Metrics {
    /// Judges predictions; `loss` is their mean cross-entropy. Targets and predictions index `classes`.
    pub fn of(classes: &[String], targets: &[u32], predictions: &[u32], loss: f64) -> Self {
        let k = classes.len();
        let mut confusion = vec![vec![0u64; k]; k];
        for (&target, &prediction) in targets.iter().zip(predictions) {
            confusion[target as usize][prediction as usize] += 1;
        }
        let ratio = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let mut f1_of_seen = Vec::new();
        let scores = (0..k)
            .map(|c| {
                let hits = confusion[c][c];
                let samples: u64 = confusion[c].iter().sum();
                let predicted: u64 = confusion.iter().map(|row| row[c]).sum();
                let f1 = ratio(2 * hits, samples + predicted);
                if samples + predicted > 0 {
                    f1_of_seen.push(f1);
                }
                let (precision, recall) = (ratio(hits, predicted), ratio(hits, samples));
                ClassScores { name: classes[c].clone(), precision, recall, f1, samples }
            })
            .collect();
        let right = (0..k).map(|c| confusion[c][c]).sum();
        Self {
            samples: targets.len() as u64,
            accuracy: ratio(right, targets.len() as u64),
            macro_f1: f1_of_seen.iter().sum::<f64>() / f1_of_seen.len().max(1) as f64,
            loss,
            classes: scores,
            confusion,
        }
    }

    /// Judges logits, `[samples × classes]` row-major: the prediction is the largest (the first of equal ones).
    pub fn of_logits(classes: &[String], targets: &[u32], logits: &[f32]) -> Self {
        let mut loss = 0.0;
        let mut predictions = Vec::with_capacity(targets.len());
        for (row, &target) in logits.chunks_exact(classes.len().max(1)).zip(targets) {
            let best = (1..row.len()).fold(0, |best, c| if row[c] > row[best] { c } else { best });
            predictions.push(best as u32);
            let max = f64::from(row[best]);
            let sum: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();
            loss += max + sum.ln() - f64::from(row[target as usize]);
        }
        // JSON has no infinity, and a loss without bound is still to be compared.
        let loss = if loss.is_finite() { loss / targets.len().max(1) as f64 } else { f64::MAX };
        Self::of(classes, targets, &predictions, loss)
    }

    /// Whether these are better than `other`: a higher accuracy, or the same one with a lower loss.
    pub fn beats(&self, other: &Self) -> bool {
        self.accuracy > other.accuracy || (self.accuracy == other.accuracy && self.loss < other.loss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> Vec<String> {
        ["a", "b", "c"].map(String::from).to_vec()
    }

    #[test]
    fn scores_agree_with_a_count_by_hand() {
        let metrics = Metrics::of(&classes(), &[0, 0, 0, 1, 1], &[0, 0, 1, 1, 0], 0.5);
        assert_eq!(metrics.accuracy, 0.6);
        assert_eq!(metrics.confusion, [[2, 1, 0], [1, 1, 0], [0, 0, 0]]);
        let a = &metrics.classes[0];
        assert_eq!((a.precision, a.recall, a.samples), (2.0 / 3.0, 2.0 / 3.0, 3));
        // Class c occurs nowhere and does not count.
        assert!((metrics.macro_f1 - (2.0 / 3.0 + 0.5) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn the_loss_of_logits_is_their_cross_entropy() {
        let metrics = Metrics::of_logits(&classes(), &[1, 0], &[0.0, 0.0, 0.0, 2.0, 0.0, 0.0]);
        let expected = (3f64.ln() + (2f64.exp() + 2.0).ln() - 2.0) / 2.0;
        assert!((metrics.loss - expected).abs() < 1e-12, "{}", metrics.loss);
        assert_eq!(metrics.accuracy, 0.5);
    }
}
