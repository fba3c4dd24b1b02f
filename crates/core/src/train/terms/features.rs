//! The distance of feature maps from those of the start, channel by channel (Li et al. 2019, *DELTA*, equations 4 and 5).

use candle_core::Tensor;

use super::{Seen, Term};
use crate::Result;

/// `weight · ½ C · mean over positions of Σ_c a_c (f_c - f*_c)²`, summed over stages: f is what comes out of a stage, f*
/// what comes out of it at the start's parameters, C its number of channels. A position is a pixel of a photo or a row of
/// a text.
pub struct StartFeatures<'a> {
    /// Factor.
    pub weight: f64,
    /// The numbers of the outputs, each with its attention a `[channels]`, which sums to 1.
    pub stages: &'a [(usize, Vec<f32>)],
}

impl Term for StartFeatures<'_> {
    fn observes(&self) -> Vec<usize> {
        self.stages.iter().map(|(i, _)| *i).collect()
    }

    fn compares(&self) -> bool {
        true
    }

    fn loss(&self, seen: &Seen<'_>) -> Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        for (i, attention) in self.stages {
            let (now, start) = (seen.output(*i)?, seen.reference(*i)?.detach());
            let channels = attention.len();
            let attention = Tensor::new(attention.as_slice(), now.device())?;
            let squares = (now - start)?.sqr()?.reshape(((), channels))?.mean(0)?;
            let distance = ((squares * attention)?.sum_all()? * (0.5 * self.weight * channels as f64))?;
            sum = Some(match sum {
                Some(sum) => (sum + distance)?,
                None => distance,
            });
        }
        Ok(sum.ok_or_else(|| candle_core::Error::Msg("no stages to compare".into()))?)
    }
}
