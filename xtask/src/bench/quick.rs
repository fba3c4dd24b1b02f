//! The short benchmark: the two bundled sets, three strategies with given settings, in five minutes.
//!
//! Both domains are fitted with the model that is embedded in their binary, and from scratch with the same network: nothing
//! is downloaded.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use topwork_core::plan::BatchNormMode;
use topwork_core::strategy::Options;
use topwork_cv::models::cards::EMBEDDED as OF_PHOTOS;
use topwork_nlp::models::EMBEDDED as OF_TEXTS;

use super::Contest;
use super::domains;
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

fn entries(model: &str, from_scratch: Options, fine_tuning: Options, size: Size, classes: usize) -> Vec<Entry> {
    let mut entries = vec![
        entry("from-scratch", model, from_scratch, size, classes),
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
        "digits: {OF_PHOTOS}, 32 × 32 pixels, {} test images; from scratch {epochs} epochs; fine-tuning 20 epochs, batch normalization frozen",
        test.len()
    );
    let entries = entries(OF_PHOTOS, from_scratch, fine_tuning, size, 10);
    Ok(Box::new(domains::photos("digits", (train, test), (OF_PHOTOS, None), entries, setting, folder, say)?))
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
    let tokens = if size == Size::Smallest { 32 } else { 64 };
    let setting = format!(
        "debian-sections: {OF_TEXTS}, the first {tokens} tokens, {} test texts; from scratch 20 epochs; fine-tuning 15 epochs",
        test.len()
    );
    let learn = |epochs, rate| Options { epochs: Some(epochs), learning_rate: Some(rate), ..Options::default() };
    let entries = entries(OF_TEXTS, learn(20, 1e-3), learn(15, 1e-3), size, labels.len());
    let parts = (train, test);
    Ok(Box::new(domains::sentences("debian-sections", parts, (OF_TEXTS, tokens), entries, setting, folder, say)?))
}
