//! Small modules put between the layers of a backbone that itself stays as it is.

use super::adapters::{Pace, chosen, plan};
use super::{Facts, Settings, Strategy};
use crate::net::Network;
use crate::net::adapt::Adapter;
use crate::plan::Plan;

/// `U gelu(D h)` added behind or beside every sublayer or residual block, where only `D` and `U` learn.
pub struct BottleneckAdapter;

impl Strategy for BottleneckAdapter {
    fn name(&self) -> &'static str {
        "adapter"
    }

    fn summary(&self) -> &'static str {
        "small bottlenecks behind or beside sublayers or residual blocks learn, and the head; the backbone is frozen"
    }

    fn source(&self) -> &'static str {
        "Houlsby et al., Parameter-Efficient Transfer Learning for NLP, 2019; Rebuffi et al., Learning multiple visual \
         domains with residual adapters, 2017; beside: He et al., Towards a Unified View of Parameter-Efficient Transfer \
         Learning, 2022"
    }

    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        let width = settings.options.bottleneck.unwrap_or(32);
        let placement = settings.options.adapter_placement.unwrap_or_default();
        let blocks = chosen(settings, &network.blocks(), String::as_str, |_| true);
        let adapter = Adapter::Bottleneck { width, placement, blocks };
        plan(self.name(), adapter, Pace { rate: 10.0, length: 2 }, network, task, settings)
    }
}
