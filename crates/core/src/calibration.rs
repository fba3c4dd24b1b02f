//! How far a model's confidence can be trusted: temperature scaling (Guo et al. 2017, *On Calibration of Modern Neural
//! Networks*, §4.2). The logits are divided by one number T, which is fitted on samples that were not learned from; the order
//! of the classes stays as it is.
//!
//! T is kept in `calibration.json` beside the weights, which upstream libraries pass over: their probabilities are those of
//! T = 1.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data::Dataset;
use crate::files::{read_small, write_atomic_bytes};
use crate::metrics::{Metrics, Scores};
use crate::outputs::Outputs;
use crate::task::Task;
use crate::{Error, Result};

/// The file in a model's folder.
const FILE: &str = "calibration.json";
/// Least and greatest temperature.
const RANGE: [f64; 2] = [0.05, 20.0];
/// Halvings of the range of the temperature's logarithm: it is known to nine digits then.
const HALVINGS: usize = 34;

/// A model's temperature, and what it was found from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Calibration {
    /// What logits are divided by before the softmax.
    pub temperature: f64,
    /// Which samples it was fitted on: `validation` or `out-of-fold`.
    pub fitted_on: String,
    /// How many.
    pub samples: usize,
    /// Their calibration error ([`crate::metrics::OfClasses::calibration_error`]) without it.
    pub error_before: f64,
    /// The same with it: on the samples it was fitted on, so lower than elsewhere.
    pub error_after: f64,
}

impl Calibration {
    /// Fits a temperature to answers for samples of `data`, which are `fitted_on`; `None` where there are none, or the task is
    /// not of classes.
    pub fn fit(answers: &Outputs, task: &Task, data: &dyn Dataset, fitted_on: &str) -> Option<Self> {
        if !task.is_classes() || answers.samples.is_empty() {
            return None;
        }
        let temperature = fit(answers.rows().map(|(sample, logits)| (data.target(sample) as usize, logits)));
        let error = |answers: &Outputs| match answers.metrics(task, data) {
            Metrics { scores: Scores::Classes(scores), .. } => scores.calibration_error,
            _ => 0.0,
        };
        Some(Self {
            temperature,
            fitted_on: fitted_on.into(),
            samples: answers.samples.len(),
            error_before: error(answers),
            error_after: error(&answers.at(temperature)),
        })
    }

    /// What is kept in a model's folder, if anything is.
    ///
    /// # Errors
    /// When the file cannot be read or holds no temperature.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let text = match read_small(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(&path)(e)),
        };
        let wrong = |reason: String| Error::input(path.display(), reason, "restore the file, or remove it");
        let found: Self = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
        // As far beyond those that are fitted as somebody may set one.
        if !(RANGE[0] / 100.0..=RANGE[1] * 100.0).contains(&found.temperature) {
            return Err(wrong(format!("a temperature of {:?}", found.temperature)));
        }
        Ok(Some(found))
    }

    /// The temperature of the model in a folder; 1 where none was fitted.
    ///
    /// # Errors
    /// As [`Calibration::read`].
    pub fn temperature(folder: &Path) -> Result<f64> {
        Ok(Self::read(folder)?.map_or(1.0, |found| found.temperature))
    }

    /// Writes it into a model's folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::io(&path)(e.into()))?;
        write_atomic_bytes(&path, (text + "\n").as_bytes())
    }
}

/// The temperature at which the cross-entropy of (target, logits), summed, and ½ (1 / T - 1)² are least together. Both are convex
/// in 1 / T, so the slope tells on which side the least is. The second is a prior that weighs as much as a few samples: without a
/// mistake among them there would be no end to sharpening.
fn fit<'a>(rows: impl Iterator<Item = (usize, &'a [f32])> + Clone) -> f64 {
    let slope = |temperature: f64| -> f64 {
        let of_row = |(target, logits): (usize, &[f32])| {
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let (mut sum, mut mean) = (0.0, 0.0);
            for &z in logits {
                let over = f64::from(z - largest);
                let power = (over / temperature).exp();
                sum += power;
                mean += power * over;
            }
            mean / sum - f64::from(logits[target] - largest)
        };
        rows.clone().map(of_row).sum::<f64>() + 1.0 / temperature - 1.0
    };
    // Positive where sharpening makes it worse.
    let [mut low, mut high] = RANGE.map(f64::ln);
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        if slope(middle.exp()) > 0.0 { low = middle } else { high = middle }
    }
    (0.5 * (low + high)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Seed;

    /// Samples of four classes, drawn from the softmax of logits, and these logits times `factor`.
    fn drawn(count: usize, factor: f32) -> Vec<(usize, Vec<f32>)> {
        let mut stream = Seed(5).stream();
        let mut row = || {
            let logits: Vec<f64> = (0..4).map(|_| stream.range(-2.0, 2.0)).collect();
            let powers: Vec<f64> = logits.iter().map(|z| z.exp()).collect();
            let mut left = stream.uniform() * powers.iter().sum::<f64>();
            let target = powers.iter().position(|power| {
                left -= power;
                left < 0.0
            });
            (target.unwrap_or(3), logits.iter().map(|&z| z as f32 * factor).collect())
        };
        (0..count).map(|_| row()).collect()
    }

    fn fitted(rows: &[(usize, Vec<f32>)]) -> f64 {
        fit(rows.iter().map(|(target, logits)| (*target, logits.as_slice())))
    }

    #[test]
    fn the_temperature_that_logits_were_made_with_is_found() {
        for factor in [0.5f32, 1.0, 3.0] {
            let found = fitted(&drawn(20_000, factor));
            assert!((found / f64::from(factor) - 1.0).abs() < 0.03, "{found}, not {factor}");
        }
    }

    #[test]
    fn nothing_nearby_has_a_lower_cross_entropy() {
        let rows = drawn(500, 2.0);
        let loss = |temperature: f64| -> f64 {
            let of_row = |(target, logits): &(usize, Vec<f32>)| {
                let z: Vec<f64> = logits.iter().map(|&z| f64::from(z) / temperature).collect();
                z.iter().map(|z| z.exp()).sum::<f64>().ln() - z[*target]
            };
            rows.iter().map(of_row).sum::<f64>() + 0.5 * (1.0 / temperature - 1.0).powi(2)
        };
        let found = fitted(&rows);
        assert!(loss(found) < loss(found * 1.001) && loss(found) < loss(found / 1.001), "{found}");
    }

    #[test]
    fn answers_without_a_mistake_have_an_end_to_sharpening() {
        let rows: Vec<(usize, Vec<f32>)> = (0..10).map(|i| (i % 2, vec![(i % 2) as f32 * -4.0, -2.0])).collect();
        let found = fitted(&rows);
        // The logits are 2 apart either way: 20 / (1 + exp(2 / T)) = 1 / T - 1.
        let sharper = 1.0 / found;
        assert!((20.0 / (1.0 + (2.0 * sharper).exp()) - sharper + 1.0).abs() < 1e-6, "{found}");
        assert!((1.2..2.0).contains(&sharper), "{found}");
    }

    #[test]
    fn a_damaged_file_is_told_and_a_missing_one_is_temperature_one() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Calibration::temperature(folder.path()).unwrap(), 1.0);
        let calibration = Calibration {
            temperature: 1.5,
            fitted_on: "validation".into(),
            samples: 3,
            error_before: 0.2,
            error_after: 0.1,
        };
        calibration.write(folder.path()).unwrap();
        assert_eq!(Calibration::read(folder.path()).unwrap(), Some(calibration));
        for text in [
            "{}",
            "{\"temperature\": 0, \"fitted_on\": \"x\", \"samples\": 1, \"error_before\": 0, \"error_after\": 0}",
        ] {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            let message = Calibration::temperature(folder.path()).unwrap_err().to_string();
            assert!(message.contains("calibration.json"), "{message}");
        }
    }
}
