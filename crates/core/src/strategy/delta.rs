//! Fine-tuning that holds on to what the stages say, not to the numbers they say it with: the penalty is on feature maps,
//! and heavier on the channels that the task needs.

use super::{ChannelWeights, Facts, Settings, Strategy, learnable, penalized};
use crate::net::Network;
use crate::plan::{Penalty, Plan};

/// A penalty on the distance of feature maps, with attention.
pub struct Delta;

/// The authors' number; but theirs is on the sum over a batch of 64, here it is on the mean over samples. On folds of small
/// sets the heavier one, 0.64, held the features too tightly to learn what was new.
const WEIGHT: f64 = 0.01;
/// Stages compared when the user does not say.
const STAGES: usize = 3;

impl Strategy for Delta {
    fn name(&self) -> &'static str {
        "delta"
    }

    fn summary(&self) -> &'static str {
        "fine-tuning that keeps the last stages' outputs near those at the start, above all the channels the task needs"
    }

    fn source(&self) -> &'static str {
        "Li et al., DELTA: DEep Learning Transfer using Feature Map with Attention, 2019"
    }

    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        let options = &settings.options;
        let all = learnable(network);
        let last = options.compared_stages.unwrap_or(STAGES).min(all.len());
        let stages = all[all.len() - last..].iter().map(|&i| network.stages[i].name.clone()).collect();
        let weight = options.penalty.unwrap_or(WEIGHT);
        let attention = options.channel_weights != Some(ChannelWeights::Uniform);
        penalized(self.name(), Penalty::StartFeatures { weight, stages, attention }, network, task, settings)
    }
}
