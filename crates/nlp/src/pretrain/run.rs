//! A run: from settings to a model in a run directory, through checkpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use topwork_core::cli::Console;
use topwork_core::device::Place;
use topwork_core::domain::Opened;
use topwork_core::memory::{self, gigabytes};
use topwork_core::net::Params;
use topwork_core::observe::{Observer, Timings};
use topwork_core::plan::{Decay, Optimizer as Rule, Schedule};
use topwork_core::run::{METRICS, REPORT, RunDir};
use topwork_core::seed::Seed;
use topwork_core::snapshots::{self, Sealed};
use topwork_core::train::{self, OnNan, Optimizer, RECORD_EVERY, rate_share};
use topwork_core::{Error, Result, fit};

use super::corpus::{Corpus, Part};
use super::examples::{Making, permuted};
use super::objective::{Batch, Scores, gradient};
use super::settings::Settings;
use super::subject::{Subject, dropping};
use super::{cut, judge, report, two};
use crate::Sentences;
use crate::folder;

/// How often a run is judged on the way, and on how many pairs.
const JUDGEMENTS: usize = 10;
const PAIRS: u64 = 1000;
/// Documents that an error names.
const NAMED: usize = 5;

/// Where a run stands.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Position {
    number: usize,
    /// Digest of text and tokenizer: what the steps are a function of beside the settings.
    #[serde(default)]
    source: String,
    /// Steps taken.
    steps: usize,
    /// Steps left out because the loss was no number.
    #[serde(default)]
    skipped: usize,
    /// How often the run went back for that reason; each time halves the rate.
    #[serde(default)]
    cuts: u32,
    /// Length of `metrics.jsonl`.
    recorded: u64,
    digest: String,
}

impl Sealed for Position {
    fn digest(&mut self) -> &mut String {
        &mut self.digest
    }
}

#[derive(Serialize)]
struct StepRecord {
    kind: &'static str,
    step: usize,
    loss: f64,
    learning_rate: f64,
}

#[derive(Serialize)]
struct ScoresRecord {
    kind: &'static str,
    step: usize,
    #[serde(flatten)]
    scores: Scores,
}

/// What `summary.json` holds.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Summary {
    scores: Option<Scores>,
    parameters: usize,
    documents: [u64; 2],
    tokens: u64,
    steps: usize,
    seconds: f64,
}

/// What steps are taken with.
pub(super) struct Start {
    subject: Subject,
    making: Making,
    corpus: Corpus,
    /// Steps in all.
    steps: usize,
}

pub(super) struct Run<'a> {
    /// Where it is kept.
    pub run: &'a RunDir,
    pub settings: &'a Settings,
    pub memory_limit: Option<f64>,
    pub place: &'a Place,
    pub offline: bool,
    pub console: &'a Console,
}

impl Start {
    /// Reads model and text; what is made of them is kept in `folder`, and found there with `resume`.
    pub fn read(
        settings: &Settings,
        folder: &Path,
        resume: bool,
        (place, offline, console): (&Place, bool, &Console),
    ) -> Result<Self> {
        let subject = match &settings.model {
            Some(name) => {
                let opened = dropping(fit::open_any::<Sentences>(name, offline, console)?, settings.dropout);
                let subject = Subject::of(opened, name, Seed(settings.seed()), place)?;
                if !subject.fresh.is_empty() {
                    console.message(&format!("new heads: {}", subject.fresh.join(", ")));
                }
                subject
            }
            None => Subject::fresh(folder, settings, place, console)?,
        };
        let making = subject.making(settings)?;
        let corpus = match Corpus::open(folder)?.filter(|_| resume) {
            Some(corpus) => corpus,
            None => cut(folder, settings, &subject.pipeline, &making, settings.hold_out(), console)?,
        };
        two(&corpus, Part::Train, "the text")?;
        let steps = settings.steps(corpus.len(Part::Train));
        Ok(Self { subject, making, corpus, steps })
    }

    fn parameters(&self) -> usize {
        self.subject.heads.params().iter().map(|spec| spec.len()).sum()
    }

    /// In a line, what there is to do.
    pub fn told(&self) -> String {
        format!(
            "{} documents, {} tokens, {} pairs an epoch; {} parameters; {} steps",
            self.corpus.documents(Part::Train) + self.corpus.documents(Part::HeldOut),
            self.corpus.tokens(),
            self.corpus.len(Part::Train),
            self.parameters(),
            self.steps
        )
    }

    /// Bytes that a step takes beside the model.
    pub fn of_step(&self, settings: &Settings) -> u64 {
        self.subject.of_step(&self.making, settings.batch_size())
    }

    /// Looks whether steps have room in memory.
    ///
    /// # Errors
    /// When they have not, with a batch that would.
    pub fn has_room(&self, settings: &Settings, limit: Option<f64>, place: &Place) -> Result<()> {
        let (size, needs) = (settings.batch_size(), self.of_step(settings));
        let Some(limit) = memory::limit(limit, place)?.filter(|limit| needs > *limit) else { return Ok(()) };
        let smaller = std::iter::successors(Some(size / 2), |size| Some(size / 2)).take_while(|size| *size > 0);
        let fits = smaller.into_iter().find(|size| self.subject.of_step(&self.making, *size) <= limit);
        let remedy = fits.map_or_else(
            || "choose a smaller network, or a lower --max-tokens".into(),
            |size| format!("--batch-size {size} has room; so may a lower --max-tokens or a smaller network"),
        );
        Err(Error::input(
            format!("a step of {size} pairs"),
            format!("it takes about {}, and there are {}", gigabytes(needs), gigabytes(limit)),
            format!("{remedy}; --memory-limit sets the bound, 0 lifts it"),
        ))
    }

    /// Digest of the text, of what made tokens of it, and of the network's description.
    fn source(&self) -> String {
        let tokenizer = blake3::Hash::from(*self.subject.pipeline.tokenizer.digest());
        let config = serde_json::Value::Object((*self.subject.pipeline.raw).clone());
        blake3::hash(format!("{} {tokenizer} {config}", self.corpus.digest()).as_bytes()).to_hex().to_string()
    }
}

impl Run<'_> {
    pub fn execute(&self, resume: bool) -> Result<Summary> {
        let (started, settings, console) = (Instant::now(), self.settings, self.console);
        let seed = Seed(settings.seed());
        // How often it is written down leaves no trace in the result, unless the run goes back to that.
        let rollback = settings.on_nan == Some(OnNan::Rollback);
        let checkpoint_every = settings.checkpoint_every.filter(|_| rollback);
        let decisive = Settings { checkpoint_every, ..settings.clone() }.text()?;
        self.run.begin(blake3::hash(decisive.as_bytes()).to_hex().as_str(), &settings.text()?)?;
        let folder = self.run.path().join("corpus");
        let mut start = Start::read(settings, &folder, resume, (self.place, self.offline, console))?;
        console.message(&start.told());
        start.has_room(settings, self.memory_limit, self.place)?;
        let judged = start.corpus.documents(Part::HeldOut) > 1;
        let (total, parameters) = (start.steps, start.parameters());

        let specs = start.subject.heads.params();
        let names: BTreeSet<String> = specs.iter().map(|spec| spec.name.clone()).collect();
        let rule = Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: settings.weight_decay() };
        let mut optimizer = Optimizer::new(rule, specs.into_iter().map(|spec| (spec.name, spec.role, 1.0)));
        let mut position = Position { source: start.source(), ..Position::default() };
        if resume {
            match self.restore(&mut start.subject.params, &mut optimizer, &position.source)? {
                Some(found) => position = found,
                None => {
                    console.message("there is no checkpoint yet; the run starts anew");
                    self.run.rewind(0)?;
                }
            }
        }
        if rollback && position.number == 0 {
            // The beginning, to go back to.
            self.save(&start.subject.params, &optimizer, &mut position)?;
        }
        start.subject.params.set_learning(&names)?;
        let schedule = Schedule { warmup: settings.warmup(), decay: Decay::Linear };
        let (mut saved, mut timings) = (Instant::now(), Timings::default());
        timings.add("read", started, 0);
        while position.steps < total {
            let (step, begun) = (position.steps, Instant::now());
            let batch = self.batch(&start, step)?;
            let (heads, params) = (&start.subject.heads, &start.subject.params);
            let found = gradient(heads, params, &batch, seed.named("dropout").child(step as u64))?;
            let rate = settings.learning_rate() * rate_share(position.cuts) * schedule.factor(step, total);
            console.step(rate, found.loss);
            let norm = found.grads.as_ref().map(|grads| optimizer.norm(grads)).transpose()?;
            match (found.grads, norm) {
                (Some(grads), Some(norm)) if norm.is_finite() => {
                    optimizer.step(params, &grads, rate, (settings.clip_norm() / (norm + 1e-6)).min(1.0))?;
                }
                (_, norm) => {
                    console.step(rate, f64::NAN);
                    let (what, number) = norm.map_or(("loss", found.loss), |norm| ("norm of the gradient", norm));
                    let error = self.diverged(&start, step, what, number)?;
                    match settings.on_nan.unwrap_or_default() {
                        on_nan if on_nan.leaves_out(position.skipped, step) => {
                            position.skipped += 1;
                            console.message(&format!("warning: step {} is left out: {error}", step + 1));
                        }
                        on_nan if on_nan.goes_back(position.cuts) => {
                            let cuts = position.cuts + 1;
                            start.subject.params.set_learning(&BTreeSet::new())?;
                            let found = self.restore(&mut start.subject.params, &mut optimizer, &position.source)?;
                            position = Position { cuts, ..found.ok_or(error)? };
                            start.subject.params.set_learning(&names)?;
                            console.message(&format!("warning: on at {} of the learning rate", rate_share(cuts)));
                            continue;
                        }
                        _ => return Err(error),
                    }
                }
            }
            timings.add("train", begun, settings.batch_size());
            position.steps += 1;
            if position.steps.is_multiple_of(RECORD_EVERY) || step == 0 {
                let record = StepRecord { kind: "step", step: step + 1, loss: found.loss, learning_rate: rate };
                position.recorded = self.run.record(&record)?;
            }
            console.progress("train", position.steps, total);
            if judged && position.steps < total && position.steps.is_multiple_of(total.div_ceil(JUDGEMENTS)) {
                let begun = Instant::now();
                let scores = self.scores(&start, PAIRS)?;
                timings.add("validate", begun, scores.pairs as usize);
                console.message(&format!("step {} of {total}, loss {:.4}: {scores}", position.steps, found.loss));
                position.recorded = self.record(position.steps, scores)?;
            }
            let due = match settings.checkpoint_every {
                Some(every) => position.steps.is_multiple_of(every.max(1)),
                None => saved.elapsed() >= Duration::from_secs(300),
            };
            let paused = console.pause();
            if (due || paused) && position.steps < total {
                let begun = Instant::now();
                self.save(&start.subject.params, &optimizer, &mut position)?;
                timings.add("checkpoint", begun, 0);
                saved = Instant::now();
                if paused {
                    return Err(train::paused(self.run.path()));
                }
            }
        }
        start.subject.params.set_learning(&BTreeSet::new())?;
        let begun = Instant::now();
        let scores = if judged { Some(self.scores(&start, u64::MAX)?) } else { None };
        if let Some(scores) = scores {
            timings.add("validate", begun, scores.pairs as usize);
            self.record(total, scores)?;
        }
        let told = start.told();
        let Start { subject, corpus, .. } = start;
        let network = subject.pipeline.network(2);
        let model = Opened { network, weights: subject.params.snapshot(), pipeline: subject.pipeline, task: None };
        self.run.install_model(|folder| folder::save_pretrained(folder, &model))?;
        self.run.keep();
        let summary = Summary {
            scores,
            parameters,
            documents: [corpus.documents(Part::Train), corpus.documents(Part::HeldOut)],
            tokens: corpus.tokens(),
            steps: total,
            seconds: started.elapsed().as_secs_f64(),
        };
        drop(corpus);
        // What is left of it costs space alone.
        let _ = std::fs::remove_dir_all(&folder);
        self.run.write_json("summary.json", &summary)?;
        let metrics = self.run.path().join(METRICS);
        let page = report::page(settings, &told, &metrics, scores.as_ref(), &timings, &subject.params)?;
        self.run.write(REPORT, &page)?;
        Ok(summary)
    }

    /// The error that `what`, the loss or the norm of its gradient, is `number` in a step: its text, and the likely cause.
    fn diverged(&self, start: &Start, step: usize, what: &str, number: f64) -> Result<Error> {
        let documents = self.chunks(&start.corpus, step).take(NAMED).map(|(i, _)| {
            // As people count.
            Ok(format!("{}", start.corpus.chunk(Part::Train, i)?.document + 1))
        });
        let documents = documents.collect::<Result<Vec<String>>>()?.join(", ");
        let cause = match start.subject.params.unbounded(start.subject.heads.params())? {
            Some(name) => {
                let since = if step == 0 { "as the model came" } else { "by now" };
                format!("the parameter {name} holds numbers without bound {since}")
            }
            None => "the weights are sound, so the rate is probably too high for them".into(),
        };
        Ok(Error::input(
            format!("step {}", step + 1),
            format!("the {what} is {number} on pairs of the documents {documents}, …; {cause}"),
            format!(
                "lower --learning-rate (now {:e}) or --clip-norm, or start anew with --on-nan skip or rollback",
                self.settings.learning_rate()
            ),
        ))
    }

    /// The chunks of a step, each with the seed of its example: a function of the step's number.
    fn chunks(&self, corpus: &Corpus, step: usize) -> impl Iterator<Item = (u64, Seed)> {
        let seed = Seed(self.settings.seed());
        let (size, all) = (self.settings.batch_size() as u64, corpus.len(Part::Train));
        let first = step as u64 * size;
        (first..first + size).map(move |i| {
            let (epoch, i) = (i / all, i % all);
            let i = permuted(i, all, seed.named("shuffle").child(epoch));
            (i, seed.named("example").child(epoch).child(i))
        })
    }

    fn batch(&self, start: &Start, step: usize) -> Result<Batch> {
        let Start { making, corpus, .. } = start;
        let examples = self.chunks(corpus, step).map(|(i, seed)| making.example(corpus, Part::Train, i, seed));
        Batch::of(examples.collect::<Result<_>>()?, self.place)
    }

    fn scores(&self, start: &Start, most: u64) -> Result<Scores> {
        let Start { subject, making, corpus, .. } = start;
        let plain = Params::new(subject.params.snapshot());
        let seed = Seed(self.settings.seed());
        judge(&subject.heads, &plain, corpus, making, seed, most, self.place, &topwork_core::observe::Silent)
    }

    fn record(&self, step: usize, scores: Scores) -> Result<u64> {
        self.run.record(&ScoresRecord { kind: "scores", step, scores })
    }

    fn save(&self, params: &Params, optimizer: &Optimizer, position: &mut Position) -> Result<()> {
        let named = |(name, value): (String, Tensor)| (format!("params/{name}"), value);
        let mut tensors: BTreeMap<String, Tensor> = params.snapshot().into_iter().map(named).collect();
        let (state, _) = optimizer.state();
        tensors.extend(state.into_iter().map(|(name, value)| (format!("optimizer/{name}"), value)));
        position.number += 1;
        snapshots::write(&self.run.checkpoints(), position.number, &tensors, position)?;
        self.run.keep();
        Ok(())
    }

    /// Where the latest checkpoint is, with its weights and the optimizer's state; `None` where there is none yet.
    fn restore(&self, params: &mut Params, optimizer: &mut Optimizer, source: &str) -> Result<Option<Position>> {
        let Some((position, tensors)) = snapshots::latest::<Position>(&self.run.checkpoints()) else {
            return Ok(None);
        };
        if position.source != source {
            let reason = "its checkpoints are of another text, tokenizer or network";
            let remedy = "bring the files back that it was started with, or start anew with another --out";
            return Err(Error::input(self.run.path().display(), reason, remedy));
        }
        let mut state = BTreeMap::new();
        for (key, value) in tensors {
            if let Some(name) = key.strip_prefix("params/") {
                params.set(name, value.to_device(self.place)?)?;
            } else if let Some(name) = key.strip_prefix("optimizer/") {
                state.insert(name.to_string(), value);
            }
        }
        optimizer.restore(&state, (position.steps - position.skipped) as u64, self.place)?;
        self.run.rewind(position.recorded)?;
        self.console.message(&format!("continuing after step {}", position.steps));
        Ok(Some(position))
    }
}
