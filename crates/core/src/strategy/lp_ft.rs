//! First the head, solved on the frozen features, then everything from that head on: a random head would send large
//! gradients into good features before it makes sense itself.

use super::{Facts, FineTuning, Settings, Strategy};
use crate::net::Network;
use crate::plan::{Phase, Plan};

/// Linear probing, then fine-tuning.
pub struct LpFt;

impl Strategy for LpFt {
    fn name(&self) -> &'static str {
        "lp-ft"
    }

    fn summary(&self) -> &'static str {
        "the head is solved on frozen features; then everything learns, from that head"
    }

    fn source(&self) -> &'static str {
        "Kumar et al., Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution, 2022"
    }

    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        let tuned = FineTuning.plan(network, task, settings);
        let phases = [Phase::Solve(settings.solve(task))].into_iter().chain(tuned.phases).collect();
        Plan { strategy: self.name().into(), phases, ..tuned }
    }
}
