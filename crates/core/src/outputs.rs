//! What a model says of labelled samples, one by one: what scores sum up. Kept to look at the mistakes, and to find out how
//! far its confidence can be trusted.

use serde::Serialize;

use crate::data::{Dataset, Excerpt, Targets};
use crate::metrics::Metrics;
use crate::task::{Kind, Task};

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
    /// What is wrong.
    pub slip: Slip,
    /// What is shown of it.
    pub excerpt: Excerpt,
}

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Slip {
    /// Another class.
    Class {
        /// That of the sample.
        truth: usize,
        /// The one it is taken for.
        said: usize,
        /// How surely.
        probability: f32,
    },
    /// A label too much or too little.
    Label {
        /// Its name.
        label: String,
        /// Whether the sample has it.
        has: bool,
        /// How surely the contrary is said.
        probability: f32,
        /// Labels that are wrong beside it.
        others: usize,
    },
    /// A number that is far off.
    Value {
        /// What it measures.
        name: String,
        /// The number itself.
        truth: f32,
        /// The one that is said.
        said: f32,
    },
    /// Words with other labels than theirs, in the order of the text.
    Words(Vec<Word>),
    /// A passage that does not answer the question.
    Passage {
        /// The right answer; of a question without one, `None`.
        right: Option<String>,
        /// What is said; `None` where it is said that there is none.
        said: Option<String>,
        /// How surely, against the other best passages.
        probability: f32,
    },
}

/// A word with another label than its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    /// The word.
    pub text: String,
    /// Its label.
    pub truth: String,
    /// The label it is given.
    pub said: String,
    /// How surely.
    pub probability: f32,
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

    /// At most `most` wrong answers, the worst first, equally bad ones in the order of the samples: of classes, labels and words
    /// those that are surest, of values those that are furthest off, of passages those with least in common with the right
    /// one. Of matches none.
    pub fn mistakes(&self, task: &Task, data: &dyn Dataset, most: usize) -> Vec<Mistake> {
        if let Some(own) = data.mistakes(task, &self.samples, &self.logits, most) {
            return own;
        }
        let mut wrong: Vec<(usize, f32, Slip)> = match task.kind {
            Kind::Classes => self.rows().filter_map(|row| class(task, data, row)).collect(),
            Kind::Labels => self.rows().filter_map(|row| label(task, data, row)).collect(),
            Kind::Values => self.values(task, data),
            Kind::Tokens | Kind::Spans | Kind::Matches => Vec::new(),
        };
        wrong.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        wrong.truncate(most);
        let look = |(sample, _, slip)| {
            let name = data.name(sample);
            let excerpt = data.excerpt(sample).unwrap_or_else(|_| Excerpt::Text(name.clone()));
            Mistake { sample, name, slip, excerpt }
        };
        wrong.into_iter().map(look).collect()
    }

    /// The sample, the number that is furthest off against the deviation of its kind, and by how much.
    fn values(&self, task: &Task, data: &dyn Dataset) -> Vec<(usize, f32, Slip)> {
        let deviation = |output: usize| {
            let values: Vec<f64> = self.samples.iter().map(|&i| f64::from(data.numbers(i)[output])).collect();
            let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len().max(1) as f64;
            variance.sqrt().max(1e-12) as f32
        };
        let deviations: Vec<f32> = (0..task.len()).map(deviation).collect();
        let of_row = |(sample, said): (usize, &[f32])| {
            let truth = data.numbers(sample);
            let far = |i: usize| (said[i] - truth[i]).abs() / deviations[i];
            let worst = (0..task.len()).max_by(|&a, &b| far(a).total_cmp(&far(b)))?;
            let slip = Slip::Value { name: task[worst].clone(), truth: truth[worst], said: said[worst] };
            (said[worst] != truth[worst]).then(|| (sample, far(worst), slip))
        };
        self.rows().filter_map(of_row).collect()
    }
}

/// The class that a sample is mistaken for, and how surely.
fn class(task: &Task, data: &dyn Dataset, (sample, logits): (usize, &[f32])) -> Option<(usize, f32, Slip)> {
    let (truth, said) = (data.target(sample) as usize, best(logits));
    let probability = task.answer(logits)[said];
    (said != truth).then_some((sample, probability, Slip::Class { truth, said, probability }))
}

/// The surest of the labels that are wrong of a sample.
fn label(task: &Task, data: &dyn Dataset, (sample, logits): (usize, &[f32])) -> Option<(usize, f32, Slip)> {
    let wrong = task.answer(logits).into_iter().zip(data.numbers(sample)).enumerate().filter_map(|(i, (p, &truth))| {
        let has = truth > 0.5;
        ((p >= 0.5) != has).then_some((i, has, if has { 1.0 - p } else { p }))
    });
    let others = wrong.clone().count().saturating_sub(1);
    let (i, has, probability) = wrong.max_by(|a, b| a.2.total_cmp(&b.2))?;
    Some((sample, probability, Slip::Label { label: task[i].clone(), has, probability, others }))
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
        let brief: Vec<_> = found.iter().map(|m| (m.sample, m.name.as_str())).collect();
        assert_eq!(brief, [(2, "s2"), (4, "s4"), (5, "s5"), (0, "s0")]);
        let Slip::Class { truth: 0, said: 1, probability } = found[3].slip else { panic!("{:?}", found[3]) };
        assert!((probability - 1f32.exp() / (1f32.exp() + 1.0)).abs() < 1e-6);
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

    /// Samples with these numbers.
    struct Numbered(Vec<[f32; 2]>);

    impl Dataset for Numbered {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn target(&self, _: usize) -> u32 {
            0
        }
        fn numbers(&self, i: usize) -> &[f32] {
            &self.0[i]
        }
        fn name(&self, i: usize) -> String {
            format!("s{i}")
        }
        fn digest(&self, _: usize) -> Result<[u8; 32]> {
            Ok([0; 32])
        }
        fn load(&self, i: usize, _: View) -> Result<Sample> {
            Alternating.load(i, View::Plain)
        }
    }

    #[test]
    fn of_labels_the_surest_wrong_one_is_told() {
        let task = Task { kind: Kind::Labels, ..task() };
        let data = Numbered(vec![[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]);
        // Right; both wrong, the second more surely; the first wrong.
        let answers = Outputs { samples: vec![0, 1, 2], logits: vec![1., -1., -1., 2., 1., -3.] };
        let found = answers.mistakes(&task, &data, 9);
        assert_eq!(found.iter().map(|m| m.sample).collect::<Vec<_>>(), [1, 2]);
        let Slip::Label { label, has: false, probability, others: 1 } = &found[0].slip else { panic!("{found:?}") };
        assert!(label == "odd" && (probability - 2f32.exp() / (2f32.exp() + 1.0)).abs() < 1e-6);
        // A label that is missing is as surely denied.
        let answers = Outputs { samples: vec![1], logits: vec![-2., -1.] };
        let found = answers.mistakes(&task, &data, 9);
        let Slip::Label { has: true, probability, others: 0, .. } = found[0].slip else { panic!("{found:?}") };
        assert!((probability - 2f32.exp() / (2f32.exp() + 1.0)).abs() < 1e-6);
    }

    #[test]
    fn of_values_the_furthest_off_against_their_spread_come_first() {
        let task = Task { kind: Kind::Values, ..task() };
        let data = Numbered(vec![[0.0, 0.0], [1.0, 100.0], [2.0, 200.0], [3.0, 300.0]]);
        let answers = Outputs { samples: vec![0, 1, 2, 3], logits: vec![0., 0., 1., 110., 3., 200., 3., 600.] };
        let found = answers.mistakes(&task, &data, 9);
        let brief: Vec<_> = found.iter().map(|m| (m.sample, m.slip.clone())).collect();
        let value = |name: &str, truth, said| Slip::Value { name: name.into(), truth, said };
        assert_eq!(brief, [(3, value("odd", 300., 600.)), (2, value("even", 2., 3.)), (1, value("odd", 100., 110.))]);
    }
}
