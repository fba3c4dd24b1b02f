//! Keys and values that belong to no word stand in front of every sentence's own and learn; the encoder stays.

use super::adapters::{Pace, chosen, plan};
use super::{Facts, Settings, Strategy};
use crate::net::Network;
use crate::net::adapt::Adapter;
use crate::plan::Plan;

/// Learned keys and values in each attention. For networks that have attention.
pub struct PrefixTuning;

impl Strategy for PrefixTuning {
    fn name(&self) -> &'static str {
        "prefix"
    }

    fn summary(&self) -> &'static str {
        "keys and values in front of every sentence's own learn, and the head; the encoder is frozen (text only)"
    }

    fn source(&self) -> &'static str {
        "Li & Liang, Prefix-Tuning: Optimizing Continuous Prompts for Generation, 2021"
    }

    /// The prefix is learned directly, without the paper's perceptron in front of it (§4.3).
    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        let length = settings.options.prefix_length.unwrap_or(8);
        let attentions = chosen(settings, &network.attentions(), String::as_str, |_| true);
        let adapter = Adapter::Prefix { length, attentions };
        plan(self.name(), adapter, Pace { rate: 100.0, length: 3 }, network, task, settings)
    }
}
