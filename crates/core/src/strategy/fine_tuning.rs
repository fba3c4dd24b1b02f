//! The pre-trained weights are where training starts: everything learns, at rates that may fall towards the input.

use super::{Facts, Settings, Strategy, falling};
use crate::net::Network;
use crate::plan::{Decay, Phase, Plan, Start};

/// Everything learns from the pre-trained weights.
pub struct FineTuning;

impl Strategy for FineTuning {
    fn name(&self) -> &'static str {
        "fine-tuning"
    }

    fn summary(&self) -> &'static str {
        "every parameter learns, from the pre-trained weights"
    }

    fn source(&self) -> &'static str {
        "Girshick et al., Rich feature hierarchies, 2014; Howard & Ruder, ULMFiT, 2018 (rates by stage)"
    }

    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        let learn = falling(network, 0, settings);
        let recipe = &settings.whole(&settings.defaults.fine_tuning, network);
        let train = settings.train("train everything", recipe, Decay::Linear, learn, task);
        Plan {
            strategy: self.name().into(),
            start: Start::Pretrained,
            adapters: vec![],
            phases: vec![Phase::Train(train)],
        }
    }
}
