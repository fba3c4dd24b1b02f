//! A contest that is run by the library: one domain, one model, one bundled set, three strategies.
//!
//! What a domain needs for it (files on disk, a network to learn from scratch) is in [`super::domains`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use topwork_core::classifier::Classifier;
use topwork_core::domain::Domain;
use topwork_core::fit::Fit;
use topwork_core::observe::Observer;
use topwork_core::strategy::Options;

use super::Contest;
use super::cell::Outcome;
use super::grid::{Limits, Size};

const FEATURE_EXTRACTION: &str = "feature-extraction";
const FINE_TUNING: &str = "fine-tuning";
const FROM_SCRATCH: &str = "from-scratch";

/// One data set with the model that is fitted to it.
pub struct Transfer<D: Domain, I> {
    /// `cv` or `nlp`.
    pub domain: &'static str,
    /// Name of the data set.
    pub data: &'static str,
    /// Number of classes.
    pub classes: usize,
    /// Name of the pre-trained model.
    pub model: &'static str,
    /// Folder of the network with random weights that learns from scratch.
    pub fresh: PathBuf,
    /// Why the pre-trained weights cannot be had.
    pub missing: Option<String>,
    /// Data to learn from, judged on the whole test part.
    pub whole: D::DataArgs,
    /// The same with a validation part of one sample a class: gradient descent is judged several times on the way,
    /// which says nothing here and takes long.
    pub brief: D::DataArgs,
    /// The test part: what to predict on, and the label.
    pub test: Vec<(I, String)>,
    /// Settings of training from scratch.
    pub from_scratch: Options,
    /// Settings of fine-tuning.
    pub fine_tuning: Options,
    /// How much is measured.
    pub size: Size,
    /// What a reader must know of the settings.
    pub setting: String,
    /// Where run directories are made, and removed again.
    pub work: PathBuf,
}

impl<D: Domain, I: AsRef<D::Input>> Contest for Transfer<D, I> {
    fn domain(&self) -> &'static str {
        self.domain
    }

    fn data(&self) -> &'static str {
        self.data
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn strategies(&self) -> Vec<(&'static str, Limits)> {
        let mut strategies = vec![
            (FROM_SCRATCH, Limits { pretrained: false, slow: true }),
            (FEATURE_EXTRACTION, Limits { pretrained: true, slow: false }),
        ];
        if self.size != Size::Smallest {
            strategies.push((FINE_TUNING, Limits { pretrained: true, slow: true }));
        }
        strategies
    }

    fn without_weights(&self) -> Option<String> {
        self.missing.clone()
    }

    fn setting(&self) -> String {
        self.setting.clone()
    }

    fn fingerprint(&self) -> String {
        let (test, options) = (self.test.len(), (&self.from_scratch, &self.fine_tuning));
        format!("{}; {test} test samples; {:?}; {options:?}", self.setting, self.whole)
    }

    fn measure(&mut self, strategy: &str, labels: usize, seed: u64) -> Result<Outcome> {
        let solved = strategy == FEATURE_EXTRACTION;
        std::fs::create_dir_all(&self.work).with_context(|| self.work.display().to_string())?;
        // Removed when it goes out of scope, on errors too.
        let run = tempfile::tempdir_in(&self.work)?;
        let (model, options) = match strategy {
            FROM_SCRATCH => (&*self.fresh.to_string_lossy(), self.from_scratch.clone()),
            FINE_TUNING => (self.model, self.fine_tuning.clone()),
            _ => (self.model, Options::default()),
        };
        let data = if solved { &self.whole } else { &self.brief };
        let fit = Fit::<D> { per_class: Some(labels / self.classes), ..Fit::new(data.clone()) };
        let fit = fit.model(model).strategy(strategy).seed(seed).options(options).out(run.path());
        let watch = Watch::default();
        let summary = fit.run(&watch)?.summary;
        let accuracy = if solved { summary.metrics.accuracy } else { self.evaluate(run.path())? };
        let spent = |part: &str| summary.seconds.get(part).copied().unwrap_or(0.0);
        let training: f64 = ["load", "extract", "train", "solve"].into_iter().map(spent).sum();
        let seconds = (training - watch.seconds("extract validation")).max(0.0);
        Ok(Outcome { accuracy, seconds, trained: summary.parameters_trained })
    }
}

impl<D: Domain, I: AsRef<D::Input>> Transfer<D, I> {
    /// Share of the test part that the model at `run` classifies correctly.
    fn evaluate(&self, run: &Path) -> Result<f64> {
        ensure!(!self.test.is_empty(), "{}: its test part is empty", self.data);
        let inputs: Vec<AsInput<'_, I>> = self.test.iter().map(|(input, _)| AsInput(input)).collect();
        let predictions = Classifier::<D>::load(run)?.predict(&inputs)?;
        let right = predictions.iter().zip(&self.test).filter(|(found, (_, label))| found.label() == label).count();
        Ok(right as f64 / self.test.len() as f64)
    }
}

/// Lends an input: predictions are made of anything that refers to one.
struct AsInput<'a, I>(&'a I);

impl<T: ?Sized, I: AsRef<T>> AsRef<T> for AsInput<'_, I> {
    fn as_ref(&self) -> &T {
        self.0.as_ref()
    }
}

/// Measures how long each part of a job reports progress; the library adds up training and test samples.
#[derive(Default)]
struct Watch {
    seen: Mutex<(Option<Instant>, BTreeMap<String, f64>)>,
}

impl Watch {
    fn seconds(&self, part: &str) -> f64 {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.1.get(part).copied().unwrap_or(0.0)
    }
}

impl Observer for Watch {
    fn progress(&self, part: &str, _done: usize, _total: usize) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let elapsed = seen.0.replace(now).map_or(0.0, |before| (now - before).as_secs_f64());
        *seen.1.entry(part.to_string()).or_default() += elapsed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_between_two_reports_belongs_to_the_part_of_the_second() {
        let watch = Watch::default();
        watch.progress("extract training", 1, 1);
        std::thread::sleep(std::time::Duration::from_millis(20));
        watch.progress("extract validation", 1, 1);
        assert!(watch.seconds("extract validation") >= 0.02 && watch.seconds("extract training") == 0.0);
    }
}
