//! Parts of every stage learn: the additive terms, or the normalizations.

use super::{Facts, Settings, Strategy, learnable, rule};
use crate::net::Network;
use crate::plan::{BatchNormMode, Decay, Phase, Plan, RoleName, Rule, Start};

/// Only additive terms and the head learn.
pub struct BitFit;

/// Only factors and additive terms of normalizations, and the head, learn.
pub struct NormOnly;

/// Few and mild parameters bear a higher rate than a whole network: BitFit's grid reaches to twenty times that of
/// fine-tuning.
const RATE: f64 = 10.0;

/// Those parameters of `role` in every stage, and the head.
fn plan_of(name: &str, role: RoleName, network: &Network, task: &Facts, settings: &Settings) -> Plan {
    let part = |i: &usize| Rule { roles: vec![role], ..rule(&network.stages[*i].name, 1.0) };
    let mut learn: Vec<Rule> = learnable(network).iter().map(part).collect();
    learn.push(rule("head", settings.options.head_rate.unwrap_or(1.0)));
    let mut recipe = settings.defaults.fine_tuning.clone();
    recipe.learning_rate *= RATE;
    let mut train = settings.train("train a part of every stage", &recipe, Decay::Linear, learn, task);
    if role == RoleName::Bias {
        train.batch_norm = settings.options.batch_norm.unwrap_or(BatchNormMode::Frozen);
    }
    Plan { strategy: name.into(), start: Start::Pretrained, adapters: Vec::new(), phases: vec![Phase::Train(train)] }
}

impl Strategy for BitFit {
    fn name(&self) -> &'static str {
        "bitfit"
    }

    fn summary(&self) -> &'static str {
        "only bias terms learn (of batch normalization too), and the head"
    }

    fn source(&self) -> &'static str {
        "Ben-Zaken et al., BitFit, 2022"
    }

    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        plan_of(self.name(), RoleName::Bias, network, task, settings)
    }
}

impl Strategy for NormOnly {
    fn name(&self) -> &'static str {
        "norm-only"
    }

    fn summary(&self) -> &'static str {
        "only normalizations learn, with their running statistics, and the head"
    }

    fn source(&self) -> &'static str {
        "Mudrakarta et al., K for the Price of 1, 2019"
    }

    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        plan_of(self.name(), RoleName::Norm, network, task, settings)
    }
}
