//! Pre-training of BERT on plain text: masked language modelling and next sentence prediction (Devlin et al. 2019), from
//! random weights, or from a model's on text of the field that it is going to work in (Gururangan et al. 2020).
//!
//! The text is in files ([`corpus`]), and step k of a run is a function of them, the seed and k: memory stays the same for
//! any amount of text, and a run that goes on after a kill ends in the same bytes. The trainer of `topwork-core` asks for a
//! list of labelled samples; this loop is made of its other parts.

pub mod corpus;
pub mod examples;
pub mod objective;
mod settings;
pub mod vocabulary;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use topwork_core::cli::{Common, Console, print_line};
use topwork_core::device::Place;
use topwork_core::domain::Opened;
use topwork_core::model::{self, Head};
use topwork_core::net::{Network, Params, Stage};
use topwork_core::observe::Observer;
use topwork_core::plan::{Decay, Optimizer as Rule, Schedule};
use topwork_core::run::RunDir;
use topwork_core::seed::Seed;
use topwork_core::snapshots::{self, Sealed};
use topwork_core::train::Optimizer;
use topwork_core::{Error, Result, files, fit};

use crate::Sentences;
use crate::folder;
use crate::models::bert::pretraining::Pretraining;
use crate::models::bert::{BertConfig, Pooling, family::BERT};
use crate::pipeline::Pipeline;
use crate::tokenizer::TextTokenizer;
use corpus::{Corpus, Cutting, Part, Reader};
use examples::{Making, permuted};
use objective::{Batch, Scores, gradient};
pub use settings::PretrainArgs;
use settings::Settings;

/// A line in `metrics.jsonl` every so many steps.
const RECORD_EVERY: usize = 10;
/// Pairs in a batch of evaluation.
const BATCH: u64 = 64;
/// How often a run is judged on the way, and on how many pairs.
const JUDGEMENTS: usize = 10;
const PAIRS: u64 = 1000;
/// Tokens around a pair.
const AROUND: usize = 3;

/// See [`crate::verbs::Verbs::Pretrain`].
pub(crate) fn run(args: PretrainArgs, common: &Common) -> Result<()> {
    let console = Console::new(common.quiet);
    console.catch_interrupts();
    let place = common.place()?;
    let result = match &args.evaluate {
        Some(model) => {
            let settings = args.settings.clone();
            json!({ "model": model, "scores": evaluate(model, &settings, &place, common.offline, &console)? })
        }
        None => {
            let out = args.out.clone().ok_or_else(|| {
                Error::input("--out", "no run directory is named", "add for example --out runs/pretrained")
            })?;
            let settings = match args.resume {
                true => args.settings.of_run(&out)?,
                false => args.settings.clone().resolved(),
            };
            settings.check()?;
            let run = if args.resume { RunDir::resume(&out)? } else { RunDir::create(&out, args.force)? };
            let run = Run { run: &run, settings: &settings, place: &place, offline: common.offline, console: &console };
            json!({ "run": out, "summary": run.execute(args.resume)? })
        }
    };
    if common.json {
        return print_line(&result.to_string());
    }
    let scores = result.get("scores").or_else(|| result["summary"].get("scores")).cloned().unwrap_or_default();
    match serde_json::from_value::<Scores>(scores) {
        Ok(scores) => print_line(&scores.to_string())?,
        Err(_) => print_line("no text was held out to judge by")?,
    }
    match args.out.filter(|_| args.evaluate.is_none()) {
        Some(out) => print_line(&format!("the model is in {}", out.join("model").display())),
        None => Ok(()),
    }
}

/// A model to pre-train.
struct Subject {
    pipeline: Pipeline,
    heads: Pretraining,
    params: Params,
    /// Of the heads, those that a checkpoint did not have.
    fresh: Vec<String>,
}

impl Subject {
    /// Takes over what a model has; heads that it lacks start fresh.
    fn of(model: Opened<Pipeline>, name: &str, seed: Seed, place: &Place) -> Result<Self> {
        let Opened { weights, pipeline, .. } = model;
        let heads = pipeline.config.pretraining().ok_or_else(|| {
            let kind = pipeline.config.family.model_type;
            let reason = format!("it is a model of type {kind}, which is pre-trained in another way");
            Error::input(name, reason, "choose one of type bert")
        })?;
        let empty = Stage { name: "head".into(), layers: vec![] };
        let encoder = Network { name: "BERT".into(), stages: heads.encoder.clone(), head: empty, input: vec![2] };
        let mut params = match weights.is_empty() {
            true => Params::initial(&encoder.params(), seed.named("init"), place)?,
            false => model::fit(&encoder, &weights, Head::Keep, place, name)?.0,
        };
        let mut fresh = Vec::new();
        for spec in heads.heads() {
            let value = match weights.get(&spec.name).filter(|found| found.dims() == spec.shape) {
                Some(found) => found.to_dtype(DType::F32)?.to_device(place)?.contiguous()?,
                None => {
                    fresh.push(spec.name.clone());
                    spec.initial(seed.named("init"), place)?
                }
            };
            params.set(&spec.name, value)?;
        }
        Ok(Self { pipeline, heads, params, fresh })
    }

    fn making(&self, settings: &Settings) -> Result<Making> {
        let marks = self.pipeline.config.family.marks;
        let id = |token: &str| {
            let missing = || Error::input(token, "the model's tokenizer has no such token", "choose another model");
            self.pipeline.tokenizer.id(token).ok_or_else(missing)
        };
        Ok(Making {
            marks: [id(marks.cls)?, id(marks.sep)?, id(marks.mask)?],
            words: self.pipeline.tokenizer.vocabulary()?,
            longest: longest(settings, &self.pipeline.config)?,
            share: settings.mask(),
            whole_words: settings.whole_words,
        })
    }
}

/// Most tokens of a sequence.
fn longest(settings: &Settings, config: &BertConfig) -> Result<usize> {
    let most = config.positions();
    let wanted = settings.max_tokens.unwrap_or_else(|| settings.max_tokens().min(most));
    if wanted > most {
        let reason = format!("the model has positions for only {most} tokens");
        return Err(Error::input(format!("--max-tokens {wanted}"), reason, format!("use {most} or less")));
    }
    Ok(wanted)
}

/// Two documents at least, so that a text can be followed by that of another.
fn two(corpus: &Corpus, part: Part, what: &str) -> Result<()> {
    let all = corpus.documents(Part::Train) + corpus.documents(Part::HeldOut);
    match (corpus.documents(part), all) {
        (_, 0) => Err(Error::input(what, "there is no text in it", "name files with some sentences")),
        (_, 1) => Err(Error::input(
            what,
            "it is a single document, so no text can be followed by that of another one",
            "put a blank line between documents, or name several files",
        )),
        (0 | 1, _) => Err(Error::input(
            what,
            format!(
                "{} of its {all} documents are left, so no text can be followed by that of another one",
                corpus.documents(part)
            ),
            "choose another --hold-out, or add text",
        )),
        _ => Ok(()),
    }
}

/// Scores of `model` on text: on all of it, or on the part that a run holds out.
fn evaluate(model: &str, settings: &Settings, place: &Place, offline: bool, console: &Console) -> Result<Scores> {
    let all = settings.hold_out.is_none();
    let settings = Settings { model: Some(model.into()), ..settings.clone() }.resolved();
    settings.check()?;
    let seed = Seed(settings.seed());
    let subject = Subject::of(fit::open_any::<Sentences>(model, offline, console)?, model, seed, place)?;
    if let Some(missing) = subject.fresh.first() {
        let reason = format!("it has no {missing}: its heads of pre-training are gone");
        return Err(Error::input(model, reason, "name a run of pretrain, or a checkpoint of BertForPreTraining"));
    }
    let making = subject.making(&settings)?;
    let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
    let hold_out = if all { 1.0 } else { settings.hold_out() };
    let corpus = cut(folder.path(), &settings, &subject.pipeline, &making, hold_out, console)?;
    two(&corpus, Part::HeldOut, "the text to judge by")?;
    judge(&subject.heads, &subject.params, &corpus, &making, seed, u64::MAX, place, console)
}

fn cut(
    folder: &Path,
    settings: &Settings,
    pipeline: &Pipeline,
    making: &Making,
    hold_out: f64,
    console: &Console,
) -> Result<Corpus> {
    let (files, _) = corpus::files(&settings.corpus)?;
    let cutting = Cutting {
        tokenizer: &pipeline.tokenizer,
        longest: making.longest - AROUND,
        hold_out,
        seed: Seed(settings.seed()).named("hold-out"),
    };
    Corpus::build(folder, &mut Reader::new(files), &cutting, console)
}

/// Scores on at most `most` held-out pairs, the same for the same seed.
#[allow(clippy::too_many_arguments)] // All that a judgement depends on.
fn judge(
    heads: &Pretraining,
    params: &Params,
    corpus: &Corpus,
    making: &Making,
    seed: Seed,
    most: u64,
    place: &Place,
    console: &dyn Observer,
) -> Result<Scores> {
    let seed = seed.named("evaluation");
    let all = corpus.len(Part::HeldOut);
    let count = all.min(most);
    let batches = (0..count.div_ceil(BATCH)).map(|batch| {
        let pairs = BATCH * batch..count.min(BATCH * (batch + 1));
        console.progress("validate", pairs.end as usize, count as usize);
        let example = |i| making.example(corpus, Part::HeldOut, permuted(i, all, seed), seed.child(i));
        Batch::of(pairs.map(example).collect::<Result<_>>()?, place)
    });
    Scores::of(heads, params, batches)
}

/// Where a run stands.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Position {
    number: usize,
    /// Steps taken.
    steps: usize,
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
struct Summary {
    scores: Option<Scores>,
    parameters: usize,
    documents: [u64; 2],
    tokens: u64,
    steps: usize,
    seconds: f64,
}

struct Run<'a> {
    run: &'a RunDir,
    settings: &'a Settings,
    place: &'a Place,
    offline: bool,
    console: &'a Console,
}

impl Run<'_> {
    fn execute(&self, resume: bool) -> Result<Summary> {
        let (started, settings, console) = (Instant::now(), self.settings, self.console);
        let seed = Seed(settings.seed());
        // How often it is written down leaves no trace in the result.
        let decisive = Settings { checkpoint_every: None, ..settings.clone() }.text()?;
        self.run.begin(blake3::hash(decisive.as_bytes()).to_hex().as_str(), &settings.text()?)?;
        let folder = self.run.path().join("corpus");
        let mut subject = self.subject(&folder, seed)?;
        let making = subject.making(settings)?;
        let corpus = match Corpus::open(&folder)?.filter(|_| resume) {
            Some(corpus) => corpus,
            None => cut(&folder, settings, &subject.pipeline, &making, settings.hold_out(), console)?,
        };
        two(&corpus, Part::Train, "the text")?;
        let judged = corpus.documents(Part::HeldOut) > 1;
        let chunks = corpus.len(Part::Train);
        let total = settings.steps(chunks);
        let params: usize = subject.heads.params().iter().map(|spec| spec.len()).sum();
        console.message(&format!(
            "{} documents, {} tokens, {chunks} pairs an epoch; {params} parameters; {total} steps",
            corpus.documents(Part::Train) + corpus.documents(Part::HeldOut),
            corpus.tokens()
        ));

        let specs = subject.heads.params();
        let names: BTreeSet<String> = specs.iter().map(|spec| spec.name.clone()).collect();
        let rule = Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: settings.weight_decay() };
        let mut optimizer = Optimizer::new(rule, specs.into_iter().map(|spec| (spec.name, spec.role, 1.0)));
        let mut position = Position::default();
        if resume {
            position = self.restore(&mut subject.params, &mut optimizer)?;
        }
        subject.params.set_learning(&names)?;
        let schedule = Schedule { warmup: settings.warmup(), decay: Decay::Linear };
        let mut saved = Instant::now();
        while position.steps < total {
            let step = position.steps;
            let batch = self.batch(&corpus, &making, step)?;
            let found = gradient(&subject.heads, &subject.params, &batch, seed.named("dropout").child(step as u64))?;
            let rate = settings.learning_rate() * schedule.factor(step, total);
            console.step(rate, found.loss);
            let diverged = |what: &str, number: f64| {
                let remedy = format!("lower --learning-rate (now {:e})", settings.learning_rate());
                Error::input(format!("step {}", step + 1), format!("the {what} is {number}"), remedy)
            };
            let grads = found.grads.ok_or_else(|| diverged("loss", found.loss))?;
            let norm = optimizer.norm(&grads)?;
            if !norm.is_finite() {
                return Err(diverged("norm of the gradient", norm));
            }
            optimizer.step(&subject.params, &grads, rate, (settings.clip_norm() / (norm + 1e-6)).min(1.0))?;
            position.steps += 1;
            if position.steps.is_multiple_of(RECORD_EVERY) || step == 0 {
                let record = StepRecord { kind: "step", step: step + 1, loss: found.loss, learning_rate: rate };
                position.recorded = self.run.record(&record)?;
            }
            console.progress("train", position.steps, total);
            if judged && position.steps < total && position.steps.is_multiple_of(total.div_ceil(JUDGEMENTS)) {
                let scores = self.scores(&subject, &corpus, &making, PAIRS)?;
                console.message(&format!("step {} of {total}, loss {:.4}: {scores}", position.steps, found.loss));
                position.recorded = self.record(position.steps, scores)?;
            }
            let due = match settings.checkpoint_every {
                Some(every) => position.steps.is_multiple_of(every.max(1)),
                None => saved.elapsed() >= Duration::from_secs(300),
            };
            let paused = console.pause();
            if (due || paused) && position.steps < total {
                self.save(&subject.params, &optimizer, &mut position)?;
                saved = Instant::now();
                if paused {
                    return Err(topwork_core::train::paused(self.run.path()));
                }
            }
        }
        subject.params.set_learning(&BTreeSet::new())?;
        let scores = if judged { Some(self.scores(&subject, &corpus, &making, u64::MAX)?) } else { None };
        if let Some(scores) = scores {
            self.record(total, scores)?;
        }
        let network = subject.pipeline.network(2);
        let model = Opened { network, weights: subject.params.snapshot(), pipeline: subject.pipeline, task: None };
        self.run.install_model(|folder| folder::save_pretrained(folder, &model))?;
        let summary = Summary {
            scores,
            parameters: params,
            documents: [corpus.documents(Part::Train), corpus.documents(Part::HeldOut)],
            tokens: corpus.tokens(),
            steps: total,
            seconds: started.elapsed().as_secs_f64(),
        };
        drop(corpus);
        // What is left of it costs space alone.
        let _ = std::fs::remove_dir_all(&folder);
        self.run.write_json(settings::SUMMARY, &summary)?;
        self.run.keep();
        Ok(summary)
    }

    /// The model to start from: `--model`, or a new one with a vocabulary of its own, kept in `folder`.
    fn subject(&self, folder: &Path, seed: Seed) -> Result<Subject> {
        let settings = self.settings;
        if let Some(name) = &settings.model {
            let opened = fit::open_any::<Sentences>(name, self.offline, self.console)?;
            let subject = Subject::of(dropping(opened, settings.dropout), name, seed, self.place)?;
            if !subject.fresh.is_empty() {
                self.console.message(&format!("new heads: {}", subject.fresh.join(", ")));
            }
            return Ok(subject);
        }
        let lower = !settings.cased;
        let [path, beside, sealed] =
            ["vocab.txt", "tokenizer_config.json", "vocab.digest"].map(|name| folder.join(name));
        let digest = || -> Option<String> {
            let both = [std::fs::read(&path).ok()?, std::fs::read(&beside).ok()?].concat();
            Some(blake3::hash(&both).to_hex().to_string())
        };
        let known = std::fs::read_to_string(&sealed).ok();
        if known.is_none() || known != digest() {
            let (files, bytes) = corpus::files(&settings.corpus)?;
            self.console.message("learning a vocabulary");
            let text = vocabulary::learn(&mut Reader::new(files), bytes, settings.vocabulary(), lower)?;
            files::create_dir_all(folder)?;
            let of_tokenizer = json!({
                "tokenizer_class": "BertTokenizer", "do_lower_case": lower, "model_max_length": settings.max_tokens(),
            });
            files::write_atomic_bytes(&beside, format!("{of_tokenizer:#}\n").as_bytes())?;
            files::write_atomic_bytes(&path, text.as_bytes())?;
            files::write_atomic_bytes(&sealed, digest().unwrap_or_default().as_bytes())?;
        }
        let tokenizer = TextTokenizer::open(folder, &BERT, false, settings.max_tokens())?;
        let raw = settings.shape(tokenizer.vocabulary()?);
        let config = BertConfig::parse(&Value::Object(raw.clone()).to_string(), "the network")?;
        let mut kept = BTreeMap::new();
        for name in ["vocab.txt", "tokenizer_config.json"] {
            let path = folder.join(name);
            kept.insert(name.to_string(), std::fs::read(&path).map_err(Error::io(&path))?);
        }
        let pipeline = Pipeline {
            tokenizer,
            config,
            pooling: Pooling::Mean,
            dense: Arc::default(),
            normalize: false,
            stride: None,
            no_answer_threshold: None,
            chosen: false,
            raw: raw.into(),
            files: kept.into(),
        };
        let opened = Opened { network: pipeline.network(2), weights: BTreeMap::new(), pipeline, task: None };
        Subject::of(dropping(opened, settings.dropout), "the network", seed, self.place)
    }

    /// The batch of a step: a function of its number.
    fn batch(&self, corpus: &Corpus, making: &Making, step: usize) -> Result<Batch> {
        let seed = Seed(self.settings.seed());
        let (size, all) = (self.settings.batch_size() as u64, corpus.len(Part::Train));
        let example = |i: u64| {
            let (epoch, i) = (i / all, i % all);
            let i = permuted(i, all, seed.named("shuffle").child(epoch));
            making.example(corpus, Part::Train, i, seed.named("example").child(epoch).child(i))
        };
        let first = step as u64 * size;
        Batch::of((first..first + size).map(example).collect::<Result<_>>()?, self.place)
    }

    fn scores(&self, subject: &Subject, corpus: &Corpus, making: &Making, most: u64) -> Result<Scores> {
        let plain = Params::new(subject.params.snapshot());
        judge(
            &subject.heads,
            &plain,
            corpus,
            making,
            Seed(self.settings.seed()),
            most,
            self.place,
            &topwork_core::observe::Silent,
        )
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

    /// Continues from the latest checkpoint, or from the start when the run did not get as far as one.
    fn restore(&self, params: &mut Params, optimizer: &mut Optimizer) -> Result<Position> {
        let Some((position, tensors)) = snapshots::latest::<Position>(&self.run.checkpoints()) else {
            self.console.message("there is no checkpoint yet; the run starts anew");
            self.run.rewind(0)?;
            return Ok(Position::default());
        };
        let mut state = BTreeMap::new();
        for (key, value) in tensors {
            if let Some(name) = key.strip_prefix("params/") {
                params.set(name, value.to_device(self.place)?)?;
            } else if let Some(name) = key.strip_prefix("optimizer/") {
                state.insert(name.to_string(), value);
            }
        }
        optimizer.restore(&state, position.steps as u64, self.place)?;
        self.run.rewind(position.recorded)?;
        self.console.message(&format!("continuing after step {}", position.steps));
        Ok(position)
    }
}

/// The same with another dropout while it is pre-trained; what is saved says what the model's own is.
fn dropping(mut model: Opened<Pipeline>, dropout: Option<f32>) -> Opened<Pipeline> {
    if let Some(p) = dropout {
        let config = &mut model.pipeline.config;
        (config.hidden_dropout_prob, config.attention_probs_dropout_prob) = (p, p);
    }
    model
}

/// The `config.json` of a new encoder.
impl Settings {
    fn shape(&self, words: usize) -> Map<String, Value> {
        let config = json!({
            "model_type": "bert",
            "vocab_size": words,
            "hidden_size": self.width(),
            "num_hidden_layers": self.layers(),
            "num_attention_heads": self.heads(),
            "intermediate_size": self.inner(),
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "max_position_embeddings": self.max_tokens(),
            "type_vocab_size": 2,
            "initializer_range": 0.02,
            "layer_norm_eps": 1e-12,
            "pad_token_id": 0,
        });
        if let Value::Object(config) = config { config } else { Map::new() }
    }
}
