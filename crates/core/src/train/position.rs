//! Checkpoints: where a run stands, written so that a run that continues from one ends in the same bytes.
//!
//! The tensors are `params/…`, `best/…`, `average/…`, `optimizer/…` and `earlier/…`; the value beside them is the [`Position`].

use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::{Tensor, Var};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{EpochRecord, Job, Run};
use crate::cache::{boundary_key, host_values};
use crate::metrics::Metrics;
use crate::net::{Params, Stage};
use crate::run::another;
use crate::snapshots::{self, Sealed};
use crate::{Error, Result};

/// Samples whose contents are read at a time for the digest.
const READ: usize = 4096;

/// Where a run stands: everything that is not a tensor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Position {
    /// Digest of what the run is: plan, network, start, data, seed.
    pub identity: String,
    /// Number of the checkpoint.
    pub number: usize,
    /// Phases complete.
    pub phase: usize,
    /// Epochs complete in the phase.
    pub epoch: usize,
    /// Steps complete in the epoch.
    pub step: usize,
    /// Sum of the losses of these steps, and of how many.
    pub loss: (f64, usize),
    /// Steps of the optimizer.
    pub optimizer_steps: u64,
    /// Judged epochs since the best one.
    pub stale: usize,
    /// The best scores of the phase, where it keeps the best.
    pub best: Option<Metrics>,
    /// The latest scores; at a phase's end those of the parameters kept.
    pub metrics: Option<Metrics>,
    /// All epochs so far.
    pub history: Vec<EpochRecord>,
    /// Steps left out because the loss was no number.
    #[serde(default)]
    pub skipped: usize,
    /// How often the run went back for that reason.
    #[serde(default)]
    pub cuts: u32,
    /// Length of `metrics.jsonl`.
    pub recorded: u64,
    /// BLAKE3 of the tensors' file.
    pub digest: String,
}

impl Position {
    pub fn next_phase(&mut self) {
        self.phase += 1;
        (self.epoch, self.step, self.loss, self.stale, self.best) = (0, 0, (0.0, 0), 0, None);
    }
}

/// A digest of everything that decides what a run becomes.
pub(super) fn identity(job: &Job<'_>, start: &Params) -> Result<String> {
    let stages: Vec<&Stage> = job.network.stages.iter().chain([&job.network.head]).collect();
    let mut hasher = blake3::Hasher::new();
    let precision = job.device.precision;
    hasher.update(boundary_key(&stages, start, job.fingerprint, precision)?.as_bytes());
    for (name, params) in &job.companions.runs {
        hasher.update(format!("{name} {}", boundary_key(&stages, params, "", precision)?).as_bytes());
    }
    for (name, teacher) in &job.companions.teachers {
        let stages: Vec<&Stage> = teacher.network.stages.iter().chain([&teacher.network.head]).collect();
        let key = boundary_key(&stages, &teacher.params, &teacher.fingerprint, precision)?;
        hasher.update(format!("{name} {key}").as_bytes());
    }
    if let Some((weight, bias)) = &job.companions.source_head {
        for tensor in [weight, bias] {
            let bytes: Vec<u8> = host_values(tensor)?.into_iter().flat_map(f32::to_le_bytes).collect();
            hasher.update(&bytes);
        }
    }
    hasher.update(format!("{:?} {:?} {:?}", job.plan, job.seed, job.task).as_bytes());
    for dataset in [&job.train, &job.validation] {
        hasher.update(&(dataset.len() as u64).to_le_bytes());
        let all: Vec<usize> = (0..dataset.len()).collect();
        for some in all.chunks(READ) {
            if job.observer.pause() {
                return Err(Error::Stopped {
                    remedy: "the data were still being read, and nothing is learned yet".into(),
                });
            }
            // What cannot be read now is told where it is used.
            let contents: Vec<_> = some.par_iter().map(|&i| dataset.digest(i).unwrap_or_default()).collect();
            for (&i, content) in some.iter().zip(contents) {
                hasher.update(&dataset.target(i).to_le_bytes());
                dataset.numbers(i).iter().for_each(|number| _ = hasher.update(&number.to_le_bytes()));
                hasher.update(&content);
            }
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

impl Sealed for Position {
    fn digest(&mut self) -> &mut String {
        &mut self.digest
    }
}

impl Run<'_> {
    /// Writes a checkpoint of the present state.
    pub(super) fn save(&mut self, optimizer: &BTreeMap<String, Tensor>, optimizer_steps: u64) -> Result<()> {
        let start = Instant::now();
        let mut tensors = BTreeMap::new();
        for name in &self.touched {
            tensors.insert(format!("params/{name}"), self.params.get(name)?.detach());
        }
        tensors.extend(self.best.iter().map(|(name, value)| (format!("best/{name}"), value.clone())));
        let means = self.average.iter();
        tensors.extend(means.map(|(name, mean)| (format!("average/{name}"), mean.as_detached_tensor())));
        tensors.extend(optimizer.iter().map(|(name, value)| (format!("optimizer/{name}"), value.clone())));
        for (phases, values) in &self.earlier {
            tensors.extend(values.iter().map(|(name, value)| (format!("earlier/{phases}/{name}"), value.clone())));
        }
        self.position.number += 1;
        self.position.optimizer_steps = optimizer_steps;
        snapshots::write(&self.job.run.checkpoints(), self.position.number, &tensors, &mut self.position)?;
        self.job.run.keep();
        self.timings.add("checkpoint", start, 0);
        (self.saving, self.saved) = (start.elapsed(), Instant::now());
        Ok(())
    }

    /// Continues from the latest checkpoint, or from the start when the run did not get as far as one.
    pub(super) fn resume(&mut self) -> Result<()> {
        let run = self.job.run;
        let Some((position, tensors)) = snapshots::latest::<Position>(&run.checkpoints()) else {
            self.job.observer.message("there is no checkpoint yet; the run starts anew");
            return run.rewind(0);
        };
        if position.identity != self.position.identity {
            return Err(another(run.path()));
        }
        let device = self.job.device;
        for (key, value) in tensors {
            let value = value.to_device(device)?;
            if let Some(name) = key.strip_prefix("params/") {
                self.params.set(name, value)?;
                self.touched.insert(name.to_string());
            } else if let Some(name) = key.strip_prefix("best/") {
                self.best.insert(name.to_string(), value);
            } else if let Some(name) = key.strip_prefix("average/") {
                self.average.insert(name.to_string(), Var::from_tensor(&value)?);
            } else if let Some(name) = key.strip_prefix("optimizer/") {
                self.restored.insert(name.to_string(), value);
            } else if let Some((phases, name)) = key.strip_prefix("earlier/").and_then(|rest| rest.split_once('/'))
                && let Ok(phases) = phases.parse()
            {
                self.earlier.entry(phases).or_default().insert(name.to_string(), value);
            }
        }
        run.rewind(position.recorded)?;
        let (phase, epoch, step) = (position.phase + 1, position.epoch + 1, position.step);
        self.job.observer.message(&format!("continuing in phase {phase}, epoch {epoch}, after step {step}"));
        self.position = position;
        Ok(())
    }
}
