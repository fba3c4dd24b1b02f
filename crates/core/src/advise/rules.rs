//! The rules, all of them, as one table: under which conditions, what is advised, why, and who says so.
//!
//! A rule applies when all its conditions hold. Warnings and settings of every rule that applies count; of the rules that
//! say what to compare, and of those that say what to take, the first that applies decides.

use std::fmt;

use serde::Serialize;

use super::measures::{Condition, Is, Measures, Quantity};
use crate::plan::{BatchNormMode, ClassWeights};
use crate::strategy::{Defaults, Options};

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rule {
    /// What to call it.
    pub name: &'static str,
    /// All of these have to hold.
    pub when: &'static [Condition],
    /// What it advises.
    pub then: Then,
    /// Why.
    pub because: &'static str,
    /// A paper, or a measurement of ours.
    pub source: &'static str,
}

/// What a rule advises.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// Something to know or to mend.
    Warn(&'static str),
    /// A setting of the training.
    Set(Setting),
    /// What is trained on half of the labels beside the head, and judged on samples held out.
    Compare(&'static [Course]),
    /// The strategy.
    Take(Take),
}

/// A setting that a rule changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// Classes weigh the same in the loss.
    BalancedClasses,
    /// No random views.
    PlainViews,
    /// Batch normalization keeps the statistics of the source.
    SourceStatistics,
}

impl Setting {
    /// The options with it.
    pub(super) fn put(self, options: &mut Options) {
        match self {
            Self::BalancedClasses => options.class_weights = Some(ClassWeights::Balanced),
            Self::PlainViews => options.augment = Some(false),
            Self::SourceStatistics => options.batch_norm = Some(BatchNormMode::Frozen),
        }
    }
}

/// A strategy to take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Take {
    /// The head that judged best, on the frozen backbone.
    Head,
    /// The best of those that were compared.
    Compared,
    /// This one.
    Course(Course),
}

/// A strategy with what differs from its defaults.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Course {
    /// The strategy.
    pub strategy: &'static str,
    /// Factor on the head's learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_rate: Option<f64>,
    /// Its learning rate over that of fine-tuning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Samples a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
}

impl Course {
    const fn of(strategy: &'static str) -> Self {
        Self { strategy, head_rate: None, rate: None, batch_size: None }
    }

    /// `options` with what differs.
    pub(super) fn options(&self, options: &Options, defaults: &Defaults) -> Options {
        let learning_rate = self.rate.map(|factor| factor * defaults.fine_tuning.learning_rate);
        let batch_size = self.batch_size.or(options.batch_size);
        Options { learning_rate, head_rate: self.head_rate, batch_size, ..options.clone() }
    }
}

impl fmt::Display for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.strategy)?;
        self.rate.map_or(Ok(()), |rate| write!(f, " at {rate} times the rate of fine-tuning"))?;
        self.head_rate.map_or(Ok(()), |rate| write!(f, " with the head {rate} times as fast"))?;
        self.batch_size.map_or(Ok(()), |size| write!(f, " in batches of {size}"))
    }
}

impl fmt::Display for Then {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Warn(text) => write!(f, "{text}"),
            Self::Set(Setting::BalancedClasses) => write!(f, "weigh classes against their frequency"),
            Self::Set(Setting::PlainViews) => write!(f, "train on plain views"),
            Self::Set(Setting::SourceStatistics) => {
                write!(f, "leave the statistics of batch normalization as they are")
            }
            Self::Compare([]) => write!(f, "compare nothing"),
            Self::Compare(courses) => {
                let names: Vec<String> = courses.iter().map(ToString::to_string).collect();
                write!(f, "compare {} with the head: half of the labels teach, half judge", names.join(", "))
            }
            Self::Take(Take::Head) => write!(f, "take the best head on the frozen backbone"),
            Self::Take(Take::Compared) => write!(f, "take the best of what was compared"),
            Self::Take(Take::Course(course)) => write!(f, "take {course}"),
        }
    }
}

const fn at_least(of: Quantity, bound: f64) -> Condition {
    Condition { of, is: Is::AtLeast, bound }
}

const fn below(of: Quantity, bound: f64) -> Condition {
    Condition { of, is: Is::Below, bound }
}

const fn above(of: Quantity, bound: f64) -> Condition {
    Condition { of, is: Is::Above, bound }
}

use Quantity::*;

const LP_FT: Course = Course::of("lp-ft");
/// What was learned elsewhere has to move farther.
const LP_FT_FAR: Course = Course { rate: Some(3.0), ..Course::of("lp-ft") };
const PAIRS: Course = Course::of("contrastive-few-shot");
/// A head from random numbers has to get somewhere in few steps.
const GRADUAL: Course = Course { head_rate: Some(10.0), ..Course::of("gradual-unfreezing") };
/// Four times its own rate: few labels make few steps. With more than some thousands that is not measured.
const LORA: Course = Course { rate: Some(40.0), ..Course::of("lora") };
/// As many steps of half the texts each: half the work, and more often better than worse.
const LORA_FEW: Course = Course { batch_size: Some(8), ..LORA };

/// The table.
pub static RULES: &[Rule] = &[
    Rule {
        name: "shared-samples",
        when: &[above(Shared, 0.0)],
        then: Then::Warn("remove from one part what is in both: the validation figure of any strategy will flatter"),
        because: "a model remembers what it has seen, so that samples of both parts do not judge it",
        source: "Barz & Denzler, Do We Train on Test Data?, 2020",
    },
    Rule {
        name: "contradictions",
        when: &[above(Contradicted, 0.0)],
        then: Then::Warn("look at the samples that occur with two labels"),
        because: "no strategy can be right about both; what they cost is lost before training begins",
        source: "Northcutt et al., Pervasive Label Errors in Test Sets, 2021",
    },
    Rule {
        name: "repeated-samples",
        when: &[at_least(Repeated, 0.02)],
        then: Then::Warn("the cross-validated figures below flatter: some of a part held out was learned from"),
        because: "the same sample may be in two folds",
        source: "Barz & Denzler 2020",
    },
    Rule {
        name: "few-to-judge",
        when: &[below(Labels, 100.0)],
        then: Then::Warn("the figures below move by several points with the choice of the samples"),
        because: "the standard error of an accuracy from fewer than 100 samples is up to 5 points and more",
        source: "binomial: √(p (1 - p) / n)",
    },
    Rule {
        name: "still-rising",
        when: &[at_least(Curve, 0.03), at_least(Labels, 40.0)],
        then: Then::Warn("label more samples if you can: twice as many may bring as much again"),
        because: "accuracy still rises from half of the labels to all of them",
        source: "Cortes et al., Learning Curves, 1993",
    },
    Rule {
        name: "uneven-classes",
        when: &[at_least(Imbalance, 3.0), below(Imbalance, 10.0)],
        then: Then::Warn("judge by macro-F1 beside accuracy"),
        because: "accuracy says little of the small classes",
        source: "He & Garcia, Learning from Imbalanced Data, 2009",
    },
    Rule {
        name: "rare-classes",
        when: &[at_least(Imbalance, 10.0)],
        then: Then::Set(Setting::BalancedClasses),
        because: "the loss of a class that is ten times rarer is ten times smaller, and it is all but ignored",
        source: "King & Zeng, Logistic Regression in Rare Events Data, 2001; He & Garcia 2009",
    },
    Rule {
        name: "views-mislead",
        when: &[at_least(ViewLoss, 0.1)],
        then: Then::Set(Setting::PlainViews),
        because: "mirrored and cropped samples no longer look like their class to the backbone (a mirrored digit is another \
                  one or none)",
        source: "our measurement on the digits",
    },
    Rule {
        name: "far-from-the-source",
        when: &[below(SourceShare, 0.6), at_least(Labels, 200.0)],
        then: Then::Warn("expect features to have to change: what is frozen was made for something else"),
        because: "the labels that the source head gives these samples say little of their classes",
        source: "Tran et al., Transferability and Hardness (NCE), 2019",
    },
    Rule {
        name: "source-statistics",
        when: &[below(Sequence, 1.0), below(Labels, 5000.0)],
        then: Then::Set(Setting::SourceStatistics),
        because: "the solved head and the weights were made for the statistics of the source, and few samples in few steps \
                  make worse ones",
        source: "our measurement on the digits: fine-tuning 34 % with statistics that are updated, 79 % without",
    },
    Rule {
        name: "no-memory",
        when: &[at_least(Memory, 0.9)],
        then: Then::Compare(&[]),
        because: "a step of fine-tuning does not fit into this machine's memory",
        source: "measured here",
    },
    Rule {
        name: "nothing-to-compare-for",
        when: &[below(LeftToGain, 0.05)],
        then: Then::Compare(&[]),
        because: "the head is nearly always right; what another strategy could add is less than such a comparison can show",
        source: "our measurement on ants-bees",
    },
    Rule {
        name: "too-few-to-compare",
        when: &[below(HeldOut, 30.0)],
        then: Then::Compare(&[]),
        because: "on fewer than 30 samples held out a difference has a standard error of 7 points and more: chance would decide",
        source: "Dietterich, Approximate Statistical Tests, 1998",
    },
    Rule {
        name: "too-few-texts-to-compare",
        when: &[at_least(Sequence, 1.0), below(Labels, 200.0)],
        then: Then::Compare(&[]),
        because: "half of so few labels says too little of what all of them do: what was better with all of them lost on half \
                  as often as not",
        source: "our measurement on short texts (docs/advise.md)",
    },
    Rule {
        name: "far-photos-worth-comparing",
        when: &[below(Sequence, 1.0), at_least(HeldOut, 30.0), below(SourceShare, 0.6)],
        then: Then::Compare(&[LP_FT_FAR]),
        because: "far from the source the features have to move farther, and a larger rate takes them there in as many steps",
        source: "Li et al., Rethinking the Hyperparameters for Fine-tuning, 2020; our measurement on the digits",
    },
    Rule {
        name: "photos-worth-comparing",
        when: &[below(Sequence, 1.0), at_least(HeldOut, 30.0)],
        then: Then::Compare(&[LP_FT]),
        because: "whether it is worth its time depends on the data more than on anything known beforehand; half of the labels \
                  show it, and of what moves the whole backbone this is the safest",
        source: "Kumar et al. 2022; our comparison of all strategies",
    },
    Rule {
        name: "texts-worth-comparing",
        when: &[at_least(Sequence, 1.0), at_least(HeldOut, 30.0), below(Labels, 2000.0)],
        then: Then::Compare(&[LORA]),
        because: "whether it is worth its time depends on the data more than on anything known beforehand; half of the labels \
                  show it, and with few texts it was the best or at most some points below",
        source: "Hu et al. 2022; our comparison of all strategies",
    },
    Rule {
        name: "many-texts-worth-comparing",
        when: &[at_least(Sequence, 1.0), at_least(HeldOut, 30.0), at_least(Labels, 2000.0)],
        then: Then::Compare(&[LP_FT]),
        because: "with labels in plenty all of the backbone can learn, and from a head that is solved it does not begin by \
                  forgetting",
        source: "Kumar et al. 2022",
    },
    Rule {
        name: "too-large-for-memory",
        when: &[at_least(Memory, 0.9)],
        then: Then::Take(Take::Head),
        because: "a head on kept features needs a hundredth of the memory",
        source: "measured here",
    },
    Rule {
        name: "near-ceiling",
        when: &[below(LeftToGain, 0.05)],
        then: Then::Take(Take::Head),
        because: "the frozen features tell the classes apart already, and a head is fitted in seconds",
        source: "Kornblith et al., Do Better ImageNet Models Transfer Better?, 2019; our measurement on ants-bees",
    },
    Rule {
        name: "texts-won",
        when: &[at_least(Sequence, 1.0), at_least(Gain, 0.0), at_least(LabelsPerClass, 32.0), below(Labels, 2000.0)],
        then: Then::Take(Take::Course(GRADUAL)),
        because: "learning in the backbone pays, as what was compared shows; with labels enough this is what makes most of it \
                  on texts",
        source: "Howard & Ruder 2018; our comparison of all strategies",
    },
    Rule {
        name: "comparison-won",
        when: &[at_least(Gain, 0.0)],
        then: Then::Take(Take::Compared),
        because: "trained on half of the labels, it was as good as the head or better on samples that neither had seen, and it \
                  gains more from the other half",
        source: "measured here; Hernandez et al., Scaling Laws for Transfer, 2021",
    },
    Rule {
        name: "weak-features",
        when: &[at_least(Certainty, -1.0), below(Lift, 0.6)],
        then: Then::Take(Take::Compared),
        because: "the comparison does not decide; the frozen features hold little of what tells the classes apart, and with all \
                  labels there is more to change them by",
        source: "Kumar et al. 2022; our comparison of all strategies",
    },
    Rule {
        name: "comparison-lost",
        when: &[below(Gain, 0.0)],
        then: Then::Take(Take::Head),
        because: "trained on half of the labels, it was worse than the head on samples that neither had seen",
        source: "measured here",
    },
    Rule {
        name: "few-texts-weak-features",
        when: &[at_least(Sequence, 1.0), below(Labels, 64.0), below(Lift, 0.5)],
        then: Then::Take(Take::Course(PAIRS)),
        because: "the frozen features hardly tell the classes apart; pairs make many lessons of few labels, and move the \
                  features where a head cannot",
        source: "Tunstall et al., SetFit, 2022; our comparison of all strategies",
    },
    Rule {
        name: "few-texts",
        when: &[at_least(Sequence, 1.0), below(Labels, 200.0)],
        then: Then::Take(Take::Course(LORA_FEW)),
        because: "with few texts it was above the head on every set, and the best strategy or within a point or two of it",
        source: "Hu et al. 2022; our comparison of all strategies",
    },
    Rule {
        name: "otherwise-the-head",
        when: &[],
        then: Then::Take(Take::Head),
        because: "nothing speaks for a strategy that takes longer",
        source: "Kornblith et al. 2019",
    },
];

impl Rule {
    /// Whether all its conditions hold.
    pub fn applies(&self, measures: &Measures) -> bool {
        self.when.iter().all(|condition| condition.holds(measures))
    }

    /// The numbers that its conditions look at.
    pub fn numbers(&self, measures: &Measures) -> String {
        let one = |c: &Condition| Some(format!("{}: {}", c.of.title(), c.of.show(measures.get(c.of)?)));
        self.when.iter().filter_map(one).collect::<Vec<_>>().join(", ")
    }
}

/// The rules that have a say for `measures` and that `asks` for, in the order of the table.
pub(super) fn that_apply(measures: &Measures, asks: impl Fn(&Then) -> bool) -> impl Iterator<Item = &'static Rule> {
    RULES.iter().filter(move |rule| asks(&rule.then) && rule.applies(measures))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn measured(all: &[(Quantity, f64)]) -> Measures {
        Measures(all.iter().copied().collect())
    }

    /// Measures that keep every bound of a rule but the one that is to be `broken`.
    fn situation(rule: &Rule, broken: Option<usize>) -> Measures {
        let mut measures = Measures::default();
        for condition in rule.when {
            let inside = match condition.is {
                Is::AtLeast => 0.0,
                Is::Below => -1e-9,
                Is::Above => 1e-9,
            };
            measures.note(condition.of, condition.bound + inside);
        }
        if let Some(condition) = broken.map(|i| rule.when[i]) {
            let outside = if condition.is == Is::AtLeast { -1e-9 } else { 0.0 };
            measures.note(condition.of, condition.bound + outside);
        }
        measures
    }

    #[test]
    fn every_rule_applies_where_its_conditions_hold_and_nowhere_else() {
        for rule in RULES {
            assert!(rule.applies(&situation(rule, None)), "{}", rule.name);
            for (i, condition) in rule.when.iter().enumerate() {
                assert!(!rule.applies(&situation(rule, Some(i))), "{}: {condition}", rule.name);
                let mut unknown = situation(rule, None);
                unknown.0.remove(&condition.of);
                assert!(!rule.applies(&unknown), "{}: what was not measured keeps no bound", rule.name);
            }
        }
    }

    #[test]
    fn names_are_unique_and_every_rule_says_why_and_whence() {
        let names: BTreeSet<&str> = RULES.iter().map(|rule| rule.name).collect();
        assert_eq!(names.len(), RULES.len());
        assert!(RULES.iter().all(|rule| rule.because.len() > 20 && rule.source.len() > 10));
    }

    #[test]
    fn whatever_is_measured_one_rule_decides_the_strategy() {
        assert!(RULES.last().is_some_and(|rule| rule.when.is_empty() && matches!(rule.then, Then::Take(_))));
    }

    #[test]
    fn the_first_rule_that_applies_decides() {
        let take = |all: &[(Quantity, f64)]| {
            let first = that_apply(&measured(all), |then| matches!(then, Then::Take(_))).next().unwrap();
            (first.name, first.then)
        };
        let few = [(LabelsPerClass, 8.0), (Labels, 40.0), (HeldOut, 20.0), (LeftToGain, 0.3), (Lift, 0.4)];
        let with = |more: &[(Quantity, f64)]| [&few[..], more].concat();
        assert_eq!(take(&with(&[(Sequence, 1.0)])).0, "few-texts-weak-features");
        assert_eq!(take(&with(&[(Sequence, 1.0), (Lift, 0.7)])).0, "few-texts");
        assert_eq!(take(&with(&[(Sequence, 0.0)])).0, "otherwise-the-head");
        assert_eq!(take(&with(&[(LeftToGain, 0.03), (Sequence, 1.0)])).0, "near-ceiling");
        let compared = |gain, certainty, sequence, per_class| {
            let labels =
                [(Sequence, sequence), (LabelsPerClass, per_class), (Labels, 10.0 * per_class), (HeldOut, 60.0)];
            with(&[&labels[..], &[(Gain, gain), (Certainty, certainty)]].concat())
        };
        assert_eq!(take(&compared(0.1, 1.2, 0.0, 64.0)), ("comparison-won", Then::Take(Take::Compared)));
        assert_eq!(take(&compared(0.1, 1.2, 1.0, 64.0)).0, "texts-won");
        assert_eq!(take(&compared(0.1, 1.2, 1.0, 8.0)).0, "comparison-won");
        assert_eq!(take(&compared(-0.1, -0.2, 1.0, 64.0)).0, "weak-features");
        assert_eq!(take(&compared(-0.1, -1.2, 1.0, 64.0)), ("comparison-lost", Then::Take(Take::Head)));
        assert_eq!(take(&with(&[(Gain, 0.1), (Memory, 0.95)])).0, "too-large-for-memory");
    }
}
