//! ResNet (He et al. 2016, *Deep Residual Learning for Image Recognition*), as torchvision and timm build it: the
//! stride of a bottleneck is on its 3 × 3 convolution, the shortcut of a changed shape is a 1 × 1 convolution.
//!
//! Parameter names are torchvision's; timm has the same.

use topwork_core::net::{Act, Layer, Network, Residual, Stage, Window};

use super::{act, batch_norm, conv, linear};

const EPS: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;

/// `resnet18` … `resnet152` with a head of `classes` outputs, or `None` for another name.
pub fn by_name(name: &str, classes: usize) -> Option<Network> {
    let (blocks, bottleneck) = match name {
        "resnet18" => ([2, 2, 2, 2], false),
        "resnet34" => ([3, 4, 6, 3], false),
        "resnet50" => ([3, 4, 6, 3], true),
        "resnet101" => ([3, 4, 23, 3], true),
        "resnet152" => ([3, 8, 36, 3], true),
        _ => return None,
    };
    Some(resnet(name, &blocks, 64, bottleneck, classes))
}

/// A ResNet of `blocks.len()` layers; the first works on `width` channels, each further one on twice as many at half
/// the resolution. Input `[samples, height, width, 3]`.
pub fn resnet(name: &str, blocks: &[usize], width: usize, bottleneck: bool, classes: usize) -> Network {
    let mut stages = vec![Stage {
        name: "conv1".into(),
        layers: vec![
            conv("conv1", 3, width, Window::square(7, 2), 1),
            norm("bn1", width),
            act(Act::Relu),
            Layer::MaxPool(Window::square(3, 2)),
        ],
    }];
    let mut inputs = width;
    for (i, &count) in blocks.iter().enumerate() {
        let channels = width << i;
        let outputs = if bottleneck { 4 * channels } else { channels };
        let mut layers = Vec::with_capacity(count);
        for block in 0..count {
            let stride = if i > 0 && block == 0 { 2 } else { 1 };
            let prefix = format!("layer{}.{block}", i + 1);
            layers.push(residual(&prefix, inputs, channels, outputs, stride, bottleneck));
            inputs = outputs;
        }
        stages.push(Stage { name: format!("layer{}", i + 1), layers });
    }
    stages.push(Stage { name: "avgpool".into(), layers: vec![Layer::AdaptiveAvgPool([1, 1]), Layer::Flatten] });
    let head = Stage { name: "head".into(), layers: vec![linear("fc", inputs, classes)] };
    Network { name: name.into(), stages, head, input: vec![224, 224, 3] }
}

fn residual(prefix: &str, inputs: usize, channels: usize, outputs: usize, stride: usize, bottleneck: bool) -> Layer {
    let part = |name: &str| format!("{prefix}.{name}");
    let mut body = if bottleneck {
        vec![
            conv(part("conv1"), inputs, channels, Window::square(1, 1), 1),
            norm(part("bn1"), channels),
            act(Act::Relu),
            conv(part("conv2"), channels, channels, Window::square(3, stride), 1),
        ]
    } else {
        vec![conv(part("conv1"), inputs, channels, Window::square(3, stride), 1)]
    };
    let (middle, last, kernel) = if bottleneck { ("bn2", "3", 1) } else { ("bn1", "2", 3) };
    body.extend([
        norm(part(middle), channels),
        act(Act::Relu),
        conv(part(&format!("conv{last}")), channels, outputs, Window::square(kernel, 1), 1),
        norm(part(&format!("bn{last}")), outputs),
    ]);
    let shortcut = if stride == 1 && inputs == outputs {
        vec![]
    } else {
        vec![
            conv(part("downsample.0"), inputs, outputs, Window::square(1, stride), 1),
            norm(part("downsample.1"), outputs),
        ]
    };
    Layer::Residual(Residual { body, shortcut, then: vec![act(Act::Relu)] })
}

fn norm(name: impl Into<String>, width: usize) -> Layer {
    batch_norm(name, width, EPS, MOMENTUM)
}
