//! Networks without shortcuts: AlexNet (Krizhevsky 2014, *One weird trick for parallelizing convolutional neural
//! networks*, as torchvision builds it) and VGG (Simonyan & Zisserman 2015, *Very deep convolutional networks*,
//! configurations A, B, D and E).
//!
//! Parameter names are torchvision's, which number the layers of one sequence.

use topwork_core::net::{Act, Conv, Layer, Network, Padding, Stage, Window};

use super::{Architecture, Form, act, batch_norm, linear};

/// Width of the two hidden layers on top.
const HIDDEN: usize = 4096;

const ALEXNET: &str = "Krizhevsky: One weird trick for parallelizing convolutional neural networks, 2014";
const VGG: &str = "Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015";

/// All of them.
pub(super) static ALL: [Architecture; 9] = [
    Architecture {
        name: "alexnet",
        paper: ALEXNET,
        torchvision: true,
        timm: None,
        timm_args: &[],
        side: 224,
        form: Form::Plain(Plain::AlexNet),
    },
    vgg("vgg11", [1, 1, 2, 2, 2], false),
    vgg("vgg13", [2, 2, 2, 2, 2], false),
    vgg("vgg16", [2, 2, 3, 3, 3], false),
    vgg("vgg19", [2, 2, 4, 4, 4], false),
    vgg("vgg11_bn", [1, 1, 2, 2, 2], true),
    vgg("vgg13_bn", [2, 2, 2, 2, 2], true),
    vgg("vgg16_bn", [2, 2, 3, 3, 3], true),
    vgg("vgg19_bn", [2, 2, 4, 4, 4], true),
];

const fn vgg(name: &'static str, blocks: [usize; 5], normalizes: bool) -> Architecture {
    let form = Form::Plain(Plain::Vgg { blocks, normalizes });
    Architecture { name, paper: VGG, torchvision: true, timm: Some(name), timm_args: &[], side: 224, form }
}

/// A network without shortcuts.
#[derive(Debug, Clone, Copy)]
pub enum Plain {
    /// Five convolutions.
    AlexNet,
    /// Five blocks of 3 × 3 convolutions.
    Vgg {
        /// Convolutions of each block.
        blocks: [usize; 5],
        /// Whether each is followed by batch normalization.
        normalizes: bool,
    },
}

impl Plain {
    /// The description, called `name`, with a head of `classes` outputs. Input `[samples, height, width, 3]`.
    pub fn network(&self, name: &str, classes: usize) -> Network {
        match *self {
            Self::AlexNet => alexnet(name, classes),
            Self::Vgg { blocks, normalizes } => layered(name, blocks, normalizes, classes),
        }
    }

    /// timm's names and shapes of the linear layers on top of VGG, which it has as convolutions.
    pub(super) fn timm_names(&self) -> &'static [(&'static str, &'static str, &'static [usize])] {
        match self {
            Self::AlexNet => &[],
            Self::Vgg { .. } => &[
                ("classifier.0", "pre_logits.fc1", &[7, 7]),
                ("classifier.3", "pre_logits.fc2", &[1, 1]),
                ("classifier.6", "head.fc", &[]),
            ],
        }
    }
}

/// A stage for each pooling, so that a part of the network can be frozen.
fn layered(name: &str, blocks: [usize; 5], normalizes: bool, classes: usize) -> Network {
    let (mut stages, mut number, mut inputs) = (Vec::new(), 0, 3);
    for (i, (count, outputs)) in blocks.into_iter().zip([64, 128, 256, 512, 512]).enumerate() {
        let mut layers = Vec::new();
        for _ in 0..count {
            layers.push(convolution(number, inputs, outputs, Window::square(3, 1)));
            number += 1;
            if normalizes {
                layers.push(batch_norm(format!("features.{number}"), outputs, 1e-5, 0.1));
                number += 1;
            }
            layers.push(act(Act::Relu));
            number += 1;
            inputs = outputs;
        }
        layers.push(Layer::MaxPool(Window { padding: Padding::Even([0; 2]), ..Window::square(2, 2) }));
        number += 1;
        stages.push(Stage { name: format!("block{}", i + 1), layers });
    }
    stages.push(Stage { name: "avgpool".into(), layers: vec![Layer::AdaptiveAvgPool([7, 7]), Layer::Flatten] });
    let hidden = vec![
        linear("classifier.0", 512 * 7 * 7, HIDDEN),
        act(Act::Relu),
        Layer::Dropout(0.5),
        linear("classifier.3", HIDDEN, HIDDEN),
        act(Act::Relu),
    ];
    stages.push(Stage { name: "hidden".into(), layers: hidden });
    let head =
        Stage { name: "head".into(), layers: vec![Layer::Dropout(0.5), linear("classifier.6", HIDDEN, classes)] };
    Network { name: name.into(), stages, head, input: vec![224, 224, 3] }
}

fn alexnet(name: &str, classes: usize) -> Network {
    let pool = Layer::MaxPool(Window { padding: Padding::Even([0; 2]), ..Window::square(3, 2) });
    let first = Window { padding: Padding::Even([2; 2]), ..Window::square(11, 4) };
    let part = |number, inputs, outputs, window| [convolution(number, inputs, outputs, window), act(Act::Relu)];
    let stage = |name: &str, layers: Vec<Layer>| Stage { name: name.into(), layers };
    let three = Window::square(3, 1);
    let stages = vec![
        stage("conv1", [part(0, 3, 64, first).to_vec(), vec![pool.clone()]].concat()),
        stage("conv2", [part(3, 64, 192, Window::square(5, 1)).to_vec(), vec![pool.clone()]].concat()),
        stage("conv3", part(6, 192, 384, three).to_vec()),
        stage("conv4", part(8, 384, 256, three).to_vec()),
        stage("conv5", [part(10, 256, 256, three).to_vec(), vec![pool]].concat()),
        stage("avgpool", vec![Layer::AdaptiveAvgPool([6, 6]), Layer::Flatten]),
        stage(
            "hidden",
            vec![
                Layer::Dropout(0.5),
                linear("classifier.1", 256 * 6 * 6, HIDDEN),
                act(Act::Relu),
                Layer::Dropout(0.5),
                linear("classifier.4", HIDDEN, HIDDEN),
                act(Act::Relu),
            ],
        ),
    ];
    let head = Stage { name: "head".into(), layers: vec![linear("classifier.6", HIDDEN, classes)] };
    Network { name: name.into(), stages, head, input: vec![224, 224, 3] }
}

fn convolution(number: usize, inputs: usize, outputs: usize, window: Window) -> Layer {
    Layer::Conv(Conv {
        name: format!("features.{number}"),
        inputs,
        outputs,
        window,
        groups: 1,
        bias: true,
        update: None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::network;

    #[test]
    fn layers_are_numbered_as_in_torchvision() {
        let names = |architecture: &str| -> Vec<String> {
            let specs = network(architecture, 2, 224).unwrap().params().into_iter();
            specs.filter_map(|spec| spec.name.strip_suffix(".weight").map(str::to_string)).collect()
        };
        let last = names("vgg16");
        assert_eq!(last[last.len() - 4..], ["features.28", "classifier.0", "classifier.3", "classifier.6"]);
        let last = names("vgg11_bn");
        assert_eq!(last[last.len() - 5..last.len() - 3], ["features.25", "features.26"]);
    }

    #[test]
    fn other_names_are_not_known() {
        assert!(network("vgg12", 2, 224).is_none() && network("alexnet_bn", 2, 224).is_none());
    }
}
