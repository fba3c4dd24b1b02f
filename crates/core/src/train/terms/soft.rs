//! Targets that are no class: the answers of a teacher, and those that a source label would give.

use candle_core::{D, Tensor};

use super::{Seen, Term};
use crate::Result;

/// ln of the softmax over the last dimension.
pub fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let top = logits.detach().max_keepdim(D::Minus1)?;
    let shifted = logits.broadcast_sub(&top)?;
    Ok(shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?)
}

/// The features through a linear layer beside the network, if there is one.
fn through(layer: Option<&str>, features: &Tensor, seen: &Seen<'_>) -> Result<Tensor> {
    let Some(prefix) = layer else { return Ok(features.clone()) };
    let (weight, bias) = (seen.params.get(&format!("{prefix}.weight"))?, seen.params.get(&format!("{prefix}.bias"))?);
    Ok(topwork_kernels::linear(features, &weight, Some(&bias))?)
}

/// `weight · T² · KL(target ‖ softmax(logits / T))`, the mean over samples: Hinton et al. 2015, *Distilling the knowledge
/// in a neural network*, where T² keeps the gradients' size; with T = 1 and targets by source label, You et al. 2020,
/// *Co-Tuning*, equation 4 (but for the constant entropy of the targets).
pub struct SoftLabels<'a> {
    /// The number of the output that holds the logits, or the features if there is a layer.
    pub output: usize,
    /// A linear layer beside the network that makes logits of features: its parameters' prefix.
    pub layer: Option<&'a str>,
    /// ln of the target distributions, `[samples, classes]`.
    pub targets: Tensor,
    /// Factor.
    pub weight: f64,
    /// T.
    pub temperature: f64,
}

impl Term for SoftLabels<'_> {
    fn observes(&self) -> Vec<usize> {
        vec![self.output]
    }

    fn loss(&self, seen: &Seen<'_>) -> Result<Tensor> {
        let logits = through(self.layer, seen.output(self.output)?, seen)?;
        let answers = log_softmax(&(logits / self.temperature)?)?;
        let samples = self.targets.dims()[0] as f64;
        let divergence = (self.targets.exp()? * (&self.targets - answers)?)?.sum_all()?;
        Ok((divergence * (self.weight * self.temperature.powi(2) / samples))?)
    }
}

/// `weight ·` the mean squared difference between the features, through a linear regressor where the widths differ, and
/// those of a teacher (Romero et al. 2015, *FitNets*, equation 3).
pub struct Mimicry<'a> {
    /// The number of the output that holds the features.
    pub output: usize,
    /// The regressor: its parameters' prefix.
    pub layer: Option<&'a str>,
    /// The teacher's features `[samples, width]`.
    pub targets: Tensor,
    /// Factor.
    pub weight: f64,
}

impl Term for Mimicry<'_> {
    fn observes(&self) -> Vec<usize> {
        vec![self.output]
    }

    fn loss(&self, seen: &Seen<'_>) -> Result<Tensor> {
        let features = through(self.layer, seen.output(self.output)?, seen)?;
        Ok(((features - &self.targets)?.sqr()?.mean_all()? * self.weight)?)
    }
}
