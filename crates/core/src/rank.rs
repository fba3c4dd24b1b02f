//! Ranking pre-trained models for a data set by what their frozen features are worth: one pass of the training part
//! through each backbone, then every transferability score of it.

use std::time::Instant;

use serde::Serialize;

use crate::cache::ViewSeed;
use crate::domain::Domain;
use crate::fit;
use crate::machine::Machine;
use crate::observe::Observer;
use crate::pooled::{Reader, Ready};
use crate::seed::Seed;
use crate::transferability::{Labelled, Score, Scores, scores};
use crate::{Error, Result};

/// What to rank, and on which samples.
///
/// ```
/// # #[path = "../examples/signals.rs"] mod signals;
/// # use signals::{DataArgs, Signals, generate};
/// # use topwork_core::{fit::Fit, machine::Machine, observe::Silent};
/// use topwork_core::rank::Rank;
///
/// # fn main() -> topwork_core::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = |name: &str| folder.path().join(name).display().to_string();
/// # std::fs::write(path("signals.csv"), generate(&[0.05, 0.2], 0.3, 10, 0)).unwrap();
/// # let data = DataArgs { train: Some(path("signals.csv").into()), ..DataArgs::default() };
/// # for (seed, name) in [(0, "first"), (1, "second")] {
/// #     Fit::<Signals>::new(data.clone()).strategy("from-scratch").seed(seed).out(path(name)).run(&Silent)?;
/// # }
/// let rank = Rank::<Signals>::new([path("first"), path("second")], data);
/// # let rank = Rank { machine: Machine { cache_limit: Some(0.0), ..Machine::default() }, ..rank };
/// for ranked in rank.run(&Silent)?.models {
///     println!("{}: {:?}", ranked.model, ranked.scores.values);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, clap::Args)]
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

impl<D: Domain> Rank<D> {
    /// These models on this data, everything else left to the defaults.
    pub fn new(models: impl IntoIterator<Item = impl Into<String>>, data: D::DataArgs) -> Self {
        Self { models: models.into_iter().map(Into::into).collect(), data, ..Self::default() }
    }

    /// Scores every model that can be opened.
    ///
    /// # Errors
    /// When the data or the settings are unusable, or no model can be opened.
    pub fn run(&self, observer: &dyn Observer) -> Result<Ranking> {
        let reader = Reader::new(&self.data, &self.machine, self.strict, observer)?;
        fit::budget(self.limit, self.per_class)?;
        let mut ranking = Ranking { by: self.by, models: Vec::new(), failed: Vec::new() };
        for name in &self.models {
            let start = Instant::now();
            match reader.open(name) {
                Ok(ready) => {
                    let opened = start.elapsed().as_secs_f64();
                    ranking.models.push(self.score(name, &ready, opened, &reader)?);
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

    fn score(&self, name: &str, model: &Ready<D>, open_seconds: f64, reader: &Reader<'_, D>) -> Result<Ranked> {
        let splits = reader.splits(model, fit::budget(self.limit, self.per_class)?, Seed(self.seed))?;
        splits.task.only_classes("rank")?;
        let start = Instant::now();
        let (network, fingerprint) = (&model.network, D::fingerprint(&model.pipeline));
        let features = reader.features(network, &model.params, &fingerprint, &splits.train, ViewSeed::Plain)?;
        let feature_seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let targets: Vec<u32> = features.samples.iter().map(|&i| splits.train.target(i)).collect();
        let labelled = Labelled::new(&features.values, features.width, &targets)?;
        let source = reader.source(model, &features)?;
        let scores = scores(&labelled, source.as_ref())?;
        Ok(Ranked {
            model: name.into(),
            samples: targets.len(),
            classes: splits.task.len(),
            features: features.width,
            source_classes: source.map(|source| source.classes),
            scores,
            open_seconds,
            feature_seconds,
            score_seconds: start.elapsed().as_secs_f64(),
        })
    }
}
