//! Networks without shortcuts: AlexNet (Krizhevsky 2014, *One weird trick for parallelizing convolutional neural
//! networks*, as torchvision builds it) and VGG (Simonyan & Zisserman 2015, *Very deep convolutional networks*,
//! configurations A, B, D and E).
//!
//! Parameter names are torchvision's, which number the layers of one sequence.

use topwork_core::net::{Act, Conv, Layer, Network, Padding, Stage, Window};

use super::{act, batch_norm, linear};

/// Width of the two hidden layers on top.
const HIDDEN: usize = 4096;

/// `alexnet`, `vgg11` … `vgg19` or `vgg11_bn` … `vgg19_bn` with a head of `classes` outputs, or `None` for another name.
pub fn by_name(name: &str, classes: usize) -> Option<Network> {
    let (depth, normalizes) = match name.strip_suffix("_bn") {
        Some(depth) => (depth, true),
        None => (name, false),
    };
    let blocks = match depth {
        "alexnet" if !normalizes => return Some(alexnet(classes)),
        "vgg11" => [1, 1, 2, 2, 2],
        "vgg13" => [2, 2, 2, 2, 2],
        "vgg16" => [2, 2, 3, 3, 3],
        "vgg19" => [2, 2, 4, 4, 4],
        _ => return None,
    };
    Some(vgg(name, blocks, normalizes, classes))
}

/// A stage for each pooling, so that a part of the network can be frozen.
fn vgg(name: &str, blocks: [usize; 5], normalizes: bool, classes: usize) -> Network {
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

fn alexnet(classes: usize) -> Network {
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
    Network { name: "alexnet".into(), stages, head, input: vec![224, 224, 3] }
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
    use super::*;

    #[test]
    fn layers_are_numbered_as_in_torchvision() {
        let names = |network: Network| -> Vec<String> {
            let specs = network.params().into_iter();
            specs.filter_map(|spec| spec.name.strip_suffix(".weight").map(str::to_string)).collect()
        };
        let last = names(by_name("vgg16", 2).unwrap());
        assert_eq!(last[last.len() - 4..], ["features.28", "classifier.0", "classifier.3", "classifier.6"]);
        let last = names(by_name("vgg11_bn", 2).unwrap());
        assert_eq!(last[last.len() - 5..last.len() - 3], ["features.25", "features.26"]);
    }

    #[test]
    fn other_names_are_not_known() {
        assert!(by_name("vgg12", 2).is_none() && by_name("alexnet_bn", 2).is_none());
    }
}
