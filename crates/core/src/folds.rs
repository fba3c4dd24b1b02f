//! Stratified cross-validation (Stone 1974; stratified as in Kohavi 1995): the training part is dealt into folds, each
//! is predicted by a model trained on the others, and one final model learns from everything.
//!
//! A fold is a run like any other, in `folds/1`, `folds/2`, … of the run directory, with its share of the samples held
//! out. A validation part that the data come with is seen by the final model alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cache::{Extractor, ViewSeed, host_values};
use crate::data::{Budget, Dataset, Excerpt, Sample, Splits, Subset, View};
use crate::data::{Targets, group_name};
use crate::domain::Domain;
use crate::fit::{self, Fit};
use crate::loader::{Faults, Strictness};
use crate::metrics::Metrics;
use crate::metrics::spoken;
use crate::net::Network;
use crate::net::frozen::Frozen;
use crate::observe::{Observer, Timings};
use crate::outputs::{Outputs, best};
use crate::plan::{Phase, Plan};
use crate::run::RunDir;
use crate::seed::Seed;
use crate::task::{Kind, Task};
use crate::train::paused;
use crate::{Error, Result};

/// What a fold's run leaves for the run it belongs to.
const JUDGED: &str = "predictions.json";
/// All out-of-fold predictions.
const PREDICTIONS: &str = "predictions.csv";

/// Which fold of a cross-validation a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fold {
    /// Counted from 1.
    pub number: usize,
    /// Folds in all.
    pub of: usize,
}

/// What a model says of a sample that it did not learn from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Judged {
    /// Number in the fold.
    sample: usize,
    /// The head's outputs.
    logits: Vec<f32>,
}

/// Mean and sample standard deviation over the folds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Square root of the squared deviations' sum over the number of folds less one.
    pub deviation: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let count = values.clone().count() as f64;
        let mean = values.clone().sum::<f64>() / count;
        let square = values.map(|value| (value - mean).powi(2)).sum::<f64>();
        Self { mean, deviation: (square / (count - 1.0)).sqrt() }
    }
}

/// What a cross-validation found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Folds {
    /// Over the folds, by the names of [`Metrics::headline`].
    #[serde(flatten)]
    pub scores: BTreeMap<&'static str, Spread>,
    /// Scores of each fold's model on the fold.
    pub each: Vec<Metrics>,
    /// Scores of all out-of-fold predictions together.
    pub together: Metrics,
}

impl fmt::Display for Folds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |(name, _): (&'static str, f64)| {
            let Spread { mean, deviation } = self.scores[name];
            format!("{} {mean:.4} ± {deviation:.4}", spoken(name))
        };
        let scores: Vec<String> = self.together.headline().into_iter().map(named).collect();
        write!(f, "{} folds: {}", self.each.len(), scores.join(", "))?;
        write!(f, " (mean ± standard deviation of the folds)")
    }
}

/// Each score over the folds.
fn spreads(each: &[Metrics]) -> BTreeMap<&'static str, Spread> {
    let names = each.first().map(Metrics::headline).unwrap_or_default().into_iter().enumerate();
    names.map(|(i, (name, _))| (name, Spread::of(each.iter().map(|metrics| metrics.headline()[i].1)))).collect()
}

/// Two data sets behind each other.
struct Joined(Arc<dyn Dataset>, Arc<dyn Dataset>);

impl Joined {
    fn at(&self, i: usize) -> (&dyn Dataset, usize) {
        if i < self.0.len() { (&*self.0, i) } else { (&*self.1, i - self.0.len()) }
    }
}

impl Dataset for Joined {
    fn len(&self) -> usize {
        self.0.len() + self.1.len()
    }
    fn target(&self, i: usize) -> u32 {
        let (part, i) = self.at(i);
        part.target(i)
    }
    fn numbers(&self, i: usize) -> &[f32] {
        let (part, i) = self.at(i);
        part.numbers(i)
    }
    fn name(&self, i: usize) -> String {
        let (part, i) = self.at(i);
        part.name(i)
    }
    fn digest(&self, i: usize) -> Result<[u8; 32]> {
        let (part, i) = self.at(i);
        part.digest(i)
    }
    fn rows(&self, i: usize) -> usize {
        let (part, i) = self.at(i);
        part.rows(i)
    }
    fn load(&self, i: usize, view: View) -> Result<Sample> {
        let (part, i) = self.at(i);
        part.load(i, view)
    }
    fn excerpt(&self, i: usize) -> Result<Excerpt> {
        let (part, i) = self.at(i);
        part.excerpt(i)
    }
}

fn targets(data: &dyn Dataset) -> Vec<u32> {
    (0..data.len()).map(|i| data.target(i)).collect()
}

/// Deals samples into `count` folds: seeded, the numbers of samples of each class and in all as even as can be.
///
/// # Errors
/// When `count` is less than 2 or more than the samples of some class.
///
/// ```
/// use topwork_core::folds::stratified;
/// use topwork_core::seed::Seed;
///
/// let targets = [0, 0, 0, 0, 1, 1];
/// let folds = stratified(&targets, &["a".into(), "b".into()], 2, Seed(0))?;
/// for fold in &folds {
///     assert_eq!(fold.iter().filter(|&&i| targets[i] == 1).count(), 1);
/// }
/// # Ok::<(), topwork_core::Error>(())
/// ```
pub fn stratified(targets: &[u32], classes: &[String], count: usize, seed: Seed) -> Result<Vec<Vec<usize>>> {
    let flag = format!("--folds {count}");
    if count < 2 {
        return Err(Error::input(flag, "one part to learn from and one to judge by are needed", "use 2 or more"));
    }
    let mut by_class: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (i, &target) in targets.iter().enumerate() {
        by_class.entry(target).or_default().push(i);
    }
    let smallest = by_class.iter().min_by_key(|(_, members)| members.len());
    if let Some((class, members)) = smallest.filter(|(_, members)| members.len() < count) {
        let reason = format!("{} has only {} samples to learn from", group_name(classes, *class), members.len());
        let remedy = match members.len() {
            0 | 1 => "add samples of this class".to_string(),
            n => format!("use --folds {n} or less, or add samples of this class"),
        };
        return Err(Error::input(flag, reason, remedy));
    }
    let mut parts = vec![Vec::new(); count];
    let mut turn = (0..count).cycle();
    for (class, mut members) in by_class {
        seed.named("folds").child(u64::from(class)).stream().shuffle(&mut members);
        for (member, part) in members.into_iter().zip(&mut turn) {
            parts[part].push(member);
        }
    }
    parts.iter_mut().for_each(|part| part.sort_unstable());
    Ok(parts)
}

/// The parts that a run learns from and is judged by: within the budget, and with `folds`, everything that is there to
/// learn from; with `fold`, that less the fold, and the fold.
///
/// # Errors
/// When there are too few samples for the budget or the folds.
pub(crate) fn arrange(
    splits: Splits,
    folds: Option<usize>,
    fold: Option<Fold>,
    budget: Budget,
    seed: Seed,
) -> Result<Splits> {
    let Splits { task, train, validation, held_out } = splits;
    let Some(count) = folds.or(fold.map(|fold| fold.of)) else {
        let train = fit::within(train, &task, budget, seed)?;
        return Ok(Splits { task, train, validation, held_out });
    };
    let torn = match task.kind {
        Kind::Tokens | Kind::Spans => Some("samples are parts of longer texts, which folds would tear apart"),
        Kind::Matches => Some("what several models make of texts does not lie in one space"),
        Kind::Classes | Kind::Labels | Kind::Values => None,
    };
    if let Some(reason) = torn {
        return Err(Error::input(format!("--folds {count}"), reason, "leave it out, and name a validation file"));
    }
    let all = if held_out { Arc::new(Joined(train, validation.clone())) } else { train };
    let all = fit::within(all, &task, budget, seed)?;
    let parts = stratified(&targets(&*all), &task, count, seed)?;
    let Some(fold) = fold else {
        let validation = if held_out { Arc::new(Subset::new(validation, Vec::new())) } else { validation };
        return Ok(Splits { task, train: all, validation, held_out });
    };
    let part = parts
        .get(fold.number.wrapping_sub(1))
        .ok_or_else(|| Error::input("run.toml", format!("fold {} of {}", fold.number, fold.of), "restore the file"))?;
    let held: BTreeSet<usize> = part.iter().copied().collect();
    let rest = (0..all.len()).filter(|i| !held.contains(i)).collect();
    Ok(Splits {
        task,
        train: Arc::new(Subset::new(all.clone(), rest)),
        validation: Arc::new(Subset::new(all, part.clone())),
        held_out: true,
    })
}

/// Whether a phase ends at its best epoch.
fn watches(plan: &Plan) -> bool {
    plan.phases.iter().any(|phase| matches!(phase, Phase::Train(train) if train.patience.is_some()))
}

/// Looks whether the final model can follow `plan` with nothing to be judged by.
///
/// # Errors
/// When a phase is to end at its best epoch.
pub(crate) fn check(plan: &Plan) -> Result<()> {
    if watches(plan) {
        return Err(Error::input(
            "--patience",
            "the final model learns from every sample, so none is left to find its best epoch by",
            "name a validation part, or set --epochs instead",
        ));
    }
    Ok(())
}

/// Judges the samples of `dataset` by the features that `extractor` gives and a `head`.
pub(crate) fn judge(
    extractor: &Extractor<'_>,
    network: &Network,
    dataset: &Arc<dyn Dataset>,
    strictness: Strictness,
    run: &RunDir,
) -> Result<()> {
    let head = Frozen::compile(&[&network.head], extractor.params, extractor.device)?;
    let (mut faults, mut timings) = (Faults::new(strictness), Timings::default());
    let kept = extractor.features("validation", dataset, &[ViewSeed::Plain], true, &mut faults, &mut timings)?;
    let mut judged = Vec::new();
    if let Some(kept) = kept {
        for sample in (0..dataset.len()).filter(|&i| kept.has(i)) {
            let logits = host_values(&head.run(&kept.batch(0, &[sample], extractor.device)?)?.data)?;
            judged.push(Judged { sample, logits });
        }
    }
    run.write_json(JUDGED, &judged)
}

/// Trains and judges every fold of `fit`, whose plan is decided and whose run directory is `run`; folds that are complete
/// are taken as they are. `all` is everything that there is to learn from. Gives the scores, and the answers for each sample by
/// the model that did not learn from it.
pub(crate) fn cross_validate<D: Domain>(
    fit: &Fit<D>,
    count: usize,
    all: &dyn Dataset,
    task: &Task,
    run: &RunDir,
    observer: &dyn Observer,
) -> Result<(Folds, Outputs)> {
    let parts = stratified(&targets(all), task, count, Seed(fit.seed.unwrap_or(0)))?;
    if fit.plan.as_ref().is_some_and(watches) {
        observer.message("warning: each fold finds its best epoch by the samples that it is judged by, which flatters");
    }
    let mut rows: Vec<(usize, usize, Vec<f32>)> = Vec::new();
    let mut each = Vec::new();
    for (number, part) in (1..).zip(&parts) {
        let folder = run.path().join("folds").join(number.to_string());
        let within = Within { observer, fold: Fold { number, of: count } };
        let child = Fit { out: Some(folder.clone()), folds: None, fold: Some(within.fold), ..fit.clone() };
        // What a fold has got to stays, so that the run can go on from there.
        child.complete(&within).map_err(|error| {
            if folder.join("run.toml").is_file() {
                run.keep();
            }
            // What goes on is the whole, not the fold.
            if matches!(error, Error::Stopped { .. }) { paused(run.path()) } else { error }
        })?;
        run.keep();
        let judged = read(&folder.join(JUDGED), part.len(), task.len())?;
        let of_fold = Targets::of(all, judged.iter().map(|judged| part[judged.sample]));
        let logits: Vec<f32> = judged.iter().flat_map(|j| j.logits.clone()).collect();
        let metrics = Metrics::of(task, &of_fold, &logits);
        observer.message(&format!("fold {number} of {count}: {metrics} on {} samples", metrics.samples));
        each.push(metrics);
        rows.extend(judged.into_iter().map(|judged| (part[judged.sample], number, judged.logits)));
    }
    rows.sort_by_key(|(sample, ..)| *sample);
    write(&rows, all, task, run)?;
    let samples = rows.iter().map(|(sample, ..)| *sample).collect();
    let answers = Outputs { samples, logits: rows.into_iter().flat_map(|(.., logits)| logits).collect() };
    Ok((Folds { scores: spreads(&each), each, together: answers.metrics(task, all) }, answers))
}

fn read(path: &Path, samples: usize, classes: usize) -> Result<Vec<Judged>> {
    let text = crate::files::read_small(path).map_err(Error::io(path))?;
    let damaged = |reason: String| Error::input(path.display(), reason, "remove the fold's folder and resume the run");
    let judged: Vec<Judged> = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    if judged.iter().any(|judged| judged.sample >= samples || judged.logits.len() != classes) {
        return Err(damaged("holds predictions of another run".into()));
    }
    Ok(judged)
}

/// Writes every out-of-fold prediction, in the order of the samples.
fn write(rows: &[(usize, usize, Vec<f32>)], all: &dyn Dataset, task: &Task, run: &RunDir) -> Result<()> {
    let path = run.path().join(PREDICTIONS);
    let mut table = csv::Writer::from_writer(Vec::new());
    let header = ["sample", "label", "predicted", "fold"].map(String::from);
    let of_output = task.iter().map(|name| match task.kind {
        Kind::Values | Kind::Spans | Kind::Matches => format!("predicted {name}"),
        Kind::Classes | Kind::Labels | Kind::Tokens => format!("probability of {name}"),
    });
    let failed = |e: csv::Error| Error::io(&path)(std::io::Error::other(e));
    table.write_record(header.into_iter().chain(of_output)).map_err(failed)?;
    for (sample, fold, logits) in rows {
        let answer = task.answer(logits);
        let [label, predicted] = match task.kind {
            Kind::Classes => [all.target(*sample) as usize, best(logits)].map(|class| task[class].clone()),
            Kind::Labels => [all.numbers(*sample), &answer].map(|shares| {
                let had = task.iter().zip(shares).filter(|(_, share)| **share > 0.5);
                had.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";")
            }),
            Kind::Values | Kind::Tokens | Kind::Spans | Kind::Matches => [all.numbers(*sample), &answer]
                .map(|values| values.iter().map(f32::to_string).collect::<Vec<_>>().join(";")),
        };
        let start = [all.name(*sample), label, predicted, fold.to_string()];
        table.write_record(start.into_iter().chain(answer.iter().map(f32::to_string))).map_err(failed)?;
    }
    let bytes = table.into_inner().map_err(|e| Error::io(&path)(std::io::Error::other(e.to_string())))?;
    crate::files::write_atomic_bytes(&path, &bytes)
}

/// Tells what a fold does, by its number.
struct Within<'a> {
    observer: &'a dyn Observer,
    fold: Fold,
}

impl Observer for Within<'_> {
    /// The same for every fold and for the final model: only what is wrong with one is worth a line.
    fn message(&self, text: &str) {
        if text.starts_with("warning") {
            self.observer.message(&format!("fold {}: {text}", self.fold.number));
        }
    }
    fn progress(&self, part: &str, done: usize, total: usize) {
        self.observer.progress(&format!("fold {} {part}", self.fold.number), done, total);
    }
    fn step(&self, rate: f64, loss: f64) {
        self.observer.step(rate, loss);
    }
    fn stop(&self) -> bool {
        self.observer.stop()
    }
    fn pause(&self) -> bool {
        self.observer.pause()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> Vec<String> {
        vec!["a".into(), "b".into()]
    }

    #[test]
    fn folds_hold_each_sample_once_in_even_numbers_of_each_class() {
        let targets: Vec<u32> = (0..47).map(|i| u32::from(i % 4 == 0)).collect();
        let parts = stratified(&targets, &classes(), 5, Seed(2)).unwrap();
        let mut all = parts.concat();
        all.sort_unstable();
        assert_eq!(all, (0..47).collect::<Vec<_>>());
        for part in &parts {
            let of_b = part.iter().filter(|&&i| targets[i] == 1).count();
            assert!((9..=10).contains(&part.len()) && (2..=3).contains(&of_b), "{part:?}");
        }
        assert_eq!(parts, stratified(&targets, &classes(), 5, Seed(2)).unwrap());
        assert_ne!(parts, stratified(&targets, &classes(), 5, Seed(3)).unwrap());
    }

    #[test]
    fn folds_that_cannot_be_name_the_flag_and_the_class() {
        let refused = |count| stratified(&[0, 0, 0, 1, 1], &classes(), count, Seed(0)).unwrap_err().to_string();
        assert!(refused(1).contains("--folds 1") && refused(0).contains("use 2 or more"));
        assert!(refused(3).contains("class \"b\" has only 2 samples") && refused(3).contains("--folds 2 or less"));
    }

    #[test]
    fn a_spread_is_mean_and_sample_deviation() {
        assert_eq!(Spread::of([1.0, 3.0].into_iter()), Spread { mean: 2.0, deviation: 2f64.sqrt() });
    }
}
