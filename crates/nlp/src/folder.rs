//! Model folders in the layout of `transformers` and `sentence-transformers`, read and written.
//!
//! What is written, `AutoModel`, `AutoModelForSequenceClassification` and `SentenceTransformer` load. One thing
//! `transformers` computes differently: its BERT classifiers always stand on the `[CLS]` row through `pooler.dense` and
//! tanh. A model with another pooling has its pooling under `"topwork"` in `config.json`; from Python its
//! answers are `softmax(x Wᵀ + b)` with `classifier.weight`, `classifier.bias` and x the unnormalized output of the
//! pooling module of `SentenceTransformer`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use topwork_core::domain::Opened;
use topwork_core::{Error, Result, checkpoint, files::create_dir_all, files::write_atomic_bytes};

use crate::models::bert::{self, BertConfig, Pooling};
use crate::pipeline::Pipeline;
use crate::tokenizer::TextTokenizer;

/// Files that a folder keeps as they were upstream.
const KEPT: [&str; 8] = [
    "tokenizer.json",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
];

/// What `config.json` says under `"topwork"`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Ours {
    pooling: Pooling,
    max_tokens: usize,
    normalize: bool,
}

/// What `1_Pooling/config.json` says; newer files have `pooling_mode` instead of the switches.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PoolingModule {
    pooling_mode_cls_token: bool,
    pooling_mode_mean_tokens: bool,
    pooling_mode: Option<String>,
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

    let mut files = BTreeMap::new();
    for name in KEPT {
        let file = folder.join(name);
        match std::fs::read(&file) {
            Ok(bytes) => drop(files.insert(name.to_string(), bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(&file)(e)),
        }
    }
    let modules = Modules::read(folder, &files)?;
    let pooling = ours.as_ref().map_or(modules.pooling, |o| o.pooling);
    let normalize = ours.as_ref().map_or(modules.normalize, |o| o.normalize);
    let own = ours.as_ref().map(|o| o.max_tokens).or(modules.max_tokens);
    let max_tokens = own.unwrap_or(usize::MAX).min(config.max_position_embeddings);
    let tokenizer = TextTokenizer::open(folder, max_tokens)?;
    if tokenizer.vocabulary() > config.vocab_size {
        return Err(Error::input(
            folder.display(),
            format!(
                "its tokenizer has {} tokens, its word table only {} rows",
                tokenizer.vocabulary(),
                config.vocab_size
            ),
            "take tokenizer and config.json from the same model",
        ));
    }

    let weights = read_weights(path, folder)?;
    let outputs = weights.get("classifier.weight").and_then(|w| w.dims().first().copied());
    let classes = outputs.map(|n| class_names(&raw, n));
    let network = config.network(pooling, outputs.unwrap_or(2));
    let pipeline = Pipeline {
        tokenizer,
        config,
        pooling,
        normalize,
        chosen: ours.is_some(),
        raw: raw.into(),
        files: files.into(),
    };
    Ok(Opened { network, weights, pipeline, classes })
}

/// What the files of sentence-transformers say, or what holds without them.
struct Modules {
    pooling: Pooling,
    normalize: bool,
    max_tokens: Option<usize>,
}

impl Modules {
    fn read(folder: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<Self> {
        let json = |name: &str| -> Result<Option<Value>> {
            let subject = folder.join(name).display().to_string();
            files.get(name).map(|bytes| parse(&subject, &String::from_utf8_lossy(bytes))).transpose()
        };
        let kinds: Vec<String> = json("modules.json")?
            .as_ref()
            .and_then(Value::as_array)
            .map(|modules| modules.iter().filter_map(|m| m["type"].as_str()).map(str::to_string).collect())
            .unwrap_or_default();
        let has = |kind: &str| kinds.iter().any(|k| k.rsplit('.').next() == Some(kind));
        let pooling = match json("1_Pooling/config.json")? {
            None if has("Pooling") => Pooling::Mean,
            None => Pooling::Pooler,
            Some(value) => {
                let subject = folder.join("1_Pooling/config.json").display().to_string();
                let module: PoolingModule = parse(&subject, &value.to_string())?;
                match (module.pooling_mode.as_deref(), module.pooling_mode_mean_tokens, module.pooling_mode_cls_token) {
                    (Some("mean"), ..) | (None, true, false) => Pooling::Mean,
                    (Some("cls"), ..) | (None, false, true) => Pooling::Cls,
                    _ => {
                        let reason = "asks for a pooling other than the mean or [CLS] alone";
                        return Err(Error::input(subject, reason, "choose a model with one of those"));
                    }
                }
            }
        };
        let longest = json("sentence_bert_config.json")?.and_then(|v| v["max_seq_length"].as_u64());
        Ok(Self { pooling, normalize: has("Normalize"), max_tokens: longest.map(|n| n as usize) })
    }
}

fn read_weights(path: &Path, folder: &Path) -> Result<BTreeMap<String, Tensor>> {
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
        weights.insert(bert::rename(&name), tensor);
    }
    if !weights.contains_key("embeddings.word_embeddings.weight") {
        return Err(Error::input(
            file.display(),
            "has no embeddings.word_embeddings.weight: it is no BERT encoder",
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
    let pipeline = &model.pipeline;
    create_dir_all(folder)?;
    let mut files = (*pipeline.files).clone();
    files.insert("config.json".into(), pretty(&Value::Object(config_json(model))));
    if pipeline.pooling != Pooling::Pooler {
        let mut longest = json!({"max_seq_length": pipeline.max_tokens(), "do_lower_case": false});
        if let Some(Ok(Value::Object(upstream))) =
            pipeline.files.get("sentence_bert_config.json").map(|bytes| serde_json::from_slice(bytes))
        {
            for (key, value) in upstream.into_iter().filter(|(key, _)| key != "max_seq_length") {
                longest[key.as_str()] = value;
            }
        }
        files.insert("sentence_bert_config.json".into(), pretty(&longest));
        files.entry("modules.json".into()).or_insert_with(|| pretty(&modules_json(pipeline.normalize)));
        files.entry("1_Pooling/config.json".into()).or_insert_with(|| pretty(&pooling_json(pipeline)));
    }
    for (name, bytes) in &files {
        let file = folder.join(name);
        if let Some(parent) = file.parent() {
            create_dir_all(parent)?;
        }
        write_atomic_bytes(&file, bytes)?;
    }
    let described: Vec<String> = model.network.params().into_iter().map(|p| p.name).collect();
    let mut tensors = BTreeMap::new();
    for (name, tensor) in &model.weights {
        if name.starts_with("classifier.") {
            if model.classes.is_some() {
                tensors.insert(name.clone(), tensor.clone());
            }
        } else if described.contains(name) || name.starts_with("pooler.dense.") {
            tensors.insert(format!("bert.{name}"), tensor.clone());
        }
    }
    checkpoint::write_safetensors(&folder.join("model.safetensors"), &tensors, &BTreeMap::new())
}

fn config_json(model: &Opened<Pipeline>) -> Map<String, Value> {
    let pipeline = &model.pipeline;
    let mut config = (*pipeline.raw).clone();
    for stale in ["_name_or_path", "torch_dtype", "dtype", "id2label", "label2id", "num_labels"] {
        config.remove(stale);
    }
    config.insert("model_type".into(), json!("bert"));
    let architecture = if model.classes.is_some() { "BertForSequenceClassification" } else { "BertModel" };
    config.insert("architectures".into(), json!([architecture]));
    if let Some(classes) = &model.classes {
        let names = || classes.iter().enumerate();
        let by_id: Map<String, Value> = names().map(|(i, name)| (i.to_string(), json!(name))).collect();
        let by_name: Map<String, Value> = names().map(|(i, name)| (name.clone(), json!(i))).collect();
        config.insert("id2label".into(), Value::Object(by_id));
        config.insert("label2id".into(), Value::Object(by_name));
        config.insert("num_labels".into(), json!(classes.len()));
        config.insert("problem_type".into(), json!("single_label_classification"));
    }
    let ours = Ours { pooling: pipeline.pooling, max_tokens: pipeline.max_tokens(), normalize: pipeline.normalize };
    config.insert("topwork".into(), json!(ours));
    config
}

fn modules_json(normalize: bool) -> Value {
    let kinds = ["Transformer", "Pooling", "Normalize"];
    let module = |(i, kind): (usize, &&str)| {
        let path = if i == 0 { String::new() } else { format!("{i}_{kind}") };
        json!({"idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}")})
    };
    kinds[..if normalize { 3 } else { 2 }].iter().enumerate().map(module).collect()
}

fn pooling_json(pipeline: &Pipeline) -> Value {
    json!({
        "word_embedding_dimension": pipeline.config.hidden_size,
        "pooling_mode_cls_token": pipeline.pooling == Pooling::Cls,
        "pooling_mode_mean_tokens": pipeline.pooling == Pooling::Mean,
        "pooling_mode_max_tokens": false,
        "pooling_mode_mean_sqrt_len_tokens": false,
    })
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

fn read_text(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
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
pub(crate) mod tests {
    use candle_core::Device;
    use topwork_core::net::Params;
    use topwork_core::seed::Seed;

    use super::*;

    const CONFIG: &str = r#"{"model_type": "bert", "vocab_size": 400, "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 64, "initializer_range": 0.02,
        "dtype": "float16", "id2label": {"0": "x", "1": "y"}}"#;

    /// A folder with a tiny encoder, `files` beside it, and weights under these names.
    fn upstream(files: &[(&str, &str)], prefix: &str, with_head: bool) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let vocabulary = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer/vocab.txt");
        std::fs::copy(vocabulary, folder.path().join("vocab.txt")).unwrap();
        std::fs::write(folder.path().join("config.json"), CONFIG).unwrap();
        for (name, text) in files {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        let network = BertConfig::parse(CONFIG, "config.json").unwrap().network(Pooling::Pooler, 2);
        let values = Params::initial(&network.params(), Seed(1), &Device::Cpu).unwrap().snapshot();
        let named = |name: &str| if name.starts_with("classifier") { name.into() } else { format!("{prefix}{name}") };
        let tensors: BTreeMap<String, Tensor> = values
            .into_iter()
            .filter(|(name, _)| with_head || !name.starts_with("classifier"))
            .map(|(name, value)| (named(&name), value))
            .collect();
        checkpoint::write_safetensors(&folder.path().join("model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
        folder
    }

    const MEAN: [(&str, &str); 3] = [
        ("1_Pooling/config.json", r#"{"word_embedding_dimension": 8, "pooling_mode_mean_tokens": true}"#),
        ("modules.json", r#"[{"type": "sentence_transformers.models.Normalize"}]"#),
        ("sentence_bert_config.json", r#"{"max_seq_length": 32, "do_lower_case": false}"#),
    ];

    /// The pipeline of a tiny mean-pooled encoder with the small vocabulary.
    pub(crate) fn pipeline() -> Pipeline {
        open(upstream(&[], "bert.", false).path()).unwrap().pipeline
    }

    fn saved_again(mut model: Opened<Pipeline>, classes: Option<&[&str]>) -> (tempfile::TempDir, Opened<Pipeline>) {
        model.classes = classes.map(|names| names.iter().map(|n| n.to_string()).collect());
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), &model).unwrap();
        let opened = open(folder.path()).unwrap();
        (folder, opened)
    }

    #[test]
    fn every_parameter_of_an_upstream_folder_is_found() {
        for prefix in ["", "bert."] {
            let opened = open(upstream(&[], prefix, true).path()).unwrap();
            for spec in opened.network.params() {
                assert_eq!(opened.weights[&spec.name].dims(), spec.shape, "{}", spec.name);
            }
            assert_eq!(opened.classes.unwrap(), ["x", "y"]);
        }
    }

    #[test]
    fn a_folder_of_sentence_transformers_says_pooling_length_and_normalization() {
        let opened = open(upstream(&MEAN, "", false).path()).unwrap();
        assert_eq!((opened.pipeline.pooling, opened.pipeline.normalize), (Pooling::Mean, true));
        assert_eq!((opened.pipeline.max_tokens(), opened.classes), (32, None));
    }

    #[test]
    fn another_pooling_than_mean_or_cls_is_refused() {
        let folder = upstream(&[("1_Pooling/config.json", r#"{"pooling_mode": "max"}"#)], "", false);
        assert!(open(folder.path()).unwrap_err().to_string().contains("1_Pooling"));
    }

    #[test]
    fn what_is_saved_opens_as_the_same_model() {
        let model = open(upstream(&MEAN, "", true).path()).unwrap();
        let (_folder, again) = saved_again(model.clone(), Some(&["bad", "good"]));
        assert_eq!(again.network, model.network);
        assert_eq!(again.classes.unwrap(), ["bad", "good"]);
        assert_eq!(again.pipeline.fingerprint(), model.pipeline.fingerprint());
        for (name, tensor) in &model.weights {
            let (ours, theirs) = (tensor.flatten_all().unwrap(), again.weights[name].flatten_all().unwrap());
            assert_eq!(ours.to_vec1::<f32>().unwrap(), theirs.to_vec1::<f32>().unwrap(), "{name}");
        }
    }

    #[test]
    fn a_saved_configuration_names_classes_and_keeps_unknown_keys_but_no_stale_ones() {
        let (folder, _) = saved_again(open(upstream(&[], "", true).path()).unwrap(), Some(&["bad", "good"]));
        let text = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["architectures"], json!(["BertForSequenceClassification"]));
        assert_eq!(config["id2label"], json!({"0": "bad", "1": "good"}));
        assert_eq!(config["label2id"], json!({"bad": 0, "good": 1}));
        assert_eq!((&config["initializer_range"], config.get("dtype")), (&json!(0.02), None));
    }

    #[test]
    fn saved_weights_have_the_prefix_that_transformers_expects() {
        let (folder, _) = saved_again(open(upstream(&[], "", true).path()).unwrap(), Some(&["a", "b"]));
        let names = checkpoint::read(&folder.path().join("model.safetensors")).unwrap();
        assert!(names.keys().all(|name| name.starts_with("bert.") || name.starts_with("classifier.")));
        assert!(names.contains_key("bert.pooler.dense.weight") && names.contains_key("classifier.bias"));
    }

    #[test]
    fn the_longest_sequence_of_training_is_kept() {
        let mut model = open(upstream(&MEAN, "", true).path()).unwrap();
        model.pipeline = model.pipeline.for_training(Some(50)).unwrap();
        let (folder, again) = saved_again(model, Some(&["a", "b"]));
        assert_eq!(again.pipeline.for_training(None).unwrap().max_tokens(), 50);
        let text = std::fs::read_to_string(folder.path().join("sentence_bert_config.json")).unwrap();
        assert!(text.contains("50"), "{text}");
    }

    #[test]
    fn a_folder_that_is_no_encoder_says_what_it_lacks() {
        let empty = tempfile::tempdir().unwrap();
        assert!(open(empty.path()).unwrap_err().to_string().contains("config.json"));
        let bare = upstream(&[], "", true);
        std::fs::remove_file(bare.path().join("model.safetensors")).unwrap();
        assert!(open(bare.path()).unwrap_err().to_string().contains("holds no weights"));
        let other = upstream(&[], "gpt.", true);
        assert!(open(other.path()).unwrap_err().to_string().contains("no BERT encoder"));
    }

    #[test]
    fn a_vocabulary_larger_than_the_word_table_is_refused() {
        let folder = upstream(&[("config.json", &CONFIG.replace("400", "40"))], "", true);
        assert!(open(folder.path()).unwrap_err().to_string().contains("only 40 rows"));
    }
}
