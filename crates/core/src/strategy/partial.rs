//! The last stages learn, the first ones stay: what comes out of those is computed once.

use super::{Facts, Settings, Strategy, falling, learnable};
use crate::net::Network;
use crate::plan::{Decay, Phase, Plan, Start};
use crate::{Error, Result};

/// Only the last stages and the head learn.
pub struct Partial;

/// Stages that learn when the user does not say.
const LAST: usize = 2;

impl Strategy for Partial {
    fn name(&self) -> &'static str {
        "partial"
    }

    fn summary(&self) -> &'static str {
        "the last stages and the head learn; what comes out of the others is computed once"
    }

    fn source(&self) -> &'static str {
        "Yosinski et al., How transferable are features in deep neural networks?, 2014"
    }

    fn check(&self, network: &Network, settings: &Settings) -> Result<()> {
        let (asked, most) = (settings.options.last_stages.unwrap_or(1), learnable(network).len());
        if asked <= most {
            return Ok(());
        }
        let reason = format!("{} has {most} stages with parameters", network.name);
        Err(Error::input(format!("--last-stages {asked}"), reason, format!("use {most} or less")))
    }

    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        let stages = learnable(network);
        let last = settings.options.last_stages.unwrap_or(LAST).min(stages.len());
        let boundary = stages.get(stages.len() - last).copied().unwrap_or(network.stages.len());
        let recipe = &settings.whole(&settings.defaults.fine_tuning, network);
        let learn = falling(network, boundary, settings);
        let mut train = settings.train("train the last stages", recipe, Decay::Linear, learn, task);
        train.boundary = boundary;
        Plan {
            strategy: self.name().into(),
            start: Start::Pretrained,
            adapters: Vec::new(),
            phases: vec![Phase::Train(train)],
        }
    }
}
