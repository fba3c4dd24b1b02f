//! Pairs of samples: the cosine of their features is to be 1 within a class and 0 between classes (the objective of
//! sentence-transformers' `CosineSimilarityLoss`, with which SetFit trains: Tunstall et al. 2022).

use candle_core::{D, Tensor};

use super::{Seen, Term};
use crate::Result;

/// Mean over pairs of (cos(u, v) - \[same class\])².
pub struct CosinePairs {
    /// The number of the output that is `[samples, features]`.
    pub output: usize,
    /// Rows of the two samples of each pair.
    pub pairs: Vec<(u32, u32)>,
}

/// PyTorch's bound on the product of the lengths.
const EPS: f64 = 1e-8;

impl Term for CosinePairs {
    fn observes(&self) -> Vec<usize> {
        vec![self.output]
    }

    fn loss(&self, seen: &Seen<'_>) -> Result<Tensor> {
        let features = seen.output(self.output)?;
        let device = features.device();
        let (first, second): (Vec<u32>, Vec<u32>) = self.pairs.iter().copied().unzip();
        let same = |(a, b): &(u32, u32)| f32::from(seen.targets[*a as usize] == seen.targets[*b as usize]);
        let wanted = Tensor::new(self.pairs.iter().map(same).collect::<Vec<f32>>(), device)?;
        let rows = |of: Vec<u32>| -> Result<Tensor> { Ok(features.index_select(&Tensor::new(of, device)?, 0)?) };
        Ok((cosine(&rows(first)?, &rows(second)?)? - wanted)?.sqr()?.mean_all()?)
    }
}

/// The cosine of the angle between the rows of `u` and those of `v`, `[rows]`.
fn cosine(u: &Tensor, v: &Tensor) -> Result<Tensor> {
    let dot = (u * v)?.sum(D::Minus1)?;
    let lengths = (u.sqr()?.sum(D::Minus1)? * v.sqr()?.sum(D::Minus1)?)?;
    Ok((dot / (lengths + EPS * EPS)?.sqrt()?)?)
}
