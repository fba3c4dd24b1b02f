//! No transfer: random weights, everything learns. The yardstick for the others.

use super::{Facts, Settings, Strategy, rule};
use crate::net::Network;
use crate::plan::{Decay, Phase, Plan, Start};

/// Everything learns from random weights.
pub struct FromScratch;

impl Strategy for FromScratch {
    fn name(&self) -> &'static str {
        "from-scratch"
    }

    fn summary(&self) -> &'static str {
        "no transfer: every parameter learns from random weights"
    }

    fn source(&self) -> &'static str {
        "He et al., Delving Deep into Rectifiers, 2015 (the initialization)"
    }

    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        let names = network.stages.iter().map(|stage| stage.name.as_str()).chain(["head"]);
        let learn = names.map(|name| rule(name, 1.0)).collect();
        let recipe = &settings.whole(&settings.defaults.from_scratch, network);
        let train = settings.train("train everything", recipe, Decay::Cosine, learn, task);
        Plan { strategy: self.name().into(), start: Start::Random, adapters: vec![], phases: vec![Phase::Train(train)] }
    }
}
