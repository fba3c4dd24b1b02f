//! Ranking pre-trained models for a data set by what their frozen features are worth: one pass of the training part
//! through each backbone, then every transferability score of it.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::cache::{Cache, Extractor, ViewSeed, host_values};
use crate::data::{Activation, Dataset, Rows};
use crate::device::Place;
use crate::domain::{Domain, Opened};
use crate::fit;
use crate::loader::{Faults, Strictness};
use crate::machine::Machine;
use crate::model::{self, Head};
use crate::net::frozen::Frozen;
use crate::net::{Network, Params, Stage};
use crate::observe::{Observer, Timings};
use crate::seed::Seed;
use crate::transferability::{Labelled, Score, Scores, Source, scores};
use crate::{Error, Result};

/// What to rank, and on which samples.
#[derive(Debug, Clone, clap::Args)]
pub struct Rank<D: Domain> {
    /// Models to compare, separated by commas: names from `models list`, hf-hub:owner/name, model folders, runs
    #[arg(long, short, value_name = "MODEL,…", value_delimiter = ',', required = true)]
    pub models: Vec<String>,
    /// The score that decides the order
    #[arg(long, value_name = "SCORE", default_value = "logme")]
    pub by: Score,
    /// Use this many of the training samples, stratified by class
    #[arg(long, value_name = "N", conflicts_with = "per_class")]
    pub limit: Option<usize>,
    /// Use this many training samples of each class
    #[arg(long, value_name = "N")]
    pub per_class: Option<usize>,
    /// Decides the choice of samples, and the part held out where the data come without a validation part
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Make the first unreadable sample an error instead of leaving it out
    #[arg(long)]
    pub strict: bool,
    /// What it may use.
    #[command(flatten)]
    pub machine: Machine,
    /// Where the labelled data is.
    #[command(flatten, next_help_heading = "Data")]
    pub data: D::DataArgs,
}

/// Models in their order, and those that could not be opened.
#[derive(Debug, Serialize)]
pub struct Ranking {
    /// What they are ordered by.
    pub by: Score,
    /// Best first; those without the score last.
    pub models: Vec<Ranked>,
    /// What could not be opened, and why.
    pub failed: Vec<Failed>,
}

/// The scores of one model.
#[derive(Debug, Serialize)]
pub struct Ranked {
    /// As it was asked for.
    pub model: String,
    /// Samples that were read.
    pub samples: usize,
    /// Classes among them.
    pub classes: usize,
    /// Width of the pooled features.
    pub features: usize,
    /// Outputs of the head that it was trained with, if it has one.
    pub source_classes: Option<usize>,
    /// The scores.
    #[serde(flatten)]
    pub scores: Scores,
    /// Seconds until the model was open, fetching included.
    pub open_seconds: f64,
    /// Seconds of the pass through the backbone; little where the features were kept from before.
    pub feature_seconds: f64,
    /// Seconds of all scores together.
    pub score_seconds: f64,
}

/// A model that could not be opened.
#[derive(Debug, Serialize)]
pub struct Failed {
    /// As it was asked for.
    pub model: String,
    /// Why, and what to do.
    pub error: String,
}

/// A model with its parameters.
struct Ready<D: Domain> {
    network: Network,
    params: Params,
    pipeline: D::Pipeline,
    /// Whether the head is that of the checkpoint.
    source: bool,
}

impl<D: Domain> Rank<D> {
    /// Scores every model that can be opened.
    ///
    /// # Errors
    /// When the data or the settings are unusable, or no model can be opened.
    pub fn run(&self, observer: &dyn Observer) -> Result<Ranking> {
        let place = self.machine.place()?;
        let cache = self.machine.cache()?;
        fit::budget(self.limit, self.per_class)?;
        let mut ranking = Ranking { by: self.by, models: Vec::new(), failed: Vec::new() };
        for name in &self.models {
            let start = Instant::now();
            match self.open(name, &place, observer) {
                Ok(ready) => {
                    let opened = start.elapsed().as_secs_f64();
                    ranking.models.push(self.score(name, &ready, opened, &place, &cache, observer)?);
                }
                Err(error) => ranking.failed.push(Failed { model: name.clone(), error: error.to_string() }),
            }
        }
        if ranking.models.is_empty() {
            let reasons: Vec<String> = ranking.failed.iter().map(|f| format!("{}: {}", f.model, f.error)).collect();
            return Err(Error::input("--models", "none of them can be opened", reasons.join("\n  ")));
        }
        let by = |ranked: &Ranked| ranked.scores.values.get(&self.by).copied().unwrap_or(f64::NEG_INFINITY);
        ranking.models.sort_by(|a, b| by(b).total_cmp(&by(a)));
        Ok(ranking)
    }

    fn open(&self, name: &str, place: &Place, observer: &dyn Observer) -> Result<Ready<D>> {
        let Opened { network, weights, pipeline, .. } =
            D::configure(fit::open_any::<D>(name, self.machine.offline, observer)?, &self.data)?;
        let kept = |spec: &crate::net::ParamSpec| weights.get(&spec.name).is_some_and(|w| w.dims() == spec.shape);
        let source = network.head.params().iter().all(kept);
        let head = if source { Head::Keep } else { Head::Fresh(Seed(0)) };
        let (params, _) = model::fit(&network, &weights, head, place, name)?;
        Ok(Ready { network, params, pipeline, source })
    }

    fn score(
        &self,
        name: &str,
        model: &Ready<D>,
        open_seconds: f64,
        place: &Place,
        cache: &Cache,
        observer: &dyn Observer,
    ) -> Result<Ranked> {
        let seed = Seed(self.seed);
        let splits = D::splits(&self.data, &model.pipeline, None, seed)?;
        let budget = fit::budget(self.limit, self.per_class)?;
        let samples = fit::within(splits.train, &splits.classes, budget, seed)?;
        let start = Instant::now();
        let (features, readable) = self.features(model, &samples, place, cache, observer)?;
        let feature_seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let targets: Vec<u32> = readable.iter().map(|&i| samples.target(i)).collect();
        let width = features.len() / targets.len().max(1);
        let labelled = Labelled::new(&features, width, &targets)?;
        let source = if model.source { Some(source(model, features, width, place)?) } else { None };
        let scores = scores(&labelled, source.as_ref())?;
        Ok(Ranked {
            model: name.into(),
            samples: targets.len(),
            classes: splits.classes.len(),
            features: width,
            source_classes: source.map(|source| source.classes),
            scores,
            open_seconds,
            feature_seconds,
            score_seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// The pooled features of all samples that can be read, row-major, and which these are.
    fn features(
        &self,
        model: &Ready<D>,
        samples: &Arc<dyn Dataset>,
        place: &Place,
        cache: &Cache,
        observer: &dyn Observer,
    ) -> Result<(Vec<f32>, Vec<usize>)> {
        let stages: Vec<&Stage> = model.network.stages.iter().collect();
        let extractor = Extractor {
            cache,
            stages: &stages,
            params: &model.params,
            fingerprint: &D::fingerprint(&model.pipeline),
            device: place,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            observer,
        };
        let mut faults = Faults::new(Strictness { strict: self.strict, ..Strictness::default() });
        let kept =
            extractor.features("training", samples, &[ViewSeed::Plain], true, &mut faults, &mut Timings::default())?;
        let mut features = Vec::new();
        let mut readable = Vec::new();
        if let Some(kept) = kept {
            readable.extend((0..samples.len()).filter(|&i| kept.has(i)));
            for &i in &readable {
                features.extend(host_values(&kept.batch(0, &[i], place)?.data)?);
            }
        }
        for (name, reason) in faults.list() {
            observer.message(&format!("left out: {name}: {reason}"));
        }
        Ok((features, readable))
    }
}

/// What the head of the checkpoint says of features `[samples, width]`.
fn source<D: Domain>(model: &Ready<D>, features: Vec<f32>, width: usize, place: &Place) -> Result<Source> {
    let head = Frozen::compile(&[&model.network.head], &model.params, place)?;
    let rows = features.len() / width.max(1);
    let data = candle_core::Tensor::from_vec(features, (rows, width), place)?;
    let logits = host_values(&head.run(&Activation { data, rows: Rows::One })?.data)?;
    Ok(Source::of_logits(&logits, model.network.classes()))
}
