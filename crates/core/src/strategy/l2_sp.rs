//! Fine-tuning on a leash: the backbone is pulled towards the pre-trained weights, in place of zero.

use super::{Facts, Settings, Strategy, penalized};
use crate::net::Network;
use crate::plan::{Penalty, Plan};

/// A penalty on the distance from the starting point.
pub struct L2Sp;

/// At the usual rates of a few hundred steps, weights stay within reach of their start without being held there.
const WEIGHT: f64 = 100.0;

impl Strategy for L2Sp {
    fn name(&self) -> &'static str {
        "l2-sp"
    }

    fn summary(&self) -> &'static str {
        "fine-tuning that pulls the backbone towards its start; the head decays as usual"
    }

    fn source(&self) -> &'static str {
        "Li et al., Explicit Inductive Bias for Transfer Learning with Convolutional Networks, 2018"
    }

    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        let weight = settings.options.penalty.unwrap_or(WEIGHT);
        penalized(self.name(), Penalty::StartWeights { weight }, network, task, settings)
    }
}
