//! The running mean of what learns, which takes its place where a phase is judged and when it ends (Polyak & Juditsky 1992,
//! *Acceleration of Stochastic Approximation by Averaging*).
//!
//! After step t, counted from 0, mean ← mean + (1 - d) (value - mean) with d = min(decay, (1 + t) / (10 + t)): the first steps,
//! far from where the phase ends, are forgotten sooner. Running statistics are averaged as parameters are.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use topwork_kernels::pull_step;

use super::Run;
use crate::Result;

impl Run<'_> {
    /// Moves the means towards what learns and the statistics called `updated`, after `taken` steps before this one.
    pub(super) fn follow(&mut self, decay: f64, taken: usize, updated: &[String]) -> Result<()> {
        let taken = taken as f64;
        let share = decay.min((1.0 + taken) / (10.0 + taken));
        let learning: Vec<String> = self.params.learning().keys().cloned().collect();
        for name in learning.iter().chain(updated) {
            let value = self.params.get(name)?.detach();
            match self.average.get(name) {
                Some(mean) => pull_step(mean, &value, share)?,
                None => drop(self.average.insert(name.clone(), Var::from_tensor(&value.copy()?)?)),
            }
        }
        Ok(())
    }

    /// Puts the means in the place of what they follow; gives what was there.
    pub(super) fn exchange(&mut self) -> Result<BTreeMap<String, Tensor>> {
        let mut there = BTreeMap::new();
        for (name, mean) in &self.average {
            there.insert(name.clone(), self.params.get(name)?.detach().copy()?);
            self.params.set(name, mean.as_detached_tensor().copy()?)?;
        }
        Ok(there)
    }
}
