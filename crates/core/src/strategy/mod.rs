//! Transfer strategies: each turns a backbone and a task into a [`Plan`], purely; the trainer executes plans.
//!
//! A new strategy is a new implementation of [`Strategy`] and a row in [`all`]. None of them is ever asked for by name
//! anywhere else.

mod adapter;
mod adapters;
mod bitfit;
mod bss;
mod co_tuning;
mod contrastive_few_shot;
mod delta;
mod distillation;
mod feature_extraction;
mod fine_tuning;
mod from_scratch;
mod gradual_unfreezing;
mod ia3;
mod l2_sp;
mod lora;
mod lp_ft;
mod options;
mod partial;
mod prefix;
mod prototypes;
mod soup;
mod stoch_norm;
mod wise_ft;

pub use adapter::BottleneckAdapter;
pub use bitfit::{BitFit, NormOnly};
pub use bss::Bss;
pub use co_tuning::CoTuning;
pub use contrastive_few_shot::ContrastiveFewShot;
pub use delta::Delta;
pub use distillation::Distillation;
pub use feature_extraction::FeatureExtraction;
pub use fine_tuning::FineTuning;
pub use from_scratch::FromScratch;
pub use gradual_unfreezing::GradualUnfreezing;
pub use ia3::Ia3;
pub use l2_sp::L2Sp;
pub use lora::Lora;
pub use lp_ft::LpFt;
pub use options::{ChannelWeights, OptimizerName, Options, Probe};
pub use partial::Partial;
pub use prefix::PrefixTuning;
pub use prototypes::Prototypes;
pub use soup::Soup;
pub use stoch_norm::StochNorm;
pub use wise_ft::WiseFt;

use crate::Result;
use crate::net::Network;
use crate::plan::{
    BatchNormMode, Decay, Method, Objective, Optimizer, Penalty, Phase, Plan, Rule, Schedule, Solve, Train,
};
use crate::task::Kind;

/// How knowledge is carried over.
///
/// ```
/// # #[path = "../../examples/signals.rs"] mod signals;
/// # use signals::Signals;
/// use topwork_core::domain::Domain;
/// use topwork_core::plan::Phase;
/// use topwork_core::strategy::{Facts, LpFt, Options, Settings, Strategy};
/// use topwork_core::task::Kind;
///
/// # fn main() {
/// let network = Signals::outline("signal-net").expect("it is known").network;
/// let task = Facts { kind: Kind::Classes, outputs: 2, samples: 100 };
/// let settings = Settings { options: Options::default(), defaults: Signals::defaults() };
/// let plan = LpFt.plan(&network, &task, &settings);
/// assert!(matches!(plan.phases[..], [Phase::Solve(_), Phase::Train(_)]));
/// println!("{plan}");
/// # }
/// ```
pub trait Strategy: Send + Sync {
    /// The name on the command line: `fine-tuning`.
    fn name(&self) -> &'static str;
    /// One line: what it does.
    fn summary(&self) -> &'static str;
    /// The paper.
    fn source(&self) -> &'static str;
    /// Whether it can work on this backbone with these settings.
    ///
    /// # Errors
    /// Naming the flag that is missing or does not fit, or what the network lacks.
    fn check(&self, _network: &Network, _settings: &Settings) -> Result<()> {
        Ok(())
    }
    /// What to do for this backbone, task and settings.
    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan;
}

/// All strategies, in the order in which they are listed.
pub fn all() -> &'static [&'static dyn Strategy] {
    &[
        &FromScratch,
        &FeatureExtraction,
        &Prototypes,
        &FineTuning,
        &Partial,
        &GradualUnfreezing,
        &LpFt,
        &BitFit,
        &NormOnly,
        &L2Sp,
        &Delta,
        &Bss,
        &CoTuning,
        &StochNorm,
        &Distillation,
        &ContrastiveFewShot,
        &WiseFt,
        &Soup,
        &Lora,
        &BottleneckAdapter,
        &Ia3,
        &PrefixTuning,
    ]
}

/// The facts of the target task that plans may depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// What the outputs are.
    pub kind: Kind,
    /// Number of outputs.
    pub outputs: usize,
    /// Number of training samples.
    pub samples: usize,
}

/// Times as many samples in a batch of couples.
const MORE_COUPLES: usize = 4;

/// What suits a domain: the numbers that strategies start from.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// Batch size.
    pub batch_size: usize,
    /// For fine-tuning.
    pub fine_tuning: Recipe,
    /// For training from random weights.
    pub from_scratch: Recipe,
    /// Networks that learn at another rate than both say.
    pub small: Option<Small>,
}

/// Networks with few parameters, whose own weights bear a higher learning rate than those of large ones. What learns beside frozen
/// weights keeps its rate.
#[derive(Debug, Clone, PartialEq)]
pub struct Small {
    /// Parameters at most.
    pub parameters: usize,
    /// Their peak learning rate.
    pub learning_rate: f64,
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

impl Settings {
    /// A recipe of the defaults for weights of the network's own.
    fn whole(&self, recipe: &Recipe, network: &Network) -> Recipe {
        let small = self.defaults.small.as_ref().filter(|small| network.parameters() <= small.parameters);
        Recipe { learning_rate: small.map_or(recipe.learning_rate, |small| small.learning_rate), ..recipe.clone() }
    }

    /// A phase of gradient descent: `recipe` where the user says nothing, and what most phases have in common.
    fn train(&self, name: &str, recipe: &Recipe, decay: Decay, learn: Vec<Rule>, task: &Facts) -> Train {
        let options = &self.options;
        // The other couples of a batch are what a couple learns to be told from.
        let usual = self.defaults.batch_size * if task.kind == Kind::Matches { MORE_COUPLES } else { 1 };
        let batch_size = options.batch_size.unwrap_or(usual).max(1);
        let optimizer = options.optimizer(recipe.optimizer);
        let steps = task.samples.div_ceil(batch_size).max(1);
        let clips = matches!(optimizer, Optimizer::AdamW { .. });
        Train {
            name: name.into(),
            boundary: 0,
            learn,
            batch_norm: options.batch_norm.unwrap_or(BatchNormMode::Update),
            epochs: options.epochs.unwrap_or_else(|| recipe.epochs.max(recipe.least_steps.div_ceil(steps))),
            batch_size,
            accumulate: options.accumulate.unwrap_or(1).min(batch_size),
            sampler: options.sampler.unwrap_or_default(),
            optimizer,
            learning_rate: options.learning_rate.unwrap_or(recipe.learning_rate),
            schedule: Schedule {
                warmup: options.warmup.unwrap_or(recipe.warmup),
                decay: options.schedule.unwrap_or(decay),
            },
            clip_norm: options.clip_norm.or(clips.then_some(1.0)).filter(|&norm| norm > 0.0),
            objective: self.objective(),
            augment: options.augmented().unwrap_or(recipe.augment),
            views: options.views.unwrap_or(4),
            patience: options.patience,
            average: options.average,
            pairs: None,
            mix: options.mix(),
            scales: options.view_scales.clone().unwrap_or_default(),
            teacher: None,
            penalties: Vec::new(),
        }
    }

    /// The head that suits the frozen features best.
    fn solve(&self, task: &Facts) -> Solve {
        let options = &self.options;
        let method = match options.probe {
            Some(Probe::Ridge) if task.kind != Kind::Labels => Method::Ridge { l2: options.l2 },
            _ if task.kind == Kind::Values => Method::Ridge { l2: options.l2 },
            _ => Method::Logistic { l2: options.l2.unwrap_or(1.0) },
        };
        Solve {
            name: "fit the head".into(),
            method,
            objective: self.objective(),
            views: if options.augmented().unwrap_or(false) { options.views.unwrap_or(4) } else { 0 },
        }
    }

    fn objective(&self) -> Objective {
        Objective {
            label_smoothing: self.options.label_smoothing.unwrap_or(0.0),
            class_weights: self.options.class_weights.unwrap_or(crate::plan::ClassWeights::None),
        }
    }
}

/// A rule for all of a stage.
fn rule(stage: &str, rate: f64) -> Rule {
    Rule { stage: stage.into(), roles: Vec::new(), rate }
}

/// Indices of the stages that have parameters.
fn learnable(network: &Network) -> Vec<usize> {
    (0..network.stages.len()).filter(|&i| !network.stages[i].params().is_empty()).collect()
}

/// Rules for all stages from `boundary` on and the head: rates that fall by `--stage-decay` from the head down.
fn falling(network: &Network, boundary: usize, settings: &Settings) -> Vec<Rule> {
    let options = &settings.options;
    let decay = options.stage_decay.unwrap_or(1.0);
    let learning: Vec<usize> = learnable(network).into_iter().filter(|&i| i >= boundary).collect();
    let rate = |i: usize| decay.powi((learning.len() - i) as i32);
    let mut rules: Vec<Rule> =
        learning.iter().enumerate().map(|(i, &stage)| rule(&network.stages[stage].name, rate(i))).collect();
    rules.push(rule("head", options.head_rate.unwrap_or(1.0)));
    rules
}

/// Fine-tuning with a penalty.
fn penalized(name: &str, penalty: Penalty, network: &Network, task: &Facts, settings: &Settings) -> Plan {
    let mut plan = FineTuning.plan(network, task, settings);
    for phase in &mut plan.phases {
        if let Phase::Train(train) = phase {
            train.penalties.push(penalty.clone());
        }
    }
    Plan { strategy: name.into(), ..plan }
}

#[cfg(test)]
mod tests;
