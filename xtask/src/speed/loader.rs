//! How many photos a second are decoded, cropped at random, mirrored and normalized for training, with nothing behind them.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::json;
use topwork_core::cache::ViewSeed;
use topwork_core::domain::Domain;
use topwork_core::loader::{Loader, Request, epoch_batches};
use topwork_core::seed::Seed;
use topwork_cv::Photos;
use topwork_cv::dataset::DataArgs;

/// Photos in a batch.
const BATCH: usize = 32;
/// Crops of this share of the area and more, as torchvision's `RandomResizedCrop` has it.
const LEAST_CROP: f64 = 0.08;

/// Loads the photos of `folder`, CLASS/…, so many times after once to warm up, and prints the best rate.
pub fn run(folder: &Path, repeat: usize, threads: Option<usize>, as_json: bool) -> Result<()> {
    topwork_core::device::keep_memory();
    let Some(mut opened) = Photos::outline("resnet18") else { bail!("resnet18 is no network any more") };
    opened.pipeline.augment.scale[0] = LEAST_CROP;
    // Nothing is held back.
    let part = Some(folder.to_path_buf());
    let args = DataArgs { train: part.clone(), validation: part, ..DataArgs::default() };
    let photos = Photos::splits(&args, &opened.pipeline, None, Seed(0))?.train;
    let all: Vec<usize> = (0..photos.len()).collect();
    let threads = threads.unwrap_or_else(topwork_core::prefetch::threads);
    let mut best = 0f64;
    for round in 0..=repeat.max(1) {
        let seed = Seed(round as u64);
        let view = ViewSeed::Random(seed.named("view"));
        let request = |index: usize| Request { index, view: view.of(index) };
        let batches = epoch_batches(&all, BATCH, seed).into_iter().map(|b| b.into_iter().map(request).collect());
        let start = Instant::now();
        let mut loaded = 0;
        for batch in Loader::new(photos.clone(), batches.collect(), threads) {
            if let Some((_, error)) = batch.failed.into_iter().next() {
                return Err(error.into());
            }
            loaded += batch.samples.len();
        }
        let rate = loaded as f64 / start.elapsed().as_secs_f64();
        best = if round == 0 { best } else { best.max(rate) };
    }
    if as_json {
        println!("{}", json!({ "peer": "topwork", "photos": all.len(), "threads": threads, "photos_per_s": best }));
    } else {
        println!("{best:.1} photos / s: {} of them, {threads} threads", all.len());
    }
    Ok(())
}
