//! Transferability scores: how well a frozen backbone's features suit a labelled data set, before anything is trained.
//!
//! Every score is a pure function of features `[samples, width]` and class indices ([`Labelled`]), or of the source
//! head's probabilities ([`Source`]), in double precision. The same input gives the same bits on any number of threads.
//! Larger is better, for all of them; only values of the same score on the same samples can be compared.

mod h_score;
mod knn;
mod leep;
mod logme;
mod nce;
mod ridge;
pub(crate) mod spectrum;
mod transrate;

use std::collections::BTreeMap;
use std::time::Instant;

use faer::Mat;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

pub use h_score::h_score;
pub use knn::knn;
pub use leep::leep;
pub use logme::logme;
pub use nce::nce;
pub use ridge::{Ridge, ridge};
pub use spectrum::{Spectrum, plane};
pub use transrate::transrate;

/// Features of samples with their classes.
pub struct Labelled {
    /// `[samples, width]`.
    features: Mat<f64>,
    targets: Vec<u32>,
    /// The samples of each class that occurs.
    members: Vec<Vec<usize>>,
}

impl Labelled {
    /// Takes features `[samples, width]`, row-major, and the class index of each sample.
    ///
    /// # Errors
    /// When a number is not finite, or there are not two classes to tell apart.
    pub fn new(features: &[f32], width: usize, targets: &[u32]) -> Result<Self> {
        if let Some(at) = features.iter().position(|value| !value.is_finite()) {
            let subject = format!("the features of sample {}", at / width.max(1) + 1);
            return Err(Error::input(subject, "they are not finite numbers", "check the model's weights"));
        }
        let mut by_class: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (i, &target) in targets.iter().enumerate() {
            by_class.entry(target).or_default().push(i);
        }
        if by_class.len() < 2 || width == 0 || features.len() != width * targets.len() {
            let reason = "scores need features of samples of two classes or more";
            return Err(Error::input("the samples", reason, "add samples of another class"));
        }
        let value = |i: usize, j: usize| f64::from(features[i * width + j]);
        let features = Mat::from_fn(targets.len(), width, value);
        Ok(Self { features, targets: targets.to_vec(), members: by_class.into_values().collect() })
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.targets.len()
    }

    /// Samples of the smallest class that occurs.
    pub fn smallest_class(&self) -> usize {
        self.members.iter().map(Vec::len).min().unwrap_or(0)
    }

    /// For each class that occurs, the sums of the columns of `coordinates` over its samples.
    fn sums(&self, coordinates: &Mat<f64>) -> Vec<Vec<f64>> {
        let sum = |members: &Vec<usize>, k: usize| members.iter().map(|&i| coordinates[(i, k)]).sum();
        self.members.iter().map(|members| (0..coordinates.ncols()).map(|k| sum(members, k)).collect()).collect()
    }
}

/// What the head that a backbone was trained with says of the samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Number of source classes.
    pub classes: usize,
    /// `[samples, classes]`, row-major; each row sums to 1.
    pub probabilities: Vec<f64>,
}

impl Source {
    /// The softmax of logits `[samples, classes]`, row-major.
    pub fn of_logits(logits: &[f32], classes: usize) -> Self {
        let mut probabilities = Vec::with_capacity(logits.len());
        for row in logits.chunks_exact(classes) {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let powers: Vec<f64> = row.iter().map(|&x| (f64::from(x) - f64::from(largest)).exp()).collect();
            let sum: f64 = powers.iter().sum();
            probabilities.extend(powers.iter().map(|p| p / sum));
        }
        Self { classes, probabilities }
    }

    /// The most probable source class of each sample, the first of equal ones.
    pub fn labels(&self) -> Vec<u32> {
        let best = |row: &[f64]| (1..row.len()).fold(0, |best, c| if row[c] > row[best] { c } else { best }) as u32;
        self.probabilities.chunks_exact(self.classes).map(best).collect()
    }
}

/// The scores, in the order of the table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum Score {
    /// Logarithm of maximum evidence (You et al. 2021)
    #[default]
    #[serde(rename = "logme")]
    #[value(name = "logme")]
    LogMe,
    /// H-score with shrinkage (Bao et al. 2019, Ibrahim et al. 2021)
    HScore,
    /// Mutual information of features and labels by coding rates (Huang et al. 2022)
    #[serde(rename = "transrate")]
    #[value(name = "transrate")]
    TransRate,
    /// Log expected empirical prediction of the source head (Nguyen et al. 2020)
    Leep,
    /// Negative conditional entropy given the source head's labels (Tran et al. 2019)
    Nce,
    /// Accuracy of the nearest neighbours, each sample left out in turn
    Knn,
    /// Accuracy of ridge regression, each sample left out in turn
    Ridge,
}

impl Score {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::LogMe, Self::HScore, Self::TransRate, Self::Leep, Self::Nce, Self::Knn, Self::Ridge];

    /// What heads its column.
    pub fn title(self) -> &'static str {
        match self {
            Self::LogMe => "LogME",
            Self::HScore => "H-score",
            Self::TransRate => "TransRate",
            Self::Leep => "LEEP",
            Self::Nce => "NCE",
            Self::Knn => "k-NN",
            Self::Ridge => "ridge",
        }
    }
}

/// All scores of one backbone on one data set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scores {
    /// Value by score; LEEP and NCE are absent without a source head.
    pub values: BTreeMap<Score, f64>,
    /// Seconds by score; most share the decomposition of the features, which is counted apart.
    pub seconds: BTreeMap<Score, f64>,
    /// Seconds of the decomposition.
    pub decomposition: f64,
}

/// Neighbours that vote, where the smallest class has more than that.
const NEIGHBOURS: usize = 5;

/// Computes every score that there is enough for.
///
/// # Errors
/// When a decomposition does not converge.
pub fn scores(labelled: &Labelled, source: Option<&Source>) -> Result<Scores> {
    let start = Instant::now();
    let plain = Spectrum::of(labelled)?;
    let centred = Spectrum::centred(labelled)?;
    let decomposition = start.elapsed().as_secs_f64();
    let (mut values, mut seconds) = (BTreeMap::new(), BTreeMap::new());
    for score in Score::ALL {
        let start = Instant::now();
        let value = match score {
            Score::LogMe => Some(logme(labelled, &plain)),
            Score::HScore => Some(h_score(labelled, &centred)),
            Score::TransRate => Some(transrate(labelled, &centred)?),
            Score::Leep => source.map(|source| leep(source, &labelled.targets)),
            Score::Nce => source.map(|source| nce(&source.labels(), &labelled.targets)),
            Score::Knn => Some(knn(labelled, NEIGHBOURS.min(labelled.smallest_class() - 1).max(1))),
            Score::Ridge => Some(ridge(labelled, &centred).accuracy),
        };
        if let Some(value) = value {
            values.insert(score, value);
            seconds.insert(score, start.elapsed().as_secs_f64());
        }
    }
    Ok(Scores { values, seconds, decomposition })
}

#[cfg(test)]
mod tests;
