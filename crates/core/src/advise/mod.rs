//! Advice before training: which model, strategy, rates and epochs to use for a data set, and why.
//!
//! What the training part and this machine say is measured ([`measures`]): heads on frozen features by cross-validation
//! ([`heads`]), what a step of each strategy takes and, where enough samples can be held out, what a training on half of
//! them reaches ([`trial`]). The one table of [`rules`] turns that into a plan for `train --plan`. The network is never asked, the
//! validation part is looked at for samples that are in both parts, and the same seed gives the same advice, as long as
//! what was timed does not decide.

mod facts;
pub mod heads;
pub mod measures;
pub mod rules;
pub mod trial;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::cache::ViewSeed;
use crate::data::{Dataset, Splits, Subset};
use crate::domain::Domain;
use crate::fit;
use crate::machine::Machine;
use crate::memory::{self, gigabytes};
use crate::observe::{Observer, Silent};
use crate::plan::Plan;
use crate::pooled::{Pooled, Reader, Ready};
use crate::rank::Failed;
use crate::seed::Seed;
use crate::strategy::Options;
use crate::transferability::{self, Score, Scores};
use crate::{Error, Result};

use heads::{Judged, Labelled, difference, share};
use measures::{Measures, Quantity};
use rules::{Course, Rule, Take, Then, that_apply};
use trial::{Bench, Cost, at_most};

/// Samples that heads are judged on, at most: more would say the same more slowly.
const JUDGED: usize = 4000;
/// Samples that a comparison learns from and holds out, at most.
const COMPARED: usize = 2000;
/// Models whose heads differ by no more are as good. A standard error is no measure here: with few labels it is so wide
/// that the faster model would always be taken.
const AS_GOOD: f64 = 0.01;
/// A comparison holds out one part of so many.
const PARTS: usize = 2;
/// What is measured, from the lightest to the heaviest.
const OPTIONS: [&str; 5] = ["feature-extraction", "partial", "lora", "contrastive-few-shot", "lp-ft"];

/// What to advise on.
///
/// ```
/// # #[path = "../../examples/signals.rs"] mod signals;
/// # use signals::{DataArgs, Signals, generate};
/// # use topwork_core::{fit::Fit, machine::Machine, observe::Silent};
/// use topwork_core::advise::Advise;
///
/// # fn main() -> topwork_core::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = |name: &str| folder.path().join(name).display().to_string();
/// # std::fs::write(path("signals.csv"), generate(&[0.05, 0.2], 0.3, 10, 0)).unwrap();
/// # let data = DataArgs { train: Some(path("signals.csv").into()), ..DataArgs::default() };
/// # let machine = Machine { cache_limit: Some(0.0), ..Machine::default() };
/// # let source = path("source");
/// # Fit::<Signals>::new(data.clone()).strategy("from-scratch").out(&source).run(&Silent)?;
/// let advise = Advise::<Signals>::new([&source], data.clone());
/// # let advise = Advise { machine: machine.clone(), ..advise };
/// let advice = advise.run(&Silent)?;
/// for applied in &advice.rules {
///     println!("{} ({}), because {}", applied.rule.then, applied.numbers, applied.rule.because);
/// }
/// let fit = Fit::<Signals> { plan: Some(advice.plan), ..Fit::new(data).model(&advice.model).out(path("run")) };
/// # let fit = Fit { machine, ..fit };
/// fit.run(&Silent)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Advise<D: Domain> {
    /// Models to choose from, separated by commas [default: those of `models list` whose weights are on this machine]
    #[arg(long, short, value_name = "MODEL,…", value_delimiter = ',')]
    pub models: Vec<String>,
    /// File to write the plan to, for `train --plan`: TOML, or JSON if its name ends so
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Advise for training on this many samples, stratified by class
    #[arg(long, value_name = "N", conflicts_with = "per_class")]
    pub limit: Option<usize>,
    /// Advise for training on this many samples of each class
    #[arg(long, value_name = "N")]
    pub per_class: Option<usize>,
    /// Decides the choice of samples, the folds and everything random of a comparison
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

/// What is advised, and what it rests on.
#[derive(Debug, Serialize)]
pub struct Advice {
    /// The model.
    pub model: String,
    /// The plan, for all training samples.
    pub plan: Plan,
    /// The rules that applied, in the order of the table, with the numbers that they looked at.
    pub rules: Vec<Applied>,
    /// What was measured.
    pub measures: Measures,
    /// The models, the chosen one first.
    pub models: Vec<Considered>,
    /// Models that could not be opened.
    pub failed: Vec<Failed>,
    /// What each strategy would take on this machine.
    pub costs: Vec<Cost>,
    /// What was trained on half of the samples, the best first.
    pub compared: Vec<Compared>,
    /// Seconds that advising took.
    pub seconds: f64,
}

/// A rule that applied.
#[derive(Debug, Serialize)]
pub struct Applied {
    /// The rule.
    #[serde(flatten)]
    pub rule: &'static Rule,
    /// The numbers that its conditions looked at.
    pub numbers: String,
}

/// A model that could be opened.
#[derive(Debug, Serialize)]
pub struct Considered {
    /// As it was asked for.
    pub model: String,
    /// Transferability scores of its frozen features.
    pub scores: Scores,
    /// Heads on them, the best first.
    pub heads: Vec<Judged>,
    /// Seconds of the frozen pass for all training samples, from what those took that were not kept from before.
    pub pass_seconds: f64,
}

/// A training on half of the samples beside the best head.
#[derive(Debug, Serialize)]
pub struct Compared {
    /// The strategy, and what differs from its defaults.
    #[serde(flatten)]
    pub course: Course,
    /// Its epochs.
    pub epochs: usize,
    /// Samples that both learned from.
    pub learned: usize,
    /// Samples that they were judged by.
    pub held_out: usize,
    /// Accuracy of the head on these.
    pub head: f64,
    /// Accuracy of the strategy.
    pub accuracy: f64,
    /// Standard error of the difference.
    pub error: f64,
    /// Seconds of the training.
    pub seconds: f64,
}

/// A model with what was found about it.
struct Candidate<D: Domain> {
    considered: Considered,
    ready: Ready<D>,
    splits: Splits,
    samples: Arc<dyn Dataset>,
    features: Pooled,
}

impl<D: Domain> Advise<D> {
    /// These models on this data, everything else left to the defaults.
    pub fn new(models: impl IntoIterator<Item = impl Into<String>>, data: D::DataArgs) -> Self {
        Self { models: models.into_iter().map(Into::into).collect(), data, ..Self::default() }
    }

    /// Measures and advises.
    ///
    /// # Errors
    /// When the data or the settings are unusable, or no model can be opened.
    pub fn run(&self, observer: &dyn Observer) -> Result<Advice> {
        let start = Instant::now();
        fit::budget(self.limit, self.per_class)?;
        // What would be fetched is not at hand.
        let machine = Machine { offline: true, ..self.machine.clone() };
        let reader = Reader::<D>::new(&self.data, &machine, self.strict, observer)?;
        let (best, mut others, failed) = self.consider(&reader)?;
        let mut measures = Measures::default();
        facts::facts(&best.splits, &mut measures);
        self.measure(&reader, &best, &mut measures)?;

        measures.note(Quantity::Sequence, f64::from(u8::from(best.ready.network.input.len() == 1)));
        let (options, seed, classes) = (settings(&measures), Seed(self.seed), &best.splits.task);
        let bench = Bench::new(&reader, &best.considered.model, &best.ready, classes, seed)?;
        let costs = self.costs(&bench, &best, &options, &mut measures, observer)?;

        let held = at_most(best.splits.train.clone(), classes, COMPARED, seed)?;
        measures.note(Quantity::HeldOut, (held.len() / PARTS) as f64);
        let compared = match first(&measures, |then| matches!(then, Then::Compare(_))).map(|rule| rule.then) {
            Some(Then::Compare(courses)) if !courses.is_empty() => {
                self.compare(&reader, &bench, &best, &held, courses, &options, &mut measures)?
            }
            _ => Vec::new(),
        };
        let course = match first(&measures, |then| matches!(then, Then::Take(_))).map(|rule| rule.then) {
            Some(Then::Take(Take::Course(course))) => Some(course),
            Some(Then::Take(Take::Compared)) => compared.first().map(|best| best.course),
            _ => None,
        };
        let (strategy, options) = match course {
            Some(course) => (course.strategy, course.options(&options, &D::defaults())),
            None => {
                let (head, of_head) = heads::strategy(best.considered.heads[0].method);
                (head, of_head.over(&options))
            }
        };
        let plan = bench.plan(fit::find_strategy(strategy)?, &options, best.splits.train.len())?;

        others.insert(0, best.considered);
        Ok(Advice {
            model: others[0].model.clone(),
            plan,
            rules: applied(&measures),
            measures,
            models: others,
            failed,
            costs,
            compared,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// The models to choose from.
    fn names(&self) -> Result<Vec<String>> {
        if !self.models.is_empty() {
            return Ok(self.models.clone());
        }
        let names = D::cards().iter().map(|card| card.name);
        let at_hand: Vec<String> =
            names.filter(|name| fit::fetch::<D>(name, true, &Silent).is_ok()).map(String::from).collect();
        if at_hand.is_empty() {
            let reason = "no model of `models list` has its weights on this machine";
            return Err(Error::input(
                "--models",
                reason,
                "fetch one with `models fetch`, or name a folder with --models",
            ));
        }
        Ok(at_hand)
    }

    /// The best model by its best head, the others, and those that cannot be opened.
    fn consider(&self, reader: &Reader<'_, D>) -> Result<(Candidate<D>, Vec<Considered>, Vec<Failed>)> {
        let (mut best, mut others, mut failed): (Option<Candidate<D>>, Vec<Considered>, Vec<Failed>) =
            Default::default();
        for name in self.names()? {
            let ready = match reader.open(&name) {
                Ok(ready) => ready,
                Err(error) => {
                    failed.push(Failed { model: name, error: error.to_string() });
                    continue;
                }
            };
            let candidate = self.judge(reader, name, ready)?;
            match best.take() {
                None => best = Some(candidate),
                Some(former) => {
                    let gain = candidate.considered.heads[0].accuracy - former.considered.heads[0].accuracy;
                    let faster = candidate.considered.pass_seconds < former.considered.pass_seconds;
                    let (first, second) =
                        if preferred(gain, faster) { (candidate, former) } else { (former, candidate) };
                    others.push(second.considered);
                    best = Some(first);
                }
            }
        }
        let reasons = || failed.iter().map(|f| format!("{}: {}", f.model, f.error)).collect::<Vec<_>>().join("\n  ");
        let best = best.ok_or_else(|| Error::input("--models", "none of them can be opened", reasons()))?;
        others.sort_by(|a, b| b.heads[0].accuracy.total_cmp(&a.heads[0].accuracy));
        Ok((best, others, failed))
    }

    /// Reads the samples through a model and judges heads on what it makes of them.
    fn judge(&self, reader: &Reader<'_, D>, name: String, ready: Ready<D>) -> Result<Candidate<D>> {
        let seed = Seed(self.seed);
        let splits = reader.splits(&ready, fit::budget(self.limit, self.per_class)?, seed)?;
        splits.task.only_classes("advise")?;
        let samples = at_most(splits.train.clone(), &splits.task, JUDGED, seed)?;
        let fingerprint = D::fingerprint(&ready.pipeline);
        let features = reader.features(&ready.network, &ready.params, &fingerprint, &samples, ViewSeed::Plain)?;
        let labelled = Labelled::new(&features, &samples, &splits.task);
        let heads = labelled.judge(&labelled.parts(seed)?)?;
        let of_scores = transferability::Labelled::new(&features.values, features.width, &labelled.targets)?;
        let scores = transferability::scores(&of_scores, reader.source(&ready, &features)?.as_ref())?;
        // What was kept from before took no time, and would take some elsewhere.
        let few = at_most(samples.clone(), &splits.task, 32, seed)?;
        let unkept = Reader { cache: crate::cache::Cache::none(), place: reader.place.clone(), ..*reader };
        let start = Instant::now();
        unkept.features(&ready.network, &ready.params, &fingerprint, &few, ViewSeed::Plain)?;
        let pass_seconds = start.elapsed().as_secs_f64() / few.len() as f64 * splits.train.len() as f64;
        let considered = Considered { model: name, scores, heads, pass_seconds };
        Ok(Candidate { considered, ready, splits, samples, features })
    }

    /// What the features of the chosen model say.
    fn measure(&self, reader: &Reader<'_, D>, best: &Candidate<D>, measures: &mut Measures) -> Result<()> {
        let (seed, head) = (Seed(self.seed), &best.considered.heads[0]);
        let labelled = Labelled::new(&best.features, &best.samples, &best.splits.task);
        let parts = labelled.parts(seed)?;
        let mut counts = vec![0usize; labelled.classes.len()];
        labelled.targets.iter().for_each(|&target| counts[target as usize] += 1);
        let shares = counts.iter().filter(|c| **c > 0).map(|&c| c as f64 / labelled.targets.len() as f64);
        let guess = shares.clone().fold(0.0, f64::max);
        measures.note(Quantity::Head, head.accuracy);
        measures.note(Quantity::LeftToGain, 1.0 - head.accuracy);
        measures.note(Quantity::Lift, (head.accuracy - guess) / (1.0 - guess));
        measures.note(Quantity::Curve, head.accuracy - labelled.with_half(head.method, &parts)?);
        let entropy: f64 = shares.map(|p| -p * p.ln()).sum();
        if let Some(nce) = best.considered.scores.values.get(&Score::Nce) {
            measures.note(Quantity::SourceShare, 1.0 + nce / entropy);
        }
        if D::defaults().fine_tuning.augment {
            let view = ViewSeed::Random(seed.named("view"));
            let (network, params) = (&best.ready.network, &best.ready.params);
            let views = reader.features(network, params, &D::fingerprint(&best.ready.pipeline), &best.samples, view)?;
            if views.samples == best.features.samples {
                let seen = share(&labelled.held_out(&head.heads, &parts, &views));
                measures.note(Quantity::ViewLoss, head.accuracy - seen);
            }
        }
        Ok(())
    }

    /// What each strategy would take, and the memory of the last that was tried; left out is one that this backbone does not
    /// carry, or that has no room.
    fn costs(
        &self,
        bench: &Bench<'_, D>,
        best: &Candidate<D>,
        options: &Options,
        measures: &mut Measures,
        observer: &dyn Observer,
    ) -> Result<Vec<Cost>> {
        let (train, pass) = (&best.splits.train, best.considered.pass_seconds);
        let of_machine = |bytes: u64| memory::of_machine().map_or(f64::NAN, |all| bytes as f64 / all as f64);
        let mut costs = Vec::new();
        for name in OPTIONS {
            let Ok(plan) = bench.plan(fit::find_strategy(name)?, options, train.len()) else { continue };
            let (bytes, free) = (bench.memory(&plan, &**train)?, memory::free().unwrap_or(u64::MAX));
            if bytes > free {
                let (bytes, free) = (gigabytes(bytes), gigabytes(free));
                observer.message(&format!(
                    "{name} is not tried: a step takes about {bytes} of memory, and there are {free}"
                ));
                measures.note(Quantity::Memory, 1.0);
                continue;
            }
            let cost = bench.cost(&plan, train, pass)?;
            measures.note(Quantity::Memory, cost.memory.map_or(f64::NAN, of_machine));
            costs.push(cost);
        }
        Ok(costs)
    }

    /// Trains each of `courses` on all of `samples` but a part, and judges it and the head by that part; the best
    /// comes first.
    #[allow(clippy::too_many_arguments)]
    fn compare(
        &self,
        reader: &Reader<'_, D>,
        bench: &Bench<'_, D>,
        best: &Candidate<D>,
        samples: &Arc<dyn Dataset>,
        courses: &[Course],
        options: &Options,
        measures: &mut Measures,
    ) -> Result<Vec<Compared>> {
        let (ready, classes, seed) = (&best.ready, &best.splits.task, Seed(self.seed));
        let fingerprint = D::fingerprint(&ready.pipeline);
        let features = reader.features(&ready.network, &ready.params, &fingerprint, samples, ViewSeed::Plain)?;
        let labelled = Labelled::new(&features, samples, classes);
        let targets = &labelled.targets;
        let count = PARTS.min(smallest(targets));
        let held = crate::folds::stratified(targets, classes, count, seed.named("compare"))?.swap_remove(0);
        let learned: Vec<usize> = (0..targets.len()).filter(|i| !held.contains(i)).collect();
        let head = labelled.fit(best.considered.heads[0].method, &learned)?;
        let of_head = labelled.right(&head, &held, &features);

        let part = |indices: &[usize]| -> Arc<dyn Dataset> {
            let samples_of = indices.iter().map(|&i| features.samples[i]).collect();
            Arc::new(Subset::new(samples.clone(), samples_of))
        };
        let (train, judged) = (part(&learned), part(&held));
        let mut all = Vec::new();
        for &course in courses {
            let start = Instant::now();
            let (strategy, options) = (fit::find_strategy(course.strategy)?, course.options(options, &D::defaults()));
            // With half of the labels this is half of a fine-tuning run, or less, whatever the strategy.
            let usual = bench.plan(fit::find_strategy("fine-tuning")?, &options, best.splits.train.len())?;
            let epochs = usual.trains().map(|train| train.epochs).max().unwrap_or(1);
            let plan = bench.plan(strategy, &Options { epochs: Some(epochs), ..options }, learned.len())?;
            let right = bench.compare(&plan, train.clone(), &judged)?;
            let (gain, error) = difference(&right, &of_head);
            let (learned, held_out) = (learned.len(), held.len());
            let (head, accuracy, seconds) = (share(&of_head), share(&right), start.elapsed().as_secs_f64());
            all.push((gain, Compared { course, epochs, learned, held_out, head, accuracy, error, seconds }));
        }
        // Of equal ones the first.
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        if let Some((gain, best)) = all.first() {
            measures.note(Quantity::Gain, *gain);
            measures.note(Quantity::Certainty, if best.error > 0.0 { gain / best.error } else { 0.0 });
        }
        Ok(all.into_iter().map(|(_, compared)| compared).collect())
    }
}

/// The settings of all rules that apply.
fn settings(measures: &Measures) -> Options {
    let mut options = Options::default();
    for rule in that_apply(measures, |then| matches!(then, Then::Set(_))) {
        if let Then::Set(setting) = rule.then {
            setting.put(&mut options);
        }
    }
    options
}

/// Whether a model takes the place of one whose best head is right so much less often.
fn preferred(gain: f64, faster: bool) -> bool {
    gain > AS_GOOD || (gain >= -AS_GOOD && faster)
}

/// The rule that decides among those that `asks` for.
fn first(measures: &Measures, asks: impl Fn(&Then) -> bool) -> Option<&'static Rule> {
    that_apply(measures, asks).next()
}

/// The rules that had a say.
fn applied(measures: &Measures) -> Vec<Applied> {
    let compares = first(measures, |then| matches!(then, Then::Compare(_)));
    let takes = first(measures, |then| matches!(then, Then::Take(_)));
    let speaks = |rule: &&'static Rule| match rule.then {
        Then::Warn(_) | Then::Set(_) => true,
        Then::Compare(_) => compares.is_some_and(|first| first.name == rule.name),
        Then::Take(_) => takes.is_some_and(|first| first.name == rule.name),
    };
    let with_numbers = |rule: &'static Rule| Applied { rule, numbers: rule.numbers(measures) };
    that_apply(measures, |_| true).filter(speaks).map(with_numbers).collect()
}

/// Samples of the smallest class that occurs, 2 or more for all that has been judged.
fn smallest(targets: &[u32]) -> usize {
    let mut counts = std::collections::BTreeMap::new();
    targets.iter().for_each(|target| *counts.entry(target).or_insert(0usize) += 1);
    counts.into_values().min().unwrap_or(2).max(2)
}

#[cfg(test)]
mod tests {
    use super::preferred;

    #[test]
    fn the_better_model_is_taken_and_of_two_as_good_ones_the_faster() {
        // Sixty labels cannot tell three points from chance: the better one is taken all the same.
        assert!(preferred(0.03, false) && !preferred(-0.03, true));
        assert!(preferred(0.005, true) && preferred(-0.005, true));
        assert!(!preferred(0.005, false) && !preferred(-0.005, false));
    }
}
