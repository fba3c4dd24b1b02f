//! What the end-to-end tests share: a home folder with made-up sentences, the binary run in it, and what it must leave.

#![allow(dead_code, unused_imports)] // No test file needs all of it.

#[path = "../../../core/tests/support/binary.rs"]
mod binary;
#[path = "../../../core/tests/support/malformed.rs"]
pub mod malformed;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use candle_core::Device;
use topwork_core::checkpoint::write_safetensors;
use topwork_core::net::Params;
use topwork_core::seed::Seed;
use topwork_nlp::models::bert::family::Family;
use topwork_nlp::models::bert::{BertConfig, Pooling};

pub use binary::{Home, Ran, converse, empty, fake_pip, run};

pub const BINARY: &str = env!("CARGO_BIN_EXE_topwork-nlp");

const WORDS: [&str; 20] = [
    "a", "the", "film", "plot", "actor", "was", "is", "and", "very", "quite", "good", "fine", "great", "lovely",
    "warm", "bad", "poor", "awful", "dull", "cold",
];

/// A folder with a BERT of two layers, 16 wide, of random weights, without a classifier.
pub fn model() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| saved("bert", 2))
}

/// Saves an encoder of random weights; gives its folder.
pub fn saved(name: &str, layers: usize) -> String {
    written(name, "bert", layers)
}

/// Saves a member of the family as [`saved`] does a BERT; gives its folder.
pub fn member(kind: &str) -> String {
    written(&format!("member-{kind}"), kind, 2)
}

/// Saves a BERT of two layers that knows `words`, too; gives its folder.
pub fn knowing(name: &str, words: &[&str]) -> String {
    made(name, "bert", 2, words)
}

fn written(name: &str, kind: &str, layers: usize) -> String {
    made(name, kind, layers, &[])
}

fn made(name: &str, kind: &str, layers: usize, more: &[&str]) -> String {
    // Kept from one run of the tests to the next: tests run at the same time, none may remove it.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    let family = Family::named(kind).unwrap();
    let marks = family.marks;
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer/bpe");
    let mut files: Vec<(&str, Vec<u8>)> = Vec::new();
    let words = if marks.unk == "<unk>" {
        files.extend(["vocab.json", "merges.txt"].map(|name| (name, fs::read(fixture.join(name)).unwrap())));
        600
    } else {
        let special = [marks.pad, marks.unk, marks.cls, marks.sep, marks.mask];
        let vocabulary: Vec<&str> = special.into_iter().chain(WORDS).chain(more.iter().copied()).collect();
        files.push(("vocab.txt", (vocabulary.join("\n") + "\n").into_bytes()));
        vocabulary.len()
    };
    let ours = serde_json::json!({
        "model_type": kind, "vocab_size": words, "embedding_size": 8, "hidden_size": 16, "num_hidden_layers": layers,
        "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32 + family.first_position,
    });
    let theirs = |key: &str| family.keys.iter().find(|(_, ours)| *ours == key).map_or(key.to_string(), |k| k.0.into());
    let config: serde_json::Map<String, serde_json::Value> =
        ours.as_object().unwrap().iter().map(|(key, value)| (theirs(key), value.clone())).collect();
    let config = serde_json::Value::Object(config).to_string();
    let network = BertConfig::parse(&config, "config.json").unwrap().network(Pooling::Pooler, 2);
    let head = network.head.params();
    let mut weights = Params::initial(&network.params(), Seed(1), &Device::Cpu).unwrap().snapshot();
    weights.retain(|name, _| head.iter().all(|spec| spec.name != *name));
    files.push(("config.json", config.into_bytes()));
    write_safetensors(&folder.join("model.safetensors"), &weights, &BTreeMap::new()).unwrap();
    for (name, bytes) in files {
        topwork_core::files::write_atomic_bytes(&folder.join(name), &bytes).unwrap();
    }
    folder.display().to_string()
}

/// `n` rows with the header `sentence`, `label`, of praise and blame by turns.
pub fn table(n: usize, seed: u64) -> String {
    let mut draw = Seed(seed).stream();
    let mut pick = |words: &[&'static str]| words[draw.below(words.len())];
    let mut text = "sentence\tlabel\n".to_string();
    for i in 0..n {
        let (label, tone) = if i % 2 == 0 { ("good", &WORDS[10..15]) } else { ("bad", &WORDS[15..]) };
        let words = [pick(&WORDS[..2]), pick(&WORDS[2..5]), "is", pick(&WORDS[8..10]), pick(tone), "and", pick(tone)];
        text += &format!("{}\t{label}\n", words[..5 + 2 * (i / 2 % 2)].join(" "));
    }
    text
}

/// A home with 60 rows in `train.tsv` and 20 in `dev.tsv`.
pub fn home() -> Home {
    let home = empty();
    home.write("train.tsv", table(60, 1));
    home.write("dev.tsv", table(20, 2));
    home
}

impl Home {
    /// `train` on `train.tsv` and `dev.tsv`, with further flags.
    pub fn train(&self, out: &str, flags: &[&str]) -> Ran {
        self.run(&Self::training(out, flags))
    }

    pub fn training<'a>(out: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
        let mut args =
            vec!["train", "--train", "train.tsv", "--validation", "dev.tsv", "--model", model(), "--out", out];
        args.extend(flags);
        args
    }
}
