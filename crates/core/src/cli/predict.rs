//! `predict`: streams an answer for each photo or sentence.

use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use serde_json::json;

use super::{Common, print_line};
use crate::classifier::{BATCH, Guess, Prediction};
use crate::data::Sample;
use crate::domain::{Answers, Domain};
use crate::task::Kind;
use crate::{Error, Result};

#[derive(Debug, Clone, clap::Args)]
pub(super) struct PredictArgs<D: Domain> {
    /// A run directory, or the model folder inside it; with --adapter, a pre-trained model
    #[arg(value_name = "RUN")]
    run: String,
    /// Put this adapter folder on the model: the adapter/ of a run
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    inputs: D::InputArgs,
    #[command(flatten)]
    views: D::ViewArgs,
    /// How many classes or labels to show, most probable first [default: the best class; the labels of probability ½ and
    /// more]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Say "unknown" where the best class is less probable than this
    #[arg(long, value_name = "P")]
    reject_below: Option<f64>,
}

pub(super) fn run<D: Domain>(args: PredictArgs<D>, common: &Common) -> Result<()> {
    if args.top_k == Some(0) {
        return Err(Error::input("--top-k 0", "there is nothing to show", "use 1 or more"));
    }
    let adapter = args.adapter.as_deref();
    let opened = D::used(super::open_run::<D>(&args.run, adapter, common)?, &args.inputs)?;
    let classifier = super::classifier_of::<D>(opened, &args.run, adapter, common)?.viewed(&args.views);
    let kind = classifier.task().kind;
    if let Some(answers) = D::answers(&classifier, &args.inputs, args.top_k)? {
        return tell(answers, common);
    }
    let least = super::least(args.reject_below, classifier.task())?;
    let rejected = |prediction: &Prediction| least.is_some_and(|least| f64::from(prediction.probability()) < least);
    let shown = |guesses: &[Guess]| match (args.top_k, kind) {
        (Some(top), _) => top.min(guesses.len()),
        (None, Kind::Labels) => guesses.iter().take_while(|guess| guess.probability >= 0.5).count(),
        (None, _) => guesses.len().min(1),
    };
    let inputs = D::inputs(&args.inputs, classifier.pipeline())?;
    stream(
        inputs,
        |samples| classifier.predict_samples(samples),
        |name, prediction: &Prediction| {
            let rejected = rejected(prediction);
            let shown = &prediction.guesses[..shown(&prediction.guesses)];
            print_line(&if common.json && kind == Kind::Values {
                json!({ "input": name, "values": prediction.values }).to_string()
            } else if common.json && least.is_some() {
                json!({ "input": name, "rejected": rejected, "predictions": shown }).to_string()
            } else if common.json {
                json!({ "input": name, "predictions": shown }).to_string()
            } else if kind == Kind::Values {
                let values: Vec<String> =
                    prediction.values.iter().map(|v| format!("{}\t{}", v.name, v.value)).collect();
                format!("{name}\t{}", values.join("\t"))
            } else {
                // What the classes were is told where they were asked for.
                let shown = if rejected && args.top_k.is_none() { &[] } else { shown };
                let unknown = rejected.then(|| format!("{UNKNOWN}\t{:.4}", prediction.probability()));
                let guesses = shown.iter().map(|g| format!("{}\t{:.4}", g.label, g.probability));
                let guesses: Vec<String> = unknown.into_iter().chain(guesses).collect();
                format!("{name}\t{}", guesses.join("\t"))
            })
        },
        |name, error| {
            if common.json {
                print_line(&json!({ "input": name, "error": error.to_string() }).to_string())
            } else {
                Ok(())
            }
        },
    )
}

/// Prints answers as they come. Inputs that have none are told on standard error, and make the whole fail at the end.
fn tell(answers: Answers<'_>, common: &Common) -> Result<()> {
    let (mut read, mut unreadable) = (0, 0);
    for (name, answer) in answers {
        read += 1;
        match answer {
            Ok(answer) if common.json => {
                let mut object = serde_json::Map::from_iter([("input".to_string(), name.into())]);
                object.extend(answer.fields);
                print_line(&serde_json::Value::Object(object).to_string())?;
            }
            Ok(answer) => answer.lines.iter().try_for_each(|line| print_line(&format!("{name}\t{line}")))?,
            Err(error) => {
                unreadable += 1;
                eprintln!("{error}");
                if common.json {
                    print_line(&json!({ "input": name, "error": error.to_string() }).to_string())?;
                }
            }
        }
    }
    ended(read, unreadable)
}

/// What is told at the end of a stream.
fn ended(read: usize, unreadable: usize) -> Result<()> {
    if read == 0 {
        return Err(Error::input("no input", "there is nothing to read", "name files, a folder or `-`"));
    }
    if unreadable > 0 {
        let reason = format!("{unreadable} of {read} could not be read; the others are answered");
        return Err(Error::input("the input", reason, "see the messages above"));
    }
    Ok(())
}

/// What is said of an input whose class is not sure enough.
const UNKNOWN: &str = "unknown";

/// How long a batch that is not full waits for a further input.
const PATIENCE: Duration = Duration::from_millis(200);

/// Runs `inputs` through `compute` in batches and hands each result on, in order. Unreadable inputs are told on
/// standard error and to `on_error`, and make the whole fail at the end; the others still get their answers. A batch
/// is not held back for inputs that do not come: who writes to our standard input may wait for the answer.
pub(super) fn stream<T>(
    inputs: crate::domain::Inputs,
    compute: impl Fn(&[Sample]) -> Result<Vec<T>>,
    on_result: impl Fn(&str, &T) -> Result<()>,
    on_error: impl Fn(&str, &Error) -> Result<()>,
) -> Result<()> {
    let (sender, receiver) = sync_channel(BATCH);
    let reader = std::thread::spawn(move || {
        inputs.map(|input| sender.send(input)).take_while(|sent| sent.is_ok()).for_each(drop)
    });
    let (mut names, mut samples) = (Vec::new(), Vec::new());
    let (mut read, mut unreadable) = (0usize, 0usize);
    let flush = |names: &mut Vec<String>, samples: &mut Vec<Sample>| -> Result<()> {
        let results = compute(samples)?;
        names.iter().zip(&results).try_for_each(|(name, result)| on_result(name, result))?;
        names.clear();
        samples.clear();
        Ok(())
    };
    loop {
        let next = if samples.is_empty() {
            receiver.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            receiver.recv_timeout(PATIENCE)
        };
        let (name, sample) = match next {
            Ok(next) => next,
            Err(RecvTimeoutError::Timeout) => {
                flush(&mut names, &mut samples)?;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        read += 1;
        match sample {
            Ok(sample) => {
                names.push(name);
                samples.push(sample);
                // The first answer comes at once; then the batches grow to their full size.
                if samples.len() >= BATCH.min(read) {
                    flush(&mut names, &mut samples)?;
                }
            }
            Err(error) => {
                flush(&mut names, &mut samples)?;
                unreadable += 1;
                eprintln!("{error}");
                on_error(&name, &error)?;
            }
        }
    }
    flush(&mut names, &mut samples)?;
    if reader.join().is_err() {
        return Err(Error::Tensor(candle_core::Error::Msg("reading the inputs ended early".into())));
    }
    ended(read, unreadable)
}
