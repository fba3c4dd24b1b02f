//! The main job: labelled data and a pre-trained model in, a run directory with a working classifier out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::adapter::{self, Trained};
use crate::cache::{Cache, Extractor, boundary_key};
use crate::calibration::Calibration;
use crate::classifier::model_folder;
use crate::data::{Budget, Dataset, Splits, Subset, choose};
use crate::device::Place;
use crate::domain::{Domain, Opened};
use crate::folds::{self, Fold};
use crate::loader::Strictness;
use crate::machine::Machine;
use crate::memory::{self, Use};
use crate::model::{self, Head, LoadReport};
use crate::net::{Layer, Network, Params, Stage, adapt};
use crate::observe::Observer;
use crate::plan::{BatchNormMode, Phase, Plan, Start};
use crate::plan_file;
use crate::report;
use crate::run::{self, RunDir};
use crate::seed::Seed;
use crate::source::{self, Fetcher, Reference, WRONG_CHECKSUM};
use crate::strategy::{self, Facts, Options, Settings, Strategy};
use crate::summary::{self, Summary};
use crate::task::{Kind, Task};
use crate::train::{self, Companions, Job, OnNan, Outcome, Teacher};
use crate::{Error, Result};

const REPORT: &str = "report.html";
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

/// All that a run starts from, before anything is written: what `--dry-run` shows.
pub struct Prepared<D: Domain> {
    /// The description with a head for the task, as it comes.
    pub base: Network,
    /// The same with the plan's adapters in it.
    pub network: Network,
    /// Parameters at the start.
    pub params: Params,
    /// What the checkpoint gave.
    pub report: LoadReport,
    /// The name of the model that is started from.
    pub model: String,
    /// What will be done.
    pub plan: Plan,
    /// Tensors of the checkpoint that the description has no use for; the upstream library may want them in `model/`.
    pub unused: BTreeMap<String, Tensor>,
    /// Preprocessing.
    pub pipeline: D::Pipeline,
    /// The data, budget applied.
    pub splits: Splits,
    /// Other models that the plan speaks of.
    pub companions: Companions,
    pub(crate) device: Place,
}

impl<D: Domain> Prepared<D> {
    /// How its steps use memory.
    pub fn memory(&self, recompute: bool) -> Use<'_> {
        Use { network: &self.network, samples: &*self.splits.train, kind: self.splits.task.kind, recompute }
    }
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

    /// Reads data and model and makes the plan; writes nothing but the caches.
    ///
    /// # Errors
    /// When data, model or settings are unusable.
    pub fn prepare(&self, observer: &dyn Observer) -> Result<Prepared<D>> {
        self.options.check()?;
        self.check()?;
        let device = self.machine.place()?;
        let strategy = || find_strategy(self.strategy.as_deref().unwrap_or("feature-extraction"));
        if self.plan.is_none() {
            // A wrong name is told before a model is fetched.
            strategy()?;
        }
        let seed = Seed(self.seed.unwrap_or(0));
        let budget = budget(self.limit, self.per_class)?;
        let name = &self.model_name();
        // A strategy that starts from random weights needs the description alone.
        let mut opened = match describe::<D>(name, self.machine.offline, observer) {
            Ok(opened) => opened,
            Err(error) => return self.substituted(error, observer)?.prepare(observer),
        };
        opened = adapter::configure::<D>(opened, &self.data)?;
        let splits = D::splits(&self.data, &opened.pipeline, None, seed)?;
        let splits = folds::arrange(splits, self.folds, self.fold, budget, seed)?;
        let base = opened.network.with_classes(splits.task.len());
        let facts = Facts { kind: splits.task.kind, outputs: splits.task.len(), samples: splits.train.len() };
        let settings = Settings { options: self.options.clone(), defaults: D::defaults() };
        let plan = match &self.plan {
            Some(plan) => {
                plan_file::check(plan, &base)?;
                plan.clone()
            }
            None => {
                let strategy = strategy()?;
                strategy.check(&base, &settings)?;
                strategy.plan(&base, &facts, &settings)
            }
        };
        splits.task.check(&plan)?;
        if splits.validation.is_empty() {
            folds::check(&plan)?;
        }
        adapts(&plan, &base, name)?;
        let network = adapt::apply(&base, &plan.adapters)?;
        let (params, report) = match plan.start {
            Start::Pretrained => {
                if opened.weights.is_empty() {
                    opened.weights = match open_model::<D>(name, self.machine.offline, observer) {
                        Ok(found) => found.weights,
                        Err(error) => return self.substituted(error, observer)?.prepare(observer),
                    };
                }
                // A model of the very same classes goes on learning; other ones, however many, are another task.
                let same = opened.task.as_ref() == Some(&splits.task);
                let head = if same { Head::Keep } else { Head::Fresh(seed) };
                model::fit(&base, &opened.weights, head, &device, name)?
            }
            Start::Random => (model::random(&base, seed, &device)?, LoadReport::default()),
        };
        let mut companions = self.companions(&plan, &network, &splits, budget, &device)?;
        if plan.needs_source_head() {
            let head = source_head(&network, &opened.weights, &device)?;
            companions.source_head = Some(head.ok_or_else(|| {
                let reason = "the checkpoint has no head of its own, so no source labels are known";
                Error::input(name, reason, "choose a model that was trained to classify, or another strategy")
            })?);
        }
        let used: BTreeSet<String> = network.params().into_iter().map(|spec| spec.name).collect();
        let mut unused = opened.weights;
        unused.retain(|name, _| !used.contains(name));
        let pipeline = opened.pipeline;
        let model = name.clone();
        Ok(Prepared { base, network, params, report, model, plan, unused, pipeline, splits, companions, device })
    }

    /// The model to start from; where runs are to be mixed and none is named, the first of them.
    fn model_name(&self) -> String {
        let first = || Some(Path::new(self.options.runs.as_ref()?.first()?).join("model").display().to_string());
        self.model.clone().or_else(first).unwrap_or_else(|| D::DEFAULT_MODEL.into())
    }

    /// The same with the model that is part of the program, where none is named and the default cannot be had because of
    /// `error`.
    fn substituted(&self, error: Error, observer: &dyn Observer) -> Result<Self> {
        let named = self.model.is_some() || self.options.runs.is_some();
        match (&error, D::EMBEDDED_MODEL) {
            // A file that is not what it should be is no reason to go on.
            (Error::Input { reason, .. }, Some(embedded)) if !named && !reason.contains(WRONG_CHECKSUM) => {
                let default = D::DEFAULT_MODEL;
                observer.message(&format!(
                    "{default} cannot be had; {embedded}, which is part of this program, takes its place (--model names another)"
                ));
                Ok(Self { model: Some(embedded.into()), ..self.clone() })
            }
            _ => Err(error),
        }
    }

    /// Opens the other models that `plan` speaks of.
    fn companions(
        &self,
        plan: &Plan,
        network: &Network,
        splits: &Splits,
        budget: Budget,
        device: &Device,
    ) -> Result<Companions> {
        let mut companions = Companions::default();
        for name in plan.runs() {
            let opened = finished::<D>(name, &splits.task)?;
            // What they were trained on may have another size than what is seen now.
            if (&opened.network.stages, &opened.network.head) != (&network.stages, &network.head) {
                let reason = format!("its network is another one than {}", network.name);
                return Err(Error::input(name, reason, "mix runs of one model and one pooling"));
            }
            let (params, _) = model::fit(network, &opened.weights, Head::Keep, device, name)?;
            companions.runs.insert(name.into(), params);
        }
        for name in plan.teachers() {
            let Opened { network, weights, pipeline, .. } = finished::<D>(name, &splits.task)?;
            let (params, _) = model::fit(&network, &weights, Head::Keep, device, name)?;
            // The same samples, prepared as the teacher knows them.
            let seed = Seed(self.seed.unwrap_or(0));
            let own = D::splits(&self.data, &pipeline, None, seed)?;
            let train = folds::arrange(own, self.folds, self.fold, budget, seed)?.train;
            let teacher = Teacher { network, params, train, fingerprint: D::fingerprint(&pipeline) };
            companions.teachers.insert(name.into(), teacher);
        }
        Ok(companions)
    }

    /// Looks whether the steps of what was prepared have room in memory.
    ///
    /// # Errors
    /// When they have not, with settings that would.
    pub(crate) fn has_room(&self, prepared: &Prepared<D>) -> Result<()> {
        let limit = match self.memory_limit {
            Some(gb) if !(gb.is_finite() && gb >= 0.0) => {
                let remedy = "give gigabytes, or 0 for no bound";
                return Err(Error::input(format!("--memory-limit {gb}"), "it is no amount of memory", remedy));
            }
            Some(gb) => (gb > 0.0).then_some((gb * 1e9) as u64),
            // What is free on another device is not known here.
            None if prepared.device.is_cpu() => memory::free(),
            None => None,
        };
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
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
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
        let mistakes = answers.at(temperature).mistakes(&task, &**judged, report::MOST_MISTAKES);
        let calibrate = |folder: &Path| calibration.as_ref().map_or(Ok(()), |found| found.write(folder));
        let model = Opened {
            network: prepared.network,
            weights: prepared.unused.into_iter().chain(outcome.params.snapshot()).collect(),
            pipeline,
            task: Some(task),
        };
        if !prepared.plan.adapters.is_empty() {
            let name = prepared.model.as_str();
            let adapters = &prepared.plan.adapters;
            let trained = Trained::<D> { adapters, base: &prepared.base, model: name, args: &self.data };
            run.install_adapter(|folder| adapter::save(folder, &model, &trained).and_then(|()| calibrate(folder)))?;
        }
        run.install_model(|folder| adapter::save_model::<D>(folder, &model).and_then(|()| calibrate(folder)))?;
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

/// An adapter is saved apart from its base, which therefore has to stay as it is, and to be without one.
fn adapts(plan: &Plan, base: &Network, model: &str) -> Result<()> {
    if plan.adapters.is_empty() {
        return Ok(());
    }
    if let Some(carried) = adapt::found(base).first() {
        let reason = format!("it carries an adapter of kind {} already", carried.kind());
        let remedy =
            "start from the model that this adapter was trained on, or use another strategy, such as fine-tuning";
        return Err(Error::input(format!("--model {model}"), reason, remedy));
    }
    let moves = |phase: &Phase| matches!(phase, Phase::Train(train) if train.batch_norm == BatchNormMode::Update);
    if plan.phases.iter().any(moves) {
        let reason = "would change the base that the adapter is to be used on";
        let remedy = "leave it out: adapters learn with the running statistics";
        return Err(Error::input("--batch-norm update", reason, remedy));
    }
    Ok(())
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

/// The head, where it is a single linear layer, among a checkpoint's `weights`, where it has one on the features of `network`.
fn source_head(
    network: &Network,
    weights: &BTreeMap<String, Tensor>,
    device: &Device,
) -> Result<Option<(Tensor, Tensor)>> {
    let mut linears = network.head.layers.iter().filter_map(|l| if let Layer::Linear(l) = l { Some(l) } else { None });
    let (Some(linear), None) = (linears.next(), linears.next()) else { return Ok(None) };
    let part = |part: &str| weights.get(&format!("{}.{part}", linear.name));
    let Some(weight) = part("weight").filter(|w| w.dims().get(1) == Some(&network.features())) else { return Ok(None) };
    let single =
        |tensor: &Tensor| -> Result<Tensor> { Ok(tensor.to_dtype(DType::F32)?.to_device(device)?.contiguous()?) };
    let weight = single(weight)?;
    let bias = match part("bias") {
        Some(bias) => single(bias)?,
        None => Tensor::zeros(weight.dims()[0], DType::F32, device)?,
    };
    Ok(Some((weight, bias)))
}

/// The model of a finished run, or a model folder, that tells the very `classes` apart.
fn finished<D: Domain>(name: &str, task: &Task) -> Result<Opened<D::Pipeline>> {
    let opened = adapter::open_folder::<D>(&model_folder(Path::new(name))?, None)?;
    match &opened.task {
        Some(own) if own == task => Ok(opened),
        Some(own) => {
            let some = |names: &[String]| names.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            let reason = format!("it is of {} {}, the data are of {} {}", own.kind, some(own), task.kind, some(task));
            Err(Error::input(name, reason, "name a model of the same ones in the same order"))
        }
        None => Err(Error::input(name, "it names no outputs: it is a backbone", "name a finished run")),
    }
}

pub(crate) fn find_strategy(name: &str) -> Result<&'static dyn Strategy> {
    strategy::all().iter().copied().find(|s| s.name() == name).ok_or_else(|| {
        let known: Vec<&str> = strategy::all().iter().map(|s| s.name()).collect();
        Error::input(
            format!("--strategy {name}"),
            "no such strategy",
            format!("use one of {}; `strategies` says what they do", known.join(", ")),
        )
    })
}

/// How many training samples `--limit` and `--per-class` allow.
pub(crate) fn budget(limit: Option<usize>, per_class: Option<usize>) -> Result<Budget> {
    let none = |flag| Err(Error::input(format!("{flag} 0"), "there is nothing to learn from", "use 1 or more"));
    match (limit, per_class) {
        (Some(_), Some(_)) => Err(Error::input("--limit", "it excludes --per-class", "give one of the two")),
        (Some(0), _) => none("--limit"),
        (_, Some(0)) => none("--per-class"),
        (Some(n), _) => Ok(Budget::Total(n)),
        (_, Some(n)) => Ok(Budget::PerClass(n)),
        _ => Ok(Budget::All),
    }
}

/// The samples of `data` that a budget allows.
pub(crate) fn within(data: Arc<dyn Dataset>, task: &Task, budget: Budget, seed: Seed) -> Result<Arc<dyn Dataset>> {
    if budget == Budget::All {
        return Ok(data);
    }
    let chosen = match task.kind {
        Kind::Matches => {
            let couples = vec![0; data.len() / 2];
            let chosen = choose(&couples, &["couples".into()], budget, seed)?;
            chosen.into_iter().flat_map(|couple| [2 * couple, 2 * couple + 1]).collect()
        }
        _ => {
            let targets: Vec<u32> = (0..data.len()).map(|i| data.target(i)).collect();
            choose(&targets, task, budget, seed)?
        }
    };
    Ok(Arc::new(Subset::new(data, chosen)))
}

/// Brings the files of the model called `name` to this machine; gives their folder.
///
/// # Errors
/// When the name is unknown or no source has it.
pub fn fetch<D: Domain>(name: &str, offline: bool, observer: &dyn Observer) -> Result<PathBuf> {
    let reference = source::parse(name, D::cards())?;
    let fetcher = Fetcher::from_env();
    let offline = offline || fetcher.is_offline();
    Ok(fetcher.with_offline(offline).fetch(&reference, D::HUB_FILES, &mut |text| observer.message(text))?.folder)
}

/// Fetches and understands the model called `name`.
///
/// # Errors
/// As [`fetch`]; and when the files are not a model of this domain.
pub fn open_model<D: Domain>(name: &str, offline: bool, observer: &dyn Observer) -> Result<Opened<D::Pipeline>> {
    match source::parse(name, D::cards())? {
        // A run is meant for its model.
        Reference::Path(path) if path.is_dir() => adapter::open_folder::<D>(&model_folder(&path)?, None),
        Reference::Path(path) => adapter::open_folder::<D>(&path, None),
        Reference::Card(card) => D::open(&fetch::<D>(name, offline, observer)?, Some(card)),
        Reference::Hub { .. } => D::open(&fetch::<D>(name, offline, observer)?, None),
    }
}

/// A model that is at hand (a run directory, a model folder) or as [`open_model`].
///
/// # Errors
/// As there; and when a run has no finished model.
pub fn open_any<D: Domain>(name: &str, offline: bool, observer: &dyn Observer) -> Result<Opened<D::Pipeline>> {
    let folder = Path::new(name);
    if folder.is_dir() {
        adapter::open_folder::<D>(&model_folder(folder)?, None)
    } else {
        open_model::<D>(name, offline, observer)
    }
}

/// Understands the model called `name` without its weights, where its card says enough; else as [`open_model`].
///
/// # Errors
/// As [`open_model`].
pub fn describe<D: Domain>(name: &str, offline: bool, observer: &dyn Observer) -> Result<Opened<D::Pipeline>> {
    let described = match source::parse(name, D::cards()) {
        Ok(Reference::Card(card)) => D::describe(card),
        Ok(Reference::Hub { .. } | Reference::Path(_)) => None,
        Err(unknown) => Some(D::outline(name).ok_or(unknown)?),
    };
    described.map_or_else(|| open_model::<D>(name, offline, observer), Ok)
}
