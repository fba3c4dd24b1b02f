//! What is asked of a sample, and all that depends on it: how a batch's loss is made, what an answer means.
//!
//! Of classes, exactly one is right; of labels, any number; values are measured. Of tokens, each row of a sample has a class;
//! of spans, one row is the first and one the last of a passage. Of matches, samples come in couples, and are to lie near
//! each other. A task has a name for each output of the head; matches have no head. Which scores judge it is told by
//! [`crate::metrics`], which data sets say it is for the domains.

mod cells;

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

pub use cells::{Cells, TaskArgs, Understood};

use crate::plan::{ClassWeights, Method, Penalty, Phase, Plan, Sampler, Train};
use crate::{Error, Result};

/// What is asked, with a name for each output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// What an output is.
    pub kind: Kind,
    /// Their names, in order.
    pub outputs: Vec<String>,
}

/// What the outputs of a head are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Classes, one of which a sample is of
    #[default]
    Classes,
    /// Labels, any number of which a sample has
    Labels,
    /// Numbers that a sample measures
    Values,
    /// Words, each of which has a label: names, parts of speech
    Tokens,
    /// Passages of a text that answer a question
    Spans,
    /// Couples of texts that belong to each other: their embeddings learn to lie together
    Matches,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Classes, Self::Labels, Self::Values, Self::Tokens, Self::Spans, Self::Matches];
    /// Those that tell something of each sample by itself.
    pub const OF_SAMPLES: [Self; 3] = [Self::Classes, Self::Labels, Self::Values];

    /// Whether each row of a sample has outputs of its own.
    pub fn of_rows(self) -> bool {
        matches!(self, Self::Tokens | Self::Spans)
    }

    /// Whether the head tells something of each sample by itself.
    pub fn of_samples(self) -> bool {
        Self::OF_SAMPLES.contains(&self)
    }

    /// The `problem_type` of a Hugging Face configuration, which speaks of whole samples only.
    pub fn problem_type(self) -> Option<&'static str> {
        match self {
            Self::Classes => Some("single_label_classification"),
            Self::Labels => Some("multi_label_classification"),
            Self::Values => Some("regression"),
            Self::Tokens | Self::Spans | Self::Matches => None,
        }
    }

    /// The kind of that `problem_type`.
    pub fn of_problem_type(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.problem_type() == Some(name))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Classes => "classes",
            Self::Labels => "labels",
            Self::Values => "values",
            Self::Tokens => "tokens",
            Self::Spans => "spans",
            Self::Matches => "matches",
        })
    }
}

/// The names of the outputs.
impl Deref for Task {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.outputs
    }
}

impl Task {
    /// To tell classes of these names apart.
    pub fn classes(names: Vec<String>) -> Self {
        Self { kind: Kind::Classes, outputs: names }
    }

    /// Whether it is of classes.
    pub fn is_classes(&self) -> bool {
        self.kind == Kind::Classes
    }

    /// Refuses what only makes sense of classes; `what` is the flag or verb that asks for it.
    ///
    /// # Errors
    /// When the task is another one.
    pub fn only_classes(&self, what: &str) -> Result<()> {
        if self.is_classes() {
            return Ok(());
        }
        let reason = format!("it compares samples by their class, and the data are of {}", self.kind);
        Err(Error::input(what, reason, "use it on data with one class a sample"))
    }

    /// Looks whether a plan makes sense of this task.
    ///
    /// # Errors
    /// Naming the phase that needs classes, or a setting that has no meaning.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        if self.is_classes() {
            return Ok(());
        }
        let kind = self.kind;
        for phase in &plan.phases {
            let found = match phase {
                Phase::Train(train) => self.foreign(train),
                Phase::Solve(solve) => match (solve.method, kind) {
                    (_, Kind::Matches) => Some("a head"),
                    (Method::Prototypes, _) => Some("means of classes"),
                    (Method::Logistic { .. }, Kind::Values) => Some("logistic regression"),
                    (Method::Ridge { .. }, Kind::Labels) => Some("ridge regression of classes"),
                    (Method::Logistic { .. } | Method::Ridge { .. }, Kind::Spans) => Some("a regression of samples"),
                    _ => None,
                },
                Phase::Combine(_) => None,
            };
            if let Some(found) = found {
                let reason = format!("the phase {:?} has {found}, which {kind} do not have", phase.name());
                return Err(Error::input(format!("--strategy {}", plan.strategy), reason, "use fine-tuning"));
            }
        }
        Ok(())
    }

    /// What a phase of descent has that only classes, or only labels, have.
    fn foreign(&self, train: &Train) -> Option<&'static str> {
        let objective = &train.objective;
        let by_class = |penalty: &Penalty| {
            matches!(penalty, Penalty::SourceLabels { .. } | Penalty::StartFeatures { attention: true, .. })
        };
        match self.kind {
            _ if train.pairs.is_some() => Some("pairs of a class"),
            _ if train.teacher.is_some() => Some("a teacher of classes"),
            _ if train.penalties.iter().any(by_class) => Some("a penalty by class"),
            Kind::Values | Kind::Spans | Kind::Matches if objective.label_smoothing > 0.0 => Some("smoothed labels"),
            Kind::Values | Kind::Spans | Kind::Matches if objective.class_weights != ClassWeights::None => {
                Some("weights of classes")
            }
            Kind::Matches if train.sampler == Sampler::Balanced => Some("classes to balance"),
            kind if !kind.of_samples() && train.mix.is_some() => Some("mixtures of samples"),
            _ => None,
        }
    }

    /// What logits say: of classes (of a sample or a row) and labels the probability of each, of values the numbers
    /// themselves; of spans the logits, which are told only beside those of other rows.
    pub fn answer(&self, logits: &[f32]) -> Vec<f32> {
        match self.kind {
            Kind::Classes | Kind::Tokens => {
                let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let powers: Vec<f32> = logits.iter().map(|x| (x - largest).exp()).collect();
                let sum: f32 = powers.iter().sum();
                powers.iter().map(|p| p / sum).collect()
            }
            Kind::Labels => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
            Kind::Values | Kind::Spans | Kind::Matches => logits.to_vec(),
        }
    }
}

/// Among the numbers of a sample of tokens, of which each row has one: a row without a label.
pub const UNLABELLED: f32 = -1.0;
/// The same, and a text begins there: no entity spans it.
pub const BEGINS: f32 = -2.0;

/// Groups of labels that are smaller are one.
const LEAST: usize = 10;

/// The groups by which samples are chosen, split and dealt, where they have no class: of `rows` of labels, the rarest label
/// that a sample has, those of rare groups and without a label together; of numbers, the tenth of the samples, in the order
/// of the first number, that it is in.
pub fn strata<R: AsRef<[f32]>>(kind: Kind, rows: &[R]) -> Vec<u32> {
    match kind {
        Kind::Classes | Kind::Tokens | Kind::Spans | Kind::Matches => vec![0; rows.len()],
        Kind::Labels => {
            let width = rows.first().map_or(0, |row| row.as_ref().len());
            let mut counts = vec![0usize; width];
            for row in rows {
                row.as_ref().iter().zip(&mut counts).for_each(|(&has, count)| *count += usize::from(has > 0.5));
            }
            let rarest = |row: &R| (0..width).filter(|&i| row.as_ref()[i] > 0.5).min_by_key(|&i| counts[i]);
            let mut groups: Vec<usize> = rows.iter().map(|row| rarest(row).unwrap_or(width)).collect();
            let mut sizes = vec![0usize; width + 1];
            groups.iter().for_each(|&group| sizes[group] += 1);
            groups.iter_mut().filter(|group| sizes[**group] < LEAST).for_each(|group| *group = width);
            groups.into_iter().map(|group| group as u32).collect()
        }
        Kind::Values => {
            let mut order: Vec<usize> = (0..rows.len()).collect();
            order.sort_by(|&a, &b| rows[a].as_ref()[0].total_cmp(&rows[b].as_ref()[0]));
            let tenths = (rows.len() / 10).clamp(1, 10);
            let mut strata = vec![0; rows.len()];
            for (place, sample) in order.into_iter().enumerate() {
                strata[sample] = (place * tenths / rows.len()) as u32;
            }
            strata
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_labels_are_grouped_by_the_rarest_they_have() {
        let row = |i: usize| vec![1.0, f32::from(u8::from(i < 10)), f32::from(u8::from(i == 30))];
        let rows: Vec<Vec<f32>> = (0..31).map(row).chain([vec![0.0; 3]]).collect();
        let strata = strata(Kind::Labels, &rows);
        assert_eq!((strata[0], strata[10], strata[30], strata[31]), (1, 0, 3, 3));
    }

    #[test]
    fn numbers_are_grouped_by_their_place_in_the_range() {
        let rows: Vec<Vec<f32>> = (0..40).map(|i| vec![((i * 7) % 40) as f32]).collect();
        let strata = strata(Kind::Values, &rows);
        for (row, stratum) in rows.iter().zip(strata) {
            assert_eq!(stratum, row[0] as u32 / 10);
        }
    }

    #[test]
    fn answers_are_probabilities_or_numbers() {
        let of = |kind| Task { kind, outputs: vec!["a".into(), "b".into()] }.answer(&[0.0, 0.0]);
        assert_eq!((of(Kind::Classes), of(Kind::Labels), of(Kind::Values)), (vec![0.5; 2], vec![0.5; 2], vec![0.0; 2]));
        let labels = Task { kind: Kind::Labels, outputs: vec!["a".into(), "b".into()] };
        assert_eq!(labels.answer(&[100.0, 100.0]), [1.0, 1.0]);
    }

    #[test]
    fn problem_types_come_back() {
        for kind in Kind::ALL {
            assert_eq!(
                kind.problem_type().and_then(Kind::of_problem_type),
                Some(kind).filter(|kind| kind.of_samples())
            );
        }
    }
}
