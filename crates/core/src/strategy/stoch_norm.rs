//! Fine-tuning whose batch normalizations choose, channel by channel, between the batch's statistics and the running
//! ones: small batches cannot lead them astray.

use super::{Facts, FineTuning, Settings, Strategy};
use crate::net::{Network, Role};
use crate::plan::{BatchNormMode, Phase, Plan};
use crate::{Error, Result};

/// Two branches of normalization.
pub struct StochNorm;

/// The authors' probability.
const RUNNING: f64 = 0.5;

impl Strategy for StochNorm {
    fn name(&self) -> &'static str {
        "stoch-norm"
    }

    fn summary(&self) -> &'static str {
        "fine-tuning that normalizes each channel by batch or, at random, running statistics (networks with batch norm)"
    }

    fn source(&self) -> &'static str {
        "Kou et al., Stochastic Normalization, 2020"
    }

    fn check(&self, network: &Network, _settings: &Settings) -> Result<()> {
        if network.params().iter().any(|spec| spec.role == Role::Buffer) {
            return Ok(());
        }
        let reason = format!("{} has no batch normalization", network.name);
        Err(Error::input("--strategy stoch-norm", reason, "choose another strategy"))
    }

    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        let running = settings.options.running_share.unwrap_or(RUNNING);
        let mut plan = FineTuning.plan(network, task, settings);
        for phase in &mut plan.phases {
            if let Phase::Train(train) = phase {
                train.batch_norm = BatchNormMode::Stochastic { running };
            }
        }
        Plan { strategy: self.name().into(), ..plan }
    }
}
