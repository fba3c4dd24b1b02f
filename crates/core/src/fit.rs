//! The main job: labelled data and a pre-trained model in, a run directory with a working classifier out.

mod open;
mod prepare;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use self::open::{describe, fetch, open_any, open_model};
pub use self::prepare::Prepared;
pub(crate) use self::prepare::{budget, find_strategy, within};
use crate::adapter::{self, Trained};
use crate::cache::{Cache, Extractor, boundary_key};
use crate::calibration::Calibration;
use crate::domain::{Domain, Opened};
use crate::folds::{self, Fold};
use crate::loader::Strictness;
use crate::machine::Machine;
use crate::memory;
use crate::net::{Params, Stage};
use crate::observe::Observer;
use crate::occlusion;
use crate::plan::Plan;
use crate::prefetch;
use crate::report;
use crate::run::{self, REPORT, RunDir};
use crate::seed::Seed;
use crate::strategy::Options;
use crate::summary::{self, Summary};
use crate::train::{self, Job, OnNan, Outcome};
use crate::{Error, Result};

/// About how often a phase is judged on the way.
const JUDGEMENTS: usize = 5;

/// Everything that decides a run: the flags of `train`, the tables of `run.toml`, or built in code. What is `None` is
/// left to the domain and the strategy.
///
/// ```
/// # #[path = "../examples/signals.rs"] mod signals;
/// # use signals::{DataArgs, Signals, generate};
/// use topwork_core::fit::Fit;
/// use topwork_core::observe::Silent;
/// use topwork_core::strategy::Options;
///
/// # fn main() -> topwork_core::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let (table, run) = (folder.path().join("signals.csv"), folder.path().join("run"));
/// # std::fs::write(&table, generate(&[0.05, 0.2], 0.3, 30, 0)).unwrap();
/// # let data = DataArgs { train: Some(table), ..DataArgs::default() };
/// let options = Options { epochs: Some(2), learning_rate: Some(1e-3), ..Options::default() };
/// let fit = Fit::<Signals> { folds: Some(3), ..Fit::new(data).strategy("from-scratch").seed(7).options(options) };
/// // What would be done, before anything is.
/// println!("{}", fit.prepare(&Silent)?.plan);
///
/// let finished = fit.out(&run).run(&Silent)?;
/// let folds = finished.summary.folds.expect("folds were asked for");
/// assert_eq!(folds.each.len(), 3);
/// assert!(run.join("report.html").is_file());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", bound = "")]
pub struct Fit<D: Domain> {
    /// Pre-trained model: a name from `models list`, hf-hub:owner/name, or the path of a model folder or weights file
    #[arg(long, short, value_name = "MODEL")]
    pub model: Option<String>,
    /// How knowledge is carried over: one of those that `strategies` lists [default: feature-extraction]
    #[arg(long, short, value_name = "STRATEGY")]
    pub strategy: Option<String>,
    /// Folder to make for the run: model, report, metrics and checkpoints
    #[arg(long, short, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Decides everything random: same seed, same result [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Train on this many samples, stratified by class
    #[arg(long, value_name = "N", conflicts_with = "per_class")]
    pub limit: Option<usize>,
    /// Train on this many samples of each class
    #[arg(long, value_name = "N")]
    pub per_class: Option<usize>,
    /// Judge by stratified cross-validation: this many models, each predicting the part that it did not learn from, then
    /// one that learns from everything
    #[arg(long, value_name = "K")]
    pub folds: Option<usize>,
    /// Replace an earlier run at --out
    #[arg(long)]
    pub force: bool,
    /// Make the first unreadable sample an error instead of leaving it out
    #[arg(long)]
    pub strict: bool,
    /// What to do when a loss is no number [default: stop]
    #[arg(long, value_name = "NAME")]
    pub on_nan: Option<OnNan>,
    /// Write a checkpoint every N steps and at the end of each epoch [default: at the end of the first epoch, and then at
    /// ends of epochs, so seldom that writing takes a twentieth of the time]
    #[arg(long, value_name = "N")]
    pub checkpoint_every: Option<usize>,
    /// Least time between the checkpoints at the ends of epochs and phases; for programs whose runs are too short to be gone on with.
    #[arg(skip)]
    #[serde(skip)]
    pub checkpoint_pause: Duration,
    /// Keep less of each step in memory and compute it a second time
    #[arg(long)]
    pub recompute: bool,
    /// Refuse steps that would take more memory than this, in GB; 0 for no bound [default: what is free]
    #[arg(long, value_name = "GB")]
    pub memory_limit: Option<f64>,
    /// In the `run.toml` of a fold: which one of a cross-validation it is.
    #[arg(skip)]
    pub fold: Option<Fold>,
    /// What it may use.
    #[command(flatten)]
    pub machine: Machine,
    /// How to train.
    #[command(flatten, next_help_heading = "Training")]
    pub options: Options,
    /// Where the labelled data is.
    #[command(flatten, next_help_heading = "Data")]
    pub data: D::DataArgs,
    /// A plan to follow instead of the strategy's own; in `run.toml`, the plan that was followed.
    #[arg(skip)]
    pub plan: Option<Plan>,
}

impl<D: Domain> Fit<D> {
    /// A job on this data, everything else left to the defaults.
    pub fn new(data: D::DataArgs) -> Self {
        Self { data, ..Self::default() }
    }

    /// The pre-trained model.
    pub fn model(mut self, name: &str) -> Self {
        self.model = Some(name.into());
        self
    }

    /// The strategy.
    pub fn strategy(mut self, name: &str) -> Self {
        self.strategy = Some(name.into());
        self
    }

    /// The run directory to make.
    pub fn out(mut self, folder: impl Into<PathBuf>) -> Self {
        self.out = Some(folder.into());
        self
    }

    /// The seed of everything random.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// How to train.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Looks whether the steps of what was prepared have room in memory.
    ///
    /// # Errors
    /// When they have not, with settings that would.
    pub(crate) fn has_room(&self, prepared: &Prepared<D>) -> Result<()> {
        let limit = memory::limit(self.memory_limit, &prepared.device)?;
        limit.map_or(Ok(()), |limit| prepared.memory(self.recompute).check(&prepared.plan, self.plan.is_some(), limit))
    }

    /// Looks for numbers that make no sense.
    fn check(&self) -> Result<()> {
        if self.checkpoint_every == Some(0) {
            return Err(Error::input("--checkpoint-every 0", "it must be at least 1", "choose a larger number"));
        }
        self.machine.cache().map(drop)
    }

    /// Does the job: trains, and leaves a complete run directory at `out`.
    ///
    /// # Errors
    /// When data, model, settings or the output folder are unusable; nothing half-written is left then.
    pub fn run(&self, observer: &dyn Observer) -> Result<Finished> {
        self.execute(observer, false)
    }

    /// Goes on with the interrupted run at `folder`, to the bytes it would have ended in.
    ///
    /// # Errors
    /// When there is no run, it is finished, or its data or model are gone.
    pub fn resume(folder: &Path, observer: &dyn Observer) -> Result<Finished> {
        Self::of_run(folder)?.execute(observer, true)
    }

    /// The settings of the interrupted run at `folder`.
    ///
    /// # Errors
    /// When there is no run, it is finished, or its `run.toml` is damaged.
    pub fn of_run(folder: &Path) -> Result<Self> {
        let path = folder.join("run.toml");
        if !path.is_file() {
            return Err(run::nothing_to_resume(folder));
        }
        // The last file that a run writes.
        if folder.join(REPORT).is_file() {
            let remedy = "use its model, or start another run with another --out";
            return Err(Error::input(folder.display(), "this run is finished: there is nothing to resume", remedy));
        }
        let fit = Self::read(&path, "restore the file as the run wrote it, or start anew with another --out")?;
        Ok(Self { out: Some(folder.into()), ..fit })
    }

    /// Reads settings as `run.toml` has them.
    ///
    /// # Errors
    /// When they cannot be read or understood; `remedy` says what to do then.
    pub fn read(path: &Path, remedy: &str) -> Result<Self> {
        let text = crate::files::read_small_text(path).map_err(Error::io(path))?;
        toml::from_str(&text).map_err(|e| Error::input(path.display(), e.to_string().trim_end(), remedy))
    }

    /// Brings the run at `out` to its end from wherever it is: not begun, interrupted or finished.
    pub(crate) fn complete(&self, observer: &dyn Observer) -> Result<()> {
        let out = self.out.clone().unwrap_or_default();
        if out.join(REPORT).is_file() {
            return Ok(());
        }
        self.execute(observer, out.join("run.toml").is_file()).map(drop)
    }

    /// Does the job as [`Fit::run`], or goes on with it at the same `out`.
    pub(crate) fn go_on(&self, observer: &dyn Observer) -> Result<Finished> {
        self.execute(observer, true)
    }

    fn execute(&self, observer: &dyn Observer, resume: bool) -> Result<Finished> {
        let started = Instant::now();
        let out = self
            .out
            .as_deref()
            .ok_or_else(|| Error::input("--out", "no run directory is named", "add for example --out runs/first"))?;
        // Taken before the long work: two runs must not want one folder.
        let run = if resume { RunDir::resume(out)? } else { RunDir::create(out, self.force)? };
        let prepared = self.prepare(observer)?;
        observer.message(&format!("model {}: {}", prepared.network.name, prepared.report));
        self.has_room(&prepared)?;
        let options = self.options.clone().over(&Options::default());
        let resolved = Self {
            model: Some(prepared.model.clone()),
            strategy: Some(prepared.plan.strategy.clone()),
            seed: Some(self.seed.unwrap_or(0)),
            plan: Some(prepared.plan.clone()),
            force: false,
            options,
            ..self.clone()
        };
        let text = toml::to_string(&resolved).map_err(|e| Error::input("run.toml", e, "report this as a defect"))?;
        let cache = self.machine.cache()?;
        let task = prepared.splits.task;
        let fingerprint = D::fingerprint(&prepared.pipeline);
        let stages: Vec<&Stage> = prepared.network.stages.iter().collect();
        let key = |params: &Params| boundary_key(&stages, params, &fingerprint, prepared.device.precision);
        // With an adapter in it the backbone is another one, and what is in the adapter is not there yet.
        let compared = self.fold.is_some() && prepared.plan.adapters.is_empty();
        let start = compared.then(|| key(&prepared.params)).transpose()?;
        let (all, validation) = (prepared.splits.train.clone(), prepared.splits.validation.clone());
        let strictness = Strictness { strict: self.strict, ..Strictness::default() };
        let threads = prefetch::threads();
        let mut job = Job {
            network: &prepared.network,
            plan: &prepared.plan,
            params: prepared.params,
            task: &task,
            train: prepared.splits.train,
            validation: prepared.splits.validation,
            fingerprint: &fingerprint,
            companions: prepared.companions,
            seed: Seed(self.seed.unwrap_or(0)),
            device: &prepared.device,
            run: &run,
            cache: &cache,
            checkpoint_every: self.checkpoint_every,
            checkpoint_pause: self.checkpoint_pause,
            // A fold is judged by its end.
            judgements: if self.fold.is_some() { 1 } else { JUDGEMENTS },
            recompute: self.recompute,
            strictness,
            on_nan: self.on_nan.unwrap_or_default(),
            identity: None,
            threads,
            resume,
            observer,
        };
        run.begin(&train::identity(&mut job)?, &text)?;
        let preparation = started.elapsed().as_secs_f64();
        let folded = Instant::now();
        let folds = match self.folds {
            Some(count) => Some(folds::cross_validate(&resolved, count, &*all, &task, &run, observer)?),
            None => None,
        };
        let folded = folded.elapsed().as_secs_f64();
        let outcome = train::execute(job)?;
        for (name, reason) in &outcome.skipped {
            observer.message(&format!("left out: {name}: {reason}"));
        }
        if self.fold.is_some() {
            // A backbone that is as it was has its features kept already; those of another are of no use to anyone else.
            let same = start.is_some() && start == Some(key(&outcome.params)?);
            let extractor = Extractor {
                cache: if same { &cache } else { &Cache::none() },
                stages: &stages,
                params: &outcome.params,
                fingerprint: &fingerprint,
                device: &prepared.device,
                threads,
                observer,
            };
            folds::judge(&extractor, &prepared.network, &validation, strictness, &run)?;
        }
        let mut pipeline = prepared.pipeline;
        D::conclude(&mut pipeline, &outcome.metrics);
        // Where a cross-validation left nothing to judge by, each sample is judged by the model that did not learn from it.
        let (judged, answers, judged_on) = match &folds {
            Some((_, answers)) if outcome.outputs.samples.is_empty() => (&all, answers, summary::OUT_OF_FOLD),
            _ => (&validation, &outcome.outputs, summary::VALIDATION),
        };
        let calibration = Calibration::fit(answers, &task, &**judged, judged_on);
        let temperature = calibration.as_ref().map_or(1.0, |found| found.temperature);
        let mut mistakes = answers.at(temperature).mistakes(&task, &**judged, report::MOST_MISTAKES);
        let calibrate = |folder: &Path| calibration.as_ref().map_or(Ok(()), |found| found.write(folder));
        let model = Opened {
            network: prepared.network,
            weights: prepared.unused.into_iter().chain(outcome.params.snapshot()).collect(),
            pipeline,
            task: Some(task.clone()),
        };
        if !prepared.plan.adapters.is_empty() {
            let name = prepared.model.as_str();
            let adapters = &prepared.plan.adapters;
            let trained = Trained::<D> { adapters, base: &prepared.base, model: name, args: &self.data };
            run.install_adapter(|folder| adapter::save(folder, &model, &trained).and_then(|()| calibrate(folder)))?;
        }
        run.install_model(|folder| adapter::save_model::<D>(folder, &model).and_then(|()| calibrate(folder)))?;
        // What each sample is judged by in a cross-validation is gone by now.
        if judged_on == summary::VALIDATION {
            let learned = (&model.network, &outcome.params, &prepared.device);
            if let Err(e) = occlusion::mark(&mut mistakes, &**judged, &task, learned) {
                observer.message(&format!("no words of the mistakes are marked: {e}"));
            }
        }
        let mut summary = Summary::new(&outcome, preparation, started.elapsed().as_secs_f64());
        if let Some((folds, _)) = folds {
            summary = summary.with_folds(folds);
            summary.seconds.insert("folds".into(), folded);
        }
        summary.calibration = calibration;
        run.write_json("summary.json", &summary)?;
        let title = resolved_title(&resolved);
        run.write(REPORT, &report::page(D::BINARY, &title, &prepared.plan, &outcome, &summary, &mistakes))?;
        run.keep();
        Ok(Finished { outcome, summary })
    }
}

/// What `report.html` is headed with: model, strategy and seed.
fn resolved_title<D: Domain>(fit: &Fit<D>) -> String {
    let strategy = fit.plan.as_ref().map_or("", |plan| plan.strategy.as_str());
    format!("{}, {strategy}, seed {}", fit.model.as_deref().unwrap_or(D::DEFAULT_MODEL), fit.seed.unwrap_or(0))
}

/// A run that came to its end.
pub struct Finished {
    /// Parameters, metrics and history.
    pub outcome: Outcome,
    /// What `summary.json` holds.
    pub summary: Summary,
}
