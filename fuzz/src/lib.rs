//! What is fuzzed: each parser of files that others wrote, as a function of bytes. Whatever they are, it comes to its end with
//! a result or an error.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use candle_core::Device;
use topwork_core::calibration::Calibration;
use topwork_core::data::{Dataset, View};
use topwork_core::domain::Domain;
use topwork_core::net::{Network, Params};
use topwork_core::plan::Plan;
use topwork_core::seed::Seed;
use topwork_core::task::Kind;
use topwork_core::{adapter, cache, checkpoint, compare, events, plan_file};
use topwork_cv::dataset::{inputs, tars};
use topwork_cv::pipeline::decode::decode;
use topwork_cv::{Pipeline, models};
use topwork_nlp::Sentences;
use topwork_nlp::models::bert::family::Family;
use topwork_nlp::models::bert::{BertConfig, Pooling};
use topwork_nlp::pretrain::corpus;
use topwork_nlp::tokenizer::TextTokenizer;

/// A parser and its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 19] = [
    ("adapter", adapter),
    ("calibration", calibration),
    ("config", config),
    ("corpus", corpus),
    ("course", course),
    ("list", list),
    ("modules", modules),
    ("parquet", parquet),
    ("photo", photo),
    ("pickle", pickle),
    ("plan", plan),
    ("questions", questions),
    ("run", run),
    ("safetensors", safetensors),
    ("segment", segment),
    ("table", table),
    ("tar", tar),
    ("tokenizer", tokenizer),
    ("words", words),
];

/// A folder in memory, where the system has one.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// Writes files into this process's folder and hands it over.
fn with<T>(files: &[(&str, &[u8])], read: impl FnOnce(&Path) -> T) -> T {
    static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(scratch);
    let folder = FOLDER.path();
    for (name, bytes) in files {
        let file = folder.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
    let outcome = read(folder);
    for (name, _) in files {
        let _ = fs::remove_file(folder.join(name));
    }
    outcome
}

pub fn safetensors(bytes: &[u8]) {
    let _ = checkpoint::parse(bytes, Path::new("w.safetensors"));
}

/// The two forms of `torch.save`, or a pickle as the newer one holds it.
pub fn pickle(bytes: &[u8]) {
    let name = Path::new("w.pth");
    if bytes.starts_with(b"PK") || bytes.starts_with(b"\x80\x02\x8a\x0a") {
        let _ = checkpoint::parse(bytes, name);
        return;
    }
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (member, contents) in [("a/data.pkl", bytes), ("a/data/0", &[0; 64])] {
        archive.start_file(member, stored).unwrap();
        archive.write_all(contents).unwrap();
    }
    let _ = checkpoint::parse(archive.finish().unwrap().get_ref(), name);
}

/// A plain and some random views of a photo, for which no more than is needed is decoded.
pub fn photo(bytes: &[u8]) {
    let pipeline = Pipeline { resize: 36, crop: 32, ..Pipeline::imagenet() };
    let whole = decode("photo", bytes);
    for view in [View::Plain].into_iter().chain((1..4).map(|seed| View::Augmented(Seed(seed)))) {
        let found = pipeline.load("photo", bytes, view);
        if let (Ok(whole), Ok(found)) = (&whole, found) {
            assert_eq!(
                pipeline.render(whole, view).unwrap(),
                found,
                "the rows that a view needs are those of the whole"
            );
        }
    }
}

fn splits_of_photos(path: PathBuf) {
    let pipeline = Pipeline { resize: 8, crop: 8, ..Pipeline::imagenet() };
    for task in [Kind::Classes, Kind::Labels] {
        let args = topwork_cv::DataArgs { train: Some(path.clone()), task: Some(task), ..Default::default() };
        if let Ok(splits) = topwork_cv::dataset::splits(&args, &pipeline, None, Seed(1)) {
            loaded(&splits.train);
        }
    }
    let args = topwork_cv::InputArgs { inputs: vec![path], path_column: None };
    let _ = inputs::photos(&args).map(|photos| photos.take(100).for_each(drop));
}

fn loaded(data: &Arc<dyn Dataset>) {
    for i in 0..data.len().min(4) {
        let _ = (data.name(i), data.load(i, View::Plain));
    }
}

pub fn tar(bytes: &[u8]) {
    with(&[("d.tar", bytes)], |folder| {
        let _ = tars::photos(&folder.join("d.tar"));
        splits_of_photos(folder.join("d.tar"));
    });
}

pub fn parquet(bytes: &[u8]) {
    with(&[("d.parquet", bytes)], |folder| splits_of_photos(folder.join("d.parquet")));
}

/// A list of photos.
pub fn list(bytes: &[u8]) {
    with(&[("d.csv", bytes)], |folder| splits_of_photos(folder.join("d.csv")));
}

/// A BERT that can read.
static ENCODER: LazyLock<topwork_nlp::Pipeline> = LazyLock::new(|| {
    let folder = scratch();
    let marks = Family::named("bert").unwrap().marks;
    let words = [marks.pad, marks.unk, marks.cls, marks.sep, marks.mask, "a", "b", "##b", "good"];
    let config = format!(
        r#"{{"vocab_size": {}, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 8, "max_position_embeddings": 16}}"#,
        words.len()
    );
    let network = BertConfig::parse(&config, "config.json").unwrap().network(Pooling::Pooler, 2);
    let weights = Params::initial(&network.params(), Seed(1), &Device::Cpu).unwrap().snapshot();
    fs::write(folder.path().join("config.json"), config).unwrap();
    fs::write(folder.path().join("vocab.txt"), words.join("\n")).unwrap();
    checkpoint::write_safetensors(&folder.path().join("model.safetensors"), &weights, &BTreeMap::new()).unwrap();
    Sentences::open(folder.path(), None).unwrap().pipeline
});

fn splits_of_texts(path: PathBuf, task: Kind) {
    let args = topwork_nlp::DataArgs { train: Some(path.clone()), task: Some(task), ..Default::default() };
    if let Ok(splits) = Sentences::splits(&args, &ENCODER, None, Seed(1)) {
        loaded(&splits.train);
    }
}

/// A table of texts, in a form that the first byte tells.
pub fn table(bytes: &[u8]) {
    let Some((&first, rest)) = bytes.split_first() else { return };
    let name = ["d.tsv", "d.csv", "d.jsonl", "d"][usize::from(first % 4)];
    let task = [Kind::Classes, Kind::Labels, Kind::Values, Kind::Matches][usize::from(first / 4 % 4)];
    with(&[(name, rest)], |folder| {
        splits_of_texts(folder.join(name), task);
        let args = topwork_nlp::InputArgs { files: vec![folder.join(name)], ..Default::default() };
        let _ = Sentences::inputs(&args, &ENCODER).map(|texts| texts.take(100).for_each(drop));
    });
}

/// CoNLL's columns, or lists of words in JSON.
pub fn words(bytes: &[u8]) {
    let Some((&first, rest)) = bytes.split_first() else { return };
    let name = ["d.conll", "d.conllu", "d.jsonl"][usize::from(first % 3)];
    with(&[(name, rest)], |folder| splits_of_texts(folder.join(name), Kind::Tokens));
}

/// Questions, as SQuAD has them, in lines or in a table.
pub fn questions(bytes: &[u8]) {
    let Some((&first, rest)) = bytes.split_first() else { return };
    let name = ["d.json", "d.jsonl", "d.tsv"][usize::from(first % 3)];
    with(&[(name, rest)], |folder| splits_of_texts(folder.join(name), Kind::Spans));
}

/// Text to pre-train on, and what is kept of it.
pub fn corpus(bytes: &[u8]) {
    with(&[("text", bytes), ("index.json", bytes)], |folder| {
        let mut reader = corpus::Reader::new(vec![folder.join("text")], &topwork_core::observe::Silent);
        while let Ok(Some(_)) = reader.next_line() {}
        let _ = corpus::Corpus::open(folder);
        let mut reader = corpus::Reader::new(vec![folder.join("text")], &topwork_core::observe::Silent);
        let _ = topwork_nlp::pretrain::vocabulary::learn(&mut reader, bytes.len() as u64, 300, true);
    });
}

/// The configurations of both kinds of models.
pub fn config(bytes: &[u8]) {
    if let Ok(config) =
        std::str::from_utf8(bytes).map_err(drop).and_then(|text| BertConfig::parse(text, "c").map_err(drop))
    {
        let network = config.network(Pooling::Mean, 2);
        // More layers than this are made one by one, too.
        if network.stages.len() < 100 {
            let _ = network.params();
        }
    }
    let vocab = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n";
    let files: [(&str, &[u8]); 5] = [
        ("config.json", bytes),
        ("vocab.txt", vocab),
        ("modules.json", bytes),
        ("sentence_bert_config.json", bytes),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}"),
    ];
    with(&files, |folder| {
        let _ = Sentences::open(folder, None);
        let _ = topwork_cv::model_folder::open(folder, None);
    });
}

/// What sentence-transformers puts beside an encoder: the file that the first byte tells, the others as they should be.
pub fn modules(bytes: &[u8]) {
    let Some((&first, rest)) = bytes.split_first() else { return };
    let list = br#"[{"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
        {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]"#;
    let mut files: [(&str, &[u8]); 9] = [
        ("modules.json", list),
        ("1_Pooling/config.json", br#"{"word_embedding_dimension": 4, "pooling_mode_mean_tokens": true}"#),
        ("2_Dense/config.json", br#"{"in_features": 4, "out_features": 2, "bias": true}"#),
        ("config_sentence_transformers.json", b"{}"),
        ("tokenizer_config.json", b"{}"),
        ("config.json", br#"{"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 5}"#),
        ("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"),
        ("2_Dense/model.safetensors", b"\x02\0\0\0\0\0\0\0{}"),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}"),
    ];
    files[usize::from(first) % 5].1 = rest;
    with(&files, |folder| {
        let _ = Sentences::open(folder, None);
    });
}

/// A tokenizer in a form that the first byte tells, and texts for it.
pub fn tokenizer(bytes: &[u8]) {
    let Some((&first, rest)) = bytes.split_first() else { return };
    let name = ["tokenizer.json", "vocab.txt", "vocab.json", "tokenizer_config.json"][usize::from(first % 4)];
    let mut files = vec![(name, rest)];
    if name == "vocab.json" {
        files.push(("merges.txt", b"#version: 0.2\na b\n"));
    } else if name == "tokenizer_config.json" {
        files.push(("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n"));
    }
    let family = Family::named(if first & 4 == 0 { "bert" } else { "roberta" }).unwrap();
    with(&files, |folder| {
        let Ok(tokenizer) = TextTokenizer::open(folder, family, first & 8 == 0, 16) else { return };
        for text in ["", "ab a", "Straße \u{1f600} \u{301}e", "a\0b"] {
            let _ = (tokenizer.encode(text, None), tokenizer.encode(text, Some("b a b")), tokenizer.pieces(text));
            let _ = (tokenizer.words(&[text, "b"]), tokenizer.placed(text));
        }
        let _ = (tokenizer.frame(true), tokenizer.vocabulary(), tokenizer.word(1));
    });
}

/// Plans in TOML and JSON, for a network of photos.
pub fn plan(bytes: &[u8]) {
    static NETWORK: LazyLock<Network> = LazyLock::new(|| models::network("tiny-resnet", 2, 32).unwrap());
    for name in ["p.toml", "p.json"] {
        let plan = with(&[(name, bytes)], |folder| plan_file::read(&folder.join(name)));
        let _ = plan.and_then(|plan: Plan| plan_file::check(&plan, &NETWORK).map(|()| plan.to_string()));
    }
}

/// The settings of runs.
pub fn run(bytes: &[u8]) {
    with(&[("run.toml", bytes)], |folder| {
        let _ = topwork_cv::Fit::read(&folder.join("run.toml"), "");
        let _ = topwork_nlp::Fit::read(&folder.join("run.toml"), "");
    });
}

/// What a run tells of itself: to be compared, and as events.
pub fn course(bytes: &[u8]) {
    with(&[("run.toml", b"seed = 1\n"), ("summary.json", bytes), ("metrics.jsonl", bytes)], |folder| {
        if let (Ok(one), Ok(other)) = (compare::Run::read(folder), compare::Run::read(folder))
            && let Ok(found) = compare::Comparison::of(vec![one, other])
        {
            let _ = (compare::cells(&found), compare::notes(&found), compare::page("topwork", &found));
        }
        let _ = events::of_run(folder);
    });
}

pub fn calibration(bytes: &[u8]) {
    with(&[("calibration.json", bytes)], |folder| drop(Calibration::read(folder)));
}

/// What describes an adapter.
pub fn adapter(bytes: &[u8]) {
    with(&[("topwork.json", bytes)], |folder| {
        let _ = adapter::unmergeable::<topwork_cv::Photos>(folder);
        let network = models::network("tiny-resnet", 2, 32).unwrap();
        if let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes)
            && let Ok(adapters) = serde_json::from_value::<Vec<_>>(value["adapters"].clone())
        {
            let _ = topwork_core::net::adapt::apply(&network, &adapters).map(|network| network.params());
        }
    });
}

/// A file of the feature cache.
pub fn segment(bytes: &[u8]) {
    with(&[("a.seg", bytes)], |folder| drop(cache::values_in(&folder.join("a.seg"))));
}
