//! Transfer strategies: each turns a backbone and a task into a [`Plan`], purely; the trainer executes plans.
//!
//! A new strategy is a new implementation of [`Strategy`] and a row in [`all`]. None of them is ever asked for by name
//! anywhere else.

mod feature_extraction;
mod fine_tuning;
mod from_scratch;

pub use feature_extraction::FeatureExtraction;
pub use fine_tuning::FineTuning;
pub use from_scratch::FromScratch;

use serde::{Deserialize, Serialize};

use crate::net::Network;
use crate::plan::{Optimizer, Plan};

/// How knowledge is carried over.
pub trait Strategy: Send + Sync {
    /// The name on the command line: `fine-tuning`.
    fn name(&self) -> &'static str;
    /// One line: what it does.
    fn summary(&self) -> &'static str;
    /// The paper.
    fn source(&self) -> &'static str;
    /// What to do for this backbone, task and settings.
    fn plan(&self, network: &Network, task: &Task, settings: &Settings) -> Plan;
}

/// All strategies, in the order in which they are listed.
pub fn all() -> &'static [&'static dyn Strategy] {
    &[&FromScratch, &FeatureExtraction, &FineTuning]
}

/// The facts of the target task that plans may depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Number of classes.
    pub classes: usize,
    /// Number of training samples.
    pub samples: usize,
}

/// What a user may set for any strategy; `None` leaves it to the strategy and the domain.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Passes over the training samples
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// Samples a step
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Peak learning rate
    #[arg(long, value_name = "RATE")]
    pub learning_rate: Option<f64>,
}

/// What suits a domain: the numbers that strategies start from.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// Batch size.
    pub batch_size: usize,
    /// For fine-tuning.
    pub fine_tuning: Recipe,
    /// For training from random weights.
    pub from_scratch: Recipe,
}

/// A setting of gradient descent known to work.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// Passes over the training samples for large sets.
    pub epochs: usize,
    /// Small sets get more passes, up to this many steps' worth.
    pub least_steps: usize,
    /// The update rule.
    pub optimizer: Optimizer,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Share of steps spent warming up.
    pub warmup: f64,
    /// Random views.
    pub augment: bool,
}

/// Options and defaults together.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The user's.
    pub options: Options,
    /// The domain's.
    pub defaults: Defaults,
}
