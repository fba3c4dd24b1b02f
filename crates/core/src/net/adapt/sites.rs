//! Where adapters may go: the weights, blocks and attentions of a backbone, by their names.

use crate::net::{Layer, Network, Residual};

/// A layer with a weight, in a backbone.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// What it is.
    pub place: Place,
    /// Whether an activation comes right before it.
    pub activated: bool,
    /// Whether it is the last such layer of a residual block: the one behind the block's inner activations.
    pub inner: bool,
    /// Whether it is a convolution of several groups.
    pub grouped: bool,
}

/// Where a weight is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The queries of an attention.
    Query,
    /// Its keys.
    Key,
    /// Its values.
    Value,
    /// Its output projection.
    Output,
    /// Another linear layer.
    Linear,
    /// A convolution.
    Conv,
}

/// Whether `target` is a run of whole parts of `name`: `query`, `layer4`, `layer.5.attention`.
pub fn matches(name: &str, target: &str) -> bool {
    let (name, target): (Vec<&str>, Vec<&str>) = (name.split('.').collect(), target.split('.').collect());
    name.windows(target.len()).any(|part| part == target)
}

impl Network {
    /// The layers with a weight in the backbone, in order; those that adapters brought are not among them.
    pub fn sites(&self) -> Vec<Site> {
        let mut found = Vec::new();
        self.stages.iter().for_each(|stage| sites(&stage.layers, &mut found));
        found
    }

    /// The residual blocks of the backbone, each called as what its last layer lies in: `layer1.0`,
    /// `encoder.layer.0.attention.output`. Of a network without any: the stages with weights.
    pub fn blocks(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.stages.iter().for_each(|stage| blocks(&stage.layers, &mut found));
        if !found.is_empty() {
            return found;
        }
        let stages = self.stages.iter().filter(|stage| last_weight(&stage.layers).is_some());
        stages.map(|stage| stage.name.clone()).collect()
    }

    /// The attentions of the backbone, each called as what its keys lie in: `encoder.layer.0.attention.self`.
    pub fn attentions(&self) -> Vec<String> {
        let keys = self.sites().into_iter().filter(|site| site.place == Place::Key);
        keys.map(|site| parent(&site.name).to_string()).collect()
    }
}

fn blocks(layers: &[Layer], out: &mut Vec<String>) {
    for layer in layers {
        match layer {
            Layer::Residual(r) => out.extend(block(r).map(|(name, _)| name)),
            Layer::Repeat(r) => blocks(&r.layers, out),
            _ => {}
        }
    }
}

fn sites(layers: &[Layer], out: &mut Vec<Site>) {
    let mut activated = false;
    let site =
        |name: &str, place, activated, grouped| Site { name: name.into(), place, activated, inner: false, grouped };
    for layer in layers {
        match layer {
            Layer::Act(_) => activated = true,
            Layer::Dropout(_) | Layer::MaxPool(_) | Layer::Adapter(_) => {}
            Layer::Conv(c) => {
                out.push(site(&c.name, Place::Conv, activated, c.groups > 1));
                activated = false;
            }
            Layer::Linear(l) => {
                out.push(site(&l.name, Place::Linear, activated, false));
                activated = false;
            }
            Layer::Attention(a) => {
                let parts = [
                    (&a.query, Place::Query),
                    (&a.key, Place::Key),
                    (&a.value, Place::Value),
                    (&a.output, Place::Output),
                ];
                out.extend(parts.map(|(l, place)| site(&l.name, place, false, false)));
                activated = false;
            }
            Layer::Residual(r) => {
                let first = out.len();
                sites(&r.body, out);
                if let Some(last) = out[first..].iter_mut().rev().find(|site| site.activated) {
                    last.inner = true;
                }
                sites(&r.shortcut, out);
                sites(&r.then, out);
                activated = matches!(r.then.last(), Some(Layer::Act(_)));
            }
            Layer::Repeat(r) => {
                sites(&r.layers, out);
                activated = false;
            }
            Layer::BatchNorm(_)
            | Layer::LayerNorm(_)
            | Layer::AdaptiveAvgPool(_)
            | Layer::Flatten
            // Its own layers are too narrow for an adapter.
            | Layer::Gate(_)
            | Layer::Embed(_)
            | Layer::PoolRows(_) => activated = false,
        }
    }
}

/// All but the last part of a name.
pub(super) fn parent(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(parent, _)| parent)
}

/// Name and outputs of the last layer with a weight.
pub(super) fn last_weight(layers: &[Layer]) -> Option<(&str, usize)> {
    layers.iter().rev().find_map(|layer| match layer {
        Layer::Conv(c) => Some((c.name.as_str(), c.outputs)),
        Layer::Linear(l) => Some((l.name.as_str(), l.outputs)),
        Layer::Attention(a) => Some((a.output.name.as_str(), a.output.outputs)),
        Layer::Residual(r) => last_weight(&r.body),
        Layer::Repeat(r) => last_weight(&r.layers),
        _ => None,
    })
}

/// Name and width of a residual block.
pub(super) fn block(r: &Residual) -> Option<(String, usize)> {
    last_weight(&r.body).map(|(name, width)| (parent(name).to_string(), width))
}
