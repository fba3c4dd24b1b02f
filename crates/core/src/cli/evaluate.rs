//! `evaluate`: every metric of a trained model on labelled data.

use std::path::PathBuf;

use super::{Common, Console, json, print_line};
use crate::classifier::{BATCH, Classifier};
use crate::data::{Targets, View};
use crate::domain::Domain;
use crate::loader::{Faults, Loader, Request, Strictness};
use crate::metrics::{Metrics, Scores};
use crate::observe::Observer;
use crate::seed::Seed;
use crate::{Error, Result};

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
    /// Decides the validation part where the data come without one; give the seed of the run
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Make the first unreadable sample an error instead of leaving it out
    #[arg(long)]
    strict: bool,
}

pub(super) fn run<D: Domain>(args: EvaluateArgs<D>, common: &Common) -> Result<()> {
    let console = Console::new(common.quiet);
    let model = super::open::<D>(&args.run, args.adapter.as_deref(), common)?;
    let classifier = Classifier::<D>::of(model, common.place()?, args.run.as_ref())?;
    let splits = D::splits(&args.data, classifier.pipeline(), Some(classifier.task()), Seed(args.seed))?;
    let data = splits.validation;
    let batches: Vec<Vec<Request>> = (0..data.len())
        .collect::<Vec<_>>()
        .chunks(BATCH)
        .map(|chunk| chunk.iter().map(|&index| Request { index, view: View::Plain }).collect())
        .collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut faults = Faults::new(Strictness { strict: args.strict, ..Strictness::default() });
    let (mut logits, mut targets, mut judged) = (Vec::new(), Targets::default(), Vec::new());
    for mut loaded in Loader::new(data.clone(), batches, threads) {
        for (index, error) in loaded.failed.drain(..) {
            faults.note("validation", &*data, index, error)?;
        }
        let indices = loaded.indices();
        targets.extend(Targets::of(&*data, indices.iter().copied()));
        judged.extend(indices);
        let samples: Vec<_> = loaded.samples.into_iter().map(|(_, sample)| sample).collect();
        logits.extend(classifier.logits(&samples)?);
        console.progress("evaluate", judged.len(), data.len());
    }
    if targets.classes.is_empty() {
        return Err(Error::input("the validation data", "none of it could be read", "check the files"));
    }
    let metrics = data.judge(&judged, &logits).unwrap_or_else(|| Metrics::of(classifier.task(), &targets, &logits));
    if common.json {
        return print_line(&json(&metrics)?);
    }
    print_line(&format!("{metrics} on {} {}", metrics.samples, D::ITEM.1))?;
    let others = others(&metrics);
    if !others.is_empty() {
        print_line(&others)?;
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
    }
}
