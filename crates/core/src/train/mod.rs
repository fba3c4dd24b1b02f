//! Executes plans. The trainer knows phases, not strategies.
//!
//! [`execute`] takes a [`Job`] through the phases of its plan and leaves checkpoints and metrics in the run directory;
//! what the run is made of and what becomes of the model is the caller's.

mod attention;
mod average;
mod balance;
mod check;
mod combine;
mod couples;
mod descent;
mod divergence;
mod feed;
pub mod gradient;
mod guides;
pub mod logistic;
mod mix;
mod optim;
mod pairs;
mod parts;
mod position;
pub(crate) mod prototypes;
mod relations;
pub mod ridge;
mod schedule;
mod solve;
mod terms;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, ViewSeed};
use crate::data::{Dataset, Targets};
use crate::device::Place;
use crate::loader::{Faults, Strictness};
use crate::metrics::Metrics;
use crate::net::{Network, Params, Role, Stage};
use crate::observe::{Observer, Timings};
use crate::outputs::Outputs;
use crate::plan::{ClassWeights, Phase, Plan, Start};
use crate::run::RunDir;
use crate::seed::Seed;
use crate::task::{Kind, Task};
use crate::{Error, Result};

pub use descent::RECORD_EVERY;
pub use divergence::{OnNan, rate_share};
use feed::Split;
pub use mix::{Partners, mixed};
pub use optim::Optimizer;
use position::Position;
pub use terms::{CrossEntropy, InBatchNegatives, RowLabels, Seen, SpanEnds, Term};
pub(crate) use terms::{SCALE, couples};

/// Checkpoints at the ends of epochs come this many times what writing one takes apart.
const SAVING_SHARE: u32 = 20;

/// Everything a run needs.
pub struct Job<'a> {
    /// The backbone, with a head of as many outputs as there are classes.
    pub network: &'a Network,
    /// What to do.
    pub plan: &'a Plan,
    /// Where the parameters start, on `device`; what is missing (a new head) starts fresh. A plan that starts from random
    /// weights ignores them.
    pub params: Params,
    /// What is asked of a sample, with names for the outputs of the head.
    pub task: &'a Task,
    /// What is learned from.
    pub train: Arc<dyn Dataset>,
    /// What is judged by; empty where nothing may be held back, and nothing is judged then.
    pub validation: Arc<dyn Dataset>,
    /// Key of the preprocessing ([`crate::domain::Domain::fingerprint`]).
    pub fingerprint: &'a str,
    /// Other models that the plan speaks of.
    pub companions: Companions,
    /// Decides order, views, dropout and fresh parameters.
    pub seed: Seed,
    /// Where to compute.
    pub device: &'a Place,
    /// Where checkpoints and metrics go.
    pub run: &'a RunDir,
    /// Where activations of frozen stages are kept.
    pub cache: &'a Cache,
    /// A checkpoint is written after this many steps, and at the end of every epoch and phase; without a number, at the first
    /// of these ends, and then so seldom that writing takes a twentieth of the time.
    pub checkpoint_every: Option<usize>,
    /// An epoch or phase that ends sooner than this after the last checkpoint, or the beginning, leaves none.
    pub checkpoint_pause: Duration,
    /// About how often a phase that does not watch for its best epoch is judged on the way; at its end it always is.
    pub judgements: usize,
    /// Trade time for memory: see [`gradient::Objective::recompute`].
    pub recompute: bool,
    /// How many unreadable samples to bear.
    pub strictness: Strictness,
    /// What to do when a loss is no number.
    pub on_nan: OnNan,
    /// Threads that load samples.
    pub threads: usize,
    /// Continue from the last checkpoint in `run`.
    pub resume: bool,
    /// What [`identity`] found, where it was asked before.
    pub identity: Option<String>,
    /// Told about the progress.
    pub observer: &'a dyn Observer,
}

/// Models beside the one that learns.
#[derive(Debug, Clone, Default)]
pub struct Companions {
    /// The parameters of finished runs, by the name that the plan gives them.
    pub runs: BTreeMap<String, Params>,
    /// Models that are imitated, by the name that the plan gives them.
    pub teachers: BTreeMap<String, Teacher>,
    /// The linear head that the checkpoint came with, for the labels of its source: weight `[labels, features]` and bias
    /// `[labels]`.
    pub source_head: Option<(Tensor, Tensor)>,
}

/// A trained model that is imitated.
#[derive(Clone)]
pub struct Teacher {
    /// Its description.
    pub network: Network,
    /// Its parameters.
    pub params: Params,
    /// The training samples as it takes them, in the same order.
    pub train: Arc<dyn Dataset>,
    /// Key of its preprocessing.
    pub fingerprint: String,
}

impl std::fmt::Debug for Teacher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Teacher({})", self.network.name)
    }
}

/// What a run gives.
#[derive(Debug)]
pub struct Outcome {
    /// The final values of all parameters; none learns.
    pub params: Params,
    /// Scores of the final parameters on the validation samples.
    pub metrics: Metrics,
    /// What they were computed from.
    pub outputs: Outputs,
    /// One record for each judged epoch or solution.
    pub history: Vec<EpochRecord>,
    /// (name, reason) of the samples that could not be read.
    pub skipped: Vec<(String, String)>,
    /// Where the time went, in this process.
    pub timings: Timings,
    /// Parameters (single numbers) in all.
    pub parameters: usize,
    /// Parameters that some phase trained.
    pub trained: usize,
}

/// One epoch of a phase, as it stands in `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Always `epoch`.
    pub kind: String,
    /// Counted from 1.
    pub phase: usize,
    /// Epochs complete.
    pub epoch: usize,
    /// Mean loss of the epoch's steps; `None` for a solution.
    pub train_loss: Option<f64>,
    /// Scores on the validation samples, in epochs that are judged.
    pub validation: Option<Metrics>,
}

/// A step, as it stands in `metrics.jsonl`.
#[derive(Serialize)]
struct StepRecord {
    kind: &'static str,
    phase: usize,
    epoch: usize,
    step: usize,
    loss: f64,
    learning_rate: f64,
}

/// A run in progress: the job and all that changes.
struct Run<'a> {
    job: &'a Job<'a>,
    params: Params,
    faults: Faults,
    timings: Timings,
    position: Position,
    /// What differs from the start and has to be in checkpoints.
    touched: BTreeSet<String>,
    /// The best parameters of the current phase, where it keeps them.
    best: BTreeMap<String, Tensor>,
    /// The running means of the current phase, where it takes them.
    average: BTreeMap<String, Var>,
    /// Where the plan started from.
    start: Params,
    /// Parameters that had changed after this many phases, for later phases that go back to them.
    earlier: BTreeMap<usize, BTreeMap<String, Tensor>>,
    /// Activations that later phases start from.
    kept: feed::Kept,
    /// Of the optimizer, from the checkpoint that was continued from.
    restored: BTreeMap<String, Tensor>,
    /// When the last checkpoint was written, or the job begun.
    saved: Instant,
    /// What writing it took.
    saving: Duration,
    /// Whether the error that ends it is a reason to go back.
    goes_back: bool,
    /// What was said of the validation samples when they were last judged, and its scores.
    judged: Option<(Metrics, Outputs)>,
}

/// Executes a job's plan.
///
/// # Errors
/// When the job does not fit together, too many samples are unreadable, training diverges, or the run directory
/// cannot be written.
pub fn execute(mut job: Job<'_>) -> Result<Outcome> {
    check::job(&job)?;
    let params = start(&mut job)?;
    let job = &job;
    let identity = job.identity.clone().map_or_else(|| position::identity(job, &params), Ok)?;
    let mut cuts = 0;
    loop {
        let mut run = Run::new(job, &params, &identity);
        match cuts {
            0 if job.resume => run.resume()?,
            0 => {}
            _ => run.go_back(cuts)?,
        }
        match run.phases() {
            Ok(()) => return run.outcome(),
            Err(_) if run.goes_back && run.job.on_nan.goes_back(run.position.cuts) => cuts = run.position.cuts + 1,
            Err(error) => return Err(error),
        }
    }
}

impl<'a> Run<'a> {
    /// At the beginning.
    fn new(job: &'a Job<'a>, params: &Params, identity: &str) -> Self {
        let position = Position { identity: identity.into(), ..Position::default() };
        Self {
            job,
            start: if job.plan.looks_back() { params.clone() } else { Params::default() },
            params: params.clone(),
            faults: Faults::new(job.strictness),
            timings: Timings::default(),
            position,
            touched: BTreeSet::new(),
            best: BTreeMap::new(),
            average: BTreeMap::new(),
            earlier: BTreeMap::new(),
            kept: BTreeMap::new(),
            restored: BTreeMap::new(),
            saved: Instant::now(),
            saving: Duration::ZERO,
            goes_back: false,
            judged: None,
        }
    }

    /// Executes what is left of the plan.
    fn phases(&mut self) -> Result<()> {
        while let Some(phase) = self.job.plan.phases.get(self.position.phase) {
            match phase {
                Phase::Train(train) => self.descend(train)?,
                Phase::Solve(solve) => self.solve(solve)?,
                Phase::Combine(combine) => self.combine(combine)?,
            }
            self.params.set_learning(&BTreeSet::new())?;
            self.position.next_phase();
            self.best.clear();
            self.average.clear();
            self.remember()?;
            if self.due() {
                self.save(&BTreeMap::new(), 0)?;
            }
        }
        Ok(())
    }
}

/// A digest of everything that decides what `job` becomes, kept in it; completes its parameters.
///
/// # Errors
/// When a parameter has another shape than the network needs.
pub fn identity(job: &mut Job<'_>) -> Result<String> {
    job.params = start(job)?;
    let found = position::identity(job, &job.params)?;
    job.identity = Some(found.clone());
    Ok(found)
}

/// The parameters that the plan starts from; all of the network's, and no others.
fn start(job: &mut Job<'_>) -> Result<Params> {
    let specs = job.network.params();
    let given = std::mem::take(&mut job.params);
    let seed = job.seed.named("initial");
    if job.plan.start == Start::Random {
        return Params::initial(&specs, seed, job.device);
    }
    let mut values = BTreeMap::new();
    for spec in &specs {
        let value = match given.get(&spec.name) {
            Ok(value) => value.detach(),
            Err(_) => spec.initial(seed, job.device)?,
        };
        if value.dims() != spec.shape {
            let reason = format!("has shape {:?} where the network needs {:?}", value.dims(), spec.shape);
            let remedy = "use a checkpoint of this architecture";
            return Err(Error::input(format!("parameter {}", spec.name), reason, remedy));
        }
        values.insert(spec.name.clone(), value);
    }
    Ok(Params::new(values))
}

/// The error of a run that its observer ended.
pub(crate) fn stopped() -> Error {
    Error::input("the run", "it was stopped", "continue it with --resume")
}

/// The error of the run at `run` that was ended with a checkpoint.
pub fn paused(run: &Path) -> Error {
    let out = run.display();
    Error::Stopped { remedy: format!("all steps so far are kept in {out}; go on with --resume --out {out}") }
}

impl Run<'_> {
    /// Whether an end of something is worth a checkpoint.
    fn due(&self) -> bool {
        // Where a run goes back to must not depend on the clock.
        let each = self.job.checkpoint_every.is_some() || self.job.on_nan == OnNan::Rollback;
        let least = if each { Duration::ZERO } else { self.saving * SAVING_SHARE };
        self.saved.elapsed() >= least.max(self.job.checkpoint_pause)
    }

    /// The stages from `boundary` on and the head, with whether something learns in them.
    fn stages_from(&self, boundary: usize) -> Vec<&Stage> {
        let network = self.job.network;
        network.stages[boundary.min(network.stages.len())..].iter().chain([&network.head]).collect()
    }

    /// Keeps the parameters as they are, if a later phase goes back to them.
    fn remember(&mut self) -> Result<()> {
        let phases = self.position.phase;
        if self.job.plan.earlier().contains(&phases) {
            let values = self.touched.iter().map(|name| Ok((name.clone(), self.params.get(name)?)));
            self.earlier.insert(phases, values.collect::<Result<_>>()?);
        }
        Ok(())
    }

    /// Scores the present parameters and records them as the result of a phase without epochs.
    fn conclude(&mut self) -> Result<()> {
        let boundary = match self.job.plan.phases.get(self.position.phase) {
            Some(Phase::Solve(_)) => self.job.network.stages.len(),
            _ => 0,
        };
        let validation = Split::open(self, "validation", boundary, vec![ViewSeed::Plain], boundary > 0)?;
        let metrics = self.validate(&validation, boundary)?;
        let record = EpochRecord {
            kind: "epoch".into(),
            phase: self.position.phase + 1,
            epoch: 1,
            train_loss: None,
            validation: (metrics.samples > 0).then(|| metrics.clone()),
        };
        if metrics.samples > 0 {
            self.job.observer.message(&format!("phase {}: validation {metrics}", record.phase));
        }
        self.position.recorded = self.job.run.record(&record)?;
        self.position.history.push(record);
        self.position.metrics = Some(metrics);
        Ok(())
    }

    /// Weights of the classes in the loss; of labels, those of the samples that have them against those that have not.
    fn class_weights(&self, kind: ClassWeights) -> Option<Vec<f32>> {
        if kind == ClassWeights::None {
            return None;
        }
        let (train, task) = (&self.job.train, self.job.task);
        let all = train.len() as f32;
        let mut counts = vec![0usize; task.len()];
        if task.kind == Kind::Tokens {
            let labels = (0..train.len()).flat_map(|i| train.numbers(i)).filter(|label| **label >= 0.0);
            labels.for_each(|&label| counts[label as usize] += 1);
            let all = counts.iter().sum::<usize>() as f32;
            let weight = |&n: &usize| if n == 0 { 0.0 } else { all / (counts.len() as f32 * n as f32) };
            return Some(counts.iter().map(weight).collect());
        }
        if !task.is_classes() {
            for i in 0..train.len() {
                counts.iter_mut().zip(train.numbers(i)).for_each(|(n, &has)| *n += usize::from(has > 0.5));
            }
            let weight = |&n: &usize| if n == 0 { 1.0 } else { (all - n as f32) / n as f32 };
            return Some(counts.iter().map(weight).collect());
        }
        for i in 0..train.len() {
            counts[train.target(i) as usize] += 1;
        }
        let weight = |&n: &usize| if n == 0 { 0.0 } else { all / (counts.len() as f32 * n as f32) };
        Some(counts.iter().map(weight).collect())
    }

    /// The outputs that `metrics` are the scores of. Where others were judged since, or an earlier process did it, the
    /// validation samples are judged once more.
    fn outputs(&mut self, metrics: &Metrics) -> Result<Outputs> {
        if !self.judged.as_ref().is_some_and(|(of, _)| of == metrics) && !self.job.validation.is_empty() {
            let stages = self.job.network.stages.len();
            let boundary = self.job.plan.phases.last().map_or(0, |phase| phase.boundary(stages));
            let validation = Split::open(self, "validation", boundary, vec![ViewSeed::Plain], false)?;
            self.validate(&validation, boundary)?;
        }
        Ok(self.judged.take().map(|(_, outputs)| outputs).unwrap_or_default())
    }

    fn outcome(mut self) -> Result<Outcome> {
        let specs = self.job.network.params();
        let learned = specs.iter().filter(|s| s.role != Role::Buffer);
        let count = |keep: &dyn Fn(&str) -> bool| learned.clone().filter(|s| keep(&s.name)).map(|s| s.len()).sum();
        let unjudged = || self.job.validation.is_empty().then(|| Metrics::of(self.job.task, &Targets::default(), &[]));
        let metrics = self.position.metrics.clone().or_else(unjudged);
        let metrics = metrics.ok_or_else(|| Error::input("the plan", "it has no phases", "choose another strategy"))?;
        let outputs = self.outputs(&metrics)?;
        Ok(Outcome {
            metrics,
            outputs,
            parameters: count(&|_| true),
            trained: count(&|name| self.touched.contains(name)),
            history: self.position.history,
            skipped: self.faults.list(),
            timings: self.timings,
            params: self.params,
        })
    }
}

#[cfg(test)]
mod strategy_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod toys;
