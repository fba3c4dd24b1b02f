//! A larger model that knows the task teaches a smaller one: its answers say more than the labels.

use super::{Facts, FineTuning, Settings, Strategy};
use crate::net::Network;
use crate::plan::{Phase, Plan, Teacher};
use crate::{Error, Result};

/// Learning from a teacher's answers.
pub struct Distillation;

/// Of the loss, the teacher's part.
const SHARE: f64 = 0.5;
const TEMPERATURE: f64 = 2.0;

impl Strategy for Distillation {
    fn name(&self) -> &'static str {
        "distillation"
    }

    fn summary(&self) -> &'static str {
        "fine-tuning on the labels and on the answers of a trained model (--teacher)"
    }

    fn source(&self) -> &'static str {
        "Hinton et al., Distilling the Knowledge in a Neural Network, 2015; Romero et al., FitNets, 2015 (features)"
    }

    fn check(&self, _network: &Network, settings: &Settings) -> Result<()> {
        if settings.options.teacher.is_some() {
            return Ok(());
        }
        let reason = "no teacher is named";
        Err(Error::input("--strategy distillation", reason, "add --teacher with a finished run of the same classes"))
    }

    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        let options = &settings.options;
        let mut plan = FineTuning.plan(network, task, settings);
        for phase in &mut plan.phases {
            if let Phase::Train(train) = phase {
                train.teacher = Some(Teacher {
                    model: options.teacher.clone().unwrap_or_default(),
                    share: options.teacher_share.unwrap_or(SHARE),
                    temperature: options.temperature.unwrap_or(TEMPERATURE),
                    features: options.teacher_features.unwrap_or(0.0),
                });
            }
        }
        Plan { strategy: self.name().into(), ..plan }
    }
}
