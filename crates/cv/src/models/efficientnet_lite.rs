//! EfficientNet-Lite0 (Liu 2020, after Tan & Le 2019, *EfficientNet*): EfficientNet-B0 without squeeze-and-excitation,
//! ReLU6 in place of swish, so that it quantizes well. TensorFlow's "SAME" padding.
//!
//! Parameter names are those of timm's `tf_efficientnet_lite0`; [`canonical_name`] translates the ones of the
//! `efficientnet_lite_pytorch` package.

use topwork_core::net::{Act, Layer, Network, Residual, Stage, Window};

use super::{act, batch_norm, conv, linear};

/// Our name.
pub const NAME: &str = "efficientnet-lite0";
/// timm's name.
pub const TIMM_NAME: &str = "tf_efficientnet_lite0";

/// TensorFlow's epsilon. The momentum is timm's: TensorFlow's 0.99 leaves running statistics far behind in the few steps
/// of a small data set.
const EPS: f64 = 1e-3;
const MOMENTUM: f64 = 0.1;
const STEM: usize = 32;
const FEATURES: usize = 1280;

/// One stage of inverted residual blocks.
struct Blocks {
    count: usize,
    kernel: usize,
    stride: usize,
    expand: usize,
    outputs: usize,
}

const fn blocks(count: usize, kernel: usize, stride: usize, expand: usize, outputs: usize) -> Blocks {
    Blocks { count, kernel, stride, expand, outputs }
}

/// EfficientNet-B0's table (Tan & Le 2019, table 1).
const STAGES: [Blocks; 7] = [
    blocks(1, 3, 1, 1, 16),
    blocks(2, 3, 2, 6, 24),
    blocks(2, 5, 2, 6, 40),
    blocks(3, 3, 2, 6, 80),
    blocks(3, 5, 1, 6, 112),
    blocks(4, 5, 2, 6, 192),
    blocks(1, 3, 1, 6, 320),
];

/// EfficientNet-Lite0 with a head of `classes` outputs. Input `[samples, height, width, 3]`.
pub fn lite0(classes: usize) -> Network {
    let mut stages = vec![Stage {
        name: "conv_stem".into(),
        layers: vec![conv("conv_stem", 3, STEM, Window::square(3, 2).same(), 1), norm("bn1", STEM), act(Act::Relu6)],
    }];
    let mut inputs = STEM;
    for (i, stage) in STAGES.iter().enumerate() {
        let mut layers = Vec::new();
        for block in 0..stage.count {
            let stride = if block == 0 { stage.stride } else { 1 };
            layers.extend(inverted_residual(&format!("blocks.{i}.{block}"), inputs, stage, stride));
            inputs = stage.outputs;
        }
        stages.push(Stage { name: format!("blocks.{i}"), layers });
    }
    stages.push(Stage {
        name: "conv_head".into(),
        layers: vec![
            conv("conv_head", inputs, FEATURES, Window::square(1, 1).same(), 1),
            norm("bn2", FEATURES),
            act(Act::Relu6),
        ],
    });
    stages.push(Stage { name: "global_pool".into(), layers: vec![Layer::AdaptiveAvgPool([1, 1]), Layer::Flatten] });
    let head =
        Stage { name: "head".into(), layers: vec![Layer::Dropout(0.2), linear("classifier", FEATURES, classes)] };
    Network { name: NAME.into(), stages, head, input: vec![224, 224, 3] }
}

/// The layers of one block: expand, filter each channel, project; with a shortcut where the shape stays. Without
/// expansion timm numbers the two remaining normalizations from 1.
fn inverted_residual(prefix: &str, inputs: usize, stage: &Blocks, stride: usize) -> Vec<Layer> {
    let part = |name: &str| format!("{prefix}.{name}");
    let channels = inputs * stage.expand;
    let one = Window::square(1, 1).same();
    let mut body = Vec::new();
    let (filtered, project, projected) = if stage.expand > 1 {
        body.extend([conv(part("conv_pw"), inputs, channels, one, 1), norm(part("bn1"), channels), act(Act::Relu6)]);
        ("bn2", "conv_pwl", "bn3")
    } else {
        ("bn1", "conv_pw", "bn2")
    };
    body.extend([
        conv(part("conv_dw"), channels, channels, Window::square(stage.kernel, stride).same(), channels),
        norm(part(filtered), channels),
        act(Act::Relu6),
        conv(part(project), channels, stage.outputs, one, 1),
        norm(part(projected), stage.outputs),
    ]);
    if stride == 1 && inputs == stage.outputs {
        vec![Layer::Residual(Residual { body, shortcut: vec![], then: vec![] })]
    } else {
        body
    }
}

fn norm(name: impl Into<String>, width: usize) -> Layer {
    batch_norm(name, width, EPS, MOMENTUM)
}

/// timm's name for a parameter of the `efficientnet_lite_pytorch` package (`_blocks.3._project_conv.weight`), or
/// `None` when it is not one of its names. The package counts all blocks in one sequence.
pub fn canonical_name(name: &str) -> Option<String> {
    if let Some(rest) = name.strip_prefix("_blocks.") {
        let (index, rest) = rest.split_once('.')?;
        let (layer, parameter) = rest.split_once('.')?;
        let (stage, block) = position(index.parse().ok()?)?;
        let expands = STAGES[stage].expand > 1;
        let layer = match (layer, expands) {
            ("_expand_conv", true) | ("_project_conv", false) => "conv_pw",
            ("_depthwise_conv", _) => "conv_dw",
            ("_project_conv", true) => "conv_pwl",
            ("_bn0", true) | ("_bn1", false) => "bn1",
            ("_bn1", true) | ("_bn2", false) => "bn2",
            ("_bn2", true) => "bn3",
            _ => return None,
        };
        return Some(format!("blocks.{stage}.{block}.{layer}.{parameter}"));
    }
    let (layer, parameter) = name.split_once('.')?;
    let layer = match layer {
        "_conv_stem" => "conv_stem",
        "_bn0" => "bn1",
        "_conv_head" => "conv_head",
        "_bn1" => "bn2",
        "_fc" => "classifier",
        _ => return None,
    };
    Some(format!("{layer}.{parameter}"))
}

/// Stage and block of the `index`-th block.
fn position(index: usize) -> Option<(usize, usize)> {
    let mut first = 0;
    for (i, stage) in STAGES.iter().enumerate() {
        if index < first + stage.count {
            return Some((i, index - first));
        }
        first += stage.count;
    }
    None
}
