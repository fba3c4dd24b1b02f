//! What the labels of the target say about those of the source (You et al. 2020, section 3.2): the probability of each
//! source label given a target class.

use std::time::Instant;

use candle_core::Tensor;

use super::Run;
use super::feed::{Fixed, Split};
use super::logistic::{Fit, Problem};
use super::terms::log_softmax;
use crate::cache::{ViewSeed, host_values};
use crate::net::Stage;
use crate::{Error, Result};

const BATCH: usize = 256;
/// L2 of the regression of target classes on source probabilities, to choose from. The authors choose by the accuracy on a
/// validation part and calibrate there; the loss on held-out samples does both at once.
const L2: [f64; 4] = [1.0, 0.1, 0.01, 0.001];
/// Most samples to choose by.
const JUDGED: usize = 512;

/// The rows and targets of a set of samples, by index.
fn part(rows: &[f32], sources: usize, targets: &[u32], indices: &[usize]) -> (Vec<f32>, Vec<u32>) {
    let of = |&i: &usize| &rows[i * sources..(i + 1) * sources];
    (indices.iter().flat_map(of).copied().collect(), indices.iter().map(|&i| targets[i]).collect())
}

/// The regression of `targets` on `rows`.
fn regress(rows: &[f32], sources: usize, targets: &[u32], classes: usize, l2: f64) -> Fit {
    let weights = vec![1.0; targets.len()];
    Problem { rows, width: sources, targets, classes, weights: &weights, l2, smoothing: 0.0 }.fit(|_| ())
}

/// The L2 whose regressions on one half of the samples lose least on the other; each class is dealt evenly.
fn least_loss(rows: &[f32], sources: usize, targets: &[u32], classes: usize) -> f64 {
    let (mut halves, mut seen) = ([Vec::new(), Vec::new()], vec![0usize; classes]);
    for (i, &target) in targets.iter().enumerate() {
        let count = &mut seen[target as usize];
        if *count < JUDGED.div_ceil(classes) {
            halves[*count % 2].push(i);
        }
        *count += 1;
    }
    if halves[1].is_empty() {
        return L2[0];
    }
    let loss = |l2: f64| -> f64 {
        let of_half = |learned: usize| {
            let (own, own_targets) = part(rows, sources, targets, &halves[learned]);
            let fit = regress(&own, sources, &own_targets, classes, l2);
            let of_sample = |&i: &usize| {
                let row = &rows[i * sources..(i + 1) * sources];
                let logit = |t: usize| {
                    let weight = &fit.weight[t * sources..(t + 1) * sources];
                    fit.bias[t] + weight.iter().zip(row).map(|(w, &p)| w * f64::from(p)).sum::<f64>()
                };
                let logits: Vec<f64> = (0..classes).map(logit).collect();
                -softmax(&logits)[targets[i] as usize].max(f64::MIN_POSITIVE).ln()
            };
            halves[1 - learned].iter().map(of_sample).sum::<f64>()
        };
        of_half(0) + of_half(1)
    };
    let losses = L2.map(loss);
    let best = (1..L2.len()).fold(0, |best, i| if losses[i] < losses[best] { i } else { best });
    L2[best]
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|z| (z - top).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// p(source | target), `[targets][sources]`, from `rows` of source probabilities and the target class of each.
///
/// A multinomial regression gives p(target | source) at each pure source label, the mean row is p(source), and Bayes' rule
/// turns it round: the paper's "reverse" approach, equation 6.
pub(super) fn relation(rows: &[f32], sources: usize, targets: &[u32], classes: usize) -> Vec<Vec<f64>> {
    let fit = regress(rows, sources, targets, classes, least_loss(rows, sources, targets, classes));
    let mut joint = vec![Vec::with_capacity(sources); classes];
    for s in 0..sources {
        let marginal = rows.iter().skip(s).step_by(sources).map(|&p| f64::from(p)).sum::<f64>() / targets.len() as f64;
        let logits: Vec<f64> = (0..classes).map(|t| fit.weight[t * sources + s] + fit.bias[t]).collect();
        joint.iter_mut().zip(softmax(&logits)).for_each(|(row, share)| row.push(marginal * share));
    }
    for row in &mut joint {
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|p| *p /= sum);
    }
    joint
}

impl Run<'_> {
    /// ln p(source | target), `[classes, source labels]`, of the start's source head on the training samples.
    pub(super) fn relations(&mut self) -> Result<Tensor> {
        let job = self.job;
        let Some((weight, bias)) = &job.companions.source_head else {
            let reason = "the checkpoint has no head of its own, so nothing relates its labels to these classes";
            return Err(Error::input(&job.network.name, reason, "choose a model that was trained to classify"));
        };
        let stages: Vec<&Stage> = job.network.stages.iter().collect();
        let start = self.start.clone();
        let fixed = Fixed { stages: &stages, params: &start, dataset: job.train.clone(), fingerprint: job.fingerprint };
        let split = Split::of(self, "training", &fixed, vec![ViewSeed::Plain], true)?;
        let started = Instant::now();
        let readable = split.readable();
        let (mut rows, sources) = (Vec::new(), bias.dims1()?);
        for chunk in readable.chunks(BATCH) {
            if let Some(features) = split.kept() {
                let features = features.batch(0, chunk, job.device)?.data;
                let logits = topwork_kernels::linear(&features, weight, Some(bias))?;
                rows.extend(host_values(&log_softmax(&logits)?.exp()?)?);
            }
        }
        let targets: Vec<u32> = readable.iter().map(|&i| job.train.target(i)).collect();
        let relation = relation(&rows, sources, &targets, job.task.len());
        self.timings.add("solve", started, targets.len());
        // A probability that vanishes in single precision must not become an infinite logarithm.
        let logarithms = relation.into_iter().flatten().map(|p| p.max(1e-30).ln() as f32).collect();
        Ok(Tensor::from_vec(logarithms, (job.task.len(), sources), job.device)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_sum_to_one_and_follow_the_samples() {
        // Source labels 0 and 1 go with class 0, label 2 with class 1; label 3 never comes.
        let rows: Vec<f32> =
            [[0.6, 0.4, 0.0, 0.0], [0.3, 0.6, 0.1, 0.0], [0.0, 0.1, 0.9, 0.0], [0.1, 0.0, 0.9, 0.0]].concat();
        let found = relation(&rows, 4, &[0, 0, 1, 1], 2);
        for row in &found {
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{row:?}");
        }
        assert!(found[0][0] > found[1][0] && found[0][1] > found[1][1] && found[1][2] > found[0][2], "{found:?}");
        assert_eq!((found[0][3], found[1][3]), (0.0, 0.0));
    }
    #[test]
    fn a_clear_relation_is_not_smoothed_away() {
        // Forty source labels; a sample gives a tenth to one of two that stand for its class, the rest to all alike.
        let rows: Vec<f32> = (0..40)
            .flat_map(|i| (0..40).map(move |s| if s == i / 2 % 4 { 0.1 + 0.9 / 40.0 } else { 0.9 / 40.0 }))
            .collect();
        let targets: Vec<u32> = (0..40).map(|i| i / 4 % 2).collect();
        let smooth = regress(&rows, 40, &targets, 2, 1.0);
        assert!(softmax(&[smooth.weight[0], smooth.weight[40]])[0] < 0.75, "what L2 1 leaves");
        let found = relation(&rows, 40, &targets, 2);
        for (class, s) in [(0, 0), (0, 1), (1, 2), (1, 3)] {
            assert!(found[class][s] > 10.0 * found[1 - class][s], "{:?}", (found[0][s], found[1][s]));
        }
    }
}
