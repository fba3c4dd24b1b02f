//! Fine-tuning, and half of the way back: what the fine-tuned weights gained and what the start knew of other data meet
//! between the two.

use super::{Facts, LpFt, Settings, Strategy};
use crate::net::Network;
use crate::plan::{Combine, Mixture, Phase, Plan};

/// Weights between the start with its solved head and the fine-tuned ones.
pub struct WiseFt;

/// The authors' advice where nothing is known of the data to come.
const ALPHA: f64 = 0.5;

impl Strategy for WiseFt {
    fn name(&self) -> &'static str {
        "wise-ft"
    }

    fn summary(&self) -> &'static str {
        "lp-ft, then the weights between the start with its solved head and the end"
    }

    fn source(&self) -> &'static str {
        "Wortsman et al., Robust fine-tuning of zero-shot models, 2022"
    }

    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        let mut plan = LpFt.plan(network, task, settings);
        let alpha = settings.options.alpha.unwrap_or(ALPHA);
        let mixture = Mixture::Earlier { phases: 1, alpha };
        plan.phases.push(Phase::Combine(Combine { name: "mix with the start".into(), mixture }));
        Plan { strategy: self.name().into(), ..plan }
    }
}
