//! The networks for photos, as values of [`topwork_core::net::Network`], and the weights known by name.
//!
//! One file per family. What differs between two sets of weights of one architecture (input size, normalization,
//! interpolation) is no part of the description: it is [`preprocessing`] here, or the model folder's own
//! `config.json`.

pub mod cards;
pub mod efficientnet_lite;
pub mod plain;
pub mod resnet;

use std::collections::BTreeMap;

use candle_core::Tensor;
use topwork_core::net::{Act, BatchNorm, Conv, Layer, Linear, Network, Window};

use crate::pipeline::{Interpolation, Pipeline};

/// Every architecture that can be built, by the name that cards and the command line use.
pub const ARCHITECTURES: [&str; 15] = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    efficientnet_lite::NAME,
    "alexnet",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "vgg11_bn",
    "vgg13_bn",
    "vgg16_bn",
    "vgg19_bn",
];

/// The description of `architecture` (our name or timm's) with a head of `classes` outputs, or `None` when it is not
/// known. `side` is the height and width of the input, for counting.
pub fn network(architecture: &str, classes: usize, side: usize) -> Option<Network> {
    let mut network = match architecture {
        efficientnet_lite::NAME | efficientnet_lite::TIMM_NAME => efficientnet_lite::lite0(classes),
        other => resnet::by_name(other, classes).or_else(|| plain::by_name(other, classes))?,
    };
    network.input = vec![side, side, 3];
    Some(network)
}

/// What timm calls the architecture of `network`.
pub fn timm_name(network: &Network) -> &str {
    if network.name == efficientnet_lite::NAME { efficientnet_lite::TIMM_NAME } else { &network.name }
}

/// The preprocessing of the known weights of `architecture`, for folders that do not say.
pub fn preprocessing(architecture: &str) -> Pipeline {
    if matches!(architecture, efficientnet_lite::NAME | efficientnet_lite::TIMM_NAME) {
        let half = [0.5; 3];
        Pipeline { mean: half, std: half, interpolation: Interpolation::Bicubic, ..Pipeline::imagenet() }
    } else {
        Pipeline::imagenet()
    }
}

/// The architecture whose backbone needs exactly the tensors of a checkpoint that says nothing about itself: all
/// names present with the right shapes and, but for the head, none left over.
pub fn identify(weights: &BTreeMap<String, Tensor>) -> Option<&'static str> {
    ARCHITECTURES.into_iter().find(|architecture| {
        network(architecture, 2, 224).is_some_and(|network| {
            let specs: Vec<_> = network.stages.iter().flat_map(|stage| stage.params()).collect();
            let head = network.head.params().len();
            specs.iter().all(|spec| weights.get(&spec.name).is_some_and(|t| t.dims() == spec.shape))
                && weights.len() <= specs.len() + head
        })
    })
}

/// The parameter prefix of the last layer: `fc`, `classifier`.
pub fn head_prefix(network: &Network) -> &str {
    let last = network.head.layers.iter().rev();
    last.filter_map(|layer| if let Layer::Linear(linear) = layer { Some(linear.name.as_str()) } else { None })
        .next()
        .unwrap_or_default()
}

fn conv(name: impl Into<String>, inputs: usize, outputs: usize, window: Window, groups: usize) -> Layer {
    Layer::Conv(Conv { name: name.into(), inputs, outputs, window, groups, bias: false, update: None })
}

fn batch_norm(name: impl Into<String>, width: usize, eps: f64, momentum: f64) -> Layer {
    Layer::BatchNorm(BatchNorm { name: name.into(), width, eps, momentum })
}

fn linear(name: impl Into<String>, inputs: usize, outputs: usize) -> Layer {
    Layer::Linear(Linear { name: name.into(), inputs, outputs, bias: true, update: None })
}

fn act(act: Act) -> Layer {
    Layer::Act(act)
}
