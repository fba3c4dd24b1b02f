//! What a run starts from, before anything is written: model, data and plan.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::{Fit, describe, open_model};
use crate::adapter;
use crate::classifier::model_folder;
use crate::data::{Budget, Dataset, Splits, Subset, choose};
use crate::device::Place;
use crate::domain::{Domain, Opened};
use crate::folds;
use crate::memory::Use;
use crate::model::{self, Head, LoadReport};
use crate::net::{Layer, Network, Params, adapt};
use crate::observe::Observer;
use crate::plan::{BatchNormMode, Phase, Plan, Start};
use crate::plan_file;
use crate::seed::Seed;
use crate::source::WRONG_CHECKSUM;
use crate::strategy::{self, Facts, Settings, Strategy};
use crate::task::{Kind, Task};
use crate::train::{Companions, Teacher};
use crate::{Error, Result};

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
