//! What the strategies have in common that leave the backbone as it is and learn an adapter in it beside the head.

use super::{Facts, Recipe, Settings, rule};
use crate::net::Network;
use crate::net::adapt::{self, Adapter, matches};
use crate::plan::{BatchNormMode, Decay, Phase, Plan, RoleName, Rule, Start};

/// How a strategy's training differs from fine-tuning.
pub(super) struct Pace {
    /// Factor on the learning rate: what starts at nothing and is small learns faster.
    pub rate: f64,
    /// Factor on the length.
    pub length: usize,
}

/// The plan that learns `adapter` and the head in one phase. Up to the first stage that the adapter changes, nothing
/// is computed twice. The running statistics of batch normalization stay: they belong to the backbone.
pub(super) fn plan(
    name: &str,
    adapter: Adapter,
    pace: Pace,
    network: &Network,
    task: &Facts,
    settings: &Settings,
) -> Plan {
    let adapters = vec![adapter];
    // What cannot be applied is refused where plans are carried out; until then it changes nothing.
    let edited = adapt::apply(network, &adapters).unwrap_or_else(|_| network.clone());
    let changed: Vec<bool> = edited.stages.iter().zip(&network.stages).map(|(new, old)| new != old).collect();
    let learns = |stage: &str| Rule { roles: vec![RoleName::Adapter], ..rule(stage, 1.0) };
    let stages = network.stages.iter().zip(&changed).filter(|(_, changed)| **changed);
    let mut learn: Vec<Rule> = stages.map(|(stage, _)| learns(&stage.name)).collect();
    learn.push(rule("head", settings.options.head_rate.unwrap_or(1.0)));
    let usual = &settings.defaults.fine_tuning;
    let recipe = Recipe {
        epochs: usual.epochs * pace.length,
        least_steps: usual.least_steps * pace.length,
        // Without the last digits, which only say that the factor is no power of two.
        learning_rate: (usual.learning_rate * pace.rate * 1e9).round() / 1e9,
        ..usual.clone()
    };
    let mut train = settings.train("train the adapter and the head", &recipe, Decay::Linear, learn, task);
    train.boundary = changed.iter().position(|&changed| changed).unwrap_or(0);
    train.batch_norm = settings.options.batch_norm.unwrap_or(BatchNormMode::Frozen);
    Plan { strategy: name.into(), start: Start::Pretrained, adapters, phases: vec![Phase::Train(train)] }
}

/// Of `names`, those that the user's targets are parts of; where the user names none, those that are `usual`. A target
/// that is part of none stays as it is, to be refused by its name.
pub(super) fn chosen<T>(
    settings: &Settings,
    all: &[T],
    name: impl Fn(&T) -> &str,
    usual: impl Fn(&T) -> bool,
) -> Vec<String> {
    let Some(targets) = &settings.options.targets else {
        return all.iter().filter(|&one| usual(one)).map(|one| name(one).to_string()).collect();
    };
    let meant = |one: &&T| targets.iter().any(|target| matches(name(one), target));
    let mut names: Vec<String> = all.iter().filter(meant).map(|one| name(one).to_string()).collect();
    let unknown = targets.iter().filter(|target| !all.iter().any(|one| matches(name(one), target)));
    names.extend(unknown.cloned());
    names
}
