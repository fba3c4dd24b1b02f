//! Model folders in timm's layout: `config.json` beside `model.safetensors`, under timm's names where timm has the
//! network.
//!
//! Also understood: a folder (or file) with a bare checkpoint under the names of any library that
//! [`crate::models::names`] knows. Weights are read by `topwork_core::checkpoint`; whether
//! they are complete is for the caller to check, who has the description.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use topwork_core::domain::Opened;
use topwork_core::net::{Network, Role};
use topwork_core::source::Card;
use topwork_core::task::{Kind, Task};
use topwork_core::{Error, Result, checkpoint, files};

use crate::models::names::Library;
use crate::models::{self, Architecture, architectures, cards};
use crate::pipeline::{Interpolation, Pipeline};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// timm's `config.json`, as far as it matters here.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Config {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    architecture: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    num_classes: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    num_features: Option<usize>,
    /// What timm's function for the architecture is told besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model_args: Option<BTreeMap<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    label_names: Option<Value>,
    /// As transformers says it: what the outputs are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    problem_type: Option<String>,
    #[serde(default)]
    pretrained_cfg: Preprocessing,
}

/// timm's `pretrained_cfg`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Preprocessing {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    num_classes: Option<usize>,
    /// Channels, height, width.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    input_size: Option<[usize; 3]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interpolation: Option<String>,
    /// Input size as a share of the shorter side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crop_pct: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crop_mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mean: Option<[f32; 3]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    std: Option<[f32; 3]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_conv: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    classifier: Option<String>,
}

/// Understands the model in `folder`; see [`topwork_core::domain::Domain::open`].
///
/// # Errors
/// When there are no weights, or the architecture or preprocessing is none that is known.
pub fn open(folder: &Path, card: Option<&Card>) -> Result<Opened<Pipeline>> {
    let file = weights_file(folder)?;
    let beside = file.parent().unwrap_or(folder).join(CONFIG);
    let config = if beside.is_file() { Some(read_config(&beside)?) } else { None };
    let weights = bare(checkpoint::read(&file)?);
    let subject = if config.is_some() { &beside } else { &file };
    let architecture = match (card, &config) {
        // What a card says of the weights holds whatever came with them.
        (Some(card), _) => {
            models::architecture(card.architecture).ok_or_else(|| unknown(card.architecture, subject))?
        }
        (None, Some(Config { architecture: Some(name), model_args, .. })) => {
            resolve(name, model_args.as_ref()).ok_or_else(|| unknown(name, subject))?
        }
        (None, _) => models::identify(&weights).ok_or_else(|| {
            let reason = "its tensors are of none of the networks known here, and no config.json names one";
            Error::input(file.display(), reason, format!("add a {CONFIG} with \"architecture\": one of {}", known()))
        })?,
    };
    let weights = architecture.canonical(weights)?;
    let config = config.unwrap_or_default();
    let pipeline = match card {
        Some(card) => cards::prepares(card),
        None => config.pretrained_cfg.pipeline(cards::usual(architecture.name), subject)?,
    };
    let mut network = architecture.network(1);
    network.input = vec![pipeline.crop, pipeline.crop, 3];
    let found = weights.get(&format!("{}.weight", models::head_prefix(&network))).and_then(|w| w.dims().first());
    let names = config.labels(subject)?;
    let count = found.copied().or(config.num_classes).or(names.as_ref().map(Vec::len)).unwrap_or(1000);
    if let Some(names) = names.as_ref().filter(|names| names.len() != count) {
        return Err(Error::input(
            subject.display(),
            format!("names {} labels, but the head has {count} outputs", names.len()),
            "correct \"label_names\", or remove it",
        ));
    }
    let kind = config.problem_type.as_deref().map_or(Some(Kind::Classes), Kind::of_problem_type).ok_or_else(|| {
        let known = Kind::ALL.into_iter().filter_map(Kind::problem_type).collect::<Vec<_>>().join(", ");
        Error::input(subject.display(), "its \"problem_type\" is none that is known", format!("use one of {known}"))
    })?;
    let task = names.map(|outputs| Task { kind, outputs });
    Ok(Opened { network: network.with_classes(count), weights, pipeline, task })
}

/// Writes `model` to `folder`; torchvision and timm load it strictly.
///
/// # Errors
/// When it cannot be written.
pub fn save(folder: &Path, model: &Opened<Pipeline>) -> Result<()> {
    files::create_dir_all(folder)?;
    let network = &model.network;
    let architecture = models::architecture(&network.name);
    let tensors = state_dict(model, architecture.and_then(|a| a.timm).map(|_| Library::Timm))?;
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    checkpoint::write_safetensors(&folder.join(WEIGHTS), &tensors, &metadata)?;

    let path = folder.join(CONFIG);
    let arguments = architecture.map_or(&[][..], |a| a.timm_args);
    let config = Config {
        architecture: Some(architecture.and_then(|a| a.timm).unwrap_or(&network.name).to_string()),
        model_args: (!arguments.is_empty())
            .then(|| arguments.iter().map(|(name, value)| ((*name).to_string(), Value::from(*value))).collect()),
        num_classes: Some(network.classes()),
        num_features: Some(network.features()),
        label_names: model.task.as_ref().map(|task| task.outputs.clone().into()),
        // timm knows classes alone, and says nothing of them.
        problem_type: model
            .task
            .as_ref()
            .filter(|t| !t.is_classes())
            .and_then(|t| t.kind.problem_type())
            .map(String::from),
        pretrained_cfg: Preprocessing::of(&model.pipeline, network),
    };
    let text = serde_json::to_string_pretty(&config).map_err(|e| Error::io(&path)(e.into()))?;
    files::write_atomic_bytes(&path, (text + "\n").as_bytes())
}

/// All tensors of a model as a library has them: names, shapes and counters; without a `library`, under the
/// description's names.
///
/// # Errors
/// When the library does not have the network, or a tensor is missing.
pub fn state_dict(model: &Opened<Pipeline>, library: Option<Library>) -> Result<BTreeMap<String, Tensor>> {
    let network = &model.network;
    let mut others = BTreeMap::new();
    if let Some(library) = library {
        let architecture = models::architecture(&network.name).filter(|a| a.is_in(library));
        let Some(architecture) = architecture else {
            let reason = format!("that library does not have {}", network.name);
            return Err(Error::input("--format", reason, "use --format safetensors, for topwork's own names"));
        };
        let names = architecture.under(library, network.classes()).into_iter();
        others.extend(names.map(|other| (other.own, (other.name, other.shape))));
    }
    let mut tensors = BTreeMap::new();
    for spec in network.params() {
        let value = model.weights.get(&spec.name).ok_or_else(|| {
            Error::Tensor(candle_core::Error::Msg(format!("a model without {:?} cannot be saved", spec.name)))
        })?;
        let (name, shape) = others.get(&spec.name).cloned().unwrap_or((spec.name, spec.shape));
        // PyTorch counts the batches seen; nothing depends on the number.
        if let (Role::Buffer, Some(prefix)) = (spec.role, name.strip_suffix("running_var")) {
            tensors.insert(format!("{prefix}num_batches_tracked"), Tensor::zeros((), DType::I64, &Device::Cpu)?);
        }
        tensors.insert(name, value.reshape(shape)?);
    }
    Ok(tensors)
}

/// The one file of weights in `folder`, or `folder` itself if it is a file.
fn weights_file(folder: &Path) -> Result<PathBuf> {
    if folder.is_file() {
        return Ok(folder.to_path_buf());
    }
    for usual in [WEIGHTS, "pytorch_model.bin"] {
        if folder.join(usual).is_file() {
            return Ok(folder.join(usual));
        }
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if ["safetensors", "pth", "pt", "bin"].contains(&ending) && path.is_file() {
            found.push(path);
        }
    }
    found.sort_unstable();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Error::input(
            folder.display(),
            "no model is in it: neither .safetensors, .pth, .pt nor .bin",
            "name a model folder, or a model from the list of known ones",
        )),
        several => Err(Error::input(
            folder.display(),
            format!("{} files of weights are in it, none called {WEIGHTS}", several.len()),
            "name one of the files",
        )),
    }
}

fn read_config(path: &Path) -> Result<Config> {
    let text = files::read_small_text(path).map_err(Error::io(path))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::input(path.display(), format!("is not timm's model configuration: {e}"), "correct it"))
}

/// Tensors without what depends on how the network was wrapped, and without counters.
fn bare(tensors: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    // What torch.nn.DataParallel puts before each name.
    let plain = |name: String| name.strip_prefix("module.").map_or(name.clone(), str::to_string);
    let counter = |name: &str| name.ends_with(".num_batches_tracked");
    tensors.into_iter().map(|(name, tensor)| (plain(name), tensor)).filter(|(name, _)| !counter(name)).collect()
}

/// The architecture that timm builds by this name and these arguments; or ours of this name.
fn resolve(name: &str, arguments: Option<&BTreeMap<String, Value>>) -> Option<&'static Architecture> {
    let given = |argument: &str| arguments.and_then(|all| all.get(argument)?.as_f64());
    let told = |a: &Architecture| a.timm_args.iter().all(|(argument, value)| given(argument) == Some(*value));
    let told_something = |a: &&Architecture| a.timm == Some(name) && !a.timm_args.is_empty() && told(a);
    architectures().find(told_something).or_else(|| models::architecture(name))
}

/// What timm calls the layer called `own`.
fn timms_name(network: &Network, own: &str) -> String {
    let weight = format!("{own}.weight");
    let others = models::architecture(&network.name).map(|a| a.under(Library::Timm, 1)).unwrap_or_default();
    let name = others.into_iter().find(|other| other.own == weight).map_or(weight, |other| other.name);
    name.trim_end_matches(".weight").to_string()
}

fn known() -> String {
    architectures().map(|a| a.name).collect::<Vec<_>>().join(", ")
}

fn unknown(name: &str, subject: &Path) -> Error {
    let reason = format!("the architecture {name:?} is not known here");
    Error::input(subject.display(), reason, format!("use a model of one of {}", known()))
}

impl Config {
    fn labels(&self, subject: &Path) -> Result<Option<Vec<String>>> {
        let Some(value) = self.label_names.as_ref().filter(|value| !value.is_null()) else { return Ok(None) };
        let names = value.as_array().and_then(|names| names.iter().map(|n| n.as_str().map(str::to_string)).collect());
        names.map(Some).ok_or_else(|| {
            Error::input(subject.display(), "\"label_names\" is not a list of names", "correct it, or remove it")
        })
    }
}

impl Preprocessing {
    /// What is said here, and of `usual` what is not.
    fn pipeline(&self, usual: Pipeline, subject: &Path) -> Result<Pipeline> {
        let [_, height, width] = self.input_size.unwrap_or([3, usual.crop, usual.crop]);
        if self.input_size.is_some_and(|[channels, ..]| channels != 3) || height != width {
            return Err(Error::input(
                subject.display(),
                format!("an input of {:?} (channels, height, width)", self.input_size.unwrap_or_default()),
                "use a model for square photos of three channels",
            ));
        }
        let interpolation = match self.interpolation.as_deref() {
            None => usual.interpolation,
            Some("bilinear") => Interpolation::Bilinear,
            Some("bicubic") => Interpolation::Bicubic,
            Some(other) => {
                return Err(Error::input(
                    subject.display(),
                    format!("the interpolation {other:?} is not known here"),
                    "set it to \"bilinear\" or \"bicubic\"",
                ));
            }
        };
        let share = self.crop_pct.unwrap_or(usual.crop as f64 / usual.resize as f64);
        let pipeline = Pipeline {
            // As timm computes it.
            resize: (height as f64 / share).floor() as usize,
            crop: height,
            mean: self.mean.unwrap_or(usual.mean),
            std: self.std.unwrap_or(usual.std),
            interpolation,
            augment: usual.augment,
            test_views: usual.test_views,
        };
        pipeline.check(subject)?;
        Ok(pipeline)
    }

    fn of(pipeline: &Pipeline, network: &Network) -> Self {
        let (crop, resize) = (pipeline.crop as f64, pipeline.resize as f64);
        let share = crop / resize;
        // Readers divide and round down: keep the quotient from falling just short.
        let share = if (crop / share).floor() < resize { share * (1.0 - 1e-9) } else { share };
        let named = |own: Option<String>| own.map(|own| timms_name(network, &own));
        let first = network.params().first().and_then(|spec| spec.name.strip_suffix(".weight").map(str::to_string));
        Self {
            num_classes: Some(network.classes()),
            input_size: Some([3, pipeline.crop, pipeline.crop]),
            interpolation: Some(
                match pipeline.interpolation {
                    Interpolation::Bilinear => "bilinear",
                    Interpolation::Bicubic => "bicubic",
                }
                .into(),
            ),
            crop_pct: Some(share),
            crop_mode: Some("center".into()),
            mean: Some(pipeline.mean),
            std: Some(pipeline.std),
            first_conv: named(first),
            classifier: named(Some(models::head_prefix(network).to_string())),
        }
    }
}
