//! The learning-rate range test: a few steps at rates that rise exponentially show where the loss falls and where it
//! breaks away (Smith, Cyclical Learning Rates for Training Neural Networks, 2017, section 3.3).
//!
//! What is tested is the first phase of gradient descent of the strategy's own plan, with its parameters, optimizer and
//! batches: the trainer executes it under another schedule and is listened to. Everything else of the run, its folder
//! included, stays as it is.

mod plot;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::data::{Budget, Dataset, Subset, choose};
use crate::domain::Domain;
use crate::fit::Fit;
use crate::loader::Strictness;
use crate::observe::Observer;
use crate::plan::{Decay, Phase, Plan, Schedule, Train};
use crate::prefetch;
use crate::run::RunDir;
use crate::seed::Seed;
use crate::train::{self, Job, OnNan};
use crate::{Error, Result};

/// Rates and length of a range test.
#[derive(Debug, Clone, Copy, PartialEq, clap::Args)]
pub struct Sweep {
    /// Rate of the last step
    #[arg(long, value_name = "RATE", default_value_t = 10.0)]
    pub highest: f64,
    /// Powers of ten between the rates of the first step and the last
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub decades: u32,
    /// Steps, unless the loss breaks away before
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub steps: usize,
}

/// One step of the test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Learning rate of the step.
    pub rate: f64,
    /// Loss of its batch, before the step.
    pub loss: f64,
    /// Mean loss of the steps around it, a tenth of all to either side.
    pub smoothed: f64,
}

/// Where in the course of the loss to look for a rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Suggestion {
    /// Where the smoothed loss falls fastest.
    pub steepest: f64,
    /// Where it is lowest: too high a rate to train at.
    pub minimum: f64,
    /// A tenth of that.
    pub tenth_of_minimum: f64,
}

/// What a range test found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RangeTest {
    /// Strategy whose plan was tested.
    pub strategy: String,
    /// The phase of it.
    pub phase: String,
    /// Its own peak rate.
    pub planned: f64,
    /// Samples a step.
    pub batch_size: usize,
    /// In the order of the rates.
    pub points: Vec<Point>,
    /// Whether the loss broke away before the highest rate.
    pub diverged: bool,
    /// Absent where the loss never fell.
    pub suggestion: Option<Suggestion>,
}

/// A loss of this many times the lowest so far has broken away.
const BREAKAWAY: f64 = 4.0;
/// Weight of the past in the running mean that decides so.
const MEMORY: f64 = 0.9;
/// Steps before anything is decided, and the least that show a course.
const LEAST_STEPS: usize = 10;

impl Sweep {
    fn check(&self) -> Result<()> {
        let refuse = |flag: &str, reason: &str, remedy: &str| Err(Error::input(flag, reason, remedy));
        if !(self.highest.is_finite() && self.highest > 0.0) {
            return refuse(&format!("--highest {}", self.highest), "it is no learning rate", "use for instance 10");
        }
        if !(1..=20).contains(&self.decades) {
            return refuse(&format!("--decades {}", self.decades), "it must be 1 to 20", "use for instance 8");
        }
        if self.steps < LEAST_STEPS {
            let reason = format!("fewer than {LEAST_STEPS} steps show no course");
            return refuse(&format!("--steps {}", self.steps), &reason, "use for instance 100");
        }
        Ok(())
    }
}

/// Tests the learning rate of what `fit` would do.
///
/// # Errors
/// When data, model or settings are unusable, or the plan has no phase of gradient descent.
///
/// ```
/// # #[path = "../../examples/signals.rs"] mod signals;
/// # use signals::{DataArgs, Signals, generate};
/// # use topwork_core::{fit::Fit, observe::Silent};
/// use topwork_core::find_lr::{Sweep, find_lr};
///
/// # fn main() -> topwork_core::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let table = folder.path().join("signals.csv");
/// # std::fs::write(&table, generate(&[0.05, 0.2], 0.3, 20, 0)).unwrap();
/// # let data = DataArgs { train: Some(table), ..DataArgs::default() };
/// let fit = Fit::<Signals>::new(data).strategy("from-scratch");
/// let test = find_lr(&fit, Sweep { highest: 1.0, decades: 5, steps: 30 }, &Silent)?;
/// if let Some(found) = test.suggestion {
///     println!("planned {}, steepest at {}", test.planned, found.steepest);
/// }
/// # Ok(())
/// # }
/// ```
pub fn find_lr<D: Domain>(fit: &Fit<D>, sweep: Sweep, observer: &dyn Observer) -> Result<RangeTest> {
    sweep.check()?;
    let prepared = fit.prepare(observer)?;
    fit.has_room(&prepared)?;
    let (plan, phase, planned) = sweeping(&prepared.plan, sweep)?;
    let seed = Seed(fit.seed.unwrap_or(0));
    let train = repeated(prepared.splits.train, &prepared.splits.task, sweep.steps * phase.batch_size, seed)?;
    let nothing = Arc::new(Subset::new(prepared.splits.validation, Vec::new()));
    let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
    let recorder = Recorder { observer, steps: sweep.steps, heard: Mutex::default() };
    let outcome = train::execute(Job {
        network: &prepared.network,
        plan: &plan,
        params: prepared.params,
        task: &prepared.splits.task,
        train,
        validation: nothing,
        fingerprint: &D::fingerprint(&prepared.pipeline),
        seed,
        companions: prepared.companions,
        device: &prepared.device,
        run: &RunDir::create(&folder.path().join("run"), false)?,
        cache: &fit.machine.cache()?,
        checkpoint_every: None,
        checkpoint_pause: Duration::ZERO,
        judgements: 1,
        recompute: fit.recompute,
        strictness: Strictness { strict: fit.strict, ..Strictness::default() },
        on_nan: OnNan::Stop,
        identity: None,
        threads: prefetch::threads(),
        resume: false,
        observer: &recorder,
    });
    let heard = recorder.heard.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !heard.diverged && heard.steps.len() < sweep.steps {
        // Anything but the end that the recorder itself asked for.
        outcome?;
    }
    let points = smoothed(&heard.steps);
    let suggestion = suggest(&points);
    Ok(RangeTest {
        strategy: plan.strategy.clone(),
        phase: phase.name,
        planned,
        batch_size: phase.batch_size,
        points,
        diverged: heard.diverged,
        suggestion,
    })
}

/// The plan up to its first phase of gradient descent, with that one at rising rates; and that phase and its own rate.
fn sweeping(plan: &Plan, sweep: Sweep) -> Result<(Plan, Train, f64)> {
    let mut phases = Vec::new();
    for phase in &plan.phases {
        let Phase::Train(train) = phase else {
            phases.push(phase.clone());
            continue;
        };
        let schedule = Schedule { warmup: 0.0, decay: Decay::Rising { decades: sweep.decades } };
        let rising = Train { epochs: 1, learning_rate: sweep.highest, schedule, patience: None, ..train.clone() };
        phases.push(Phase::Train(rising.clone()));
        return Ok((Plan { phases, ..plan.clone() }, rising, train.learning_rate));
    }
    Err(Error::input(
        format!("--strategy {}", plan.strategy),
        "no phase of its plan takes steps at a learning rate",
        "choose another strategy; feature-extraction does with --probe gradient",
    ))
}

/// `count` samples of `data`, chosen by class or repeated, so that one epoch is the whole test.
fn repeated(data: Arc<dyn Dataset>, classes: &[String], count: usize, seed: Seed) -> Result<Arc<dyn Dataset>> {
    let indices = if count < data.len() {
        let targets: Vec<u32> = (0..data.len()).map(|i| data.target(i)).collect();
        choose(&targets, classes, Budget::Total(count), seed).map_err(|_| {
            let reason = format!("{count} samples cannot hold one of each of the {} classes", classes.len());
            Error::input("--steps", reason, "take more or larger steps")
        })?
    } else {
        (0..data.len()).cycle().take(count).collect()
    };
    Ok(Arc::new(Subset::new(data, indices)))
}

/// Listens to the steps, and ends the run when it has heard enough.
struct Recorder<'a> {
    observer: &'a dyn Observer,
    steps: usize,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    /// (rate, loss)
    steps: Vec<(f64, f64)>,
    mean: f64,
    lowest: Option<f64>,
    diverged: bool,
}

impl Recorder<'_> {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Recorder<'_> {
    fn message(&self, text: &str) {
        self.observer.message(text);
    }
    fn progress(&self, part: &str, done: usize, total: usize) {
        self.observer.progress(part, done, total);
    }
    fn step(&self, rate: f64, loss: f64) {
        let mut heard = self.lock();
        if !loss.is_finite() {
            heard.diverged = true;
            return;
        }
        heard.steps.push((rate, loss));
        heard.mean = MEMORY * heard.mean + (1.0 - MEMORY) * loss;
        // The running mean starts at 0; this takes the start out of it.
        let taken = heard.steps.len();
        let mean = heard.mean / (1.0 - MEMORY.powi(taken as i32));
        let lowest = heard.lowest.map_or(mean, |lowest| lowest.min(mean));
        heard.lowest = Some(lowest);
        heard.diverged |= taken >= LEAST_STEPS && mean > BREAKAWAY * lowest;
    }
    fn stop(&self) -> bool {
        let heard = self.lock();
        heard.diverged || heard.steps.len() >= self.steps || self.observer.stop()
    }
}

/// Steps around one that are weighed with it: single batches are noisy, and a fall that shows in them alone is none.
struct Around {
    /// Index and weight: the nearer, the heavier.
    steps: Vec<(usize, f64)>,
}

impl Around {
    fn new(i: usize, count: usize) -> Self {
        let reach = reach(count);
        let near = i.saturating_sub(reach)..(i + reach + 1).min(count);
        Self { steps: near.map(|j| (j, (reach + 1 - i.abs_diff(j)) as f64)).collect() }
    }

    fn mean(&self, value: impl Fn(usize) -> f64) -> f64 {
        let weights: f64 = self.steps.iter().map(|(_, weight)| weight).sum();
        self.steps.iter().map(|&(j, weight)| weight * value(j)).sum::<f64>() / weights
    }

    /// Slope of the line through (x, y) with the smallest weighted squares.
    fn slope(&self, x: impl Fn(usize) -> f64, y: impl Fn(usize) -> f64) -> f64 {
        let (middle, level) = (self.mean(&x), self.mean(&y));
        self.mean(|j| (x(j) - middle) * (y(j) - level)) / self.mean(|j| (x(j) - middle).powi(2))
    }
}

/// A tenth of the steps to either side.
fn reach(count: usize) -> usize {
    (count / 10).max(1)
}

/// The steps with the mean of those around each.
fn smoothed(steps: &[(f64, f64)]) -> Vec<Point> {
    let mean = |i: usize| Around::new(i, steps.len()).mean(|j| steps[j].1);
    steps.iter().enumerate().map(|(i, &(rate, loss))| Point { rate, loss, smoothed: mean(i) }).collect()
}

fn suggest(points: &[Point]) -> Option<Suggestion> {
    let lowest = (0..points.len()).min_by(|&a, &b| points[a].smoothed.total_cmp(&points[b].smoothed))?;
    let slope = |i: usize| Around::new(i, points.len()).slope(|j| points[j].rate.ln(), |j| points[j].loss);
    let steepest = (reach(points.len())..lowest).min_by(|&a, &b| slope(a).total_cmp(&slope(b)))?;
    let minimum = points[lowest].rate;
    (slope(steepest) < 0.0).then(|| Suggestion {
        steepest: points[steepest].rate,
        minimum,
        tenth_of_minimum: minimum / 10.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Silent;

    /// A loss that falls from 2 around a rate of 1e-3 and rises again from 1e-1 on.
    fn course() -> Vec<(f64, f64)> {
        let rate = |i: i32| 10f64.powf(-7.0 + 0.08 * f64::from(i));
        let loss = |r: f64| 2.0 - 1.5 / (1.0 + (1e-3 / r).powf(1.5)) + (r / 0.3).powi(2);
        (0..80).map(|i| (rate(i), loss(rate(i)))).collect()
    }

    #[test]
    fn the_loss_falls_fastest_half_way_down_and_is_lowest_before_it_rises() {
        let found = suggest(&smoothed(&course())).unwrap();
        assert!((found.steepest.log10() + 3.0).abs() < 0.2, "{found:?}");
        assert!((-2.0..-1.0).contains(&found.minimum.log10()), "{found:?}");
        assert_eq!(found.tenth_of_minimum, found.minimum / 10.0);
    }

    #[test]
    fn a_loss_that_never_falls_suggests_nothing() {
        let rising: Vec<(f64, f64)> = (0..50).map(|i| (1e-7 * f64::from(i + 1), f64::from(i))).collect();
        assert_eq!(suggest(&smoothed(&rising)), None);
        assert_eq!(suggest(&[]), None);
    }

    #[test]
    fn the_recorder_ends_the_run_when_the_loss_breaks_away_or_is_no_number() {
        let recorder = || Recorder { observer: &Silent, steps: 100, heard: Mutex::default() };
        let away = recorder();
        (0..30).for_each(|i| away.step(1.0, 1.0 + f64::from(i % 2)));
        assert!(!away.stop());
        (0..30).for_each(|_| away.step(1.0, 50.0));
        assert!(away.stop() && away.lock().diverged);
        let none = recorder();
        none.step(1.0, f64::NAN);
        assert!(none.stop() && none.lock().steps.is_empty());
        let long = recorder();
        (0..100).for_each(|_| long.step(1.0, 1.0));
        assert!(long.stop() && !long.lock().diverged);
    }
}
