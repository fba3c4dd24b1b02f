//! The two contests: the bundled sets as files under `target/bench/data`, and the models that are fitted to them.
//!
//! From scratch learns a network that suits few samples better than the pre-trained one does: with those, some tens of
//! samples and a minute stay at chance. It is written to disk here, so that it needs no download.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use serde_json::json;
use topwork_core::domain::{Domain, Opened};
use topwork_core::fit;
use topwork_core::net::Network;
use topwork_core::observe::Observer;
use topwork_core::plan::BatchNormMode;
use topwork_core::seed::Seed;
use topwork_core::strategy::Options;
use topwork_core::{Error, checkpoint, model};
use topwork_cv::Photos;
use topwork_nlp::Sentences;
use topwork_nlp::models::bert::{BertConfig, Pooling};

use super::Contest;
use super::grid::Size;
use super::transfer::Transfer;
use crate::digits;

const FRESH_PHOTO_MODEL: &str = "resnet18";
const PHOTO_MODEL: &str = "efficientnet-lite0";
const TEXT_MODEL: &str = "all-minilm-l6-v2";

/// Prepares both contests below `folder`; `say` hears what takes time.
pub fn contests(size: Size, folder: &Path, say: &(dyn Fn(String) + Sync)) -> Result<Vec<Box<dyn Contest>>> {
    let work = folder.join("work");
    // What a killed benchmark left.
    if work.exists() {
        std::fs::remove_dir_all(&work).with_context(|| work.display().to_string())?;
    }
    Ok(vec![Box::new(photos(size, folder, say)?), Box::new(sentences(size, folder, say)?)])
}

fn photos(size: Size, folder: &Path, say: &(dyn Fn(String) + Sync)) -> Result<Transfer<Photos, PathBuf>> {
    let images = digits::read(&crate::root().join("datasets"))?;
    let data = folder.join("data/digits");
    replace(&data, |data| digits::write_folders(&images, data).map(drop))?;
    let mut test = Vec::new();
    let brief = data.join("brief");
    for digit in 0..10 {
        let class = data.join("test").join(digit.to_string());
        let mut files: Vec<PathBuf> = list(&class)?;
        files.sort();
        let first = files.first().context("digits: a class without test images")?;
        let alone = brief.join(digit.to_string());
        std::fs::create_dir_all(&alone).with_context(|| alone.display().to_string())?;
        std::fs::copy(first, alone.join("first.png")).with_context(|| alone.display().to_string())?;
        test.extend(files.into_iter().map(|file| (file, digit.to_string())));
    }
    let missing = missing::<Photos>(PHOTO_MODEL, say)?;
    let fresh = folder.join("data/photo-model");
    let network = topwork_cv::models::network(FRESH_PHOTO_MODEL, 10, 224).context("an unknown network")?;
    let (weights, pipeline) = (random(&network)?, topwork_cv::models::cards::usual(FRESH_PHOTO_MODEL));
    let opened = Opened { network, weights, pipeline, classes: None };
    replace(&fresh, |folder| Ok(Photos::save(folder, &opened)?))?;
    let side = if size == Size::Smallest { 64 } else { 96 };
    let part = |validation: PathBuf| topwork_cv::DataArgs {
        train: Some(data.join("train")),
        validation: Some(validation),
        size: Some(side),
        ..topwork_cv::DataArgs::default()
    };
    let epochs = if size == Size::Smallest { 12 } else { 20 };
    // A mirrored digit is another one or none.
    let plain = Options { augment: Some(false), batch_size: Some(8), ..Options::default() };
    // In so few steps, running statistics that are updated do not reach those of the batches.
    let fine_tuning = Options {
        epochs: Some(20),
        learning_rate: Some(2e-4),
        head_rate: Some(10.0),
        batch_norm: Some(BatchNormMode::Frozen),
        ..plain.clone()
    };
    let setting = format!(
        "digits: {PHOTO_MODEL}, {side} × {side} pixels, {} test images; from scratch {FRESH_PHOTO_MODEL}, {epochs} \
         epochs; fine-tuning 20 epochs, batch normalization frozen",
        test.len()
    );
    Ok(Transfer {
        domain: "cv",
        data: "digits",
        classes: 10,
        model: PHOTO_MODEL,
        fresh,
        missing,
        whole: part(data.join("test")),
        brief: part(brief),
        test,
        from_scratch: Options { epochs: Some(epochs), ..plain },
        fine_tuning,
        size,
        setting,
        work: folder.join("work"),
    })
}

fn sentences(size: Size, folder: &Path, say: &(dyn Fn(String) + Sync)) -> Result<Transfer<Sentences, String>> {
    let source = crate::root().join("datasets/debian-sections");
    let train = rows(&source.join("train.tsv"))?;
    let all = rows(&source.join("test.tsv"))?;
    let labels: BTreeSet<&str> = all.iter().map(|(_, label)| label.as_str()).collect();
    let first = |n: usize| -> Vec<(String, String)> {
        let of = |label: &&str| {
            let label = label.to_string();
            all.iter().filter(move |row| row.1 == label).take(n).cloned()
        };
        labels.iter().flat_map(of).collect()
    };
    let test = first(match size {
        Size::Smallest => 20,
        Size::Default => 50,
        Size::Full => usize::MAX,
    });
    let data = folder.join("data/debian-sections");
    replace(&data, |data| {
        write_rows(&data.join("train.tsv"), &train)?;
        write_rows(&data.join("test.tsv"), &test)?;
        write_rows(&data.join("brief.tsv"), &first(1))
    })?;
    let missing = missing::<Sentences>(TEXT_MODEL, say)?;
    let fresh = folder.join("data/text-model");
    replace(&fresh, |folder| small_encoder(folder, &train))?;
    let tokens = if size == Size::Smallest { 32 } else { 64 };
    let part = |validation: &str| topwork_nlp::DataArgs {
        train: Some(data.join("train.tsv")),
        validation: Some(data.join(validation)),
        max_tokens: Some(tokens),
        ..topwork_nlp::DataArgs::default()
    };
    let setting = format!(
        "debian-sections: {TEXT_MODEL}, the first {tokens} tokens, {} test texts; from scratch a BERT of 2 layers, 128 \
         wide, with the words of the training texts, 20 epochs; fine-tuning 15 epochs",
        test.len()
    );
    let learn = |epochs, rate| Options { epochs: Some(epochs), learning_rate: Some(rate), ..Options::default() };
    Ok(Transfer {
        domain: "nlp",
        data: "debian-sections",
        classes: labels.len(),
        model: TEXT_MODEL,
        fresh,
        missing,
        whole: part("test.tsv"),
        brief: part("brief.tsv"),
        test,
        from_scratch: learn(20, 1e-3),
        fine_tuning: learn(15, 1e-4),
        size,
        setting,
        work: folder.join("work"),
    })
}

/// Why no source has the model's weights, if so. What else goes wrong (a full disk) ends the benchmark.
fn missing<D: Domain>(name: &str, say: &(dyn Fn(String) + Sync)) -> Result<Option<String>> {
    match fit::fetch::<D>(name, false, &Relay(say)) {
        Ok(_) => Ok(None),
        Err(Error::Input { subject, reason, .. }) => {
            // Every source has its line, and its remedy on the next one.
            let reasons: Vec<&str> = reason.lines().map(str::trim).filter(|line| line.starts_with("- ")).collect();
            Ok(Some(format!("{subject}: {}", if reasons.is_empty() { reason } else { reasons.join(" ") })))
        }
        Err(error) => Err(error.into()),
    }
}

/// Passes messages on.
struct Relay<'a>(&'a (dyn Fn(String) + Sync));

impl Observer for Relay<'_> {
    fn message(&self, text: &str) {
        (self.0)(text.to_string());
    }
}

fn random(network: &Network) -> Result<BTreeMap<String, candle_core::Tensor>> {
    Ok(model::random(network, Seed(0), &Device::Cpu)?.snapshot())
}

/// Writes an encoder of two layers with random weights, and a vocabulary of the words that occur in `texts` twice or
/// more.
fn small_encoder(folder: &Path, texts: &[(String, String)]) -> Result<()> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (text, _) in texts {
        for word in text.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
            *counts.entry(word.to_string()).or_default() += 1;
        }
    }
    let words = counts.into_iter().filter(|(_, count)| *count > 1).map(|(word, _)| word);
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_string);
    let vocabulary: Vec<String> = special.into_iter().chain(words).collect();
    let config = json!({
        "model_type": "bert", "vocab_size": vocabulary.len(), "hidden_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 512, "max_position_embeddings": 128,
    });
    let network = BertConfig::parse(&config.to_string(), "the small encoder")?.network(Pooling::Mean, 2);
    let weights: BTreeMap<_, _> =
        random(&network)?.into_iter().filter(|(n, _)| !n.starts_with("classifier.")).collect();
    let write = |name: &str, text: String| super::write_whole(&folder.join(name), &text);
    write("config.json", config.to_string())?;
    write("vocab.txt", vocabulary.join("\n") + "\n")?;
    write("modules.json", json!([{ "type": "sentence_transformers.models.Pooling" }]).to_string())?;
    Ok(checkpoint::write_safetensors(&folder.join("model.safetensors"), &weights, &BTreeMap::new())?)
}

/// Text and label of each row below the header.
fn rows(path: &Path) -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let row = |line: &str| {
        let (text, label) = line.rsplit_once('\t')?;
        Some((text.to_string(), label.to_string()))
    };
    let rows: Option<Vec<_>> = text.lines().skip(1).map(row).collect();
    let rows = rows.with_context(|| format!("{}: a row is not text, tab, label", path.display()))?;
    ensure!(!rows.is_empty(), "{}: it is empty", path.display());
    Ok(rows)
}

fn write_rows(path: &Path, rows: &[(String, String)]) -> Result<()> {
    let lines: String = rows.iter().map(|(text, label)| format!("{text}\t{label}\n")).collect();
    super::write_whole(path, &format!("text\tlabel\n{lines}"))
}

/// Makes a folder anew with what `fill` writes to it.
fn replace(folder: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    fill(folder)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoder_that_learns_from_scratch_can_be_opened() {
        let folder = tempfile::tempdir().unwrap();
        let text = |text: &str| (text.to_string(), "a".to_string());
        small_encoder(folder.path(), &[text("Sound player, sound editor"), text("A sound")]).unwrap();
        let opened = Sentences::open(folder.path(), None).unwrap();
        let sample = Sentences::sample("a SOUND player", &opened.pipeline).unwrap();
        // [CLS], unknown, the only word that occurs twice, unknown, [SEP].
        assert_eq!((sample.rows, opened.network.features()), (5, 128));
        assert!(opened.classes.is_none());
    }
}
