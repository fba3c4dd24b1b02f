//! What happens when a loss or its gradient is no number, and why it may be so.

use serde::{Deserialize, Serialize};

use super::Run;
use super::feed::Input;
use crate::cache::host_values;
use crate::data::Rows;
use crate::plan::Train;
use crate::{Error, Result};

/// What to do then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnNan {
    /// End the run, telling the step, its samples and the likely cause
    #[default]
    Stop,
    /// Leave out the step; an error where more than one in ten is
    Skip,
    /// Go back to the last checkpoint, or to the beginning, and on at half the rate; an error at the sixth time
    Rollback,
}

/// Steps that may be left out before one in ten decides.
const FEW: usize = 5;
/// How often a run may go back.
const MOST_CUTS: u32 = 5;

impl OnNan {
    /// Whether step `taken`, counted from 0, may be left out after so many that were.
    pub fn leaves_out(self, skipped: usize, taken: usize) -> bool {
        self == Self::Skip && skipped < FEW.max((taken + 1) / 10)
    }

    /// Whether a run may go back after it did so often.
    pub fn goes_back(self, cuts: u32) -> bool {
        self == Self::Rollback && cuts < MOST_CUTS
    }
}

/// The share of the planned rate that is left after going back so often.
pub fn rate_share(cuts: u32) -> f64 {
    0.5f64.powi(cuts as i32)
}

impl Run<'_> {
    /// `what`, the loss or the norm of its gradient, is `number` in step `taken`: an error, unless the step is to be left out.
    pub(super) fn diverged(
        &mut self,
        phase: &Train,
        input: &Input,
        taken: usize,
        what: &str,
        number: f64,
    ) -> Result<()> {
        let job = self.job;
        let names: Vec<String> = input.indices.iter().take(5).map(|&i| job.train.name(i)).collect();
        let more = if input.indices.len() > 5 { ", …" } else { "" };
        let cause = self.cause(phase, input)?;
        let error = Error::input(
            format!("step {} of phase {:?}", taken + 1, phase.name),
            format!("the {what} is {number} on the samples {}{more}; {cause}", names.join(", ")),
            format!(
                "lower --learning-rate (now {:e}), set --clip-norm, look at these samples, or start anew with --on-nan skip or rollback",
                phase.learning_rate * self.rate_share()
            ),
        );
        match job.on_nan {
            OnNan::Stop => Err(error),
            OnNan::Skip => {
                if !job.on_nan.leaves_out(self.position.skipped, taken) {
                    return Err(error);
                }
                self.position.skipped += 1;
                job.observer
                    .message(&format!("warning: step {} is left out: the {what} is {number}; {cause}", taken + 1));
                Ok(())
            }
            OnNan::Rollback => {
                self.goes_back = true;
                Err(error)
            }
        }
    }

    /// The share of the planned rate that is left after going back.
    pub(super) fn rate_share(&self) -> f64 {
        rate_share(self.position.cuts)
    }

    /// The likely cause, from what can be seen: the numbers of the batch, the weights, or else the rate.
    fn cause(&self, phase: &Train, input: &Input) -> Result<String> {
        if input.activation.data.dtype().is_float() {
            let values = host_values(&input.activation.data)?;
            let row = values.len() / input.activation.data.dims()[0].max(1);
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                let sample = match &input.activation.rows {
                    Rows::One => at / row.max(1),
                    Rows::Each(lengths) => {
                        let ends = lengths.iter().scan(0, |end, length| {
                            *end += length;
                            Some(*end)
                        });
                        ends.take_while(|end| end * row <= at).count()
                    }
                };
                let name = input.indices.get(sample).map_or_else(String::new, |&i| self.job.train.name(i));
                return Ok(format!("what is computed of {name} is no number before any stage that learns"));
            }
        }
        let stages = self.stages_from(phase.boundary);
        Ok(match self.params.unbounded(stages.iter().flat_map(|stage| stage.params()))? {
            Some(name) => {
                let since = if self.position.step + self.position.epoch == 0 { "as the model came" } else { "by now" };
                format!("the parameter {name} holds numbers without bound {since}")
            }
            None => "batch and weights are sound, so the rate is probably too high for them".into(),
        })
    }

    /// Goes back to the last checkpoint, or the beginning, for the time number `cuts`.
    pub(super) fn go_back(&mut self, cuts: u32) -> Result<()> {
        self.resume()?;
        self.position.cuts = self.position.cuts.max(cuts);
        let share = self.rate_share();
        self.job.observer.message(&format!("warning: going back, and on at {share} of the learning rate"));
        Ok(())
    }
}
