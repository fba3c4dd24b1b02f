//! Trials: what a step of a strategy takes on this machine, and what a training reaches on samples held out. The
//! trainer executes the strategies' own plans; nothing of a trial is kept but its figures.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cache::{Cache, ViewSeed};
use crate::data::{Budget, Dataset, Subset, choose};
use crate::domain::Domain;
use crate::loader::Strictness;
use crate::memory::{self, Use};
use crate::net::{Network, Params, adapt};
use crate::observe::Observer;
use crate::plan::{Phase, Plan, Train};
use crate::pooled::{Reader, Ready};
use crate::prefetch;
use crate::run::RunDir;
use crate::seed::Seed;
use crate::strategy::{Facts, Options, Settings, Strategy};
use crate::task::Task;
use crate::train::{self, Companions, Job, OnNan, Outcome};
use crate::{Error, Result};

/// Steps that are timed, after one that is not.
const STEPS: usize = 2;

/// What a strategy would take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// Its name.
    pub strategy: String,
    /// Steps of gradient descent in all.
    pub steps: usize,
    /// Seconds of one, measured.
    pub step_seconds: f64,
    /// Seconds of the whole training, from that and from the measured pass of the frozen backbone.
    pub seconds: f64,
    /// Peak resident memory of the process when these steps were taken, in bytes, where the system tells. Options are
    /// measured from the lightest to the heaviest.
    pub memory: Option<u64>,
}

/// The chosen model, ready to be tried.
pub(super) struct Bench<'a, D: Domain> {
    reader: &'a Reader<'a, D>,
    fingerprint: String,
    task: &'a Task,
    base: Network,
    params: Params,
    seed: Seed,
}

impl<'a, D: Domain> Bench<'a, D> {
    pub(super) fn new(
        reader: &'a Reader<'a, D>,
        name: &str,
        model: &Ready<D>,
        task: &'a Task,
        seed: Seed,
    ) -> Result<Self> {
        let base = model.network.clone().with_classes(task.len());
        let head = crate::model::Head::Fresh(seed);
        let (params, _) = crate::model::fit(&base, &model.weights, head, &reader.place, name)?;
        Ok(Self { reader, fingerprint: D::fingerprint(&model.pipeline), task, base, params, seed })
    }

    /// The plan of `strategy` for `samples` samples.
    ///
    /// # Errors
    /// When the strategy cannot work on this backbone.
    pub(super) fn plan(&self, strategy: &dyn Strategy, options: &Options, samples: usize) -> Result<Plan> {
        let settings = Settings { options: options.clone(), defaults: D::defaults() };
        strategy.check(&self.base, &settings)?;
        Ok(strategy.plan(&self.base, &Facts { kind: self.task.kind, outputs: self.task.len(), samples }, &settings))
    }

    /// Bytes that the steps of a plan take at most, beside the model and the data.
    pub(super) fn memory(&self, plan: &Plan, samples: &dyn Dataset) -> Result<u64> {
        let network = adapt::apply(&self.base, &plan.adapters)?;
        let steps = Use { network: &network, samples, kind: self.task.kind, recompute: false };
        Ok(steps.most(plan).map_or(0, |(_, bytes)| bytes))
    }

    /// Takes a few steps of the plan's first phase of gradient descent. `pass` is the seconds that a frozen pass over
    /// `samples` takes.
    pub(super) fn cost(&self, plan: &Plan, samples: &Arc<dyn Dataset>, pass: f64) -> Result<Cost> {
        let cost = Cost { strategy: plan.strategy.clone(), steps: 0, step_seconds: 0.0, seconds: pass, memory: None };
        let Some(first) = plan.trains().next() else { return Ok(Cost { memory: memory::peak(), ..cost }) };
        let few = Train { epochs: 1, patience: None, ..first.clone() };
        let count = (1 + STEPS) * few.batch_size;
        let indices = (0..samples.len()).cycle().step_by((samples.len() / count).max(1)).take(count).collect();
        let clock = Clock { observer: self.reader.observer, ticks: Mutex::default() };
        // Pairs train no head: a plan needs a phase that does.
        let heads = plan.phases.iter().filter(|phase| matches!(phase, Phase::Solve(_))).cloned();
        let trial = Plan { phases: [Phase::Train(few)].into_iter().chain(heads).collect(), ..plan.clone() };
        let outcome = self.execute(&trial, Arc::new(Subset::new(samples.clone(), indices)), &Cache::none(), &clock);
        let step_seconds = match clock.seconds() {
            Some(seconds) => seconds,
            None => return Err(outcome.err().unwrap_or_else(|| untimed(plan))),
        };
        let steps: usize = plan.trains().map(|train| train.steps(samples.len())).sum();
        let once = plan.phases.iter().any(|phase| phase.boundary(self.base.stages.len()) > 0);
        let seconds = if once { pass } else { 0.0 } + steps as f64 * step_seconds;
        Ok(Cost { steps, step_seconds, seconds, memory: memory::peak(), ..cost })
    }

    /// Trains as `plan` says on `learned`, and tells for each of `held` whether what came out is right.
    pub(super) fn compare(&self, plan: &Plan, learned: Arc<dyn Dataset>, held: &Arc<dyn Dataset>) -> Result<Vec<bool>> {
        let outcome = self.execute(plan, learned, &self.reader.cache, self.reader.observer)?;
        let network = adapt::apply(&self.base, &plan.adapters)?;
        // What a trained backbone makes of a few samples is of no use to anyone later.
        let unkept = Reader { cache: Cache::none(), place: self.reader.place.clone(), ..*self.reader };
        let features = unkept.features(&network, &outcome.params, &self.fingerprint, held, ViewSeed::Plain)?;
        let logits = unkept.logits(&network, &outcome.params, &features)?;
        let best = |row: &[f32]| (1..row.len()).fold(0, |best, c| if row[c] > row[best] { c } else { best });
        let said: BTreeMap<usize, usize> =
            features.samples.iter().copied().zip(logits.chunks_exact(self.task.len()).map(best)).collect();
        Ok((0..held.len()).map(|i| said.get(&i) == Some(&(held.target(i) as usize))).collect())
    }

    fn execute(&self, plan: &Plan, train: Arc<dyn Dataset>, cache: &Cache, observer: &dyn Observer) -> Result<Outcome> {
        let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
        let network = adapt::apply(&self.base, &plan.adapters)?;
        train::execute(Job {
            network: &network,
            plan,
            params: self.params.clone(),
            task: self.task,
            validation: Arc::new(Subset::new(train.clone(), Vec::new())),
            train,
            fingerprint: &self.fingerprint,
            companions: Companions::default(),
            seed: self.seed,
            device: &self.reader.place,
            run: &RunDir::create(&folder.path().join("run"), false)?,
            cache,
            checkpoint_every: None,
            // Nobody goes on with a trial.
            checkpoint_pause: Duration::MAX,
            judgements: 1,
            recompute: false,
            strictness: Strictness { strict: self.reader.strict, ..Strictness::default() },
            on_nan: OnNan::Stop,
            identity: None,
            threads: prefetch::threads(),
            resume: false,
            observer,
        })
    }
}

fn untimed(plan: &Plan) -> Error {
    let reason = format!("no steps of {} could be timed", plan.strategy);
    Error::input("the training samples", reason, "add samples")
}

/// At most `most` samples of `data`, stratified by class.
pub(super) fn at_most(data: Arc<dyn Dataset>, classes: &[String], most: usize, seed: Seed) -> Result<Arc<dyn Dataset>> {
    if data.len() <= most.max(classes.len()) {
        return Ok(data);
    }
    let targets: Vec<u32> = (0..data.len()).map(|i| data.target(i)).collect();
    let chosen = choose(&targets, classes, Budget::Total(most.max(classes.len())), seed)?;
    Ok(Arc::new(Subset::new(data, chosen)))
}

/// Hears when steps were taken, and ends the run after enough of them.
struct Clock<'a> {
    observer: &'a dyn Observer,
    ticks: Mutex<Vec<Instant>>,
}

impl Clock<'_> {
    fn lock(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.ticks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds from one step to the next, the mean of those heard.
    fn seconds(&self) -> Option<f64> {
        let ticks = self.lock();
        let (first, last) = (ticks.first()?, ticks.last()?);
        (ticks.len() > 1).then(|| (*last - *first).as_secs_f64() / (ticks.len() - 1) as f64)
    }
}

impl Observer for Clock<'_> {
    fn message(&self, text: &str) {
        if text.starts_with("warning") {
            self.observer.message(text);
        }
    }
    fn step(&self, _rate: f64, _loss: f64) {
        self.lock().push(Instant::now());
    }
    fn stop(&self) -> bool {
        self.lock().len() > STEPS || self.observer.stop()
    }
}
