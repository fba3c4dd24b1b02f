//! `predict`: streams an answer for each photo or sentence.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::{Common, print_line};
use crate::batched::batched;
use crate::classifier::{Guess, Prediction};
use crate::domain::{Answer, Domain};
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
    let on_error = |name: &str, error: &Error| match common.json {
        true => print_line(&json!({ "input": name, "error": error.to_string() }).to_string()),
        false => Ok(()),
    };
    if let Some(answers) = D::answers(&classifier, &args.inputs, args.top_k)? {
        let on_answer = |name: &str, answer: Answer| {
            if common.json {
                let mut object = Map::from_iter([("input".to_string(), name.into())]);
                object.extend(answer.fields);
                return print_line(&Value::Object(object).to_string());
            }
            answer.lines.iter().try_for_each(|line| print_line(&format!("{name}\t{line}")))
        };
        return tell(answers, on_answer, on_error);
    }
    let least = super::least(args.reject_below, classifier.task())?;
    let rejected = |prediction: &Prediction| least.is_some_and(|least| f64::from(prediction.probability()) < least);
    let shown = |guesses: &[Guess]| match (args.top_k, kind) {
        (Some(top), _) => top.min(guesses.len()),
        (None, Kind::Labels) => guesses.iter().take_while(|guess| guess.probability >= 0.5).count(),
        (None, _) => guesses.len().min(1),
    };
    let inputs = D::inputs(&args.inputs, classifier.pipeline())?;
    tell(
        batched(inputs, |samples: &[_]| classifier.predict_samples(samples)),
        |name, prediction: Prediction| {
            let rejected = rejected(&prediction);
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
        on_error,
    )
}

/// What is said of an input whose class is not sure enough.
const UNKNOWN: &str = "unknown";

/// Hands each result on, in order. Inputs that have none are told on standard error and to `on_error`, and make the whole fail at
/// the end; the others still get theirs.
pub(super) fn tell<T>(
    results: impl Iterator<Item = Result<(String, Result<T>)>>,
    on_result: impl Fn(&str, T) -> Result<()>,
    on_error: impl Fn(&str, &Error) -> Result<()>,
) -> Result<()> {
    let (mut read, mut unreadable) = (0usize, 0usize);
    for result in results {
        let (name, result) = result?;
        read += 1;
        match result {
            Ok(result) => on_result(&name, result)?,
            Err(error) => {
                unreadable += 1;
                eprintln!("{error}");
                on_error(&name, &error)?;
            }
        }
    }
    if read == 0 {
        return Err(Error::input("no input", "there is nothing to read", "name files, a folder or `-`"));
    }
    if unreadable > 0 {
        let reason = format!("{unreadable} of {read} could not be read; the others are answered");
        return Err(Error::input("the input", reason, "see the messages above"));
    }
    Ok(())
}
