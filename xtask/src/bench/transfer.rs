//! A contest that is run by the library: one domain, one model, one data set, some strategies.
//!
//! What a domain needs for it (files on disk, a network to learn from scratch) is in [`super::domains`]; which strategies,
//! settings and numbers of labels there are in [`super::quick`] and [`super::sets`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use topwork_core::Error;
use topwork_core::classifier::Classifier;
use topwork_core::domain::Domain;
use topwork_core::fit::Fit;
use topwork_core::folds::Fold;
use topwork_core::observe::Observer;
use topwork_core::plan::Choice as Members;
use topwork_core::strategy::Options;

use super::Contest;
use super::cell::{Choice, Finding, Outcome};
use super::clock::Clock;
use super::grid::{Aid, Budget, Entry};

/// Strategies that leave the backbone as it is: the features of the test part are computed once for all of them.
const SOLVED: [&str; 2] = ["feature-extraction", "prototypes"];
/// Parts of a cross-validation that chooses settings.
const FOLDS: usize = 2;
/// With more labels than this one part tells enough, and the others are left.
const ALL_FOLDS: usize = 100;
/// Factors on the chosen rate of the runs that are averaged.
const MEMBERS: [f64; 3] = [1.0, 0.5, 2.0];
/// No run here is gone on with.
const PAUSE: Duration = Duration::from_secs(600);

/// One data set with the model that is fitted to it.
pub struct Transfer<D: Domain, I> {
    /// `cv` or `nlp`.
    pub domain: &'static str,
    /// Name of the data set.
    pub data: &'static str,
    /// Number of classes.
    pub classes: usize,
    /// Why the pre-trained weights cannot be had.
    pub missing: Option<String>,
    /// Data to learn from, judged on the whole test part.
    pub whole: D::DataArgs,
    /// The same with a validation part of one sample a class: gradient descent is judged several times on the way,
    /// which says nothing here and takes long.
    pub brief: D::DataArgs,
    /// The test part: what to predict on, and the label.
    pub test: Vec<(I, String)>,
    /// The strategies, in the order of the table.
    pub entries: Vec<Entry>,
    /// What a reader must know of the settings.
    pub setting: String,
    /// Where run directories are made, and removed again.
    pub work: PathBuf,
    /// Runs of the last labels and seed that others may work on.
    pub kept: Vec<Kept>,
}

/// A finished run that is still there.
pub struct Kept {
    strategy: &'static str,
    labels: usize,
    seed: u64,
    options: Options,
    run: Run,
}

/// A finished run and what it took.
struct Run {
    folder: TempDir,
    accuracy: f64,
    seconds: f64,
    processor: f64,
    trained: usize,
}

impl<D: Domain, I: AsRef<D::Input>> Contest for Transfer<D, I> {
    fn domain(&self) -> &'static str {
        self.domain
    }

    fn data(&self) -> &'static str {
        self.data
    }

    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn without_weights(&self) -> Option<String> {
        self.missing.clone()
    }

    fn setting(&self) -> String {
        self.setting.clone()
    }

    fn measure(&mut self, entry: &Entry, budget: &Budget, seed: u64, chosen: Option<Choice>) -> Result<Finding> {
        match self.try_measure(entry, budget, seed, chosen) {
            Ok(outcome) => Ok(Finding::Measured(outcome)),
            Err(error) => match error.downcast_ref::<Error>() {
                // What a strategy lacks, or that it diverged, is a result as well.
                Some(Error::Input { reason, .. }) => Ok(Finding::Refused { reason: reason.clone() }),
                _ => Err(error),
            },
        }
    }
}

impl<D: Domain, I: AsRef<D::Input>> Transfer<D, I> {
    fn try_measure(&mut self, entry: &Entry, budget: &Budget, seed: u64, chosen: Option<Choice>) -> Result<Outcome> {
        let choice = match chosen {
            Some(choice) => Some(choice),
            None if budget.grid.len() > 1 => Some(self.choose(entry, budget, seed)?),
            None => None,
        };
        let only = || budget.grid.first().cloned().unwrap_or_default();
        let mut options = choice.as_ref().map_or_else(only, |choice| choice.options.clone());
        let mut aids = Vec::new();
        let own = match entry.aid {
            None => Options::default(),
            Some(Aid::Teacher) => {
                aids.push(self.aid(entry, budget, seed, &options)?);
                Options { teacher: Some(aids[0].path()), ..Options::default() }
            }
            Some(Aid::Members) => {
                for factor in MEMBERS {
                    let learning_rate = options.learning_rate.map(|rate| rate * factor);
                    aids.push(self.aid(entry, budget, seed, &Options { learning_rate, ..options.clone() })?);
                }
                // The greedy choice would need samples that neither training nor the test may have seen.
                let runs = Some(aids.iter().map(Run::path).collect());
                Options { runs, soup: Some(Members::Uniform), ..Options::default() }
            }
        };
        options = own.over(&options);
        let run = self.train(entry.strategy, &entry.model, budget.labels, seed, &options)?;
        let sum = |of: fn(&Run) -> f64| aids.iter().chain([&run]).map(of).sum::<f64>();
        let outcome = Outcome {
            accuracy: run.accuracy,
            seconds: sum(|run| run.seconds),
            processor: sum(|run| run.processor),
            trained: aids.iter().chain([&run]).map(|run| run.trained).max().unwrap_or(0),
            choice: choice.map(|choice| Choice { processor: round(choice.processor, 2), ..choice }),
        };
        if let Some(first) = aids.into_iter().next() {
            self.keep(entry.follows.unwrap_or(entry.strategy), budget.labels, seed, &options, first);
        } else if self.entries.iter().any(|other| other.aid.is_some() && other.follows == Some(entry.strategy)) {
            self.keep(entry.strategy, budget.labels, seed, &options, run);
        }
        Ok(outcome)
    }

    fn keep(&mut self, strategy: &'static str, labels: usize, seed: u64, options: &Options, run: Run) {
        let options = Options { teacher: None, runs: None, soup: None, ..options.clone() };
        self.kept.retain(|kept| (kept.labels, kept.seed) == (labels, seed));
        self.kept.push(Kept { strategy, labels, seed, options, run });
    }

    /// A finished run of the strategy that `entry` follows.
    fn aid(&mut self, entry: &Entry, budget: &Budget, seed: u64, options: &Options) -> Result<Run> {
        let strategy = entry.follows.unwrap_or(entry.strategy);
        let fits = |kept: &Kept| {
            (kept.strategy, kept.labels, kept.seed, &kept.options) == (strategy, budget.labels, seed, options)
        };
        match self.kept.iter().position(fits) {
            Some(at) => Ok(self.kept.swap_remove(at).run),
            None => self.train(strategy, &entry.model, budget.labels, seed, options),
        }
    }

    fn fit(&self, strategy: &str, model: &str, labels: usize, seed: u64, options: &Options) -> Fit<D> {
        let data = if SOLVED.contains(&strategy) { &self.whole } else { &self.brief };
        let fit =
            Fit::<D> { per_class: Some(labels / self.classes), checkpoint_pause: PAUSE, ..Fit::new(data.clone()) };
        fit.model(model).strategy(strategy).seed(seed).options(options.clone())
    }

    /// A new folder for a run, removed when it goes out of scope, on errors too.
    fn folder(&self) -> Result<TempDir> {
        std::fs::create_dir_all(&self.work).with_context(|| self.work.display().to_string())?;
        Ok(tempfile::tempdir_in(&self.work)?)
    }

    /// Trains on all labels and judges on the test part.
    fn train(&self, strategy: &str, model: &str, labels: usize, seed: u64, options: &Options) -> Result<Run> {
        let folder = self.folder()?;
        let watch = Watch::default();
        let clock = Clock::start();
        let summary = self.fit(strategy, model, labels, seed, options).out(folder.path()).run(&watch)?.summary;
        let test = watch.spent("extract validation");
        let processor = (clock.processor() - test.processor).max(0.0);
        let solved = SOLVED.contains(&strategy);
        let accuracy = if solved { summary.metrics.score() } else { self.evaluate(folder.path())? };
        let spent = |part: &str| summary.seconds.get(part).copied().unwrap_or(0.0);
        let training: f64 = ["load", "extract", "train", "solve", "combine"].into_iter().map(spent).sum();
        let seconds = (training - test.seconds).max(0.0);
        let (accuracy, seconds, processor) = (round(accuracy, 5), round(seconds, 2), round(processor, 2));
        Ok(Run { folder, accuracy, seconds, processor, trained: summary.parameters_trained })
    }

    /// The settings that do best on what they did not learn from, by accuracy, then by loss.
    fn choose(&self, entry: &Entry, budget: &Budget, seed: u64) -> Result<Choice> {
        let clock = Clock::start();
        let strategy = entry.follows.unwrap_or(entry.strategy);
        let mut best: Option<(f64, f64, &Options)> = None;
        let (mut folds, mut refusal) = (Vec::new(), None);
        for options in &budget.grid {
            let (accuracy, loss) = match self.cross_validate(strategy, &entry.model, budget.labels, seed, options) {
                Ok(judged) => judged,
                // One candidate that diverges does not rule out the others.
                Err(error) if matches!(error.downcast_ref(), Some(Error::Input { .. })) => {
                    refusal = Some(error);
                    (0.0, f64::INFINITY)
                }
                Err(error) => return Err(error),
            };
            folds.push(round(accuracy, 4));
            if loss.is_finite() && best.is_none_or(|(a, l, _)| accuracy > a || (accuracy == a && loss < l)) {
                best = Some((accuracy, loss, options));
            }
        }
        match (best, refusal) {
            (Some((.., options)), _) => {
                Ok(Choice { options: options.clone(), folds, processor: round(clock.processor(), 2) })
            }
            (None, Some(error)) => Err(error),
            (None, None) => Err(anyhow::anyhow!("{}: there are no settings to choose from", entry.strategy)),
        }
    }

    /// Accuracy and loss on the samples that folds hold out.
    fn cross_validate(
        &self,
        strategy: &str,
        model: &str,
        labels: usize,
        seed: u64,
        options: &Options,
    ) -> Result<(f64, f64)> {
        let (mut right, mut loss, mut samples) = (0.0, 0.0, 0.0);
        for number in 1..=if labels <= ALL_FOLDS { FOLDS } else { 1 } {
            let folder = self.folder()?;
            let fold = Some(Fold { number, of: FOLDS });
            let fit = Fit::<D> { fold, ..self.fit(strategy, model, labels, seed, options) };
            let metrics = fit.out(folder.path()).run(&Watch::default())?.summary.metrics;
            let count = metrics.samples as f64;
            right += metrics.score() * count;
            loss += metrics.loss * count;
            samples += count;
        }
        ensure!(samples > 0.0, "{}: the folds hold no samples", self.data);
        Ok((right / samples, loss / samples))
    }

    /// Share of the test part that the model at `run` classifies correctly.
    fn evaluate(&self, run: &Path) -> Result<f64> {
        ensure!(!self.test.is_empty(), "{}: its test part is empty", self.data);
        let inputs: Vec<AsInput<'_, I>> = self.test.iter().map(|(input, _)| AsInput(input)).collect();
        let predictions = Classifier::<D>::load(run)?.predict(&inputs)?;
        let right = predictions.iter().zip(&self.test).filter(|(found, (_, label))| found.label() == label).count();
        Ok(right as f64 / self.test.len() as f64)
    }
}

impl Run {
    fn path(&self) -> String {
        self.folder.path().display().to_string()
    }
}

/// To so many digits behind the point: more would only make files longer.
fn round(value: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (value * unit).round() / unit
}

/// Lends an input: predictions are made of anything that refers to one.
struct AsInput<'a, I>(&'a I);

impl<T: ?Sized, I: AsRef<T>> AsRef<T> for AsInput<'_, I> {
    fn as_ref(&self) -> &T {
        self.0.as_ref()
    }
}

/// When the last report came, and what each part has taken so far.
type Seen = (Option<(Instant, Clock)>, BTreeMap<String, Spent>);

/// Measures what each part of a job takes that reports progress; the library adds up training and test samples.
#[derive(Default)]
struct Watch {
    seen: Mutex<Seen>,
}

/// By the clock, and of processors.
#[derive(Default, Clone, Copy)]
struct Spent {
    seconds: f64,
    processor: f64,
}

impl Watch {
    fn spent(&self, part: &str) -> Spent {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.1.get(part).copied().unwrap_or_default()
    }
}

impl Observer for Watch {
    fn progress(&self, part: &str, _done: usize, _total: usize) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (Instant::now(), Clock::start());
        let before = seen.0.replace(now);
        let spent = seen.1.entry(part.to_string()).or_default();
        if let Some((instant, clock)) = before {
            spent.seconds += instant.elapsed().as_secs_f64();
            spent.processor += clock.processor();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_between_two_reports_belongs_to_the_part_of_the_second() {
        let watch = Watch::default();
        watch.progress("extract training", 1, 1);
        std::thread::sleep(Duration::from_millis(20));
        watch.progress("extract validation", 1, 1);
        assert!(watch.spent("extract validation").seconds >= 0.02 && watch.spent("extract training").seconds == 0.0);
    }
}
