//! The way back from an edited network: which adapters it carries, what it was without them, and weights that compute the
//! same alone.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::sites::parent;
use super::{Adapter, Placement, WeightMut, each_attention, each_weight};
use crate::Result;
use crate::net::update::Weighted;
use crate::net::{Layer, LowRank, Network, Params, Side, Stage, Update};

/// The adapters that a network carries, those of one setting together.
pub fn found(network: &Network) -> Vec<Adapter> {
    let mut network = network.clone();
    let mut found: Vec<Adapter> = Vec::new();
    for stage in &mut network.stages {
        each_weight(&mut stage.layers, &mut |weight| {
            let (name, update) = match weight {
                WeightMut::Linear(l) => (l.name.clone(), l.update),
                WeightMut::Conv(c) => (c.name.clone(), c.update),
            };
            match update {
                None => {}
                Some(Update::LowRank(LowRank { rank, alpha, dropout })) => {
                    put(&mut found, Adapter::Lora { rank, alpha, dropout, layers: vec![name] });
                }
                Some(Update::Rescale(Side::Inputs)) => {
                    put(&mut found, Adapter::Ia3 { outputs: vec![], inputs: vec![name] });
                }
                Some(Update::Rescale(Side::Outputs)) => {
                    put(&mut found, Adapter::Ia3 { outputs: vec![name], inputs: vec![] });
                }
            }
        });
        each_attention(&mut stage.layers, &mut |a| {
            if let Some(prefix) = &a.prefix {
                let attentions = vec![parent(&prefix.name).to_string()];
                put(&mut found, Adapter::Prefix { length: prefix.length, attentions });
            }
        });
        bottlenecks(&stage.layers, Placement::Sequential, &mut found);
    }
    found
}

fn bottlenecks(layers: &[Layer], placement: Placement, found: &mut Vec<Adapter>) {
    for layer in layers {
        match layer {
            Layer::Adapter(r) => {
                if let [Layer::Linear(down), ..] = &r.body[..] {
                    let blocks = vec![down.name.trim_end_matches(".adapter.down").to_string()];
                    put(found, Adapter::Bottleneck { width: down.outputs, placement, blocks });
                }
            }
            Layer::Residual(r) => {
                bottlenecks(&r.body, placement, found);
                bottlenecks(&r.shortcut, Placement::Parallel, found);
            }
            Layer::Repeat(r) => bottlenecks(&r.layers, placement, found),
            _ => {}
        }
    }
}

/// Joins an adapter with one of the same setting.
fn put(all: &mut Vec<Adapter>, one: Adapter) {
    for other in all.iter_mut() {
        match (other, &one) {
            (
                Adapter::Lora { rank, alpha, dropout, layers },
                Adapter::Lora { rank: r, alpha: a, dropout: d, layers: more },
            ) if (*rank, *alpha, *dropout) == (*r, *a, *d) => return layers.extend(more.iter().cloned()),
            (Adapter::Ia3 { outputs, inputs }, Adapter::Ia3 { outputs: behind, inputs: before }) => {
                outputs.extend(behind.iter().cloned());
                return inputs.extend(before.iter().cloned());
            }
            (
                Adapter::Bottleneck { width, placement, blocks },
                Adapter::Bottleneck { width: w, placement: p, blocks: more },
            ) if (*width, *placement) == (*w, *p) => return blocks.extend(more.iter().cloned()),
            (Adapter::Prefix { length, attentions }, Adapter::Prefix { length: l, attentions: more })
                if length == l =>
            {
                return attentions.extend(more.iter().cloned());
            }
            _ => {}
        }
    }
    all.push(one);
}

/// The network as it was before any adapter.
pub fn strip(network: &Network) -> Network {
    fn clean(layers: &mut Vec<Layer>) {
        layers.retain(|layer| !matches!(layer, Layer::Adapter(_)));
        for layer in layers {
            match layer {
                Layer::Residual(r) => [&mut r.body, &mut r.shortcut, &mut r.then].into_iter().for_each(clean),
                Layer::Repeat(r) => clean(&mut r.layers),
                Layer::Attention(a) => a.prefix = None,
                _ => {}
            }
        }
    }
    let mut network = without_updates(network);
    network.stages.iter_mut().for_each(|stage: &mut Stage| clean(&mut stage.layers));
    network
}

fn without_updates(network: &Network) -> Network {
    let mut network = network.clone();
    for stage in &mut network.stages {
        each_weight(&mut stage.layers, &mut |weight| match weight {
            WeightMut::Linear(l) => l.update = None,
            WeightMut::Conv(c) => c.update = None,
        });
    }
    network
}

/// Draws all updates into the weights: the network without them, and its parameters, which give the same outputs. What
/// cannot be merged stays.
///
/// # Errors
/// When a parameter is missing or of another shape.
pub fn merge(network: &Network, params: &Params) -> Result<(Network, BTreeMap<String, Tensor>)> {
    let mut values = params.snapshot();
    let mut updated = network.clone();
    let mut result = Ok(());
    for stage in &mut updated.stages {
        each_weight(&mut stage.layers, &mut |weight| {
            let layer = match &weight {
                WeightMut::Linear(l) => Weighted::Linear(l),
                WeightMut::Conv(c) => Weighted::Conv(c),
            };
            if layer.update().is_some() && result.is_ok() {
                result = merge_one(layer, params, &mut values);
            }
        });
    }
    result?;
    Ok((without_updates(network), values))
}

fn merge_one(layer: Weighted<'_>, params: &Params, values: &mut BTreeMap<String, Tensor>) -> Result<()> {
    let (weight, bias) = layer.merged(params)?;
    let mut specs = Vec::new();
    layer.update_params(&mut specs);
    specs.iter().for_each(|spec| drop(values.remove(&spec.name)));
    for (part, numbers) in [("weight", Some(weight)), ("bias", bias)] {
        let name = format!("{}.{part}", layer.name());
        if let (Some(numbers), Some(old)) = (numbers, values.get(&name)) {
            let new = Tensor::from_vec(numbers, old.dims(), old.device())?;
            values.insert(name, new);
        }
    }
    Ok(())
}
