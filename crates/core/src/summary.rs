//! `summary.json`: what came of a run, every figure by its name.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::calibration::Calibration;
use crate::folds::Folds;
use crate::memory;
use crate::metrics::Metrics;
use crate::observe::{Memory, Part};
use crate::train::Outcome;

/// Judged on samples held back.
pub(crate) const VALIDATION: &str = "validation";
/// Judged on all samples, each by the model of a fold that did not learn from it.
pub(crate) const OUT_OF_FOLD: &str = "out-of-fold";

/// The part that comes before all others.
const PREPARE: &str = "prepare";

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Metrics of the validation samples, by their names; where a cross-validation left none, those of all out-of-fold
    /// predictions.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Which samples `metrics` are of: `validation` or `out-of-fold`.
    pub judged_on: &'static str,
    /// What a cross-validation found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folds: Option<Folds>,
    /// The temperature that its probabilities are told at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// Seconds of each part; `prepare` is reading the model and finding the data, `total` everything.
    pub seconds: BTreeMap<String, f64>,
    /// Samples a second of each part that handles samples.
    pub items_per_second: BTreeMap<String, f64>,
    /// Largest resident set of the process, in bytes, where the system tells.
    pub peak_memory: Option<u64>,
    /// The same by the end of each part, and by how much the part raised it.
    pub memory: BTreeMap<String, Memory>,
    /// Learnable numbers of the network.
    pub parameters: usize,
    /// Those that some phase trained.
    pub parameters_trained: usize,
    /// Samples that could not be read, and why.
    pub skipped: Vec<(String, String)>,
    /// Version of topwork.
    pub version: &'static str,
}

impl Summary {
    /// With what a cross-validation found, whose predictions are judged where there is nothing else to judge.
    pub fn with_folds(mut self, folds: Folds) -> Self {
        if self.metrics.samples == 0 {
            self.metrics = folds.together.clone();
            self.judged_on = OUT_OF_FOLD;
        }
        self.folds = Some(folds);
        // What the process held before the last model learned was held by those of the folds.
        if let Some(memory) = self.memory.remove(PREPARE) {
            self.memory.insert("folds".into(), memory);
        }
        self
    }

    /// Sums up an outcome; `preparation` and `total` are wall-clock seconds.
    pub fn new(outcome: &Outcome, preparation: f64, total: f64) -> Self {
        let parts = &outcome.timings.parts;
        let mut seconds: BTreeMap<String, f64> =
            parts.iter().map(|(name, part)| (name.clone(), part.seconds)).collect();
        seconds.insert(PREPARE.into(), preparation);
        let before = outcome.timings.before.map(|peak| (PREPARE.to_string(), Memory { peak, raised: peak }));
        let memory = parts.iter().filter_map(|(name, part)| Some((name.clone(), part.memory?)));
        let memory = memory.chain(before).collect();
        seconds.insert("total".into(), total);
        let rate = |part: &Part| part.items as f64 / part.seconds.max(1e-9);
        Self {
            metrics: outcome.metrics.clone(),
            judged_on: VALIDATION,
            folds: None,
            calibration: None,
            seconds,
            items_per_second: parts.iter().filter(|(_, p)| p.items > 0).map(|(n, p)| (n.clone(), rate(p))).collect(),
            peak_memory: memory::peak(),
            memory,
            parameters: outcome.parameters,
            parameters_trained: outcome.trained,
            skipped: outcome.skipped.clone(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = &self.metrics;
        if let Some(folds) = &self.folds {
            writeln!(f, "{folds}")?;
        }
        writeln!(f, "{m} on {} {} samples", m.samples, self.judged_on)?;
        if let Some(Calibration { temperature, error_before, error_after, .. }) = &self.calibration {
            writeln!(f, "calibration error {error_before:.4}, {error_after:.4} at temperature {temperature:.3}")?;
        }
        let parts: Vec<String> = self
            .seconds
            .iter()
            .filter(|(name, _)| *name != "total")
            .map(|(name, s)| format!("{name} {s:.1}"))
            .collect();
        write!(f, "{:.1} s in all ({})", self.seconds["total"], parts.join(", "))?;
        write!(f, "; {} of {} parameters trained", self.parameters_trained, self.parameters)?;
        if let Some(bytes) = self.peak_memory {
            write!(f, "; peak memory {:.0} MB", bytes as f64 / 1e6)?;
        }
        if !self.skipped.is_empty() {
            write!(f, "\n{} samples could not be read and were left out", self.skipped.len())?;
        }
        Ok(())
    }
}
