//! The phase of gradient descent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::feed::{Input, Split};
use super::gradient::Gradient;
use super::guides::{Guides, Told};
use super::{EpochRecord, Optimizer, Run, StepRecord, balance, check, couples, mix, pairs, parts, paused, stopped};
use crate::cache::ViewSeed;
use crate::loader::epoch_batches;
use crate::metrics::Metrics;
use crate::plan::{Pairs, Sampler, Train};
use crate::seed::Seed;
use crate::task::Kind;
use crate::{Error, Result};
use candle_core::Tensor;

/// A line in `metrics.jsonl` every so many steps.
pub const RECORD_EVERY: usize = 10;

impl Run<'_> {
    /// Executes a phase of kind `train`, from where the position says.
    pub(super) fn descend(&mut self, phase: &Train) -> Result<()> {
        let job = self.job;
        let seed = self.phase_seed();
        let views = self.views(phase);
        let train = Split::open(self, "training", phase.boundary, views, false)?;
        let validation = Split::open(self, "validation", phase.boundary, vec![ViewSeed::Plain], false)?;

        let guides = self.guides(phase)?;
        let auxiliary = self.auxiliary(phase, &guides)?;

        let mut members: Vec<_> =
            phase.learning(job.network).into_iter().map(|(s, rate, _)| (s.name, s.role, rate)).collect();
        if members.is_empty() {
            return Err(Error::input(format!("phase {:?}", phase.name), "nothing learns in it", "check its rules"));
        }
        for (spec, value) in &auxiliary {
            // There already where the run goes on from the middle of the phase.
            if self.params.get(&spec.name).is_err() {
                self.params.set(&spec.name, value.clone())?;
            }
            members.push((spec.name.clone(), spec.role, 1.0));
        }
        let names: BTreeSet<String> = members.iter().map(|(name, ..)| name.clone()).collect();
        self.params.set_learning(&names)?;
        self.touched.extend(names);
        let mut optimizer = Optimizer::new(phase.optimizer, members);
        self.anchor(phase, &mut optimizer)?;
        optimizer.restore(&std::mem::take(&mut self.restored), self.position.optimizer_steps, job.device)?;

        let indices = train.readable();
        let mut pace = Pace::of(self, phase);
        while self.position.epoch < phase.epochs && !self.exhausted(phase) {
            let order = seed.named("shuffle").child(self.position.epoch as u64);
            let target = |i: usize| job.train.target(i);
            let batches = match (phase.pairs, phase.sampler) {
                _ if job.task.kind == Kind::Matches => couples::batches(&indices, phase.batch_size, order),
                (Some(Pairs { per_sample }), _) => {
                    pairs::batches(&indices, target, per_sample, phase.batch_size, order)
                }
                (None, Sampler::Each) => epoch_batches(&indices, phase.batch_size, order),
                (None, Sampler::Balanced) => {
                    let drawn = balance::drawn(&indices, target, self.position.epoch, seed.named("balance"));
                    epoch_batches(&drawn, phase.batch_size, order)
                }
            };
            pace.steps = (batches.len(), batches.len() * phase.epochs);
            let scale = phase.scale(self.position.epoch);
            let scaled = if scale == 1.0 { None } else { Some(train.scaled(scale)?) };
            self.epoch(phase, batches, scaled.as_ref().unwrap_or(&train), &guides, &mut optimizer, &pace)?;
            self.end_epoch(phase, &validation)?;
            if self.due() {
                self.checkpoint(&optimizer)?;
            }
        }
        if let Some(best) = self.position.best.take() {
            for (name, value) in std::mem::take(&mut self.best) {
                self.params.set(&name, value)?;
            }
            self.position.metrics = Some(best);
        } else {
            self.exchange()?;
        }
        // What only this phase needed.
        for (spec, _) in auxiliary {
            self.params.remove(&spec.name);
            self.touched.remove(&spec.name);
        }
        self.position.optimizer_steps = 0;
        Ok(())
    }

    /// What is left of an epoch of these batches.
    fn epoch(
        &mut self,
        phase: &Train,
        mut batches: Vec<Vec<usize>>,
        train: &Split,
        guides: &Guides,
        optimizer: &mut Optimizer,
        pace: &Pace,
    ) -> Result<()> {
        let (job, epoch) = (self.job, self.position.epoch);
        let rest = batches.split_off(self.position.step.min(batches.len()));
        let fresh = match phase.augment {
            true => ViewSeed::Random(self.phase_seed().named("view").child(epoch as u64)),
            false => ViewSeed::Plain,
        };
        let mut inputs = train.batches(rest.clone(), epoch, fresh, job.threads);
        let mut answers = guides.answers(rest.clone(), epoch, fresh, job.threads);
        for asked in rest {
            let input = inputs.next(self)?.flatten();
            let answer = guides.answer(self, answers.as_mut(), input.as_ref())?;
            if let Some(mut input) = input.filter(|input| input.indices.len() > 1 || !pace.needs_two) {
                let pairs = phase.pairs.map(|_| pairs::rows(&asked, &input.indices)).unwrap_or_default();
                if phase.pairs.is_none() || !pairs.is_empty() {
                    let drawn = self.phase_seed().named("mix").child(epoch as u64).child(self.position.step as u64);
                    let mixed = match &phase.mix {
                        Some(mix) => mix::apply(mix, &mut input, drawn)?,
                        None => None,
                    };
                    let told = Told { answer, pairs, mixed };
                    self.step(phase, &input, told, guides, optimizer, pace)?;
                }
            }
            self.position.step += 1;
            let done = epoch * pace.steps.0 + self.position.step;
            job.observer.progress("train", done, pace.steps.1);
            let last = self.position.step == pace.steps.0;
            if !last && job.checkpoint_every.is_some_and(|every| done.is_multiple_of(every.max(1))) {
                self.checkpoint(optimizer)?;
            }
            if job.observer.stop() {
                return Err(stopped());
            }
            if job.observer.pause() {
                self.checkpoint(optimizer)?;
                return Err(paused(job.run.path()));
            }
        }
        Ok(())
    }

    /// Decides order and views of the present phase.
    fn phase_seed(&self) -> Seed {
        self.job.seed.named("phase").child(self.position.phase as u64)
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
        told: Told,
        guides: &Guides,
        optimizer: &mut Optimizer,
        pace: &Pace,
    ) -> Result<()> {
        let job = self.job;
        let start = Instant::now();
        let taken = self.position.epoch * pace.steps.0 + self.position.step;
        let parts = parts::of(phase, job.task.kind, input, told, guides, pace.needs_two)?;
        let seed = pace.seed.child(taken as u64);
        let found = self.gradient(phase, parts, guides.compares(), &pace.learns, seed)?;
        let Gradient { loss: number, grads, statistics } = found;
        let rate = phase.learning_rate * phase.schedule.factor(taken, pace.steps.1) * self.rate_share();
        job.observer.step(rate, number);
        let Some(grads) = grads else { return self.diverged(phase, input, taken, "loss", number) };
        let norm = optimizer.norm(&grads)?;
        if !norm.is_finite() {
            job.observer.step(rate, f64::NAN);
            return self.diverged(phase, input, taken, "norm of the gradient", norm);
        }
        let scale = phase.clip_norm.map_or(1.0, |most| (most / (norm + 1e-6)).min(1.0));
        optimizer.set_momentum(phase.schedule.momentum(taken, pace.steps.1));
        optimizer.step(&self.params, &grads, rate, scale)?;
        let updated: Vec<String> = statistics.iter().map(|(name, _)| name.clone()).collect();
        for (name, value) in statistics {
            self.params.set(&name, value.detach())?;
            self.touched.insert(name);
        }
        if let Some(decay) = phase.average {
            self.follow(decay, taken, &updated)?;
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
        let every = if phase.patience.is_some() { 1 } else { phase.epochs.div_ceil(self.job.judgements.max(1)) };
        // Without a part in pairs, the head says nothing yet.
        let judged = !validation.dataset.is_empty() && phase.pairs.is_none();
        let due = judged && (epoch.is_multiple_of(every) || epoch == phase.epochs);
        let metrics = due.then(|| self.judge(phase, validation)).transpose()?;
        let (sum, count) = std::mem::take(&mut self.position.loss);
        let record = EpochRecord {
            kind: "epoch".into(),
            phase: self.position.phase + 1,
            epoch,
            train_loss: (count > 0).then(|| sum / count as f64),
            validation: metrics,
        };
        self.announce(&record, phase);
        self.position.recorded = self.job.run.record(&record)?;
        self.position.history.push(record);
        (self.position.epoch, self.position.step) = (epoch, 0);
        Ok(())
    }

    /// Scores what would be kept if the phase ended here, and remembers the best where the phase watches for it.
    fn judge(&mut self, phase: &Train, validation: &Split) -> Result<Metrics> {
        let passing = self.exchange()?;
        let metrics = self.validate(validation, phase.boundary)?;
        let better = self.position.best.as_ref().is_none_or(|best| metrics.beats(best));
        match (phase.patience, better) {
            (None, _) => {}
            (Some(_), true) => {
                self.best = self.copies()?;
                self.position.best = Some(metrics.clone());
                self.position.stale = 0;
            }
            (Some(_), false) => self.position.stale += 1,
        }
        for (name, value) in passing {
            self.params.set(&name, value)?;
        }
        self.position.metrics = Some(metrics.clone());
        Ok(metrics)
    }

    fn announce(&self, record: &EpochRecord, phase: &Train) {
        let course = format!(
            "epoch {} of {}: training loss {:.4}",
            record.epoch,
            phase.epochs,
            record.train_loss.unwrap_or(f64::NAN)
        );
        match &record.validation {
            Some(metrics) => self.job.observer.message(&format!("{course}, validation {metrics}")),
            None if phase.pairs.is_some() => self.job.observer.message(&course),
            None => {}
        }
    }

    /// Copies of all parameters that have changed: variables change in place.
    fn copies(&self) -> Result<BTreeMap<String, Tensor>> {
        self.touched.iter().map(|name| Ok((name.clone(), self.params.get(name)?.detach().copy()?))).collect()
    }
}

/// What stays the same over the steps of a phase.
struct Pace {
    /// Whether something learns, for each stage behind the boundary.
    learns: Vec<bool>,
    /// A batch of one sample cannot be normalized.
    needs_two: bool,
    /// In an epoch and in all.
    steps: (usize, usize),
    seed: Seed,
}

impl Pace {
    fn of(run: &Run<'_>, phase: &Train) -> Self {
        let network = run.job.network;
        let learning = phase.learning_stages(network);
        let names = network.stages.iter().map(|stage| stage.name.as_str()).chain(["head"]);
        Self {
            learns: names.skip(phase.boundary).map(|name| learning.contains(name)).collect(),
            needs_two: check::needs_two(network, phase),
            steps: (0, 0),
            seed: run.job.seed.named("dropout").child(run.position.phase as u64),
        }
    }
}
