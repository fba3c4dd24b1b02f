//! Fine-tuning with both heads: the one of the source goes on learning, from the source labels that the target's classes
//! stand for.

use super::{Facts, Settings, Strategy, penalized};
use crate::net::Network;
use crate::plan::{Penalty, Plan};

/// Both heads learn.
pub struct CoTuning;

/// The authors' weight.
const WEIGHT: f64 = 2.3;

impl Strategy for CoTuning {
    fn name(&self) -> &'static str {
        "co-tuning"
    }

    fn summary(&self) -> &'static str {
        "fine-tuning of both heads, the source's on the source labels that each class stands for"
    }

    fn source(&self) -> &'static str {
        "You et al., Co-Tuning for Transfer Learning, 2020"
    }

    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        let weight = settings.options.penalty.unwrap_or(WEIGHT);
        penalized(self.name(), Penalty::SourceLabels { weight }, network, task, settings)
    }
}
