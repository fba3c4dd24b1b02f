//! What is measured before anything is advised: quantities by name, which the rules compare with bounds.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Something that can be measured of data, models and machine. All but [`Quantity::Shared`] are measured on the training
/// part alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quantity {
    /// Training samples within the budget.
    Labels,
    /// Those of each class, on average.
    LabelsPerClass,
    /// Those of the largest class over those of the smallest.
    Imbalance,
    /// Share of the training samples whose bytes occur more than once.
    Repeated,
    /// Share of the training samples whose bytes occur with another label too.
    Contradicted,
    /// Share of the validation samples whose bytes are among the training samples.
    Shared,
    /// 1 where a sample is a sequence of rows (a sentence), 0 where it is one row (a photo).
    Sequence,
    /// Cross-validated accuracy of the best head on frozen features.
    Head,
    /// One less that: what another strategy could gain at most.
    LeftToGain,
    /// How far that head gets from guessing the largest class (0) to no error (1): Cohen's kappa, near enough.
    Lift,
    /// Cross-validated accuracy with all labels, less that with half of them.
    Curve,
    /// Accuracy that the head loses on random views of the samples held out.
    ViewLoss,
    /// Share of the labels' entropy that the source head's labels explain: 1 + NCE / entropy.
    SourceShare,
    /// Peak memory of a step that learns everything, of the memory that the machine has.
    Memory,
    /// Samples that a comparison would hold out.
    HeldOut,
    /// Accuracy of the compared strategy on the samples held out, less that of the head.
    Gain,
    /// The same in standard errors of that difference.
    Certainty,
}

impl Quantity {
    /// What it is called in the printed rules.
    pub fn title(self) -> &'static str {
        match self {
            Self::Labels => "labelled samples",
            Self::LabelsPerClass => "labels a class",
            Self::Imbalance => "largest class / smallest",
            Self::Repeated => "samples that occur again",
            Self::Contradicted => "samples with two labels",
            Self::Shared => "validation samples seen in training",
            Self::Sequence => "sequences",
            Self::Head => "accuracy of a head on frozen features",
            Self::LeftToGain => "error of that head",
            Self::Lift => "that head's lift over guessing",
            Self::Curve => "gain from half of the labels to all",
            Self::ViewLoss => "loss on random views",
            Self::SourceShare => "label entropy that the source head explains",
            Self::Memory => "memory of a step / of the machine",
            Self::HeldOut => "samples a comparison holds out",
            Self::Gain => "gain of the compared strategy",
            Self::Certainty => "that gain in standard errors",
        }
    }

    /// A value of it, in its unit.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Labels | Self::LabelsPerClass | Self::HeldOut => format!("{value:.0}"),
            Self::Imbalance | Self::Certainty => format!("{value:.1}"),
            Self::Sequence => if value > 0.0 { "yes" } else { "no" }.into(),
            Self::Lift => format!("{value:.2}"),
            _ => format!("{:.1} %", 100.0 * value),
        }
    }
}

/// What was measured so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Measures(pub BTreeMap<Quantity, f64>);

impl Measures {
    /// Takes note of a value; one that is no number is as if it had not been measured.
    pub fn note(&mut self, quantity: Quantity, value: f64) {
        if value.is_finite() {
            self.0.insert(quantity, value);
        }
    }

    /// The value, where it was measured.
    pub fn get(&self, quantity: Quantity) -> Option<f64> {
        self.0.get(&quantity).copied()
    }
}

/// A bound that a quantity keeps or not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Condition {
    /// Of what.
    pub of: Quantity,
    /// Which side.
    pub is: Is,
    /// The bound.
    pub bound: f64,
}

/// Sides of a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Is {
    /// ≥
    AtLeast,
    /// <
    Below,
    /// >
    Above,
}

impl Condition {
    /// Whether it holds; what was not measured keeps no bound.
    pub fn holds(&self, measures: &Measures) -> bool {
        measures.get(self.of).is_some_and(|value| match self.is {
            Is::AtLeast => value >= self.bound,
            Is::Below => value < self.bound,
            Is::Above => value > self.bound,
        })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.is {
            Is::AtLeast => "≥",
            Is::Below => "<",
            Is::Above => ">",
        };
        match self.of {
            Quantity::Sequence => {
                write!(f, "samples are {}", if self.bound > 0.0 { "sequences" } else { "no sequences" })
            }
            of => write!(f, "{} {sign} {}", of.title(), of.show(self.bound)),
        }
    }
}
