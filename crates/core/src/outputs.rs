//! What a model says of labelled samples, one by one: what scores sum up. Kept to look at the mistakes, and to find out how
//! far its confidence can be trusted.

use serde::Serialize;

use crate::data::{Dataset, Excerpt, Targets};
use crate::metrics::Metrics;
use crate::task::Task;

/// The outputs of a head on some samples of a data set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outputs {
    /// Which samples.
    pub samples: Vec<usize>,
    /// `[samples × outputs]`, row-major.
    pub logits: Vec<f32>,
}

/// An answer that is wrong, to look at.
#[derive(Debug, Clone, PartialEq)]
pub struct Mistake {
    /// The sample's number in its data set.
    pub sample: usize,
    /// What it is called.
    pub name: String,
    /// Its class.
    pub truth: usize,
    /// The class it is taken for.
    pub said: usize,
    /// How surely.
    pub probability: f32,
    /// What is shown of it.
    pub excerpt: Excerpt,
}

/// How good the answers are that are sure enough to be given.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Selected {
    /// The least probability of an answer.
    pub reject_below: f64,
    /// Samples with an answer.
    pub answered: u64,
    /// Their share.
    pub coverage: f64,
    /// The share of these that is right; 0 without any.
    pub accuracy: f64,
}

impl Outputs {
    /// The outputs for each sample.
    pub fn rows(&self) -> impl Iterator<Item = (usize, &[f32])> + Clone {
        let width = self.logits.len() / self.samples.len().max(1);
        self.samples.iter().copied().zip(self.logits.chunks_exact(width.max(1)))
    }

    /// What the samples should be told to be.
    pub fn targets(&self, data: &dyn Dataset) -> Targets {
        Targets::of(data, self.samples.iter().copied())
    }

    /// The scores of these answers.
    pub fn metrics(&self, task: &Task, data: &dyn Dataset) -> Metrics {
        let own = data.judge(&self.samples, &self.logits);
        own.unwrap_or_else(|| Metrics::of(task, &self.targets(data), &self.logits))
    }

    /// The same with logits divided by `temperature`.
    pub fn at(&self, temperature: f64) -> Self {
        if temperature == 1.0 {
            return self.clone();
        }
        let logits = self.logits.iter().map(|&z| (f64::from(z) / temperature) as f32).collect();
        Self { samples: self.samples.clone(), logits }
    }

    /// Of classes, what is left if nothing is said below a probability of `least`.
    pub fn above(&self, least: f64, task: &Task, data: &dyn Dataset) -> Selected {
        let (mut answered, mut right) = (0, 0);
        for (sample, logits) in self.rows() {
            let said = best(logits);
            if f64::from(task.answer(logits)[said]) >= least {
                answered += 1;
                right += u64::from(said == data.target(sample) as usize);
            }
        }
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let coverage = share(answered, self.samples.len() as u64);
        Selected { reject_below: least, answered, coverage, accuracy: share(right, answered) }
    }

    /// Of classes, at most `most` wrong answers: the surest first, equally sure ones in the order of the samples.
    pub fn mistakes(&self, task: &Task, data: &dyn Dataset, most: usize) -> Vec<Mistake> {
        if !task.is_classes() {
            return Vec::new();
        }
        let wrong = self.rows().filter_map(|(sample, logits)| {
            let (truth, said) = (data.target(sample) as usize, best(logits));
            (said != truth).then(|| (sample, truth, said, task.answer(logits)[said]))
        });
        let mut wrong: Vec<_> = wrong.collect();
        wrong.sort_by(|a, b| b.3.total_cmp(&a.3).then(a.0.cmp(&b.0)));
        wrong.truncate(most);
        let look = |(sample, truth, said, probability)| {
            let name = data.name(sample);
            let excerpt = data.excerpt(sample).unwrap_or_else(|_| Excerpt::Text(name.clone()));
            Mistake { sample, name, truth, said, probability, excerpt }
        };
        wrong.into_iter().map(look).collect()
    }
}

/// The largest output, the first of equal ones.
pub fn best(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, c| if logits[c] > logits[best] { c } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Result;
    use crate::data::{Sample, View};

    /// Sample i is of class i % 2.
    struct Alternating;

    impl Dataset for Alternating {
        fn len(&self) -> usize {
            8
        }
        fn target(&self, i: usize) -> u32 {
            (i % 2) as u32
        }
        fn name(&self, i: usize) -> String {
            format!("s{i}")
        }
        fn digest(&self, _: usize) -> Result<[u8; 32]> {
            Ok([0; 32])
        }
        fn load(&self, i: usize, _: View) -> Result<Sample> {
            Err(crate::Error::input(self.name(i), "is never loaded", "look at its name"))
        }
    }

    fn task() -> Task {
        Task::classes(vec!["even".into(), "odd".into()])
    }

    #[test]
    fn the_surest_mistakes_come_first_and_right_answers_not_at_all() {
        let answers = Outputs { samples: vec![0, 1, 2, 5, 4], logits: vec![0., 1., 0., 9., 0., 3., 3., 0., 0., 3.] };
        let found = answers.mistakes(&task(), &Alternating, 9);
        let brief: Vec<_> = found.iter().map(|m| (m.sample, m.truth, m.said, m.name.as_str())).collect();
        assert_eq!(brief, [(2, 0, 1, "s2"), (4, 0, 1, "s4"), (5, 1, 0, "s5"), (0, 0, 1, "s0")]);
        assert!((found[3].probability - 1f32.exp() / (1f32.exp() + 1.0)).abs() < 1e-6);
        assert_eq!(found[0].excerpt, Excerpt::Text("s2".into()));
        assert_eq!(answers.mistakes(&task(), &Alternating, 2).len(), 2);
    }

    #[test]
    fn answers_that_are_not_sure_enough_do_not_count() {
        // Right and sure, wrong and less so, right and unsure.
        let answers = Outputs { samples: vec![0, 2, 1], logits: vec![4., 0., 0., 2., 0., 1.] };
        let of = |least| answers.above(least, &task(), &Alternating);
        let all = Selected { reject_below: 0.0, answered: 3, coverage: 1.0, accuracy: 2.0 / 3.0 };
        assert_eq!(of(0.0), all);
        assert_eq!((of(0.8).answered, of(0.8).accuracy), (2, 0.5));
        assert_eq!((of(0.9).answered, of(0.9).coverage, of(0.9).accuracy), (1, 1.0 / 3.0, 1.0));
        assert_eq!((of(0.999).answered, of(0.999).accuracy), (0, 0.0));
        // Twice as hot, e² / (1 + e²) is 0.88.
        assert_eq!(answers.at(2.0).above(0.9, &task(), &Alternating).answered, 0);
    }

    #[test]
    fn what_is_not_of_classes_has_no_mistakes() {
        let task = Task { kind: crate::task::Kind::Values, ..task() };
        let answers = Outputs { samples: vec![0], logits: vec![1.0, 2.0] };
        assert!(answers.mistakes(&task, &Alternating, 9).is_empty());
    }
}
