//! The phase of gradient descent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::feed::{Input, Split};
use super::gradient::{Gradient, Objective};
use super::{EpochRecord, Optimizer, Run, StepRecord, check, stopped};
use crate::cache::ViewSeed;
use crate::loader::epoch_batches;
use crate::metrics::Metrics;
use crate::net::forward::Mode;
use crate::plan::Train;
use crate::{Error, Result};
use candle_core::Tensor;

/// A line in `metrics.jsonl` every so many steps.
const RECORD_EVERY: usize = 10;
/// A phase that does not watch for the best epoch is judged about this often.
const JUDGEMENTS: usize = 5;

impl Run<'_> {
    /// Executes a phase of kind `train`, from where the position says.
    pub(super) fn descend(&mut self, phase: &Train) -> Result<()> {
        let job = self.job;
        let seed = job.seed.named("phase").child(self.position.phase as u64);
        let views = self.views(phase);
        let train = Split::open(self, "training", phase.boundary, views, false)?;
        let validation = Split::open(self, "validation", phase.boundary, vec![ViewSeed::Plain], false)?;

        let members: Vec<_> =
            phase.learning(job.network).into_iter().map(|(s, rate, _)| (s.name, s.role, rate)).collect();
        let names: BTreeSet<String> = members.iter().map(|(name, ..)| name.clone()).collect();
        if names.is_empty() {
            return Err(Error::input(format!("phase {:?}", phase.name), "nothing learns in it", "check its rules"));
        }
        self.params.set_learning(&names)?;
        self.touched.extend(names);
        let mut optimizer = Optimizer::new(phase.optimizer, members);
        optimizer.restore(&std::mem::take(&mut self.restored), self.position.optimizer_steps, job.device)?;

        let indices = train.readable();
        let mut loss = Loss::of(self, phase);
        while self.position.epoch < phase.epochs && !self.exhausted(phase) {
            let epoch = self.position.epoch;
            let order = seed.named("shuffle").child(epoch as u64);
            let mut batches = epoch_batches(&indices, phase.batch_size, order);
            loss.steps = (batches.len(), batches.len() * phase.epochs);
            let rest = batches.split_off(self.position.step.min(batches.len()));
            let fresh = match phase.augment {
                true => ViewSeed::Random(seed.named("view").child(epoch as u64)),
                false => ViewSeed::Plain,
            };
            let mut batches = train.batches(rest, epoch, fresh, job.threads);
            while let Some(input) = batches.next(self)? {
                if let Some(input) = input.filter(|input| input.indices.len() > 1 || !loss.needs_two) {
                    self.step(phase, &input, &train, &mut optimizer, &loss)?;
                }
                self.position.step += 1;
                let done = epoch * loss.steps.0 + self.position.step;
                job.observer.progress("train", done, loss.steps.1);
                let last = self.position.step == loss.steps.0;
                if !last && job.checkpoint_every.is_some_and(|every| done.is_multiple_of(every.max(1))) {
                    self.checkpoint(&optimizer)?;
                }
                if job.observer.stop() {
                    return Err(stopped());
                }
            }
            self.end_epoch(phase, &validation)?;
            self.checkpoint(&optimizer)?;
        }
        if let Some(best) = self.position.best.take() {
            for (name, value) in std::mem::take(&mut self.best) {
                self.params.set(&name, value)?;
            }
            self.position.metrics = Some(best);
        }
        self.position.optimizer_steps = 0;
        Ok(())
    }

    fn checkpoint(&mut self, optimizer: &Optimizer) -> Result<()> {
        let (tensors, steps) = optimizer.state();
        self.save(&tensors, steps)
    }

    fn exhausted(&self, phase: &Train) -> bool {
        phase.patience.is_some_and(|patience| self.position.stale >= patience)
    }

    /// One step on one batch.
    fn step(
        &mut self,
        phase: &Train,
        input: &Input,
        split: &Split,
        optimizer: &mut Optimizer,
        loss: &Loss,
    ) -> Result<()> {
        let job = self.job;
        let start = Instant::now();
        let taken = self.position.epoch * loss.steps.0 + self.position.step;
        let seed = loss.seed.child(taken as u64);
        let objective = Objective {
            stages: self.stages_from(phase.boundary).into_iter().zip(loss.learns.iter().copied()).collect(),
            class_weights: loss.weights.as_deref(),
            label_smoothing: phase.objective.label_smoothing,
            recompute: job.recompute,
        };
        let mode = Mode::Train { batch_norm: phase.batch_norm, seed };
        let Gradient { loss: number, grads, statistics } =
            objective.gradient(&self.params, mode, &input.activation, &input.targets)?;
        let diverged = |what: &str, number: f64| {
            let names: Vec<String> = input.indices.iter().take(5).map(|&i| split.dataset.name(i)).collect();
            let more = if input.indices.len() > 5 { ", …" } else { "" };
            Error::input(
                format!("step {} of phase {:?}", taken + 1, phase.name),
                format!("the {what} is {number} on the samples {}{more}", names.join(", ")),
                format!(
                    "lower --learning-rate (now {:e}), set --clip-norm, or look at these samples",
                    phase.learning_rate
                ),
            )
        };
        let Some(grads) = grads else { return Err(diverged("loss", number)) };
        let mut scale = 1.0;
        if let Some(most) = phase.clip_norm {
            let norm = optimizer.norm(&grads)?;
            if !norm.is_finite() {
                return Err(diverged("norm of the gradient", norm));
            }
            scale = (most / (norm + 1e-6)).min(1.0);
        }
        let rate = phase.learning_rate * phase.schedule.factor(taken, loss.steps.1);
        optimizer.step(&self.params, &grads, rate, scale)?;
        for (name, value) in statistics {
            self.params.set(&name, value.detach())?;
            self.touched.insert(name);
        }
        self.position.loss.0 += number;
        self.position.loss.1 += 1;
        if (taken + 1).is_multiple_of(RECORD_EVERY) || taken == 0 {
            let (phase, epoch) = (self.position.phase + 1, self.position.epoch + 1);
            let record = StepRecord { kind: "step", phase, epoch, step: taken + 1, loss: number, learning_rate: rate };
            self.position.recorded = job.run.record(&record)?;
        }
        self.timings.add("train", start, input.indices.len());
        Ok(())
    }

    /// Judges the epoch where that is due, and remembers the best.
    fn end_epoch(&mut self, phase: &Train, validation: &Split) -> Result<()> {
        let epoch = self.position.epoch + 1;
        let every = if phase.patience.is_some() { 1 } else { phase.epochs.div_ceil(JUDGEMENTS) };
        let due = epoch.is_multiple_of(every) || epoch == phase.epochs;
        let metrics = if due { Some(self.validate(validation, phase.boundary)?) } else { None };
        let (sum, count) = std::mem::take(&mut self.position.loss);
        let record = EpochRecord {
            kind: "epoch".into(),
            phase: self.position.phase + 1,
            epoch,
            train_loss: (count > 0).then(|| sum / count as f64),
            validation: metrics.clone(),
        };
        self.announce(&record, phase);
        self.position.recorded = self.job.run.record(&record)?;
        self.position.history.push(record);
        (self.position.epoch, self.position.step) = (epoch, 0);
        let Some(metrics) = metrics else { return Ok(()) };
        if phase.patience.is_some() {
            if self.position.best.as_ref().is_none_or(|best| metrics.beats(best)) {
                self.best = self.copies()?;
                self.position.best = Some(metrics.clone());
                self.position.stale = 0;
            } else {
                self.position.stale += 1;
            }
        }
        self.position.metrics = Some(metrics);
        Ok(())
    }

    fn announce(&self, record: &EpochRecord, phase: &Train) {
        let Metrics { accuracy, loss, .. } = match &record.validation {
            Some(metrics) => metrics,
            None => return,
        };
        let text = format!(
            "epoch {} of {}: training loss {:.4}, validation loss {loss:.4}, accuracy {accuracy:.4}",
            record.epoch,
            phase.epochs,
            record.train_loss.unwrap_or(f64::NAN)
        );
        self.job.observer.message(&text);
    }

    /// Copies of all parameters that have changed: variables change in place.
    fn copies(&self) -> Result<BTreeMap<String, Tensor>> {
        self.touched.iter().map(|name| Ok((name.clone(), self.params.get(name)?.detach().copy()?))).collect()
    }
}

/// What stays the same over the steps of a phase.
struct Loss {
    weights: Option<Vec<f32>>,
    /// Whether something learns, for each stage behind the boundary.
    learns: Vec<bool>,
    /// A batch of one sample cannot be normalized.
    needs_two: bool,
    /// In an epoch and in all.
    steps: (usize, usize),
    seed: crate::seed::Seed,
}

impl Loss {
    fn of(run: &Run<'_>, phase: &Train) -> Self {
        let network = run.job.network;
        let learning = phase.learning_stages(network);
        let names = network.stages.iter().map(|stage| stage.name.as_str()).chain(["head"]);
        Self {
            weights: run.class_weights(phase.objective.class_weights),
            learns: names.skip(phase.boundary).map(|name| learning.contains(name)).collect(),
            needs_two: check::needs_two(network, phase),
            steps: (0, 0),
            seed: run.job.seed.named("dropout").child(run.position.phase as u64),
        }
    }
}
