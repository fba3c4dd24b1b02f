//! First the head learns, then one stage more in each phase, from the top down. Every phase starts from what comes out of
//! its last frozen stage, all of which one pass over the samples has left behind.

use super::{Facts, Settings, Strategy, falling, learnable};
use crate::net::Network;
use crate::plan::{Decay, Phase, Plan, Start};

/// Stage by stage from the top.
pub struct GradualUnfreezing;

impl Strategy for GradualUnfreezing {
    fn name(&self) -> &'static str {
        "gradual-unfreezing"
    }

    fn summary(&self) -> &'static str {
        "the head learns first, then one stage more in each phase, from the top down"
    }

    fn source(&self) -> &'static str {
        "Howard & Ruder, Universal Language Model Fine-tuning for Text Classification, 2018"
    }

    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        let options = &settings.options;
        let recipe = &settings.whole(&settings.defaults.fine_tuning, network);
        let stages = learnable(network);
        let boundaries = [network.stages.len()].into_iter().chain(stages.iter().rev().copied());
        let phases = boundaries.enumerate().map(|(i, boundary)| {
            let name = match network.stages.get(boundary) {
                None => "train the head".to_string(),
                Some(_) if i == stages.len() => "train everything".to_string(),
                Some(stage) => format!("train from {} on", stage.name),
            };
            let learn = falling(network, boundary, settings);
            let mut train = settings.train(&name, recipe, Decay::Linear, learn, task);
            train.boundary = boundary;
            // All phases before the last together take the steps that the smallest set gets in the last.
            if i < stages.len() {
                let steps = task.samples.div_ceil(train.batch_size).max(1);
                let least = recipe.least_steps.div_ceil(stages.len()).div_ceil(steps);
                train.epochs = options.stage_epochs.unwrap_or(least.max(1));
            }
            Phase::Train(train)
        });
        Plan { strategy: self.name().into(), start: Start::Pretrained, adapters: Vec::new(), phases: phases.collect() }
    }
}
