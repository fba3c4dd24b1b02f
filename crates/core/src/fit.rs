//! The main job: labelled data and a pre-trained model in, a run directory with a working classifier out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Extractor, boundary_key};
use crate::classifier::model_folder;
use crate::data::{Budget, Dataset, Splits, Subset, choose};
use crate::domain::{Domain, Opened};
use crate::folds::{self, Fold};
use crate::loader::Strictness;
use crate::model::{self, Head, LoadReport};
use crate::net::{Network, Params, Stage};
use crate::observe::Observer;
use crate::plan::{Plan, Start};
use crate::plan_file;
use crate::report;
use crate::run::{self, RunDir};
use crate::seed::Seed;
use crate::source::{self, Fetcher, Reference};
use crate::strategy::{self, Options, Settings, Strategy, Task};
use crate::summary::Summary;
use crate::train::{self, Job, Outcome};
use crate::{Error, Result, device};

const REPORT: &str = "report.html";
/// Disk space for kept features unless `--cache-limit` says otherwise.
const CACHE_GB: f64 = 10.0;

/// Everything that decides a run: the flags of `train`, the tables of `run.toml`, or built in code. What is `None` is
/// left to the domain and the strategy.
#[derive(Debug, Clone, Default, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", bound = "")]
pub struct Fit<D: Domain> {
    /// Pre-trained model: a name from `models list`, hf-hub:owner/name, or the path of a model folder or weights file
    #[arg(long, short, value_name = "MODEL")]
    pub model: Option<String>,
    /// How knowledge is carried over: feature-extraction (train only a new head; the default), fine-tuning (train
    /// everything) or from-scratch (the pre-trained weights are not used)
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
    /// Also write a checkpoint every N steps [default: at the end of each epoch]
    #[arg(long, value_name = "N")]
    pub checkpoint_every: Option<usize>,
    /// Keep less of each step in memory and compute it a second time
    #[arg(long)]
    pub recompute: bool,
    /// Most disk space that kept features may take, in GB; 0 keeps none [default: 10]
    #[arg(long, value_name = "GB")]
    pub cache_limit: Option<f64>,
    /// Where to compute (set by --device)
    #[arg(skip)]
    pub device: Option<String>,
    /// Never touch the network (set by --offline)
    #[arg(skip)]
    pub offline: bool,
    /// In the `run.toml` of a fold: which one of a cross-validation it is.
    #[arg(skip)]
    pub fold: Option<Fold>,
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
    /// The description with a head for the task.
    pub network: Network,
    /// Parameters at the start.
    pub params: Params,
    /// What the checkpoint gave.
    pub report: LoadReport,
    /// What will be done.
    pub plan: Plan,
    /// Tensors of the checkpoint that the description has no use for; the upstream library may want them in `model/`.
    pub unused: BTreeMap<String, Tensor>,
    /// Preprocessing.
    pub pipeline: D::Pipeline,
    /// The data, budget applied.
    pub splits: Splits,
    pub(crate) device: candle_core::Device,
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
        let device = device::parse(self.device.as_deref().unwrap_or("cpu"))?;
        let strategy = || find_strategy(self.strategy.as_deref().unwrap_or("feature-extraction"));
        if self.plan.is_none() {
            // A wrong name is told before a model is fetched.
            strategy()?;
        }
        let seed = Seed(self.seed.unwrap_or(0));
        let budget = budget(self.limit, self.per_class)?;
        let name = self.model.as_deref().unwrap_or(D::DEFAULT_MODEL);
        // A strategy that starts from random weights needs the description alone.
        let mut opened = describe::<D>(name, self.offline, observer)?;
        opened = D::configure(opened, &self.data)?;
        let splits = D::splits(&self.data, &opened.pipeline, None, seed)?;
        let splits = folds::arrange(splits, self.folds, self.fold, budget, seed)?;
        let network = opened.network.with_classes(splits.classes.len());
        let task = Task { classes: splits.classes.len(), samples: splits.train.len() };
        let settings = Settings { options: self.options.clone(), defaults: D::defaults() };
        let plan = match &self.plan {
            Some(plan) => {
                plan_file::check(plan, &network)?;
                plan.clone()
            }
            None => strategy()?.plan(&network, &task, &settings),
        };
        if splits.validation.is_empty() {
            folds::check(&plan)?;
        }
        let (params, report) = match plan.start {
            Start::Pretrained => {
                if opened.weights.is_empty() {
                    opened.weights = open_model::<D>(name, self.offline, observer)?.weights;
                }
                // A model of the very same classes goes on learning; other ones, however many, are another task.
                let same = opened.classes.as_ref() == Some(&splits.classes);
                let head = if same { Head::Keep } else { Head::Fresh(seed) };
                model::fit(&network, &opened.weights, head, &device, name)?
            }
            Start::Random => (model::random(&network, seed, &device)?, LoadReport::default()),
        };
        let used: BTreeSet<String> = network.params().into_iter().map(|spec| spec.name).collect();
        let mut unused = opened.weights;
        unused.retain(|name, _| !used.contains(name));
        Ok(Prepared { network, params, report, plan, unused, pipeline: opened.pipeline, splits, device })
    }

    /// Looks for numbers that make no sense.
    fn check(&self) -> Result<()> {
        if self.checkpoint_every == Some(0) {
            return Err(Error::input("--checkpoint-every 0", "it must be at least 1", "choose a larger number"));
        }
        cache(self.cache_limit).map(drop)
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
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
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
        let options = self.options.clone().over(&Options::default());
        let resolved = Self {
            model: Some(self.model.clone().unwrap_or_else(|| D::DEFAULT_MODEL.into())),
            strategy: Some(prepared.plan.strategy.clone()),
            seed: Some(self.seed.unwrap_or(0)),
            plan: Some(prepared.plan.clone()),
            force: false,
            options,
            ..self.clone()
        };
        let text = toml::to_string(&resolved).map_err(|e| Error::input("run.toml", e, "report this as a defect"))?;
        run.write("run.toml", &text)?;
        let cache = cache(self.cache_limit)?;
        let preparation = started.elapsed().as_secs_f64();
        let classes = prepared.splits.classes;
        let folded = Instant::now();
        let folds = match self.folds {
            Some(count) => {
                let all = &*prepared.splits.train;
                Some(folds::cross_validate(&resolved, count, all, &classes, &run, observer)?)
            }
            None => None,
        };
        let folded = folded.elapsed().as_secs_f64();
        let fingerprint = D::fingerprint(&prepared.pipeline);
        let stages: Vec<&Stage> = prepared.network.stages.iter().collect();
        let key = |params: &Params| boundary_key(&stages, params, &fingerprint);
        let start = self.fold.map(|_| key(&prepared.params)).transpose()?;
        let validation = prepared.splits.validation.clone();
        let strictness = Strictness { strict: self.strict, ..Strictness::default() };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let outcome = train::execute(Job {
            network: &prepared.network,
            plan: &prepared.plan,
            params: prepared.params,
            classes: &classes,
            train: prepared.splits.train,
            validation: prepared.splits.validation,
            fingerprint: &fingerprint,
            seed: Seed(self.seed.unwrap_or(0)),
            device: &prepared.device,
            run: &run,
            cache: &cache,
            checkpoint_every: self.checkpoint_every,
            recompute: self.recompute,
            strictness,
            threads,
            resume,
            observer,
        })?;
        for (name, reason) in &outcome.skipped {
            observer.message(&format!("left out: {name}: {reason}"));
        }
        if let Some(start) = start {
            // A backbone that is as it was has its features kept already; those of another are of no use to anyone else.
            let same = key(&outcome.params)? == start;
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
        let model = Opened {
            network: prepared.network,
            weights: prepared.unused.into_iter().chain(outcome.params.snapshot()).collect(),
            pipeline: prepared.pipeline,
            classes: Some(classes),
        };
        run.install_model(|folder| D::save(folder, &model))?;
        let mut summary = Summary::new(&outcome, preparation, started.elapsed().as_secs_f64());
        if let Some(folds) = folds {
            summary = summary.with_folds(folds);
            summary.seconds.insert("folds".into(), folded);
        }
        run.write_json("summary.json", &summary)?;
        run.write(REPORT, &report::page(D::BINARY, &resolved_title(&resolved), &prepared.plan, &outcome, &summary))?;
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

fn find_strategy(name: &str) -> Result<&'static dyn Strategy> {
    strategy::all().iter().copied().find(|s| s.name() == name).ok_or_else(|| {
        let known: Vec<&str> = strategy::all().iter().map(|s| s.name()).collect();
        Error::input(format!("--strategy {name}"), "no such strategy", format!("use one of {}", known.join(", ")))
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

/// The cache of kept features that `--cache-limit` allows.
pub(crate) fn cache(limit: Option<f64>) -> Result<Cache> {
    match limit {
        Some(0.0) => Ok(Cache::none()),
        Some(gb) if !(gb.is_finite() && gb > 0.0) => Err(Error::input(
            format!("--cache-limit {gb}"),
            "it is no amount of disk space",
            "give gigabytes, or 0 to keep nothing",
        )),
        limit => Ok(Cache::at(source::cache_dir().join("features"), (limit.unwrap_or(CACHE_GB) * 1e9) as u64)),
    }
}

/// The samples of `data` that a budget allows.
pub(crate) fn within(
    data: Arc<dyn Dataset>,
    classes: &[String],
    budget: Budget,
    seed: Seed,
) -> Result<Arc<dyn Dataset>> {
    if budget == Budget::All {
        return Ok(data);
    }
    let targets: Vec<u32> = (0..data.len()).map(|i| data.target(i)).collect();
    let chosen = choose(&targets, classes, budget, seed)?;
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
        Reference::Path(path) => D::open(&path, None),
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
    if folder.is_dir() { D::open(&model_folder(folder)?, None) } else { open_model::<D>(name, offline, observer) }
}

/// Understands the model called `name` without its weights, where its card says enough; else as [`open_model`].
///
/// # Errors
/// As [`open_model`].
pub fn describe<D: Domain>(name: &str, offline: bool, observer: &dyn Observer) -> Result<Opened<D::Pipeline>> {
    let described = match source::parse(name, D::cards())? {
        Reference::Card(card) => D::describe(card),
        Reference::Hub { .. } | Reference::Path(_) => None,
    };
    described.map_or_else(|| open_model::<D>(name, offline, observer), Ok)
}
