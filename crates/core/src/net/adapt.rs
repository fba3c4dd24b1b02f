//! Edits of a description: what adapters put into a backbone that was trained without them.
//!
//! [`Adapter`] is the edit as data, [`apply`] makes it, [`found`] reads it back from a network, [`strip`] undoes it and
//! [`merge`] draws what can be merged into the weights themselves. Where an edit may go is told by [`Network::sites`],
//! [`Network::blocks`] and [`Network::attentions`].

mod sites;
mod undo;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use sites::{Place, Site, matches};
pub use undo::{found, merge, strip};

use sites::{block, last_weight, parent};

use serde::{Deserialize, Serialize};

use super::{Act, Attention, Conv, Layer, Linear, LowRank, Network, Prefix, Residual, Side, Update};
use crate::{Error, Result};

/// An edit of a network's description. Names are those of layers, without `weight`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Adapter {
    /// A term of low rank beside weights (Hu et al. 2022).
    Lora {
        /// Rank of the term.
        rank: usize,
        /// Weight of the term, times the rank.
        alpha: f64,
        /// Dropout in front of the term, in training.
        dropout: f32,
        /// Linear layers and ungrouped convolutions.
        layers: Vec<String>,
    },
    /// Learned factors for channels (Liu et al. 2022).
    Ia3 {
        /// Layers that are rescaled behind.
        outputs: Vec<String>,
        /// Layers that are rescaled in front.
        inputs: Vec<String>,
    },
    /// `U gelu(D h)` for each row or pixel, added where the placement says.
    #[serde(rename = "adapter")]
    Bottleneck {
        /// Outputs of `D`.
        width: usize,
        /// What `h` is.
        #[serde(default)]
        placement: Placement,
        /// The blocks, by [`Network::blocks`].
        blocks: Vec<String>,
    },
    /// Learned keys and values in front of every sample's own (Li & Liang 2021).
    Prefix {
        /// How many of each.
        length: usize,
        /// The attentions, by [`Network::attentions`].
        attentions: Vec<String>,
    },
}

/// What a bottleneck reads, and where it adds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Behind: inside a sublayer that is normalized behind its sum (Houlsby et al. 2019), behind any other residual block
    /// (Rebuffi et al. 2017)
    #[default]
    Sequential,
    /// Beside: it reads what the block reads, and adds to the block's sum (He et al. 2022)
    Parallel,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sequential => "in",
            Self::Parallel => "beside",
        })
    }
}

impl Adapter {
    /// The name of its kind: `lora`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Lora { .. } => "lora",
            Self::Ia3 { .. } => "ia3",
            Self::Bottleneck { .. } => "adapter",
            Self::Prefix { .. } => "prefix",
        }
    }

    /// Whether there are weights that compute the same without it.
    pub fn merges(&self) -> bool {
        matches!(self, Self::Lora { .. } | Self::Ia3 { .. })
    }
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |what: &str, names: &[String]| match names {
            [] => format!("no {what}"),
            [one] => format!("one of the {what}s: {one}"),
            [first, .., last] => format!("{} {what}s: {first} … {last}", names.len()),
        };
        match self {
            Self::Lora { rank, alpha, dropout, layers } => {
                write!(f, "lora of rank {rank}, alpha {alpha}, ")?;
                if *dropout > 0.0 {
                    write!(f, "dropout {dropout}, ")?;
                }
                write!(f, "on {}", on("layer", layers))
            }
            Self::Ia3 { outputs, inputs } => {
                write!(f, "ia3, factors behind {}; in front of {}", on("layer", outputs), on("layer", inputs))
            }
            Self::Bottleneck { width, placement, blocks } => {
                write!(f, "adapter {width} wide {placement} {}", on("block", blocks))
            }
            Self::Prefix { length, attentions } => {
                write!(f, "prefix of {length} keys and values in {}", on("attention", attentions))
            }
        }
    }
}

/// Every linear layer and convolution, to be changed.
enum WeightMut<'l> {
    Linear(&'l mut Linear),
    Conv(&'l mut Conv),
}

fn each_weight(layers: &mut [Layer], visit: &mut dyn FnMut(WeightMut)) {
    for layer in layers {
        match layer {
            Layer::Conv(c) => visit(WeightMut::Conv(c)),
            Layer::Linear(l) => visit(WeightMut::Linear(l)),
            Layer::Attention(a) => {
                for l in [&mut a.query, &mut a.key, &mut a.value, &mut a.output] {
                    visit(WeightMut::Linear(l));
                }
            }
            Layer::Residual(r) => {
                for layers in [&mut r.body, &mut r.shortcut, &mut r.then] {
                    each_weight(layers, visit);
                }
            }
            Layer::Repeat(r) => each_weight(&mut r.layers, visit),
            _ => {}
        }
    }
}

/// The network with these adapters in its backbone.
///
/// # Errors
/// When an adapter has nothing to act on, or names what the network does not have or what carries one already.
pub fn apply(network: &Network, adapters: &[Adapter]) -> Result<Network> {
    let mut network = network.clone();
    for adapter in adapters {
        match adapter {
            Adapter::Lora { rank, alpha, dropout, layers } => {
                let low = LowRank { rank: *rank, alpha: *alpha, dropout: *dropout };
                if *rank == 0 || !alpha.is_finite() || !(0.0..1.0).contains(dropout) {
                    let reason = format!("rank {rank}, alpha {alpha} and dropout {dropout} do not make sense");
                    return Err(Error::input("lora", reason, "use a rank of 1 or more and a dropout below 1"));
                }
                update(&mut network, "lora", layers.iter().map(|name| (name.as_str(), Update::LowRank(low))))?;
            }
            Adapter::Ia3 { outputs, inputs } => {
                let behind = outputs.iter().map(|name| (name.as_str(), Update::Rescale(Side::Outputs)));
                let before = inputs.iter().map(|name| (name.as_str(), Update::Rescale(Side::Inputs)));
                update(&mut network, "ia3", behind.chain(before))?;
            }
            Adapter::Bottleneck { width, placement, blocks } => {
                bottlenecks(&mut network, *width, *placement, blocks)?;
            }
            Adapter::Prefix { length, attentions } => prefixes(&mut network, *length, attentions)?,
        }
    }
    Ok(network)
}

fn update<'n>(network: &mut Network, kind: &str, of: impl Iterator<Item = (&'n str, Update)>) -> Result<()> {
    let mut of: BTreeMap<&str, Update> = of.collect();
    let known: Vec<String> = network.sites().into_iter().map(|site| site.name).collect();
    all_known(kind, "linear layer or convolution", of.keys().copied(), &known, network)?;
    let mut refused = None;
    for stage in &mut network.stages {
        each_weight(&mut stage.layers, &mut |weight| {
            let (name, place, groups, smaller) = match weight {
                WeightMut::Linear(l) => (&l.name, &mut l.update, 1, l.inputs.min(l.outputs)),
                WeightMut::Conv(c) => {
                    let taps = c.window.kernel[0] * c.window.kernel[1];
                    (&c.name, &mut c.update, c.groups, (c.inputs * taps).min(c.outputs))
                }
            };
            let Some(update) = of.remove(name.as_str()) else { return };
            let reason = match update {
                _ if place.is_some() => Some("it carries an adapter already".to_string()),
                Update::LowRank(_) if groups > 1 => Some("it is a convolution of several groups".into()),
                Update::LowRank(low) if low.rank > smaller => {
                    Some(format!("a rank of {} is above its own, which is at most {smaller}", low.rank))
                }
                _ => None,
            };
            match reason {
                Some(reason) => drop(refused.get_or_insert((name.clone(), reason))),
                None => *place = Some(update),
            }
        });
    }
    match refused {
        Some((name, reason)) => {
            Err(Error::input(format!("{kind} on {name}"), reason, "choose other --targets, or a lower --rank"))
        }
        None => Ok(()),
    }
}

fn bottlenecks(network: &mut Network, width: usize, placement: Placement, blocks: &[String]) -> Result<()> {
    let known = network.blocks();
    all_known("adapter", "residual block", blocks.iter().map(String::as_str), &known, network)?;
    let present = found(network).into_iter().filter_map(|adapter| match adapter {
        Adapter::Bottleneck { blocks, .. } => Some(blocks),
        _ => None,
    });
    if let Some(name) = present.flatten().find(|name| blocks.contains(name)) {
        return Err(Error::input(format!("adapter in {name}"), "there is one already", "choose other --targets"));
    }
    if width == 0 {
        return Err(Error::input("adapter", "a width of 0 lets nothing through", "use 1 or more"));
    }
    let wanted: BTreeSet<&str> = blocks.iter().map(String::as_str).collect();
    for stage in &mut network.stages {
        if let Some((_, channels)) = last_weight(&stage.layers).filter(|_| wanted.contains(stage.name.as_str())) {
            if placement == Placement::Parallel {
                let reason = format!("{} has no residual blocks, so nothing is added beside them", network.name);
                return Err(Error::input("adapter", reason, "use --adapter-placement sequential, or another model"));
            }
            stage.layers.push(bottleneck(&stage.name, channels, width));
            continue;
        }
        into_blocks(&mut stage.layers, &wanted, width, placement);
    }
    Ok(())
}

/// Puts a bottleneck into each of the `wanted` blocks among `layers`.
fn into_blocks(layers: &mut Vec<Layer>, wanted: &BTreeSet<&str>, width: usize, placement: Placement) {
    for mut layer in std::mem::take(layers) {
        let mut behind = None;
        match &mut layer {
            Layer::Repeat(r) => into_blocks(&mut r.layers, wanted, width, placement),
            Layer::Residual(r) => {
                if let Some((name, channels)) = block(r).filter(|(name, _)| wanted.contains(name.as_str())) {
                    let adapter = bottleneck(&name, channels, width);
                    match placement {
                        // What the sum takes from beside the body: the block's input, projected where the block does so.
                        Placement::Parallel => r.shortcut.push(adapter),
                        Placement::Sequential if r.then.iter().any(|layer| matches!(layer, Layer::LayerNorm(_))) => {
                            r.body.push(adapter);
                        }
                        Placement::Sequential => behind = Some(adapter),
                    }
                }
            }
            _ => {}
        }
        layers.push(layer);
        layers.extend(behind);
    }
}

fn bottleneck(block: &str, channels: usize, width: usize) -> Layer {
    let part = |name: &str, inputs, outputs| {
        let name = format!("{block}.adapter.{name}");
        Layer::Linear(Linear { name, inputs, outputs, bias: true, update: None })
    };
    let body = vec![part("down", channels, width), Layer::Act(Act::Gelu), part("up", width, channels)];
    Layer::Adapter(Residual { body, shortcut: vec![], then: vec![] })
}

fn prefixes(network: &mut Network, length: usize, attentions: &[String]) -> Result<()> {
    let known = network.attentions();
    all_known("prefix", "attention", attentions.iter().map(String::as_str), &known, network)?;
    if length == 0 {
        return Err(Error::input("prefix", "a length of 0 adds nothing", "use 1 or more"));
    }
    let mut taken = None;
    for stage in &mut network.stages {
        each_attention(&mut stage.layers, &mut |a| {
            let name = parent(&a.key.name).to_string();
            if !attentions.contains(&name) {
            } else if a.prefix.is_some() {
                taken = Some(name);
            } else {
                a.prefix = Some(Prefix { name: format!("{name}.prefix"), length });
            }
        });
    }
    match taken {
        Some(name) => Err(Error::input(format!("prefix in {name}"), "there is one already", "choose other --targets")),
        None => Ok(()),
    }
}

fn each_attention(layers: &mut [Layer], visit: &mut dyn FnMut(&mut Attention)) {
    for layer in layers {
        match layer {
            Layer::Attention(a) => visit(a),
            Layer::Residual(r) => {
                for layers in [&mut r.body, &mut r.shortcut, &mut r.then] {
                    each_attention(layers, visit);
                }
            }
            Layer::Repeat(r) => each_attention(&mut r.layers, visit),
            _ => {}
        }
    }
}

/// An error unless there are names and all of them are known.
fn all_known<'n>(
    kind: &str,
    what: &str,
    names: impl Iterator<Item = &'n str>,
    known: &[String],
    network: &Network,
) -> Result<()> {
    let mut names = names.peekable();
    if known.is_empty() || names.peek().is_none() {
        let reason = format!("{} has no {what} for it to act on", network.name);
        return Err(Error::input(kind, reason, "use another strategy, or another model"));
    }
    match names.find(|name| !known.iter().any(|known| known == name)) {
        None => Ok(()),
        Some(name) => {
            let some: Vec<&str> = known.iter().rev().take(4).map(String::as_str).collect();
            Err(Error::input(
                format!("{kind} on {name}"),
                format!("no {what} of {} is called so or has this among the parts of its name", network.name),
                format!("use whole parts of names such as {}", some.join(", ")),
            ))
        }
    }
}

#[cfg(test)]
mod tests;
