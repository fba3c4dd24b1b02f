//! The frozen forward pass: consecutive stages compiled once, run without gradients.

use candle_core::Device;

use super::forward::{Mode, Pass};
use super::{Params, Stage};
use crate::Result;
use crate::data::Activation;

/// Consecutive stages, ready to run.
pub struct Frozen {
    stages: Vec<Stage>,
    params: Params,
}

impl Frozen {
    /// Compiles `stages`, which follow each other.
    ///
    /// # Errors
    /// When a parameter is missing or of another shape.
    pub fn compile(stages: &[&Stage], params: &Params, _device: &Device) -> Result<Self> {
        let stages = stages.iter().map(|&stage| stage.clone()).collect();
        Ok(Self { stages, params: Params::new(params.snapshot()) })
    }

    /// Runs a batch.
    ///
    /// # Errors
    /// When its shape is not what the first stage takes, or the device is out of memory.
    pub fn run(&self, input: &Activation) -> Result<Activation> {
        let pass = Pass::new(&self.params, Mode::Eval);
        self.stages.iter().try_fold(input.clone(), |x, stage| pass.stage(stage, x, false))
    }
}
