//! The short benchmark: the two bundled sets, three strategies with given settings, in five minutes.
//!
//! Photos are fitted with the model that is embedded in the binary, and from scratch with the same network. Of sentences,
//! from scratch learns a network that suits few samples better than the pre-trained one does: with that, some tens of
//! samples and a minute stay at chance. It is written to disk here, so that it needs no download.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use candle_core::{Device, Tensor};
use serde_json::json;
use topwork_core::net::Network;
use topwork_core::plan::BatchNormMode;
use topwork_core::seed::Seed;
use topwork_core::strategy::Options;
use topwork_core::{checkpoint, model};
use topwork_cv::models::cards::EMBEDDED;
use topwork_nlp::models::bert::{BertConfig, Pooling};

use super::Contest;
use super::domains::{self, TEXT_MODEL};
use super::grid::{self, Budget, Entry, Size};

/// Prepares both contests below `folder`; `say` hears what takes time.
pub fn contests(size: Size, folder: &Path, say: &(dyn Fn(String) + Sync)) -> Result<Vec<Box<dyn Contest>>> {
    Ok(vec![photos(size, folder, say)?, sentences(size, folder, say)?])
}

/// A strategy with its model and settings; of the slow ones little is measured.
fn entry(strategy: &'static str, model: &str, options: Options, size: Size, classes: usize) -> Entry {
    let slow = strategy != "feature-extraction";
    let budgets = grid::budgets(size, slow, classes).into_iter();
    let budgets = budgets.map(|(labels, seeds)| Budget { labels, seeds, grid: vec![options.clone()] }).collect();
    let pretrained = strategy != "from-scratch";
    Entry { strategy, pretrained, model: model.into(), follows: None, aid: None, budgets }
}

fn entries(
    (fresh, from_scratch): (&str, Options),
    (model, fine_tuning): (&str, Options),
    size: Size,
    classes: usize,
) -> Vec<Entry> {
    let mut entries = vec![
        entry("from-scratch", fresh, from_scratch, size, classes),
        entry("feature-extraction", model, Options::default(), size, classes),
    ];
    if size != Size::Smallest {
        entries.push(entry("fine-tuning", model, fine_tuning, size, classes));
    }
    entries
}

fn photos(size: Size, folder: &Path, say: &(dyn Fn(String) + Sync)) -> Result<Box<dyn Contest>> {
    let (train, test) = domains::digits(folder)?;
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
    let from_scratch = Options { epochs: Some(epochs), ..plain };
    let setting = format!(
        "digits: {EMBEDDED}, 32 × 32 pixels, {} test images; from scratch {epochs} epochs; fine-tuning 20 epochs, batch normalization frozen",
        test.len()
    );
    let entries = entries((EMBEDDED, from_scratch), (EMBEDDED, fine_tuning), size, 10);
    Ok(Box::new(domains::photos("digits", (train, test), (EMBEDDED, None), entries, setting, folder, say)?))
}

fn sentences(size: Size, folder: &Path, say: &(dyn Fn(String) + Sync)) -> Result<Box<dyn Contest>> {
    let (train, all) = domains::debian_sections()?;
    let labels: BTreeSet<&str> = all.iter().map(|(_, label)| label.as_str()).collect();
    let of_each = match size {
        Size::Smallest => 20,
        Size::Default => 50,
        Size::Full => usize::MAX,
    };
    let of = |label: &&str| {
        let label = label.to_string();
        all.iter().filter(move |row| row.1 == label).take(of_each).cloned()
    };
    let test: Vec<(String, String)> = labels.iter().flat_map(of).collect();
    let fresh = folder.join("data/text-model");
    domains::replace(&fresh, |folder| small_encoder(folder, &train))?;
    let tokens = if size == Size::Smallest { 32 } else { 64 };
    let setting = format!(
        "debian-sections: {TEXT_MODEL}, the first {tokens} tokens, {} test texts; from scratch a BERT of 2 layers, 128 \
         wide, with the words of the training texts, 20 epochs; fine-tuning 15 epochs",
        test.len()
    );
    let learn = |epochs, rate| Options { epochs: Some(epochs), learning_rate: Some(rate), ..Options::default() };
    let entries =
        entries((&fresh.to_string_lossy(), learn(20, 1e-3)), (TEXT_MODEL, learn(15, 1e-4)), size, labels.len());
    Ok(Box::new(domains::sentences("debian-sections", (train, test), tokens, entries, setting, folder, say)?))
}

fn random(network: &Network) -> Result<BTreeMap<String, Tensor>> {
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

#[cfg(test)]
mod tests {
    use topwork_core::domain::Domain;
    use topwork_nlp::Sentences;

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
        assert!(opened.task.is_none());
    }
}
