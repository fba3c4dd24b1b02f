//! A handful of samples is many pairs: first the backbone learns which belong together, then a head is solved on what it
//! says.

use super::{Facts, FineTuning, Settings, Strategy};
use crate::net::Network;
use crate::plan::{Pairs, Phase, Plan};

/// Pairs first, the head after.
pub struct ContrastiveFewShot;

/// Partners of each kind that a sample meets, as in the authors' code, where the set is small.
const PER_SAMPLE: usize = 20;
/// Steps that larger sets are held to.
const STEPS: usize = 500;

impl Strategy for ContrastiveFewShot {
    fn name(&self) -> &'static str {
        "contrastive-few-shot"
    }

    fn summary(&self) -> &'static str {
        "the backbone learns from pairs which samples belong together; then the head is solved"
    }

    fn source(&self) -> &'static str {
        "Tunstall et al., Efficient Few-Shot Learning Without Prompts (SetFit), 2022"
    }

    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        let mut plan = FineTuning.plan(network, task, settings);
        for phase in &mut plan.phases {
            if let Phase::Train(train) = phase {
                let pairs_of_a_round = (2 * task.samples).max(1);
                let few = STEPS * (train.batch_size / 2).max(1) / pairs_of_a_round;
                let per_sample = settings.options.pairs.unwrap_or(few.clamp(1, PER_SAMPLE));
                train.name = "bring pairs together".into();
                train.pairs = Some(Pairs { per_sample });
                train.epochs = settings.options.epochs.unwrap_or(1);
                train.learn.retain(|rule| rule.stage != "head");
                train.patience = None;
            }
        }
        plan.phases.push(Phase::Solve(settings.solve(task)));
        Plan { strategy: self.name().into(), ..plan }
    }
}
