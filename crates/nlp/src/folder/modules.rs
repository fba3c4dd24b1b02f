//! The modules that sentence-transformers puts behind an encoder: pooling, linear layers, scaling to length 1.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use serde::Deserialize;
use serde_json::{Value, json};
use topwork_core::net::{Act, Layer, Linear, Network};
use topwork_core::{Error, Result, checkpoint};

use super::{parse, read_text};
use crate::models::bert::Pooling;

/// What the files say, or what holds without them.
#[derive(Debug, Clone, Default)]
pub(super) struct Modules {
    /// `None` where no file speaks of pooling.
    pub pooling: Option<Pooling>,
    pub dense: Vec<Dense>,
    pub normalize: bool,
    pub max_tokens: Option<usize>,
    pub lower: bool,
    /// The files read, by their path in the folder.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// A linear layer behind pooling, with its activation. Its parameters are called as its folder, `2_Dense`, and `linear`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dense {
    pub folder: String,
    inputs: usize,
    outputs: usize,
    bias: bool,
    act: Option<Act>,
}

/// `config.json` of a module of kind `Dense`.
#[derive(Deserialize)]
struct DenseConfig {
    in_features: usize,
    out_features: usize,
    #[serde(default = "yes")]
    bias: bool,
    activation_function: Option<String>,
    #[serde(default)]
    use_residual: bool,
}

fn yes() -> bool {
    true
}

/// Where the longest sequence stands, by the age of the library that wrote it.
const LONGEST: [&str; 6] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_camembert_config.json",
];
const POOLING: &str = "1_Pooling";

impl Modules {
    /// Reads `modules.json` and the folders that it names.
    ///
    /// # Errors
    /// When a module is of a kind that is not known here, or has settings that are not.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut found = Self::default();
        let listed = found.json(folder, "modules.json")?;
        for module in listed.iter().flat_map(|list| list.as_array().into_iter().flatten()) {
            let (kind, path) =
                (module["type"].as_str().unwrap_or_default(), module["path"].as_str().unwrap_or_default());
            match kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" if path.is_empty() => {}
                "Transformer" => {
                    let reason = format!("has its encoder in the folder {path}, as before sentence-transformers 2.0");
                    let remedy = "save it anew: SentenceTransformer(folder).save(folder)";
                    return Err(Error::input(folder.join("modules.json").display(), reason, remedy));
                }
                // Read below, with or without a list.
                "Pooling" if path.is_empty() || path == POOLING => found.pooling = Some(Pooling::Mean),
                "Dense" if !found.normalize && is_name(path) => {
                    let dense = found.dense(folder, path)?;
                    found.dense.push(dense);
                }
                "Normalize" => found.normalize = true,
                // It acts in training alone.
                "Dropout" => {}
                _ => {
                    let reason =
                        format!("has the module {kind} in {path:?}, which is not known here or not at this place");
                    let remedy = "choose a model of Transformer, Pooling, Dense and Normalize, in this order";
                    return Err(Error::input(folder.join("modules.json").display(), reason, remedy));
                }
            }
        }
        let name = format!("{POOLING}/config.json");
        if let Some(config) = found.json(folder, &name)? {
            found.pooling = Some(pooling(&config).ok_or_else(|| {
                let reason = "asks for a pooling other than the mean, the maximum or [CLS] alone";
                Error::input(folder.join(&name).display(), reason, "choose a model with one of those")
            })?);
        }
        for name in LONGEST {
            if let Some(config) = found.json(folder, name)? {
                found.max_tokens = config["max_seq_length"].as_u64().map(|n| n as usize);
                found.lower = config["do_lower_case"] == true;
                break;
            }
        }
        let name = "config_sentence_transformers.json";
        if let Some(config) = found.json(folder, name)?
            && let Some(prompt) =
                config["default_prompt_name"].as_str().and_then(|name| config["prompts"][name].as_str())
            && !prompt.is_empty()
        {
            let reason = format!("puts {prompt:?} in front of every text, which is not done here");
            let remedy = "write it in front of your texts, and set default_prompt_name to null";
            return Err(Error::input(folder.join(name).display(), reason, remedy));
        }
        Ok(found)
    }

    /// A file of the folder, kept, if there is one.
    fn json(&mut self, folder: &Path, name: &str) -> Result<Option<Value>> {
        let path = folder.join(name);
        let Some(text) = read_text(&path)? else { return Ok(None) };
        let value = parse(&path.display().to_string(), &text)?;
        self.files.insert(name.into(), text.into_bytes());
        Ok(Some(value))
    }

    fn dense(&mut self, folder: &Path, path: &str) -> Result<Dense> {
        let name = format!("{path}/config.json");
        let subject = folder.join(&name).display().to_string();
        let other = "choose a model without it";
        let Some(config) = self.json(folder, &name)? else {
            return Err(Error::input(subject, "is missing", "fetch the model again"));
        };
        let config: DenseConfig = parse(&subject, &config.to_string())?;
        let act = match config.activation_function.as_deref().and_then(|name| name.rsplit('.').next()) {
            None | Some("Tanh") => Some(Act::Tanh),
            Some("Identity") => None,
            Some("ReLU") => Some(Act::Relu),
            Some("GELU") => Some(Act::Gelu),
            Some(unknown) => {
                return Err(Error::input(subject, format!("wants the unknown activation {unknown}"), other));
            }
        };
        if config.use_residual {
            return Err(Error::input(subject, "wants a residual sum, which is not supported", other));
        }
        let DenseConfig { in_features: inputs, out_features: outputs, bias, .. } = config;
        Ok(Dense { folder: path.into(), inputs, outputs, bias, act })
    }
}

/// Whether a path is that of something right in the folder.
fn is_name(path: &str) -> bool {
    !matches!(path, "" | "." | "..") && !path.contains(['/', '\\'])
}

/// Older files have a switch for each kind, newer ones name it.
fn pooling(config: &Value) -> Option<Pooling> {
    let named = config["pooling_mode"].as_str().map(|name| vec![name]);
    let listed = || config["pooling_mode"].as_array().map(|names| names.iter().filter_map(Value::as_str).collect());
    let switched = || {
        let switches = config.as_object().into_iter().flatten();
        let on = switches.filter(|(_, value)| **value == json!(true));
        on.filter_map(|(key, _)| key.strip_prefix("pooling_mode_")).collect()
    };
    match named.or_else(listed).unwrap_or_else(switched)[..] {
        ["mean" | "mean_tokens"] => Some(Pooling::Mean),
        ["cls" | "cls_token"] => Some(Pooling::Cls),
        ["max" | "max_tokens"] => Some(Pooling::Max),
        _ => None,
    }
}

impl Dense {
    fn name(&self) -> String {
        format!("{}.linear", self.folder)
    }

    /// The network with this layer behind its pooling, and a head of its width.
    pub fn on(&self, mut network: Network) -> Network {
        if let Some(pooler) = network.stages.last_mut() {
            let Self { inputs, outputs, bias, .. } = *self;
            pooler.layers.push(Layer::Linear(Linear { name: self.name(), inputs, outputs, bias, update: None }));
            pooler.layers.extend(self.act.map(Layer::Act));
        }
        if let Some(Layer::Linear(first)) = network.head.layers.iter_mut().find(|l| matches!(l, Layer::Linear(_))) {
            first.inputs = self.outputs;
        }
        network
    }

    /// Its tensors, under their names in the network.
    pub fn weights(&self, folder: &Path) -> Result<BTreeMap<String, Tensor>> {
        let inside = folder.join(&self.folder);
        let files = ["model.safetensors", "pytorch_model.bin"].map(|name| inside.join(name));
        let Some(file) = files.iter().find(|file| file.exists()) else {
            let remedy = "put model.safetensors or pytorch_model.bin there, or fetch the model again";
            return Err(Error::input(inside.display(), "holds no weights", remedy));
        };
        Ok(checkpoint::read(file)?
            .into_iter()
            .map(|(name, value)| (format!("{}.{name}", self.folder), value))
            .collect())
    }

    /// Writes its tensors out of a network's.
    pub fn save(&self, folder: &Path, weights: &BTreeMap<String, Tensor>) -> Result<()> {
        let prefix = format!("{}.", self.folder);
        let own = weights.iter().filter_map(|(name, value)| Some((name.strip_prefix(&prefix)?.into(), value.clone())));
        let path = folder.join(&self.folder).join("model.safetensors");
        checkpoint::write_safetensors(&path, &own.collect(), &BTreeMap::new())
    }
}

/// A `modules.json` for an encoder without one.
pub(super) fn modules_json(normalize: bool) -> Value {
    let kinds = ["Transformer", "Pooling", "Normalize"];
    let module = |(i, kind): (usize, &&str)| {
        let path = if i == 0 { String::new() } else { format!("{i}_{kind}") };
        json!({"idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}")})
    };
    kinds[..if normalize { 3 } else { 2 }].iter().enumerate().map(module).collect()
}

/// The `config.json` of its pooling.
pub(super) fn pooling_json(width: usize, pooling: Pooling) -> Value {
    json!({
        "word_embedding_dimension": width,
        "pooling_mode_cls_token": pooling == Pooling::Cls,
        "pooling_mode_mean_tokens": pooling == Pooling::Mean,
        "pooling_mode_max_tokens": pooling == Pooling::Max,
        "pooling_mode_mean_sqrt_len_tokens": false,
    })
}
