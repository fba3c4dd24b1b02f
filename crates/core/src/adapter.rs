//! Adapter folders: what a strategy put into a backbone, and the head, saved apart from the backbone.
//!
//! `topwork.json` says what was edited, on which base and for which classes; `adapter_model.safetensors` holds the
//! parameters under the names of the Python library peft. Where peft knows the kind (`lora`, `ia3`) its own
//! `adapter_config.json` stands beside them, so that peft loads the folder. A model whose adapters cannot be merged
//! carries such a folder inside its own, as `adapter/`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::domain::{Domain, Opened};
use crate::files::{create_dir_all, read_small_text, write_atomic_bytes};
use crate::net::adapt::{self, Adapter};
use crate::net::{Network, ParamSpec, Params};
use crate::source::{self, Reference, Source};
use crate::task::{Kind, Task};
use crate::{Error, Result, checkpoint};

/// The folder of a model's own adapters, inside it.
const INSIDE: &str = "adapter";
const DESCRIPTION: &str = "topwork.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PEFT: &str = "adapter_config.json";

/// How the library that a model comes from calls its parameters, for files that peft reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Upstream {
    /// In front of the backbone's names: `bert.`.
    pub prefix: &'static str,
    /// peft's `task_type`.
    pub task_type: Option<&'static str>,
    /// Whether the upstream model has the head among its modules.
    pub has_head: bool,
}

/// What `topwork.json` says; `A` are the domain's flags.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description<A> {
    /// The program that it is for: `topwork-nlp`.
    pub program: String,
    /// The edits.
    pub adapters: Vec<Adapter>,
    /// What they were trained on; absent inside a model, which holds its base itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// Names of the head's outputs, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<String>>,
    /// What these outputs are.
    #[serde(default)]
    pub kind: Kind,
    /// The flags that changed the base before training ([`Domain::configure`]).
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub configuration: Option<A>,
}

/// The model that an adapter belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Its name, as training was given it.
    pub model: String,
    /// Digest of its backbone's parameters.
    pub digest: String,
}

/// What is saved of a run beside its model.
pub struct Trained<'a, D: Domain> {
    /// The edits that training made.
    pub adapters: &'a [Adapter],
    /// The description that they were made to, with the head.
    pub base: &'a Network,
    /// The base's name.
    pub model: &'a str,
    /// The flags of the run.
    pub args: &'a D::DataArgs,
}

/// Opens a model folder as [`Domain::open`], with the adapters that it carries.
///
/// # Errors
/// As there; and when these adapters do not fit it.
pub fn open_folder<D: Domain>(folder: &Path, card: Option<&source::Card>) -> Result<Opened<D::Pipeline>> {
    let opened = D::open(folder, card)?;
    let inside = folder.join(INSIDE);
    if inside.join(DESCRIPTION).is_file() { attach::<D>(opened, &inside) } else { Ok(opened) }
}

/// [`Domain::configure`], which knows nothing of adapters that a model carries already.
///
/// # Errors
/// As there.
pub fn configure<D: Domain>(model: Opened<D::Pipeline>, args: &D::DataArgs) -> Result<Opened<D::Pipeline>> {
    let carried = adapt::found(&model.network);
    let mut model = D::configure(model, args)?;
    if !carried.is_empty() && adapt::found(&model.network).is_empty() {
        model.network = adapt::apply(&model.network, &carried)?;
    }
    Ok(model)
}

/// Writes a finished model: what can be merged is, and what cannot stands in `adapter/` inside it.
///
/// # Errors
/// When it cannot be written.
pub fn save_model<D: Domain>(folder: &Path, model: &Opened<D::Pipeline>) -> Result<()> {
    let (network, weights) = adapt::merge(&model.network, &Params::new(model.weights.clone()))?;
    let plain =
        Opened { network: adapt::strip(&network), weights, pipeline: model.pipeline.clone(), task: model.task.clone() };
    D::save(folder, &plain)?;
    let adapters = adapt::found(&network);
    if adapters.is_empty() {
        return Ok(());
    }
    let program = D::BINARY.into();
    let description = Description::<D::DataArgs> {
        program,
        adapters,
        base: None,
        classes: None,
        kind: Kind::default(),
        configuration: None,
    };
    let specs = added(&network, &plain.network);
    write::<D>(&folder.join(INSIDE), &description, &specs, &plain.weights, &plain)
}

/// Writes the adapter folder of a run: the edits and the head, to be used on the base.
///
/// # Errors
/// When it cannot be written.
pub fn save<D: Domain>(folder: &Path, model: &Opened<D::Pipeline>, trained: &Trained<'_, D>) -> Result<()> {
    let description = Description {
        program: D::BINARY.into(),
        adapters: trained.adapters.to_vec(),
        base: Some(Base { model: trained.model.into(), digest: digest(trained.base, &model.weights)? }),
        classes: model.task.as_ref().map(|task| task.outputs.clone()),
        kind: model.task.as_ref().map_or(Kind::default(), |task| task.kind),
        configuration: Some(D::configuration(trained.args)),
    };
    let mut specs = added(&model.network, trained.base);
    specs.extend(trained.base.head.params());
    write::<D>(folder, &description, &specs, &model.weights, model)?;
    let upstream = D::upstream(&model.pipeline);
    if let Some(config) = peft_config::<D>(&description, trained.base, upstream) {
        write_atomic_bytes(&folder.join(PEFT), format!("{config:#}\n").as_bytes())?;
    }
    Ok(())
}

/// The parameters that `network` has and `base` has not.
fn added(network: &Network, base: &Network) -> Vec<ParamSpec> {
    let known: BTreeSet<String> = base.params().into_iter().map(|spec| spec.name).collect();
    network.params().into_iter().filter(|spec| !known.contains(&spec.name)).collect()
}

fn write<D: Domain>(
    folder: &Path,
    description: &Description<D::DataArgs>,
    specs: &[ParamSpec],
    weights: &BTreeMap<String, Tensor>,
    model: &Opened<D::Pipeline>,
) -> Result<()> {
    create_dir_all(folder)?;
    let upstream = D::upstream(&model.pipeline);
    let mut tensors = BTreeMap::new();
    for spec in specs {
        let missing = || Error::Tensor(candle_core::Error::Msg(format!("no parameter {:?}", spec.name)));
        let value = weights.get(&spec.name).ok_or_else(missing)?;
        tensors.insert(peft_name(&spec.name, &model.network, upstream), value.clone());
    }
    checkpoint::write_safetensors(&folder.join(WEIGHTS), &tensors, &BTreeMap::new())?;
    let path = folder.join(DESCRIPTION);
    let mut value = serde_json::to_value(description).map_err(|e| Error::io(&path)(e.into()))?;
    if let Some(Value::Object(flags)) = value.get_mut("configuration") {
        flags.retain(|_, value| !value.is_null());
    }
    write_atomic_bytes(&path, format!("{value:#}\n").as_bytes())
}

/// What peft calls a parameter.
fn peft_name(name: &str, network: &Network, upstream: Upstream) -> String {
    let of_head = network.head.params().iter().any(|spec| spec.name == name);
    format!("base_model.model.{}{name}", if of_head { "" } else { upstream.prefix })
}

/// peft's own configuration, for the kinds that it knows.
fn peft_config<D: Domain>(description: &Description<D::DataArgs>, base: &Network, upstream: Upstream) -> Option<Value> {
    let [adapter] = &description.adapters[..] else { return None };
    let name = description.base.as_ref().map(|base| match source::parse(&base.model, D::cards()) {
        Ok(Reference::Card(card)) => {
            let hub =
                |source: &Source| if let Source::Hub { repo, .. } = source { Some(repo.to_string()) } else { None };
            card.sources.iter().find_map(hub).unwrap_or_else(|| base.model.clone())
        }
        _ => base.model.trim_start_matches("hf-hub:").to_string(),
    });
    let head: BTreeSet<String> =
        base.head.params().iter().filter_map(|s| Some(s.name.rsplit_once('.')?.0.into())).collect();
    let mut config = json!({
        "base_model_name_or_path": name,
        "task_type": upstream.task_type,
        "inference_mode": true,
        "modules_to_save": upstream.has_head.then_some(head),
    });
    let more = match adapter {
        Adapter::Lora { rank, alpha, dropout, layers } => json!({
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": dropout,
            "target_modules": layers,
            "bias": "none",
        }),
        Adapter::Ia3 { outputs, inputs } => json!({
            "peft_type": "IA3",
            "target_modules": ([&outputs[..], inputs].concat()),
            "feedforward_modules": inputs,
        }),
        Adapter::Bottleneck { .. } | Adapter::Prefix { .. } => return None,
    };
    if let (Value::Object(config), Value::Object(more)) = (&mut config, more) {
        config.extend(more);
    }
    Some(config)
}

/// A digest of the backbone's parameters, in f32.
fn digest(network: &Network, weights: &BTreeMap<String, Tensor>) -> Result<String> {
    let mut tensors = BTreeMap::new();
    for spec in network.stages.iter().flat_map(|stage| stage.params()) {
        if let Some(value) = weights.get(&spec.name) {
            tensors.insert(spec.name, value.to_dtype(DType::F32)?.to_device(&candle_core::Device::Cpu)?);
        }
    }
    checkpoint::digest(&tensors)
}

/// The model with the adapter of `folder` in it, as it was trained: its classes, its head, its configuration.
///
/// # Errors
/// When the folder holds no adapter, a damaged one, or one of another base.
pub fn attach<D: Domain>(model: Opened<D::Pipeline>, folder: &Path) -> Result<Opened<D::Pipeline>> {
    let description = read::<D>(folder)?;
    let subject = folder.display();
    let mut model = match &description.configuration {
        Some(args) => configure::<D>(model, args)?,
        None => model,
    };
    if let Some(classes) = &description.classes {
        model.network = model.network.with_classes(classes.len());
    }
    if let Some(base) = &description.base
        && digest(&model.network, &model.weights)? != base.digest
    {
        return Err(Error::input(
            subject,
            format!("this adapter was trained on {}, which is not the model that it is put on", base.model),
            format!("name {} as the model", base.model),
        ));
    }
    let damaged = "restore the folder as it was written";
    let network = adapt::apply(&model.network, &description.adapters).map_err(|error| {
        let why = match error {
            Error::Input { subject, reason, .. } => format!("{subject}: {reason}"),
            other => other.to_string(),
        };
        Error::input(&subject, format!("does not fit {}: {why}", model.network.name), damaged)
    })?;
    let mut specs = added(&network, &model.network);
    if description.classes.is_some() {
        specs.extend(network.head.params());
    }
    let path = folder.join(WEIGHTS);
    let mut tensors = checkpoint::read(&path)?;
    let upstream = D::upstream(&model.pipeline);
    for spec in specs {
        let name = peft_name(&spec.name, &network, upstream);
        match tensors.remove(&name) {
            Some(value) if value.dims() == spec.shape => drop(model.weights.insert(spec.name, value)),
            Some(value) => {
                let reason = format!("{name} is {:?}, not {:?}", value.dims(), spec.shape);
                return Err(Error::input(path.display(), reason, damaged));
            }
            None => return Err(Error::input(path.display(), format!("has no {name}"), damaged)),
        }
    }
    if let Some(name) = tensors.keys().next() {
        return Err(Error::input(path.display(), format!("has a tensor that the adapter lacks: {name}"), damaged));
    }
    model.network = network;
    if let Some(outputs) = description.classes {
        model.task = Some(Task { kind: description.kind, outputs });
    }
    Ok(model)
}

fn read<D: Domain>(folder: &Path) -> Result<Description<D::DataArgs>> {
    if !folder.is_dir() {
        let remedy = "name the adapter/ folder of a run";
        return Err(Error::input(folder.display(), "there is no such adapter folder", remedy));
    }
    let path = folder.join(DESCRIPTION);
    if !path.is_file() {
        let inside = folder.join(INSIDE);
        let remedy = if inside.join(DESCRIPTION).is_file() {
            format!("name {}", inside.display())
        } else {
            "name the adapter/ folder of a run of lora, adapter, ia3 or prefix".into()
        };
        return Err(Error::input(folder.display(), format!("is no adapter folder: it has no {DESCRIPTION}"), remedy));
    }
    let text = read_small_text(&path).map_err(Error::io(&path))?;
    let unclear = |e: serde_json::Error| {
        Error::input(path.display(), format!("cannot be understood: {e}"), "restore the folder as it was written")
    };
    let value: Value = serde_json::from_str(&text).map_err(unclear)?;
    if let Some(program) = value["program"].as_str().filter(|program| *program != D::BINARY) {
        let reason = format!("this adapter is for models of {program}");
        return Err(Error::input(folder.display(), reason, format!("use {program}, or another adapter")));
    }
    serde_json::from_value(value).map_err(unclear)
}

/// The kinds of a folder's adapters that cannot be merged.
///
/// # Errors
/// When the folder holds no adapter.
pub fn unmergeable<D: Domain>(folder: &Path) -> Result<Vec<&'static str>> {
    let adapters = read::<D>(folder)?.adapters;
    Ok(adapters.iter().filter(|adapter| !adapter.merges()).map(Adapter::kind).collect())
}
