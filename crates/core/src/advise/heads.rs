//! Heads on frozen features, judged by stratified cross-validation.

use std::sync::Arc;

use rayon::prelude::*;
use serde::Serialize;

use crate::data::Dataset;
use crate::folds;
use crate::plan::Method;
use crate::pooled::Pooled;
use crate::seed::Seed;
use crate::strategy::{Options, Probe};
use crate::train::{logistic, prototypes, ridge};
use crate::{Error, Result};

/// The heads that are compared, the usual one first.
pub const METHODS: [Method; 5] = [
    Method::Logistic { l2: 1.0 },
    Method::Logistic { l2: 0.1 },
    Method::Logistic { l2: 10.0 },
    Method::Ridge { l2: None },
    Method::Prototypes,
];
/// Parts of a cross-validation; fewer where a class has fewer samples.
const FOLDS: usize = 5;
/// Above this many numbers to look at in one iteration, only the usual penalty of logistic regression is tried.
const LARGE: usize = 4_000_000;

/// What a head reaches on samples that it did not learn from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// How it is solved.
    pub method: Method,
    /// Share of the samples it is right about.
    pub accuracy: f64,
    /// Standard error of that.
    pub error: f64,
    /// Whether it is right, sample by sample.
    #[serde(skip)]
    pub right: Vec<bool>,
    /// The head of each part.
    #[serde(skip)]
    pub(super) heads: Vec<Head>,
}

impl Judged {
    fn new(method: Method, right: Vec<bool>, heads: Vec<Head>) -> Self {
        let accuracy = share(&right);
        Self { method, accuracy, error: (accuracy * (1.0 - accuracy) / right.len() as f64).sqrt(), right, heads }
    }
}

/// Share of what is true.
pub(super) fn share(right: &[bool]) -> f64 {
    right.iter().filter(|&&right| right).count() as f64 / right.len().max(1) as f64
}

/// Mean and standard error of the difference `a - b` of two that judged the same samples.
pub(super) fn difference(a: &[bool], b: &[bool]) -> (f64, f64) {
    let n = a.len().max(1) as f64;
    let of = |a: bool, b: bool| f64::from(u8::from(a)) - f64::from(u8::from(b));
    let mean = a.iter().zip(b).map(|(&a, &b)| of(a, b)).sum::<f64>() / n;
    let square = a.iter().zip(b).map(|(&a, &b)| (of(a, b) - mean).powi(2)).sum::<f64>() / n;
    (mean, (square / n).sqrt())
}

/// What a head is called, in words.
pub fn title(method: Method) -> String {
    match method {
        Method::Logistic { l2 } => format!("logistic regression, L2 {l2}"),
        Method::Ridge { .. } => "ridge regression".into(),
        Method::Prototypes => "nearest class mean".into(),
    }
}

/// The strategy that fits the head alone, and its options.
pub(super) fn strategy(method: Method) -> (&'static str, Options) {
    let options = Options::default();
    match method {
        Method::Logistic { l2 } => ("feature-extraction", Options { l2: Some(l2), ..options }),
        Method::Ridge { l2 } => ("feature-extraction", Options { probe: Some(Probe::Ridge), l2, ..options }),
        Method::Prototypes => ("prototypes", options),
    }
}

/// Features with their classes.
pub(super) struct Labelled<'a> {
    pub features: &'a Pooled,
    pub targets: Vec<u32>,
    pub classes: &'a [String],
}

/// A linear head: weight `[classes × width]` and bias.
pub(super) type Head = (Vec<f64>, Vec<f64>);

impl<'a> Labelled<'a> {
    pub(super) fn new(features: &'a Pooled, samples: &Arc<dyn Dataset>, classes: &'a [String]) -> Self {
        Self { targets: features.samples.iter().map(|&i| samples.target(i)).collect(), features, classes }
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.features.values[i * self.features.width..][..self.features.width]
    }

    /// Parts to be held out in turn.
    ///
    /// # Errors
    /// When a class has a single sample.
    pub(super) fn parts(&self, seed: Seed) -> Result<Vec<Vec<usize>>> {
        let mut counts = vec![0usize; self.classes.len()];
        self.targets.iter().for_each(|&target| counts[target as usize] += 1);
        let present = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let smallest = present.min_by_key(|(_, count)| **count);
        if let Some((class, 1)) = smallest {
            let subject = format!("class {:?}", self.classes[class]);
            let reason = "has a single sample to learn from, so none of it can be held out to judge by";
            return Err(Error::input(subject, reason, "add samples of this class, or leave it out"));
        }
        let count = smallest.map_or(2, |(_, &count)| count.min(FOLDS));
        folds::stratified(&self.targets, self.classes, count, seed)
    }

    /// The head of `method` on the samples `learned`.
    pub(super) fn fit(&self, method: Method, learned: &[usize]) -> Result<Head> {
        let rows: Vec<f32> = learned.iter().flat_map(|&i| self.row(i)).copied().collect();
        let targets: Vec<u32> = learned.iter().map(|&i| self.targets[i]).collect();
        let (rows, targets) = (rows.as_slice(), targets.as_slice());
        let (width, classes, weights) = (self.features.width, self.classes.len(), vec![1.0; learned.len()]);
        let weights = weights.as_slice();
        match method {
            Method::Logistic { l2 } => {
                let fit = logistic::Problem { rows, width, targets, classes, weights, l2, smoothing: 0.0 }.fit(|_| ());
                Ok((fit.weight, fit.bias))
            }
            Method::Ridge { l2 } => {
                let truth = &ridge::signs(targets, classes);
                let fit = ridge::Problem { rows, width, truth, outputs: classes, weights }.fit(l2)?;
                Ok((fit.weight, fit.bias))
            }
            Method::Prototypes => prototypes::head(rows, width, targets, classes).map_err(|class| {
                let subject = format!("class {:?}", self.classes[class]);
                Error::input(subject, "has no readable sample", "add one, or leave out the class")
            }),
        }
    }

    /// Whether a head is right about the samples `judged`, as they are in `features`.
    pub(super) fn right(&self, (weight, bias): &Head, judged: &[usize], features: &Pooled) -> Vec<bool> {
        let width = features.width;
        let score = |x: &[f32], c: usize| {
            weight[c * width..][..width].iter().zip(x).map(|(w, &x)| w * f64::from(x)).sum::<f64>() + bias[c]
        };
        let one = |&i: &usize| {
            let x = &features.values[i * width..][..width];
            let scores: Vec<f64> = (0..bias.len()).map(|c| score(x, c)).collect();
            let best = (1..scores.len()).fold(0, |best, c| if scores[c] > scores[best] { c } else { best });
            best == self.targets[i] as usize
        };
        judged.par_iter().map(one).collect()
    }

    /// For each part, the head of `method` that learned from what `learned` makes of the others.
    pub(super) fn heads(
        &self,
        method: Method,
        parts: &[Vec<usize>],
        learned: impl Fn(Vec<usize>) -> Vec<usize>,
    ) -> Result<Vec<Head>> {
        let others = |number: usize| parts.iter().enumerate().filter(move |(other, _)| *other != number);
        let one = |number| self.fit(method, &learned(others(number).flat_map(|(_, part)| part.clone()).collect()));
        (0..parts.len()).map(one).collect()
    }

    /// Whether each sample, as it is in `features`, is judged right by the head that did not learn from its part.
    pub(super) fn held_out(&self, heads: &[Head], parts: &[Vec<usize>], features: &Pooled) -> Vec<bool> {
        let mut right = vec![false; self.targets.len()];
        for (head, part) in heads.iter().zip(parts) {
            for (&i, hit) in part.iter().zip(self.right(head, part, features)) {
                right[i] = hit;
            }
        }
        right
    }

    /// All heads that are tried, the best first: another than the usual one has to be better by a standard error of the
    /// difference.
    pub(super) fn judge(&self, parts: &[Vec<usize>]) -> Result<Vec<Judged>> {
        let large = self.features.values.len() * self.classes.len() > LARGE;
        let tried = METHODS.into_iter().filter(|m| !large || !matches!(m, Method::Logistic { l2 } if *l2 != 1.0));
        let mut all = Vec::new();
        for method in tried {
            let heads = self.heads(method, parts, |others| others)?;
            all.push(Judged::new(method, self.held_out(&heads, parts, self.features), heads));
        }
        let usual = all[0].right.clone();
        let better = |one: &Judged| {
            let (gain, error) = difference(&one.right, &usual);
            gain > error
        };
        let best = (1..all.len()).filter(|&i| better(&all[i])).max_by(|&a, &b| {
            // Of equal ones the first.
            all[a].accuracy.total_cmp(&all[b].accuracy).then(b.cmp(&a))
        });
        let first = all.remove(best.unwrap_or(0));
        all.sort_by(|a, b| b.accuracy.total_cmp(&a.accuracy));
        all.insert(0, first);
        Ok(all)
    }

    /// Accuracy of `method` when it learns from every second sample of each class.
    pub(super) fn with_half(&self, method: Method, parts: &[Vec<usize>]) -> Result<f64> {
        let half = |others: Vec<usize>| {
            let mut seen = vec![0usize; self.classes.len()];
            let mut turn = |i: &usize| {
                let count = &mut seen[self.targets[*i] as usize];
                *count += 1;
                *count % 2 == 1
            };
            others.into_iter().filter(|i| turn(i)).collect()
        };
        Ok(share(&self.held_out(&self.heads(method, parts, half)?, parts, self.features)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::centred;

    /// Two classes whose means lie `distance` apart in the first feature.
    fn clusters(samples: usize, distance: f32) -> (Pooled, Vec<u32>, Vec<String>) {
        let width = 6;
        let mut values = centred("heads", samples * width, 1.0);
        let targets: Vec<u32> = (0..samples).map(|i| (i % 2) as u32).collect();
        values.chunks_exact_mut(width).zip(&targets).for_each(|(row, &t)| row[0] += distance * t as f32);
        (Pooled { values, width, samples: (0..samples).collect() }, targets, vec!["a".into(), "b".into()])
    }

    #[test]
    fn heads_are_right_where_the_classes_lie_apart_and_guess_where_they_do_not() {
        for (distance, low, high) in [(6.0, 0.99, 1.01), (0.0, 0.3, 0.7)] {
            let (features, targets, classes) = clusters(60, distance);
            let labelled = Labelled { features: &features, targets, classes: &classes };
            let parts = labelled.parts(Seed(1)).unwrap();
            assert_eq!(parts.len(), FOLDS);
            let all = labelled.judge(&parts).unwrap();
            assert_eq!(all.len(), METHODS.len());
            for judged in &all {
                assert!((low..high).contains(&judged.accuracy), "{distance}: {judged:?}");
            }
            if distance > 0.0 {
                assert_eq!(all[0].method, METHODS[0], "nothing is better than the usual one");
            }
        }
    }

    #[test]
    fn half_of_the_labels_are_half_of_each_class() {
        let (features, targets, classes) = clusters(40, 1.0);
        let labelled = Labelled { features: &features, targets, classes: &classes };
        let parts = labelled.parts(Seed(1)).unwrap();
        let half = labelled.with_half(METHODS[0], &parts).unwrap();
        let heads = labelled.heads(METHODS[0], &parts, |others| others).unwrap();
        let all = share(&labelled.held_out(&heads, &parts, &features));
        assert!(half > 0.5 && half <= all + 0.1, "{half} and {all}");
    }

    #[test]
    fn a_class_with_a_single_sample_is_named() {
        let (features, mut targets, classes) = clusters(8, 1.0);
        targets = targets.iter().map(|_| 0).collect();
        targets[3] = 1;
        let labelled = Labelled { features: &features, targets, classes: &classes };
        assert!(labelled.parts(Seed(0)).unwrap_err().to_string().contains("class \"b\""));
    }

    #[test]
    fn a_difference_has_the_standard_error_of_paired_judgements() {
        let (a, b) = ([true, true, true, false], [true, false, true, false]);
        let (mean, error) = difference(&a, &b);
        assert_eq!(mean, 0.25);
        assert!((error - (0.1875f64 / 4.0).sqrt()).abs() < 1e-12);
        assert_eq!(difference(&a, &a), (0.0, 0.0));
    }
}
