//! A factor for each of some channels learns, nothing else of the backbone; afterwards it is drawn into the weights.

use super::adapters::{Pace, chosen, plan};
use super::{Facts, Settings, Strategy};
use crate::net::Network;
use crate::net::adapt::{Adapter, Place, Site};
use crate::plan::Plan;

/// `l ⊙ k`, `l ⊙ v` and `W (l ⊙ act(…))`, where only the `l` learn.
pub struct Ia3;

impl Strategy for Ia3 {
    fn name(&self) -> &'static str {
        "ia3"
    }

    fn summary(&self) -> &'static str {
        "factors for the channels of keys, values and inner activations learn, and the head; merged at the end"
    }

    fn source(&self) -> &'static str {
        "Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning, 2022"
    }

    /// Keys and values, and what lies behind the inner activations of each residual block: the second layer of the
    /// feed-forward part (§3.3), the last convolution of a block. In a network without such blocks, all that lies behind
    /// activations.
    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        let sites = network.sites();
        let blocks = sites.iter().any(|site| site.inner);
        let usual = |site: &Site| match site.place {
            Place::Key | Place::Value => true,
            _ if blocks => site.inner,
            _ => site.activated,
        };
        let layers = chosen(settings, &sites, |site| &site.name, usual);
        let activated = |name: &String| sites.iter().any(|site| site.name == *name && site.activated);
        let (inputs, outputs) = layers.into_iter().partition(activated);
        let adapter = Adapter::Ia3 { outputs, inputs };
        plan(self.name(), adapter, Pace { rate: 30.0, length: 3 }, network, task, settings)
    }
}
