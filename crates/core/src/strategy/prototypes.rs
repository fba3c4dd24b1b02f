//! No training at all: a class is the mean of its samples' features.

use super::{Facts, Settings, Strategy};
use crate::net::Network;
use crate::plan::{Method, Phase, Plan, Solve, Start};

/// The nearest class mean.
pub struct Prototypes;

impl Strategy for Prototypes {
    fn name(&self) -> &'static str {
        "prototypes"
    }

    fn summary(&self) -> &'static str {
        "no training: the nearest class mean of frozen features, as a linear head"
    }

    fn source(&self) -> &'static str {
        "Snell et al., Prototypical Networks for Few-shot Learning, 2017"
    }

    fn plan(&self, _network: &Network, task: &Facts, settings: &Settings) -> Plan {
        let solve = Solve { name: "take the class means".into(), method: Method::Prototypes, ..settings.solve(task) };
        Plan {
            strategy: self.name().into(),
            start: Start::Pretrained,
            adapters: Vec::new(),
            phases: vec![Phase::Solve(solve)],
        }
    }
}
