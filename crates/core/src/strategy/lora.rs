//! A term of low rank learns beside weights that stay as they are; afterwards it is added to them.

use super::adapters::{Pace, chosen, plan};
use super::{Facts, Settings, Strategy};
use crate::net::Network;
use crate::net::adapt::{Adapter, Place};
use crate::plan::Plan;

/// `W + (alpha / rank) · B A`, where only `A` and `B` learn.
pub struct Lora;

impl Strategy for Lora {
    fn name(&self) -> &'static str {
        "lora"
    }

    fn summary(&self) -> &'static str {
        "a low-rank term beside frozen weights learns, and the head; merged into the weights at the end"
    }

    fn source(&self) -> &'static str {
        "Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2022"
    }

    /// Queries and values of attention, as in the paper (§4.2); in a network without attention all convolutions that
    /// see all channels, in one without either all linear layers.
    fn plan(&self, network: &Network, task: &Facts, settings: &Settings) -> Plan {
        let options = &settings.options;
        let mut sites = network.sites();
        let has = |place| sites.iter().any(|site| site.place == place);
        let (attends, convolves) = (has(Place::Query), has(Place::Conv));
        sites.retain(|site| !site.grouped);
        let layers = chosen(
            settings,
            &sites,
            |site| &site.name,
            |site| match site.place {
                Place::Query | Place::Value => true,
                Place::Conv => !attends,
                Place::Linear => !attends && !convolves,
                Place::Key | Place::Output => false,
            },
        );
        let adapter = Adapter::Lora {
            rank: options.rank.unwrap_or(8),
            alpha: options.lora_alpha.unwrap_or(16.0),
            dropout: options.lora_dropout.unwrap_or(0.0) as f32,
            layers,
        };
        plan(self.name(), adapter, Pace { rate: 10.0, length: 2 }, network, task, settings)
    }
}
