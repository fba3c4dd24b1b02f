//! Model folders in the layout of `transformers` and `sentence-transformers`, read and written.
//!
//! What is written, `AutoModel`, `AutoModelForSequenceClassification` (`…TokenClassification`, `…QuestionAnswering`) and
//! `SentenceTransformer` load. One thing
//! `transformers` computes differently: its classifiers always stand on the first row, through `pooler.dense` and tanh or
//! a linear layer of the head. A model with another pooling has its pooling under `"topwork"` in `config.json`; from
//! Python its answers are (at temperature 1) `softmax(x Wᵀ + b)` with `classifier.weight`, `classifier.bias` and x the output of
//! `SentenceTransformer` before `Normalize`.

mod modules;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use topwork_core::domain::Opened;
use topwork_core::files::{create_dir_all, read_small, read_small_text, write_atomic_bytes};
use topwork_core::net::{Layer, Network};
use topwork_core::task::{Kind, Task};
use topwork_core::{Error, Result, checkpoint};

use crate::matches;
use crate::models::bert::family::{Family, Head};
use crate::models::bert::{BertConfig, Pooling, pretraining};
use crate::pipeline::Pipeline;
use crate::spans;
use crate::tokenizer::{TextTokenizer, Windows};
pub(crate) use modules::Dense;
use modules::{Modules, modules_json, pooling_json};

/// Files that a folder keeps as they were upstream.
const KEPT: [&str; 6] =
    ["tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"];

/// What `config.json` says under `"topwork"`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Ours {
    pooling: Pooling,
    max_tokens: usize,
    normalize: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stride: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    no_answer_threshold: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    windows: Option<Windows>,
    /// It was trained for its embeddings.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    matches: bool,
}

/// What the class of a checkpoint does with rows, if it keeps them.
fn of_rows(raw: &Map<String, Value>) -> Option<Pooling> {
    let class = raw.get("architectures")?.get(0)?.as_str()?;
    [Pooling::Tokens, Pooling::Spans].into_iter().find(|&pooling| class.ends_with(class_of(pooling)))
}

/// The end of the name of the class of `transformers` with a head behind this pooling.
fn class_of(pooling: Pooling) -> &'static str {
    match pooling {
        Pooling::Tokens => "ForTokenClassification",
        Pooling::Spans => "ForQuestionAnswering",
        Pooling::Mean | Pooling::Cls | Pooling::Max | Pooling::Pooler => "ForSequenceClassification",
    }
}

/// See [`topwork_core::domain::Domain::open`]. `path` is a folder, or a weights file beside its `config.json`.
pub(crate) fn open(path: &Path) -> Result<Opened<Pipeline>> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    let config_path = folder.join("config.json");
    let subject = config_path.display().to_string();
    let text = read_text(&config_path)?.ok_or_else(|| {
        Error::input(path.display(), "holds no config.json", "name a model folder as Hugging Face has them")
    })?;
    let config = BertConfig::parse(&text, &subject)?;
    let raw: Map<String, Value> = parse(&subject, &text)?;
    let ours: Option<Ours> = match raw.get("topwork") {
        Some(value) => Some(parse(&subject, &value.to_string())?),
        None => None,
    };

    let mut modules = Modules::read(folder)?;
    let mut files = std::mem::take(&mut modules.files);
    for name in KEPT {
        let file = folder.join(name);
        match read_small(&file) {
            Ok(bytes) => drop(files.insert(name.to_string(), bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(&file)(e)),
        }
    }
    let pooling = ours.as_ref().map(|o| o.pooling).or(of_rows(&raw)).or(modules.pooling).unwrap_or(Pooling::Pooler);
    let normalize = ours.as_ref().map_or(modules.normalize, |o| o.normalize);
    let own = ours.as_ref().map(|o| o.max_tokens).or(modules.max_tokens).or(tokenizer_length(&files));
    let max_tokens = own.unwrap_or(usize::MAX).min(config.positions());
    let unlimited = TextTokenizer::open(folder, config.family, modules.lower, usize::MAX)?;
    let tokenizer = unlimited.with_max_tokens(max_tokens).map_err(|error| match error {
        Error::Input { reason, .. } => Error::input(
            folder.display(),
            format!("is a model of sequences of {max_tokens} tokens, which {reason}"),
            "correct max_seq_length, model_max_length or max_position_embeddings in its files",
        ),
        other => other,
    })?;
    let tokenizer = tokenizer.with_windows(ours.as_ref().and_then(|o| o.windows))?;
    let tokens = tokenizer.vocabulary()?;
    if tokens > config.vocab_size {
        return Err(Error::input(
            folder.display(),
            format!("its tokenizer has {tokens} tokens, its word table only {} rows", config.vocab_size),
            "take tokenizer and config.json from the same model",
        ));
    }

    let mut weights = read_weights(path, folder, config.family)?;
    for dense in &modules.dense {
        weights.extend(dense.weights(folder)?);
    }
    let mut pipeline = Pipeline {
        tokenizer,
        config,
        pooling,
        dense: modules.dense.into(),
        normalize,
        stride: ours.as_ref().and_then(|o| o.stride),
        no_answer_threshold: ours.as_ref().and_then(|o| o.no_answer_threshold),
        chosen: ours.is_some(),
        raw: raw.into(),
        files: files.into(),
    };
    let outputs = head_outputs(&pipeline.network(2), &weights);
    if outputs.is_none() && pooling.keeps_rows() {
        // A backbone.
        pipeline.pooling = Pooling::Mean;
    }
    // Without a word about it, one output is a number (as transformers has it).
    let named = pipeline.raw.get("problem_type").and_then(Value::as_str).and_then(Kind::of_problem_type);
    let usual = if outputs == Some(1) { Kind::Values } else { Kind::Classes };
    let task = outputs.map(|n| match pooling {
        Pooling::Tokens => Task { kind: Kind::Tokens, outputs: class_names(&pipeline.raw, n) },
        Pooling::Spans => spans::task(),
        _ => Task { kind: named.unwrap_or(usual), outputs: class_names(&pipeline.raw, n) },
    });
    let network = pipeline.network(outputs.unwrap_or(2));
    if task.is_none() && ours.is_some_and(|o| o.matches) {
        return Ok(matches::headless(Opened { network, weights, pipeline, task }));
    }
    Ok(Opened { network, weights, pipeline, task })
}

/// Special tokens of a pair, at most: a length that leaves no room for text says nothing.
const MARKS: usize = 4;

/// The longest sequence that the tokenizer's own settings allow; some say a number without meaning for none.
fn tokenizer_length(files: &BTreeMap<String, Vec<u8>>) -> Option<usize> {
    let settings: Value = serde_json::from_slice(files.get("tokenizer_config.json")?).ok()?;
    settings["model_max_length"]
        .as_u64()
        .and_then(|length| usize::try_from(length).ok())
        .filter(|&length| length > MARKS)
}

/// The outputs of the last layer of the head that a checkpoint has, if it has all of it.
fn head_outputs(network: &Network, weights: &BTreeMap<String, Tensor>) -> Option<usize> {
    if !network.head.params().iter().all(|spec| weights.contains_key(&spec.name)) {
        return None;
    }
    let last = network.head.layers.iter().rev().find_map(|l| if let Layer::Linear(l) = l { Some(l) } else { None })?;
    weights.get(&format!("{}.weight", last.name))?.dims().first().copied()
}

fn read_weights(path: &Path, folder: &Path, family: &Family) -> Result<BTreeMap<String, Tensor>> {
    let candidates: Vec<PathBuf> = if path.is_dir() {
        ["model.safetensors", "pytorch_model.bin"].iter().map(|name| folder.join(name)).collect()
    } else {
        vec![path.to_path_buf()]
    };
    let Some(file) = candidates.iter().find(|file| file.exists()) else {
        let remedy = "put model.safetensors or pytorch_model.bin there (one file; shards are not read)";
        return Err(Error::input(path.display(), "holds no weights", remedy));
    };
    let mut weights = BTreeMap::new();
    for (name, tensor) in checkpoint::read(file)? {
        weights.insert(family.rename(&name), tensor);
    }
    if !weights.contains_key("embeddings.word_embeddings.weight") {
        return Err(Error::input(
            file.display(),
            format!("has no {}embeddings.word_embeddings.weight: it is no {} encoder", family.prefix, family.class),
            "check that config.json and the weights belong together",
        ));
    }
    Ok(weights)
}

/// `id2label` where it fits the head, else the names that `transformers` makes up.
fn class_names(raw: &Map<String, Value>, outputs: usize) -> Vec<String> {
    let named = raw.get("id2label").and_then(Value::as_object);
    (0..outputs)
        .map(|i| {
            let name = named.and_then(|names| names.get(&i.to_string())).and_then(Value::as_str);
            name.map_or_else(|| format!("LABEL_{i}"), str::to_string)
        })
        .collect()
}

/// See [`topwork_core::domain::Domain::save`].
pub(crate) fn save(folder: &Path, model: &Opened<Pipeline>) -> Result<()> {
    let headed = !model.network.head.layers.is_empty();
    let classifier = headed && model.task.is_some() && fits_classifier(&model.pipeline);
    write(folder, model, if classifier { class_of(model.pipeline.pooling) } else { "Model" }, "")
}

/// The same with the heads of pre-training: what `BertForPreTraining` loads.
pub(crate) fn save_pretrained(folder: &Path, model: &Opened<Pipeline>) -> Result<()> {
    write(folder, model, "ForPreTraining", pretraining::PREFIX)
}

/// Writes a folder for the class of this `kind`; with the tensors called `beside…`, unless that is empty.
fn write(folder: &Path, model: &Opened<Pipeline>, kind: &str, beside: &str) -> Result<()> {
    let pipeline = &model.pipeline;
    create_dir_all(folder)?;
    let mut files = (*pipeline.files).clone();
    files.insert("config.json".into(), pretty(&Value::Object(config_json(model, kind))));
    if pipeline.pooling != Pooling::Pooler && !pipeline.pooling.keeps_rows() {
        let mut longest = json!({"max_seq_length": pipeline.max_tokens(), "do_lower_case": false});
        let upstream = pipeline.files.iter().find(|(name, _)| name.starts_with("sentence_"));
        if let Some(Ok(Value::Object(upstream))) = upstream.map(|(_, bytes)| serde_json::from_slice(bytes)) {
            for (key, value) in upstream.into_iter().filter(|(key, _)| key != "max_seq_length") {
                longest[key.as_str()] = value;
            }
        }
        files.insert("sentence_bert_config.json".into(), pretty(&longest));
        files.entry("modules.json".into()).or_insert_with(|| pretty(&modules_json(pipeline.normalize)));
        let width = pipeline.config.hidden_size;
        let pooling = || pretty(&pooling_json(width, pipeline.pooling));
        files.entry("1_Pooling/config.json".into()).or_insert_with(pooling);
    }
    for (name, bytes) in &files {
        let file = folder.join(name);
        if let Some(parent) = file.parent() {
            create_dir_all(parent)?;
        }
        write_atomic_bytes(&file, bytes)?;
    }
    for dense in pipeline.dense.iter() {
        dense.save(folder, &model.weights)?;
    }
    let tensors = upstream(model, beside);
    checkpoint::write_safetensors(&folder.join("model.safetensors"), &tensors, &BTreeMap::new())
}

/// The tensors under the names of the upstream class; with those called `beside…`, unless that is empty.
fn upstream(model: &Opened<Pipeline>, beside: &str) -> BTreeMap<String, Tensor> {
    let pipeline = &model.pipeline;
    let names = |layers: &[topwork_core::net::Stage]| -> BTreeSet<String> {
        layers.iter().flat_map(|stage| stage.params()).map(|spec| spec.name).collect()
    };
    let (encoder, head) = (names(&model.network.stages), names(std::slice::from_ref(&model.network.head)));
    let family = pipeline.config.family;
    let prefix = family.prefix;
    // A pooler that the network does not use: the upstream class has one all the same.
    let is_pooler = |name: &str| match family.head {
        _ if pipeline.pooling.keeps_rows() => false,
        Head::Pooler(dense) => name.starts_with(&format!("{dense}.")),
        Head::Dense { .. } => !fits_classifier(pipeline) && name.starts_with("pooler."),
    };
    let mut tensors = BTreeMap::new();
    for (name, tensor) in &model.weights {
        if pipeline.dense.iter().any(|dense| name.starts_with(&format!("{}.", dense.folder))) {
            continue;
        }
        if head.contains(name) {
            if model.task.is_some() {
                tensors.insert(name.clone(), tensor.clone());
            }
        } else if encoder.contains(name) || is_pooler(name) {
            tensors.insert(format!("{prefix}{name}"), tensor.clone());
        } else if !beside.is_empty() && name.starts_with(beside) {
            tensors.insert(name.clone(), tensor.clone());
        }
    }
    tensors
}

/// See [`topwork_core::domain::Domain::state_dict`]: all that the class that the folder is of has.
pub(crate) fn state_dict(model: &Opened<Pipeline>) -> BTreeMap<String, Tensor> {
    upstream(model, pretraining::PREFIX)
}

/// Whether the upstream classifier finds all its parameters. With another pooling than its own, one whose head has a layer
/// inside would miss that.
fn fits_classifier(pipeline: &Pipeline) -> bool {
    let plain = matches!(pipeline.config.family.head, Head::Pooler(_)) && pipeline.dense.is_empty();
    pipeline.pooling == Pooling::Pooler || pipeline.pooling.keeps_rows() || plain
}

fn config_json(model: &Opened<Pipeline>, kind: &str) -> Map<String, Value> {
    let pipeline = &model.pipeline;
    let mut config = (*pipeline.raw).clone();
    for stale in ["_name_or_path", "torch_dtype", "dtype", "id2label", "label2id", "num_labels"] {
        config.remove(stale);
    }
    let family = pipeline.config.family;
    config.insert("model_type".into(), json!(family.model_type));
    config.insert("architectures".into(), json!([format!("{}{kind}", family.class)]));
    if model.task.is_some() {
        config.remove("problem_type");
    }
    if let Some(task) = model.task.as_ref().filter(|task| !matches!(task.kind, Kind::Spans | Kind::Matches)) {
        let names = || task.iter().enumerate();
        let by_id: Map<String, Value> = names().map(|(i, name)| (i.to_string(), json!(name))).collect();
        let by_name: Map<String, Value> = names().map(|(i, name)| (name.clone(), json!(i))).collect();
        config.insert("id2label".into(), Value::Object(by_id));
        config.insert("label2id".into(), Value::Object(by_name));
        config.insert("num_labels".into(), json!(task.len()));
        if let Some(kind) = task.kind.problem_type() {
            config.insert("problem_type".into(), json!(kind));
        }
    }
    let ours = Ours {
        pooling: pipeline.pooling,
        max_tokens: pipeline.max_tokens(),
        normalize: pipeline.normalize,
        stride: pipeline.stride,
        no_answer_threshold: pipeline.no_answer_threshold,
        windows: pipeline.tokenizer.windows(),
        matches: model.task.as_ref().is_some_and(|task| task.kind == Kind::Matches),
    };
    config.insert("topwork".into(), json!(ours));
    config
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

fn read_text(path: &Path) -> Result<Option<String>> {
    match read_small_text(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
}

fn parse<T: serde::de::DeserializeOwned>(subject: &str, text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|e| Error::input(subject, format!("cannot be understood: {e}"), "fetch the model again"))
}

#[cfg(test)]
pub(crate) mod tests;
