//! Summands of the loss of a batch. Each looks at what comes out of some stages and is written with tensors that autograd
//! follows; [`super::gradient`] takes its gradient into the network.

mod features;
mod matches;
mod numbers;
mod pairs;
mod rows;
mod singular;
mod soft;

pub(super) use features::StartFeatures;
pub use matches::InBatchNegatives;
pub(crate) use matches::{SCALE, couples};
pub(super) use numbers::{BinaryCrossEntropy, SquaredError};
pub(super) use pairs::CosinePairs;
pub use rows::{RowLabels, SpanEnds};
pub(super) use singular::SingularValues;
pub(super) use soft::{Mimicry, SoftLabels, log_softmax};

use std::collections::BTreeMap;

use candle_core::Tensor;
use topwork_kernels::cross_entropy;

use crate::Result;
use crate::data::Activation;
use crate::net::Params;

/// A summand of the loss.
pub trait Term {
    /// The outputs that it looks at: 0 is the input of the pass, i what comes out of its i-th stage.
    fn observes(&self) -> Vec<usize>;

    /// Whether it compares them with those of the reference.
    fn compares(&self) -> bool {
        false
    }

    /// What its mean is over, of samples of these classes: the means of the parts of a batch add up to that of the whole, each by
    /// its share of this.
    fn mass(&self, targets: &[u32]) -> f64 {
        targets.len() as f64
    }

    /// Its value, a scalar.
    ///
    /// # Errors
    /// When an output has another shape than it needs.
    fn loss(&self, seen: &Seen<'_>) -> Result<Tensor>;
}

/// A term of a part of a batch, by its share of the whole.
pub(super) struct Portion<'a> {
    pub term: Box<dyn Term + 'a>,
    pub share: f64,
}

impl Term for Portion<'_> {
    fn observes(&self) -> Vec<usize> {
        self.term.observes()
    }

    fn compares(&self) -> bool {
        self.term.compares()
    }

    fn mass(&self, targets: &[u32]) -> f64 {
        self.term.mass(targets)
    }

    fn loss(&self, seen: &Seen<'_>) -> Result<Tensor> {
        Ok((self.term.loss(seen)? * self.share)?)
    }
}

/// What terms see of a batch.
pub struct Seen<'a> {
    /// The observed outputs, by number.
    pub outputs: &'a BTreeMap<usize, Activation>,
    /// Those of the reference.
    pub reference: &'a BTreeMap<usize, Activation>,
    /// All parameters.
    pub params: &'a Params,
    /// Class of each sample.
    pub targets: &'a [u32],
}

impl Seen<'_> {
    /// An observed output.
    ///
    /// # Errors
    /// When it was not observed: a defect.
    pub fn output(&self, i: usize) -> Result<&Tensor> {
        let found = self.outputs.get(&i).map(|output| &output.data);
        Ok(found.ok_or_else(|| candle_core::Error::Msg(format!("output {i} was not observed")))?)
    }

    /// How the rows of an observed output belong to samples.
    ///
    /// # Errors
    /// As [`Seen::output`].
    pub fn rows(&self, i: usize) -> Result<&crate::data::Rows> {
        let found = self.outputs.get(&i).map(|output| &output.rows);
        Ok(found.ok_or_else(|| candle_core::Error::Msg(format!("output {i} was not observed")))?)
    }

    /// The same of the reference.
    ///
    /// # Errors
    /// As [`Seen::output`].
    pub fn reference(&self, i: usize) -> Result<&Tensor> {
        let found = self.reference.get(&i).map(|output| &output.data);
        Ok(found.ok_or_else(|| candle_core::Error::Msg(format!("output {i} has no reference")))?)
    }
}

/// Cross-entropy of the logits against the classes.
pub struct CrossEntropy<'a> {
    /// The number of the output that is `[samples, classes]`.
    pub output: usize,
    /// Weights of the classes.
    pub class_weights: Option<&'a [f32]>,
    /// Share of the target spread evenly over all classes.
    pub label_smoothing: f64,
    /// Factor.
    pub share: f64,
    /// In a mixed batch, the other class of each sample and the share of the first one: share × loss of the one + (1 -
    /// share) × loss of the other.
    pub mixed: Option<(Vec<u32>, f64)>,
}

impl Term for CrossEntropy<'_> {
    fn observes(&self) -> Vec<usize> {
        vec![self.output]
    }

    fn mass(&self, targets: &[u32]) -> f64 {
        let Some(weights) = self.class_weights else { return targets.len() as f64 };
        let sum = |of: &[u32]| of.iter().map(|&class| f64::from(weights[class as usize])).sum::<f64>();
        match &self.mixed {
            None => sum(targets),
            Some((others, share)) => share * sum(targets) + (1.0 - share) * sum(others),
        }
    }

    fn loss(&self, seen: &Seen<'_>) -> Result<Tensor> {
        let logits = seen.output(self.output)?;
        let against = |targets: &[u32]| -> Result<Tensor> {
            let targets = Tensor::new(targets, logits.device())?;
            Ok(cross_entropy(logits, &targets, self.class_weights, self.label_smoothing)?)
        };
        let mut loss = against(seen.targets)?;
        if let Some((others, share)) = &self.mixed {
            loss = ((loss * *share)? + (against(others)? * (1.0 - share))?)?;
        }
        if self.share == 1.0 { Ok(loss) } else { Ok((loss * self.share)?) }
    }
}

#[cfg(test)]
mod tests;
