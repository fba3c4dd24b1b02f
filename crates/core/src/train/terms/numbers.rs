//! Losses of tasks whose targets are numbers: labels that a sample has or has not, and measured values.

use candle_core::Tensor;

use super::{Seen, Term};
use crate::Result;

/// Mean over samples and labels of the binary cross-entropy of the logits, w y softplus(-x) + (1 - y) softplus(x).
pub struct BinaryCrossEntropy {
    /// The number of the output that is `[samples, labels]`.
    pub output: usize,
    /// y, of the same shape: 1 for a label that a sample has, 0 for one that it has not, or between.
    pub targets: Tensor,
    /// w of each label, `[labels]`.
    pub weights: Option<Tensor>,
}

/// Mean over samples and values of the squared error.
pub struct SquaredError {
    /// The number of the output that is `[samples, values]`.
    pub output: usize,
    /// The values, of the same shape.
    pub targets: Tensor,
}

impl Term for BinaryCrossEntropy {
    fn observes(&self) -> Vec<usize> {
        vec![self.output]
    }

    fn loss(&self, seen: &Seen<'_>) -> Result<Tensor> {
        let logits = seen.output(self.output)?;
        // softplus(-|x|) is the same for x and -x.
        let soft = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?;
        let absent = (logits.relu()? + &soft)?;
        let mut present = (logits.neg()?.relu()? + soft)?;
        if let Some(weights) = &self.weights {
            present = present.broadcast_mul(weights)?;
        }
        let rest = self.targets.affine(-1.0, 1.0)?;
        Ok(((present * &self.targets)? + (absent * rest)?)?.mean_all()?)
    }
}

impl Term for SquaredError {
    fn observes(&self) -> Vec<usize> {
        vec![self.output]
    }

    fn loss(&self, seen: &Seen<'_>) -> Result<Tensor> {
        Ok((seen.output(self.output)? - &self.targets)?.sqr()?.mean_all()?)
    }
}
