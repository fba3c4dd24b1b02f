//! The phase that mixes weights: of an earlier moment of the run and now, or of several finished runs.

use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::Tensor;

use super::Run;
use super::feed::Split;
use crate::cache::ViewSeed;
use crate::metrics::Metrics;
use crate::net::Params;
use crate::plan::{Choice, Combine, Mixture};
use crate::{Error, Result};

impl Run<'_> {
    /// Executes a phase of kind `combine`.
    pub(super) fn combine(&mut self, phase: &Combine) -> Result<()> {
        let start = Instant::now();
        let elsewhere = |run: &Self| ["load", "validate"].map(|part| run.timings.seconds(part)).iter().sum::<f64>();
        let before = elsewhere(self);
        match &phase.mixture {
            Mixture::Earlier { phases, alpha } => self.mix_with(*phases, *alpha)?,
            Mixture::Runs { runs, choice: Choice::Uniform } => {
                let members = runs.iter().map(|name| self.member(name)).collect::<Result<Vec<_>>>()?;
                self.take(mean(&members)?)?;
            }
            Mixture::Runs { runs, choice: Choice::Greedy } => self.greedy(runs)?,
        }
        self.timings.add("combine", start, 0);
        self.timings.deduct("combine", elsewhere(self) - before);
        self.conclude()
    }

    /// (1 - alpha) × the parameters after `phases` phases + alpha × the present ones.
    fn mix_with(&mut self, phases: usize, alpha: f64) -> Result<()> {
        let changed: Vec<String> = self.touched.iter().cloned().collect();
        for name in changed {
            let earlier = match self.earlier.get(&phases).and_then(|values| values.get(&name)) {
                Some(value) => value.clone(),
                None => self.start.get(&name)?,
            };
            // The ends are taken as they are: 0 × a + b may differ from b in the sign of a zero.
            let value = match alpha {
                0.0 => earlier,
                1.0 => continue,
                _ => ((earlier * (1.0 - alpha))? + (self.params.get(&name)? * alpha)?)?,
            };
            self.params.set(&name, value)?;
        }
        Ok(())
    }

    /// The greedy soup (Wortsman et al. 2022, algorithm 1).
    fn greedy(&mut self, runs: &[String]) -> Result<()> {
        let validation = Split::open(self, "validation", 0, vec![ViewSeed::Plain], false)?;
        let mut judged: Vec<(Metrics, &String)> = Vec::new();
        for name in runs {
            self.take(self.member(name)?)?;
            let metrics = self.validate(&validation, 0)?;
            self.job.observer.message(&format!("{name}: {metrics}"));
            judged.push((metrics, name));
        }
        judged.sort_by(|(a, _), (b, _)| b.score().total_cmp(&a.score()).then(a.loss.total_cmp(&b.loss)));
        let (mut chosen, mut best) = (Vec::new(), f64::NEG_INFINITY);
        for (_, name) in judged {
            chosen.push(self.member(name)?);
            self.take(mean(&chosen)?)?;
            let metrics = self.validate(&validation, 0)?;
            if metrics.score() >= best {
                best = metrics.score();
                self.job.observer.message(&format!("with {name}: {metrics}"));
            } else {
                chosen.pop();
                self.job.observer.message(&format!("with {name}: {metrics}, so it is left out"));
            }
        }
        self.take(mean(&chosen)?)
    }

    fn member(&self, name: &str) -> Result<BTreeMap<String, Tensor>> {
        let params = self.job.companions.runs.get(name);
        params.map(Params::snapshot).ok_or_else(|| Error::input(name, "this run was not opened", "name it in the plan"))
    }

    /// Takes over all parameters of the network from `values`.
    fn take(&mut self, values: BTreeMap<String, Tensor>) -> Result<()> {
        for spec in self.job.network.params() {
            if let Some(value) = values.get(&spec.name) {
                self.params.set(&spec.name, value.clone())?;
                self.touched.insert(spec.name);
            }
        }
        Ok(())
    }
}

/// The mean of several sets of parameters; of one, the very same.
fn mean(members: &[BTreeMap<String, Tensor>]) -> Result<BTreeMap<String, Tensor>> {
    let mut sum = members.first().cloned().unwrap_or_default();
    for member in members.iter().skip(1) {
        for (name, value) in &mut sum {
            let other = member.get(name).ok_or_else(|| candle_core::Error::Msg(format!("a run without {name:?}")))?;
            *value = (&*value + other)?;
        }
    }
    if members.len() > 1 {
        for value in sum.values_mut() {
            *value = (&*value / members.len() as f64)?;
        }
    }
    Ok(sum)
}
