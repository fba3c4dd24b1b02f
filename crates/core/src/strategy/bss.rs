//! Fine-tuning that lets go of what transfers badly: the directions of the features with the smallest singular values.

use super::{Facts, Settings, Strategy, penalized};
use crate::net::Network;
use crate::plan::{Penalty, Plan};

/// Batch spectral shrinkage.
pub struct Bss;

/// The authors' weight and number.
const WEIGHT: f64 = 1e-3;
const SMALLEST: usize = 1;

impl Strategy for Bss {
    fn name(&self) -> &'static str {
        "bss"
    }

    fn summary(&self) -> &'static str {
        "fine-tuning that shrinks the smallest singular values of a batch's features"
    }

    fn source(&self) -> &'static str {
        "Chen et al., Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage, 2019"
    }

    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        let options = &settings.options;
        let (weight, smallest) = (options.penalty.unwrap_or(WEIGHT), options.smallest.unwrap_or(SMALLEST));
        penalized(self.name(), Penalty::SingularValues { weight, smallest }, network, task, settings)
    }
}
