//! Loss and gradients of one batch: what one step of descent, and a measurement of it, computes.
//!
//! The loss is a sum of [`Term`]s, each a function of what comes out of some stages. On the CPU the stages run on a
//! [`Tape`] and the terms alone on candle's autograd: their gradients enter the tape where their outputs left it.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Tensor, Var};

use super::terms::{CrossEntropy, Seen, Term};
use crate::Result;
use crate::data::Activation;
use crate::net::forward::{Mode, Pass};
use crate::net::tape::{Gradients, Tape};
use crate::net::{Params, Stage};

/// What the gradient is of.
pub struct Objective<'a> {
    /// The stages to run (the head among them), and whether something in each learns.
    pub stages: Vec<(&'a Stage, bool)>,
    /// The sum of these is the loss.
    pub terms: Vec<Box<dyn Term + 'a>>,
    /// Parameters with which the same batch takes the same pass (batch statistics and dropout included), for terms that
    /// compare with it.
    pub reference: Option<&'a Params>,
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

impl<'a> Objective<'a> {
    /// Plain cross-entropy of what comes out of the last of `stages`.
    pub fn of_classes(stages: Vec<(&'a Stage, bool)>) -> Self {
        let plain =
            CrossEntropy { output: stages.len(), class_weights: None, label_smoothing: 0.0, share: 1.0, mixed: None };
        Self { stages, terms: vec![Box::new(plain)], reference: None, recompute: false }
    }

    /// Runs a batch forward and, unless its loss is not finite, backward.
    ///
    /// # Errors
    /// When a parameter is missing or of another shape, or the device is out of memory.
    pub fn gradient(&self, params: &Params, mode: Mode, input: &Activation, targets: &[u32]) -> Result<Gradient> {
        if !input.data.device().is_cpu() {
            return self.with_autograd(params, mode, input, targets);
        }
        let observed = self.observed();
        let reference = match self.reference {
            Some(start) => Tape::new(start, mode, false).forward(&self.stages, input, &self.compared())?,
            None => BTreeMap::new(),
        };
        let mut tape = Tape::new(params, mode, self.recompute);
        let mut outputs = tape.forward(&self.stages, input, &observed)?;
        let mut leaves = BTreeMap::new();
        for (&i, output) in &mut outputs {
            let leaf = Var::from_tensor(&output.data)?;
            output.data = leaf.as_tensor().clone();
            leaves.insert(i, leaf);
        }
        let value = self.loss(&Seen { outputs: &outputs, reference: &reference, params, targets })?;
        let loss = f64::from(value.to_scalar::<f32>()?);
        if !loss.is_finite() {
            return Ok(Gradient { loss, grads: None, statistics: Vec::new() });
        }
        let found = value.backward()?;
        let entering = leaves.iter().filter_map(|(&i, leaf)| Some((i, found.get(leaf)?.clone())));
        let (mut grads, statistics) = tape.backward(entering.collect())?;
        // Parameters that terms use beside the network, or once more.
        for (name, var) in params.learning() {
            let Some(of_terms) = found.get(var) else { continue };
            let sum = match grads.get(name) {
                Some(of_network) => topwork_kernels::add(of_network, of_terms)?,
                None => of_terms.clone(),
            };
            grads.insert(name.clone(), sum);
        }
        Ok(Gradient { loss, grads: Some(grads), statistics })
    }

    /// The outputs that terms look at.
    fn observed(&self) -> BTreeSet<usize> {
        self.terms.iter().flat_map(|term| term.observes()).collect()
    }

    /// The outputs that terms compare with those of the reference.
    fn compared(&self) -> BTreeSet<usize> {
        self.terms.iter().filter(|term| term.compares()).flat_map(|term| term.observes()).collect()
    }

    fn loss(&self, seen: &Seen<'_>) -> Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        for term in &self.terms {
            let value = term.loss(seen)?;
            sum = Some(match sum {
                Some(sum) => (sum + value)?,
                None => value,
            });
        }
        Ok(sum.ok_or_else(|| candle_core::Error::Msg("an objective without terms".into()))?)
    }

    /// The same through candle's autograd, on any device.
    ///
    /// # Errors
    /// As [`Objective::gradient`].
    pub fn with_autograd(&self, params: &Params, mode: Mode, input: &Activation, targets: &[u32]) -> Result<Gradient> {
        let run = |params: &Params, observed: &BTreeSet<usize>| -> Result<_> {
            let pass = Pass::new(params, mode);
            let mut activation = input.clone();
            let mut outputs = BTreeMap::from([(0, input.clone())]);
            for (i, (stage, learns)) in (1..).zip(&self.stages) {
                activation = pass.stage(stage, activation, *learns)?;
                if observed.contains(&i) {
                    outputs.insert(i, activation.clone());
                }
            }
            Ok((outputs, pass.finish()))
        };
        let reference = match self.reference {
            Some(start) => run(start, &self.compared())?.0,
            None => BTreeMap::new(),
        };
        let (outputs, statistics) = run(params, &self.observed())?;
        let value = self.loss(&Seen { outputs: &outputs, reference: &reference, params, targets })?;
        let loss = f64::from(value.to_scalar::<f32>()?);
        if !loss.is_finite() {
            return Ok(Gradient { loss, grads: None, statistics });
        }
        let grads = value.backward()?;
        let found = params.learning().iter().filter_map(|(name, var)| Some((name.clone(), grads.get(var)?.clone())));
        Ok(Gradient { loss, grads: Some(found.collect()), statistics })
    }
}
