//! The networks for photos, as values of [`topwork_core::net::Network`], and the weights known by name.
//!
//! One table per family, in a file of its own: [`plain`], [`resnet`], [`mobilenet`] and [`efficientnet`]. What differs
//! between two sets of weights of one architecture (input size, normalization, interpolation) is no part of the
//! description: it is in [`cards`], or in the model folder's own `config.json`.

pub mod cards;
pub mod efficientnet;
pub mod inverted;
pub mod mobilenet;
pub mod names;
pub mod plain;
pub mod resnet;

use std::collections::BTreeMap;

use candle_core::Tensor;
use topwork_core::Result;
use topwork_core::net::{Act, BatchNorm, Conv, Layer, Linear, Network, Window};

use self::inverted::Inverted;
use self::names::{Library, Other};
use self::plain::Plain;
use self::resnet::ResNet;

/// One architecture.
#[derive(Debug)]
pub struct Architecture {
    /// What cards and the command line call it: torchvision's name where it has the network.
    pub name: &'static str,
    /// Authors, title, year.
    pub paper: &'static str,
    /// Whether torchvision has the network, under this name.
    pub torchvision: bool,
    /// timm's name, where it has the network.
    pub timm: Option<&'static str>,
    /// What timm needs to be told besides.
    pub timm_args: &'static [(&'static str, f64)],
    /// Height and width of the photos it was designed for.
    pub side: usize,
    form: Form,
}

/// What a description is built from.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // Values of a static table.
enum Form {
    Plain(Plain),
    ResNet(ResNet),
    Inverted(Inverted),
}

/// Every architecture that can be built, family by family.
pub fn architectures() -> impl Iterator<Item = &'static Architecture> {
    plain::ALL.iter().chain(&resnet::ALL).chain(&mobilenet::ALL).chain(&efficientnet::ALL)
}

/// The architecture called `name`, by us or by timm.
pub fn architecture(name: &str) -> Option<&'static Architecture> {
    // Where timm has two of a name, the one that it needs to be told nothing about.
    let by_timm = |a: &&Architecture| a.timm == Some(name) && a.timm_args.is_empty();
    architectures().find(|a| a.name == name).or_else(|| architectures().find(by_timm))
}

impl Architecture {
    /// The description with a head of `classes` outputs.
    pub fn network(&self, classes: usize) -> Network {
        let mut network = match &self.form {
            Form::Plain(plain) => plain.network(self.name, classes),
            Form::ResNet(resnet) => resnet.network(self.name, classes),
            Form::Inverted(inverted) => inverted.network(self.name, classes),
        };
        network.input = vec![self.side, self.side, 3];
        network
    }

    /// `weights` under the description's names, from whichever library's they are under. Tensors that no library
    /// speaks of keep their names.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn canonical(&self, mut weights: BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
        for library in self.libraries() {
            let others: Vec<Other> = self.under(library, 1).into_iter().filter(|o| o.own != o.name).collect();
            let theirs = |other: &Other| weights.contains_key(&other.name);
            // Two libraries may share a few names, not all.
            if others.iter().filter(|other| theirs(other)).count() * 2 <= others.len() {
                continue;
            }
            let found: Vec<_> = others.iter().filter_map(|o| Some((o, weights.remove(&o.name)?))).collect();
            let shapes: BTreeMap<_, _> =
                self.network(1).params().into_iter().map(|s| (s.name, s.shape.len())).collect();
            for (other, tensor) in found {
                // A kernel over all that comes in is a matrix.
                let matrix = shapes.get(&other.own) == Some(&2) && tensor.rank() == 4;
                let tensor = if matrix { tensor.flatten_from(1)? } else { tensor };
                weights.insert(other.own.clone(), tensor);
            }
            break;
        }
        Ok(weights)
    }
}

/// The description of `architecture` (our name or timm's) with a head of `classes` outputs, or `None` when it is not
/// known. `side` is the height and width of the input, for counting.
pub fn network(name: &str, classes: usize, side: usize) -> Option<Network> {
    let mut network = architecture(name)?.network(classes);
    network.input = vec![side, side, 3];
    Some(network)
}

/// The architecture whose backbone needs exactly the tensors of a checkpoint that says nothing about itself, under any
/// library's names: all present with the right shapes and, but for the head, none left over.
pub fn identify(weights: &BTreeMap<String, Tensor>) -> Option<&'static Architecture> {
    architectures().find(|architecture| {
        let head = architecture.network(2).head.params().len();
        let mut libraries = vec![Library::Torchvision];
        libraries.extend(architecture.libraries());
        // timm's MobileNet-V3 differs from torchvision's in a number that no tensor shows: its names tell.
        let telling = |library: &Library| *library != Library::Timm || architecture.timm_args.is_empty();
        libraries.into_iter().filter(telling).any(|library| {
            let all = architecture.under(library, 2);
            let backbone = &all[..all.len() - head];
            backbone.iter().all(|other| weights.get(&other.name).is_some_and(|t| t.dims() == other.shape))
                && weights.len() <= all.len()
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
