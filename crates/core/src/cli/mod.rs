//! The command line that all domains share: the same verbs, the same words, the same errors.
//!
//! A domain's binary is `topwork_core::cli::main::<Domain>()`.

mod advise;
mod compare;
mod console;
mod embed;
mod evaluate;
mod events;
mod export;
mod find_lr;
mod merge;
mod models;
mod predict;
mod rank;
mod strategies;
mod train;

use std::path::Path;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::calibration::Calibration;
use crate::classifier::{Classifier, model_folder};
use crate::device::{self, Place};
use crate::domain::{Domain, Opened, Verbs};
use crate::machine::Machine;
use crate::task::Task;
use crate::{Error, Result, adapter, fit, source};

pub use console::Console;
pub use train::{TrainArgs, pretrain, pretraining_flag};

/// Flags that every verb understands.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Where to compute: cpu, cuda, cuda:N or metal [default: cpu]
    #[arg(long, global = true, value_name = "DEVICE")]
    pub device: Option<String>,
    /// What matrix products of all that is frozen multiply: f32, or bf16 on processors that have it [default: f32]
    #[arg(long, global = true, value_name = "NAME")]
    pub precision: Option<String>,
    /// Number of threads [default: one per core]
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// Print results as JSON on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Never touch the network: use only what is on this machine already
    #[arg(long, global = true)]
    pub offline: bool,
    /// Show only results and errors, no progress
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

impl Common {
    /// Where to compute.
    ///
    /// # Errors
    /// As [`Place::parse`].
    pub fn place(&self) -> Result<Place> {
        self.machine(Machine::default()).place()
    }

    /// What a verb's own flags and these say of the machine.
    fn machine(&self, of_verb: Machine) -> Machine {
        let (device, precision) = (self.device.clone(), self.precision.clone());
        Machine { device, precision, offline: self.offline, ..of_verb }
    }
}

#[derive(Parser)]
#[command(version, propagate_version = true, disable_help_subcommand = true)]
struct Cli<D: Domain> {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb<D>,
}

#[derive(Subcommand)]
enum Verb<D: Domain> {
    /// Fit a pre-trained model to your labelled data
    Train(Box<TrainArgs<D>>),
    /// Measure a trained model on labelled data
    Evaluate(evaluate::EvaluateArgs<D>),
    /// Classify with a trained model
    Predict(predict::PredictArgs<D>),
    /// Print the features a model computes, as vectors
    Embed(embed::EmbedArgs<D>),
    /// Compare pre-trained models by what their features are worth for your labelled data, without training
    Rank(Box<rank::RankArgs<D>>),
    /// Say which model, strategy, rates and epochs to use for your labelled data, and why, as a plan for `train --plan`
    Advise(Box<advise::AdviseArgs<D>>),
    /// Show at which learning rates a strategy's loss falls on your data, in a few steps (the range test)
    FindLr(Box<find_lr::FindLrArgs<D>>),
    /// Put finished runs side by side: scores over their seeds, and which differences are more than chance
    Compare(compare::CompareArgs),
    /// Write the course of runs as event files for TensorBoard
    Events(events::EventsArgs),
    /// Make one model of a pre-trained one and an adapter folder
    Merge(merge::MergeArgs),
    /// Write a model's weights as one file for another library
    Export(export::ExportArgs),
    /// List, show or fetch pre-trained models
    Models(models::ModelsArgs),
    /// List the ways to carry knowledge over
    Strategies,
    #[command(flatten)]
    Own(D::Verbs),
}

/// Runs the command line of domain `D` and ends the process: exit code 0, 2 for what the user can mend, 1 for a defect.
pub fn main<D: Domain>() -> ! {
    let about = format!("Transfer learning for {}", D::ITEM.1);
    let command = Cli::<D>::command().name(D::BINARY).bin_name(D::BINARY).about(about);
    let command = with_negative_numbers(command);
    let matches = command.get_matches();
    let code = match Cli::<D>::from_arg_matches(&matches) {
        Ok(cli) => match run(cli) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("{}: {error}", D::BINARY);
                error.exit_code()
            }
        },
        Err(error) => error.exit(),
    };
    std::process::exit(code)
}

/// Lets `--weight-decay -1` reach the check that explains what is wrong with it, instead of being an unknown flag.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let takes_value = |arg: &clap::Arg| !arg.is_positional() && arg.get_action().takes_values();
    command
        .mut_args(|arg| if takes_value(&arg) { arg.allow_negative_numbers(true) } else { arg })
        .mut_subcommands(with_negative_numbers)
}

fn run<D: Domain>(cli: Cli<D>) -> Result<()> {
    device::keep_memory();
    device::set_threads(cli.common.threads)?;
    let common = cli.common;
    match cli.verb {
        Verb::Train(args) => train::run(*args, &common),
        Verb::Evaluate(args) => evaluate::run(args, &common),
        Verb::Predict(args) => predict::run(args, &common),
        Verb::Embed(args) => embed::run(args, &common),
        Verb::Rank(args) => rank::run(*args, &common),
        Verb::Advise(args) => advise::run(*args, &common),
        Verb::FindLr(args) => find_lr::run(*args, &common),
        Verb::Compare(args) => compare::run(args, D::BINARY, &common),
        Verb::Events(args) => events::run(args, &common),
        Verb::Merge(args) => merge::run::<D>(args, &common),
        Verb::Export(args) => export::run::<D>(args, &common),
        Verb::Models(args) => models::run::<D>(args, &common),
        Verb::Strategies => strategies::run(&common),
        Verb::Own(verb) => verb.run(&common),
    }
}

/// A model to use: a run or model folder; with an adapter folder, the pre-trained model that it belongs to.
///
/// # Errors
/// When there is no such model, or the adapter does not fit it.
fn open<D: Domain>(model: &str, adapter: Option<&Path>, common: &Common) -> Result<Opened<D::Pipeline>> {
    let base = fit::open_any::<D>(model, common.offline, &Console::new(common.quiet))?;
    match adapter {
        Some(adapter) => adapter::attach::<D>(base, adapter),
        None => Ok(base),
    }
}

/// The same where a run is expected: what is no name is meant to be a folder.
///
/// # Errors
/// As there.
fn open_run<D: Domain>(run: &str, adapter: Option<&Path>, common: &Common) -> Result<Opened<D::Pipeline>> {
    if adapter.is_none() && source::parse(run, D::cards()).is_err() {
        model_folder(Path::new(run))?;
    }
    open::<D>(run, adapter, common)
}

/// A classifier to use: as any model is opened, at the temperature that was found for it.
///
/// # Errors
/// As there; and when the model has no head.
pub fn classifier<D: Domain>(model: &str, adapter: Option<&Path>, common: &Common) -> Result<Classifier<D>> {
    classifier_of(open_run::<D>(model, adapter, common)?, model, adapter, common)
}

/// A classifier of what was opened as `model`.
fn classifier_of<D: Domain>(
    opened: Opened<D::Pipeline>,
    model: &str,
    adapter: Option<&Path>,
    common: &Common,
) -> Result<Classifier<D>> {
    let temperature = match adapter {
        Some(adapter) => Calibration::temperature(adapter)?,
        None if Path::new(model).is_dir() => Calibration::temperature(&model_folder(Path::new(model))?)?,
        None => 1.0,
    };
    Ok(Classifier::of(opened, common.place()?, model.as_ref())?.at(temperature))
}

/// The least probability of an answer, if one is asked for.
fn least(flag: Option<f64>, task: &Task) -> Result<Option<f64>> {
    let Some(least) = flag else { return Ok(None) };
    task.only_classes("--reject-below")?;
    if !(0.0..=1.0).contains(&least) {
        let subject = format!("--reject-below {least}");
        return Err(Error::input(subject, "a probability is from 0 to 1", "use for instance 0.8"));
    }
    Ok(Some(least))
}

/// Writes one line to standard output; a reader that went away (`| head`) ends the program quietly.
///
/// # Errors
/// When it cannot be written.
pub fn print_line(line: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(Error::io("standard output")),
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::Tensor(candle_core::Error::Msg(e.to_string())))
}
