//! Folders as upstream writes them, opened and saved again.

use candle_core::Device;
use topwork_core::net::Params;
use topwork_core::seed::Seed;

use super::*;
use crate::models::bert::family::FAMILIES;
use topwork_core::task::Task;

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
    model.task = classes.map(|names| Task::classes(names.iter().map(|n| n.to_string()).collect()));
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
        assert_eq!(opened.task.unwrap().outputs, ["x", "y"]);
    }
}

#[test]
fn a_folder_of_sentence_transformers_says_pooling_length_and_normalization() {
    let opened = open(upstream(&MEAN, "", false).path()).unwrap();
    assert_eq!((opened.pipeline.pooling, opened.pipeline.normalize), (Pooling::Mean, true));
    assert_eq!((opened.pipeline.max_tokens(), opened.task), (32, None));
}

#[test]
fn without_another_word_the_tokenizer_says_the_longest_sequence() {
    let length = |settings: &str| {
        open(upstream(&[("tokenizer_config.json", settings)], "", false).path()).unwrap().pipeline.max_tokens()
    };
    let positions = length("{}");
    assert_eq!(length(r#"{"model_max_length": 16}"#), 16);
    assert_eq!(length(r#"{"model_max_length": 1000000000000000019884624838656}"#), positions);
}

#[test]
fn a_prompt_in_front_of_every_text_is_refused() {
    let name = "config_sentence_transformers.json";
    let settings =
        |default: &str| format!(r#"{{"prompts": {{"query": "query: "}}, "default_prompt_name": {default}}}"#);
    assert!(open(upstream(&[(name, &settings("null"))], "", false).path()).is_ok());
    let message = open(upstream(&[(name, &settings("\"query\""))], "", false).path()).err().unwrap().to_string();
    assert!(message.contains(name) && message.contains("\"query: \""), "{message}");
}

#[test]
fn another_pooling_than_those_is_refused() {
    let folder = upstream(&[("1_Pooling/config.json", r#"{"pooling_mode": ["cls", "mean"]}"#)], "", false);
    assert!(open(folder.path()).unwrap_err().to_string().contains("1_Pooling"));
}

#[test]
fn what_is_saved_opens_as_the_same_model() {
    let model = open(upstream(&MEAN, "", true).path()).unwrap();
    let (_folder, again) = saved_again(model.clone(), Some(&["bad", "good"]));
    assert_eq!(again.network, model.network);
    assert_eq!(again.task.unwrap().outputs, ["bad", "good"]);
    assert_eq!(again.pipeline.fingerprint(), model.pipeline.fingerprint());
    for (name, tensor) in &model.weights {
        let (ours, theirs) = (tensor.flatten_all().unwrap(), again.weights[name].flatten_all().unwrap());
        assert_eq!(ours.to_vec1::<f32>().unwrap(), theirs.to_vec1::<f32>().unwrap(), "{name}");
    }
}

/// A folder of a member with a head, named as transformers does, and a linear layer behind its pooling if asked.
fn of_member(family: &'static Family, dense: bool) -> tempfile::TempDir {
    let config = json!({
        "model_type": family.model_type, "vocab_size": 700, "hidden_size": 8, "embedding_size": 8, "dim": 8,
        "num_hidden_layers": 2, "n_layers": 2, "num_attention_heads": 2, "n_heads": 2, "intermediate_size": 16,
        "hidden_dim": 16, "max_position_embeddings": 64,
    });
    let config = Value::Object(
        config
            .as_object()
            .unwrap()
            .iter()
            .filter(|(key, _)| {
                // No key twice under two names.
                family.keys.iter().any(|(theirs, _)| theirs == key) || !family.keys.iter().any(|(_, ours)| ours == key)
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    );
    let mut files = vec![("config.json", config.to_string())];
    if dense {
        let modules = ["Transformer", "Pooling", "Dense", "Normalize"].iter().enumerate();
        let path = |i: usize, kind: &str| if i == 0 { String::new() } else { format!("{i}_{kind}") };
        let modules: Value = modules
            .map(|(i, kind)| json!({"path": path(i, kind), "type": format!("sentence_transformers.models.{kind}")}))
            .collect();
        files.push(("modules.json", modules.to_string()));
        files.push(("1_Pooling/config.json", json!({"pooling_mode_max_tokens": true}).to_string()));
        let linear = json!({"in_features": 8, "out_features": 6, "bias": false,
            "activation_function": "torch.nn.modules.activation.Tanh"});
        files.push(("2_Dense/config.json", linear.to_string()));
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in &files {
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer");
    let vocabulary: &[&str] = if family.marks.unk == "<unk>" { &["vocab.json", "merges.txt"] } else { &["vocab.txt"] };
    for name in vocabulary {
        let from = if vocabulary.len() == 2 { fixture.join("bpe").join(name) } else { fixture.join(name) };
        let mut text = std::fs::read_to_string(from).unwrap();
        if family.marks.unk == "[UNK]" {
            let marks = [("[CLS]", family.marks.cls), ("[SEP]", family.marks.sep), ("[PAD]", family.marks.pad)];
            marks.iter().for_each(|(old, new)| text = text.replacen(old, new, 1));
        }
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let config = BertConfig::parse(&config.to_string(), "config.json").unwrap();
    let network = config.network(if dense { Pooling::Max } else { Pooling::Pooler }, 2);
    let head: Vec<String> = network.head.params().into_iter().map(|spec| spec.name).collect();
    let values = Params::initial(&network.params(), Seed(1), &Device::Cpu).unwrap().snapshot();
    let tensors: BTreeMap<String, Tensor> = values
        .into_iter()
        .filter(|(name, _)| !dense || !head.contains(name))
        .map(
            |(name, value)| {
                if head.contains(&name) { (name, value) } else { (format!("{}{name}", family.prefix), value) }
            },
        )
        .collect();
    checkpoint::write_safetensors(&folder.path().join("model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    if dense {
        let linear = BTreeMap::from([(
            "linear.weight".to_string(),
            Tensor::ones((6, 8), candle_core::DType::F32, &Device::Cpu).unwrap(),
        )]);
        let path = folder.path().join("2_Dense/model.safetensors");
        checkpoint::write_safetensors(&path, &linear, &BTreeMap::new()).unwrap();
    }
    folder
}

#[test]
fn every_member_opens_with_its_head_and_is_saved_as_it_was() {
    for family in FAMILIES {
        let what = family.model_type;
        let folder = of_member(family, false);
        let model = open(folder.path()).unwrap();
        assert!(model.network.params().iter().all(|spec| model.weights[&spec.name].dims() == spec.shape), "{what}");
        assert_eq!(model.task.as_deref().map(<[String]>::len), Some(2), "{what}");
        let (saved, again) = saved_again(model.clone(), Some(&["bad", "good"]));
        assert_eq!((&again.network, again.pipeline.fingerprint()), (&model.network, model.pipeline.fingerprint()));
        let names = |folder: &Path| -> Vec<String> {
            checkpoint::read(&folder.join("model.safetensors")).unwrap().into_keys().collect()
        };
        assert_eq!(names(saved.path()), names(folder.path()), "{what}");
        let config = std::fs::read_to_string(saved.path().join("config.json")).unwrap();
        assert!(config.contains(&format!("{}ForSequenceClassification", family.class)), "{config}");
    }
}

#[test]
fn linear_layers_behind_pooling_are_part_of_the_network() {
    for family in FAMILIES {
        let what = family.model_type;
        let model = open(of_member(family, true).path()).unwrap();
        assert_eq!((model.pipeline.pooling, model.pipeline.normalize), (Pooling::Max, true), "{what}");
        assert_eq!((model.network.features(), model.task.is_none()), (6, true), "{what}");
        let (saved, again) = saved_again(model.clone(), None);
        assert_eq!(again.network, model.network, "{what}");
        assert!(saved.path().join("2_Dense/model.safetensors").exists(), "{what}");
        let other = model.pipeline.pooled(Pooling::Mean);
        assert_eq!(other.network(2).features(), 8, "{what}: another pooling has no such layer");
    }
}

#[test]
fn an_unknown_module_is_refused_by_name() {
    let modules = r#"[{"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_LSTM", "type": "sentence_transformers.models.LSTM"}]"#;
    let message = open(upstream(&[("modules.json", modules)], "", false).path()).unwrap_err().to_string();
    assert!(message.contains("LSTM") && message.contains("modules.json"), "{message}");
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
    assert!(open(other.path()).unwrap_err().to_string().contains("no Bert encoder"));
}

#[test]
fn a_vocabulary_larger_than_the_word_table_is_refused() {
    let folder = upstream(&[("config.json", &CONFIG.replace("400", "40"))], "", true);
    assert!(open(folder.path()).unwrap_err().to_string().contains("only 40 rows"));
}
