//! `evaluate`: every metric of a trained model on labelled data.

use std::path::PathBuf;

use super::{Common, Console, json, print_line};
use serde::Serialize;

use crate::Result;
use crate::domain::Domain;
use crate::loader::{Faults, Strictness};
use crate::metrics::{Metrics, Scores};
use crate::observe::Observer;
use crate::outputs::Selected;
use crate::seed::Seed;

#[derive(clap::Args)]
pub(super) struct EvaluateArgs<D: Domain> {
    /// A run directory, or the model folder inside it; with --adapter, a pre-trained model
    #[arg(value_name = "RUN")]
    run: String,
    /// Put this adapter folder on the model: the adapter/ of a run
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    data: D::DataArgs,
    #[command(flatten)]
    views: D::ViewArgs,
    /// Decides the validation part where the data come without one; give the seed of the run
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Make the first unreadable sample an error instead of leaving it out
    #[arg(long)]
    strict: bool,
    /// Also tell how good the answers are whose class is at least this probable, and how many they are
    #[arg(long, value_name = "P")]
    reject_below: Option<f64>,
}

pub(super) fn run<D: Domain>(args: EvaluateArgs<D>, common: &Common) -> Result<()> {
    let console = Console::new(common.quiet);
    let mut opened = super::open_run::<D>(&args.run, args.adapter.as_deref(), common)?;
    if opened.task.is_none() {
        // A backbone may be judged by itself, where the flags say by what.
        opened = D::configure(opened, &args.data)?;
    }
    let classifier = super::classifier_of::<D>(opened, &args.run, args.adapter.as_deref(), common)?.viewed(&args.views);
    let least = super::least(args.reject_below, classifier.task())?;
    let splits = D::splits(&args.data, classifier.pipeline(), Some(classifier.task()), Seed(args.seed))?;
    let data = splits.validation;
    let mut faults = Faults::new(Strictness { strict: args.strict, ..Strictness::default() });
    let answers = classifier.judge(&data, "validation", &mut faults, &console, |_| Ok(()))?;
    let metrics = answers.metrics(classifier.task(), &*data);
    let temperature = classifier.temperature();
    let calibrated = (temperature != 1.0).then(|| answers.at(temperature));
    let error = calibrated.as_ref().and_then(|answers| match answers.metrics(classifier.task(), &*data).scores {
        Scores::Classes(scores) => Some(Calibrated { temperature, calibrated_error: scores.calibration_error }),
        _ => None,
    });
    let selected = least.map(|least| calibrated.as_ref().unwrap_or(&answers).above(least, classifier.task(), &*data));
    if common.json {
        return print_line(&json(&Told { metrics: &metrics, calibrated: error, selected })?);
    }
    print_line(&format!("{metrics} on {} {}", metrics.samples, D::ITEM.1))?;
    let others = others(&metrics);
    if !others.is_empty() {
        print_line(&others)?;
    }
    if let Some(Calibrated { temperature, calibrated_error }) = error {
        print_line(&format!("at temperature {temperature:.3}, calibration error {calibrated_error:.4}"))?;
    }
    if let Some(Selected { reject_below, answered, coverage, accuracy }) = selected {
        print_line(&format!(
            "probability {reject_below} or more: {answered} {} ({:.1} %), accuracy {accuracy:.4}",
            D::ITEM.1,
            100.0 * coverage
        ))?;
    }
    let wide = metrics.by_class().iter().map(|c| c.name.chars().count()).max().unwrap_or(0).max(5);
    if !metrics.by_class().is_empty() {
        print_line(&format!("{:<wide$} {:>9} {:>9} {:>9} {:>9}", "class", "precision", "recall", "F1", "samples"))?;
    }
    for c in metrics.by_class() {
        print_line(&format!(
            "{:<wide$} {:>9.4} {:>9.4} {:>9.4} {:>9}",
            c.name, c.precision, c.recall, c.f1, c.samples
        ))?;
    }
    for (name, reason) in faults.list() {
        console.message(&format!("left out: {name}: {reason}"));
    }
    Ok(())
}

/// What is told as JSON.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    metrics: &'a Metrics,
    #[serde(flatten)]
    calibrated: Option<Calibrated>,
    #[serde(skip_serializing_if = "Option::is_none")]
    selected: Option<Selected>,
}

/// The calibration error of the probabilities that `predict` tells.
#[derive(Clone, Copy, Serialize)]
struct Calibrated {
    temperature: f64,
    calibrated_error: f64,
}

/// What the headline leaves out.
fn others(metrics: &Metrics) -> String {
    match &metrics.scores {
        Scores::Classes(scores) => {
            let five = scores.top_5_accuracy.map_or(String::new(), |share| format!("among the best five {share:.4}, "));
            format!("{five}ROC AUC {:.4}, calibration error {:.4}", scores.roc_auc, scores.calibration_error)
        }
        Scores::Labels(scores) => format!("micro-F1 {:.4}, ROC AUC {:.4}", scores.micro_f1, scores.roc_auc),
        Scores::Values(scores) => {
            format!("root mean squared error {:.4}, Pearson {:.4}", scores.root_mean_squared_error, scores.pearson)
        }
        Scores::Tokens(scores) => scores.entities.map_or(String::new(), |_| format!("macro-F1 {:.4}", scores.macro_f1)),
        Scores::Spans(scores) => scores.to_string(),
        Scores::Matches(_) => String::new(),
    }
}
