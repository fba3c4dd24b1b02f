//! Loss and gradients of one batch: what one step of descent, and a measurement of it, computes.

use candle_core::{Tensor, Var};
use topwork_kernels::cross_entropy;

use crate::Result;
use crate::data::Activation;
use crate::net::forward::{Mode, Pass};
use crate::net::tape::{Gradients, Tape};
use crate::net::{Params, Stage};

/// What the gradient is of.
pub struct Objective<'a> {
    /// The stages to run and the head, and whether something in each learns.
    pub stages: Vec<(&'a Stage, bool)>,
    /// Weights of the classes in the loss.
    pub class_weights: Option<&'a [f32]>,
    /// Share of the target spread evenly over all classes.
    pub label_smoothing: f64,
    /// Keep only the stages' inputs and compute the stages again on the way back. On the CPU.
    pub recompute: bool,
}

/// What [`Objective::gradient`] gives.
pub struct Gradient {
    /// The batch's loss.
    pub loss: f64,
    /// By parameter; absent when the loss is not finite.
    pub grads: Option<Gradients>,
    /// The running statistics that the pass moved, by name.
    pub statistics: Vec<(String, Tensor)>,
}

impl Objective<'_> {
    /// Runs a batch forward and, unless its loss is not finite, backward.
    ///
    /// # Errors
    /// When a parameter is missing or of another shape, or the device is out of memory.
    pub fn gradient(&self, params: &Params, mode: Mode, input: &Activation, targets: &[u32]) -> Result<Gradient> {
        if !input.data.device().is_cpu() {
            return self.with_autograd(params, mode, input, targets);
        }
        let mut tape = Tape::new(params, mode, self.recompute);
        let logits = Var::from_tensor(&tape.forward(&self.stages, input)?.data)?;
        let value = self.loss(logits.as_tensor(), targets)?;
        let loss = f64::from(value.to_scalar::<f32>()?);
        let wrong = |what: &str| candle_core::Error::Msg(what.into());
        if !loss.is_finite() {
            return Ok(Gradient { loss, grads: None, statistics: Vec::new() });
        }
        let grads = value.backward()?;
        let (grads, statistics) = tape.backward(grads.get(&logits).ok_or_else(|| wrong("a loss without gradient"))?)?;
        Ok(Gradient { loss, grads: Some(grads), statistics })
    }

    fn loss(&self, logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
        let targets = Tensor::new(targets, logits.device())?;
        Ok(cross_entropy(logits, &targets, self.class_weights, self.label_smoothing)?)
    }

    /// The same through candle's autograd, on any device.
    ///
    /// # Errors
    /// As [`Objective::gradient`].
    pub fn with_autograd(&self, params: &Params, mode: Mode, input: &Activation, targets: &[u32]) -> Result<Gradient> {
        let pass = Pass::new(params, mode);
        let mut activation = input.clone();
        for (stage, learns) in &self.stages {
            activation = pass.stage(stage, activation, *learns)?;
        }
        let value = self.loss(&activation.data, targets)?;
        let loss = f64::from(value.to_scalar::<f32>()?);
        let statistics = pass.finish();
        if !loss.is_finite() {
            return Ok(Gradient { loss, grads: None, statistics });
        }
        let grads = value.backward()?;
        let found = params.learning().iter().filter_map(|(name, var)| Some((name.clone(), grads.get(var)?.clone())));
        Ok(Gradient { loss, grads: Some(found.collect()), statistics })
    }
}
