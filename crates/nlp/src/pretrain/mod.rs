//! Pre-training of BERT on plain text: masked language modelling and next sentence prediction (Devlin et al. 2019), from
//! random weights, or from a model's on text of the field that it is going to work in (Gururangan et al. 2020).
//!
//! The text is in files ([`corpus`]), and step k of a run is a function of them, the seed and k: memory stays the same for
//! any amount of text, and a run that goes on after a kill ends in the same bytes. The trainer of `topwork-core` asks for a
//! list of labelled samples; this loop is made of its other parts.

pub mod corpus;
pub mod examples;
pub mod objective;
mod report;
mod run;
mod settings;
mod subject;
pub mod vocabulary;

use std::path::Path;

use serde_json::json;
use topwork_core::cli::{Common, Console, print_line};
use topwork_core::device::Place;
use topwork_core::memory::gigabytes;
use topwork_core::net::Params;
use topwork_core::observe::Observer;
use topwork_core::run::RunDir;
use topwork_core::seed::Seed;
use topwork_core::{Error, Result, fit};

use crate::Sentences;
use crate::models::bert::BertConfig;
use crate::models::bert::pretraining::Pretraining;
use crate::pipeline::Pipeline;
use corpus::{Chunking, Corpus, Part, Reader};
use examples::{Making, permuted};
use objective::{Batch, Scores};
use run::{Run, Start};
pub use settings::PretrainArgs;
use settings::Settings;
use subject::Subject;

/// Pairs in a batch of evaluation.
const BATCH: u64 = 64;
/// Shortest sequences: two texts, and the tokens around them.
const LEAST: usize = 8;
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
        None if args.dry_run => {
            let settings = args.settings.clone().resolved();
            settings.check()?;
            let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
            let start = Start::read(&settings, folder.path(), false, (&place, common.offline, &console))?;
            let bytes = start.of_step(&settings);
            match common.json {
                true => print_line(&json!({ "to-do": start.told(), "bytes-of-a-step": bytes }).to_string())?,
                false => {
                    print_line(&start.told())?;
                    print_line(&format!("memory: a step takes about {} beside the model", gigabytes(bytes)))?;
                }
            }
            return start.has_room(&settings, args.memory_limit, &place);
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
            let run = Run {
                run: &run,
                settings: &settings,
                memory_limit: args.memory_limit,
                place: &place,
                offline: common.offline,
                console: &console,
            };
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

/// Most tokens of a sequence.
fn longest(settings: &Settings, config: &BertConfig) -> Result<usize> {
    let most = config.positions();
    let wanted = settings.max_tokens.unwrap_or_else(|| settings.max_tokens().min(most));
    if wanted > most {
        let reason = format!("the model has positions for only {most} tokens");
        return Err(Error::input(format!("--max-tokens {wanted}"), reason, format!("use {most} or less")));
    }
    room(wanted)?;
    Ok(wanted)
}

/// Looks whether two texts have room in sequences of so many tokens.
fn room(tokens: usize) -> Result<()> {
    if tokens >= LEAST {
        return Ok(());
    }
    let remedy = format!("use {LEAST} or more; 128 is usual");
    Err(Error::input(format!("--max-tokens {tokens}"), "leaves no room for two texts", remedy))
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
    let chunking = Chunking {
        tokenizer: &pipeline.tokenizer,
        longest: making.longest - AROUND,
        hold_out,
        seed: Seed(settings.seed()).named("hold-out"),
    };
    Corpus::build(folder, &mut Reader::new(files, console), &chunking)
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
