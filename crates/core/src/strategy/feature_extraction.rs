//! The backbone stays as it is; only a head is fitted on its pooled features.

use super::{Facts, Probe, Recipe, Settings, Strategy, rule};
use crate::net::Network;
use crate::plan::{BatchNormMode, Decay, Optimizer, Phase, Plan, Start};
use crate::task::Kind;

/// A linear head on frozen features.
pub struct FeatureExtraction;

/// For the head alone: convex and cheap, so fast and long.
const GRADIENT_PROBE: Recipe = Recipe {
    epochs: 30,
    least_steps: 300,
    optimizer: Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 },
    learning_rate: 1e-2,
    warmup: 0.0,
    augment: false,
};

impl Strategy for FeatureExtraction {
    fn name(&self) -> &'static str {
        "feature-extraction"
    }

    fn summary(&self) -> &'static str {
        "the backbone is frozen; a linear head is fitted on its features"
    }

    fn source(&self) -> &'static str {
        "Donahue et al., DeCAF, 2014; Sharif Razavian et al., CNN Features off-the-shelf, 2014"
    }

    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        let options = &settings.options;
        // Where passages begin and end is no regression of samples.
        let usual = if task.kind == Kind::Spans { Probe::Gradient } else { Probe::Logistic };
        let phase = match options.probe.unwrap_or(usual) {
            Probe::Logistic | Probe::Ridge => Phase::Solve(settings.solve(task)),
            Probe::Gradient => {
                let learn = vec![rule("head", 1.0)];
                let mut train = settings.train("train the head", &GRADIENT_PROBE, Decay::Cosine, learn, task);
                train.boundary = network.stages.len();
                train.batch_norm = BatchNormMode::Frozen;
                Phase::Train(train)
            }
        };
        Plan { strategy: self.name().into(), start: Start::Pretrained, adapters: vec![], phases: vec![phase] }
    }
}
