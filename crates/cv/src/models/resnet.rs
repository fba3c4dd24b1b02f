//! ResNet (He et al. 2016, *Deep Residual Learning for Image Recognition*), Wide ResNet (Zagoruyko & Komodakis 2016) and
//! ResNeXt (Xie et al. 2017, *Aggregated Residual Transformations*), as torchvision and timm build them: the stride of a
//! bottleneck is on its 3 × 3 convolution, the shortcut of a changed shape is a 1 × 1 convolution.
//!
//! Parameter names are torchvision's; timm has the same.

use topwork_core::net::{Act, Layer, Network, Residual, Stage, Window};

use super::{Architecture, Form, act, batch_norm, conv, linear};

const EPS: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;

const RESNET: &str = "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016";
const WIDE: &str = "Zagoruyko, Komodakis: Wide Residual Networks, BMVC 2016";
const RESNEXT: &str =
    "Xie, Girshick, Dollár, Tu, He: Aggregated Residual Transformations for Deep Neural Networks, CVPR 2017";

/// All of them.
pub(super) static ALL: [Architecture; 12] = [
    known("resnet18", RESNET, ResNet::basic(&[2, 2, 2, 2])),
    known("resnet34", RESNET, ResNet::basic(&[3, 4, 6, 3])),
    known("resnet50", RESNET, ResNet::deep(&[3, 4, 6, 3], 1, 64)),
    known("resnet101", RESNET, ResNet::deep(&[3, 4, 23, 3], 1, 64)),
    known("resnet152", RESNET, ResNet::deep(&[3, 8, 36, 3], 1, 64)),
    known("wide_resnet50_2", WIDE, ResNet::deep(&[3, 4, 6, 3], 1, 128)),
    known("wide_resnet101_2", WIDE, ResNet::deep(&[3, 4, 23, 3], 1, 128)),
    known("resnext50_32x4d", RESNEXT, ResNet::deep(&[3, 4, 6, 3], 32, 4)),
    known("resnext101_32x8d", RESNEXT, ResNet::deep(&[3, 4, 23, 3], 32, 8)),
    known("resnext101_64x4d", RESNEXT, ResNet::deep(&[3, 4, 23, 3], 64, 4)),
    small("resnet18-32px", ResNet { stem: Stem::Pixels32, ..ResNet::basic(&[2, 2, 2, 2]) }),
    // Half of ResNet-18's width, and fewer blocks where the pixels are many: 2.8 million parameters, 0.1 billion
    // multiply-adds for 32 × 32 pixels.
    small("tiny-resnet", ResNet { stem: Stem::Pixels32, width: 32, ..ResNet::basic(&[1, 1, 2, 2]) }),
];

const fn known(name: &'static str, paper: &'static str, resnet: ResNet) -> Architecture {
    Architecture {
        name,
        paper,
        torchvision: true,
        timm: Some(name),
        timm_args: &[],
        side: 224,
        form: Form::ResNet(resnet),
    }
}

const fn small(name: &'static str, resnet: ResNet) -> Architecture {
    Architecture {
        name,
        paper: RESNET,
        torchvision: false,
        timm: None,
        timm_args: &[],
        side: 32,
        form: Form::ResNet(resnet),
    }
}

/// A ResNet of `blocks.len()` layers; the first works on `width` channels, each further one on twice as many at half
/// the resolution.
#[derive(Debug, Clone, Copy)]
pub struct ResNet {
    /// Residual blocks of each layer.
    pub blocks: &'static [usize],
    /// Channels of the stem.
    pub width: usize,
    /// Blocks of 1 × 1, 3 × 3 and 1 × 1 convolutions in place of two 3 × 3 ones.
    pub bottleneck: Option<Bottleneck>,
    /// What comes before the first layer.
    pub stem: Stem,
}

/// The 3 × 3 convolution of a bottleneck.
#[derive(Debug, Clone, Copy)]
pub struct Bottleneck {
    /// Channel groups: the cardinality of ResNeXt.
    pub groups: usize,
    /// Channels of one group where the layer is 64 wide.
    pub group_width: usize,
}

/// How photos come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stem {
    /// 7 × 7 with stride 2, and a maximum of 3 × 3 with stride 2.
    Photo,
    /// 3 × 3 with stride 1, for images of 32 × 32 (He et al. 2016, §4.2).
    Pixels32,
}

impl ResNet {
    /// Basic blocks.
    pub const fn basic(blocks: &'static [usize]) -> Self {
        Self { blocks, width: 64, bottleneck: None, stem: Stem::Photo }
    }

    /// Bottlenecks.
    pub const fn deep(blocks: &'static [usize], groups: usize, group_width: usize) -> Self {
        let bottleneck = Some(Bottleneck { groups, group_width });
        Self { blocks, width: 64, bottleneck, stem: Stem::Photo }
    }

    /// The description, called `name`, with a head of `classes` outputs. Input `[samples, height, width, 3]`.
    pub fn network(&self, name: &str, classes: usize) -> Network {
        let mut inputs = self.width;
        let mut stages = vec![self.stem()];
        for (i, &count) in self.blocks.iter().enumerate() {
            let channels = self.width << i;
            let outputs = if self.bottleneck.is_some() { 4 * channels } else { channels };
            let mut layers = Vec::with_capacity(count);
            for block in 0..count {
                let stride = if i > 0 && block == 0 { 2 } else { 1 };
                let prefix = format!("layer{}.{block}", i + 1);
                let body = match self.bottleneck {
                    Some(bottleneck) => bottleneck.body(&prefix, inputs, channels, stride),
                    None => basic_body(&prefix, inputs, channels, stride),
                };
                let shortcut = shortcut(&prefix, inputs, outputs, stride);
                layers.push(Layer::Residual(Residual { body, shortcut, then: vec![act(Act::Relu)] }));
                inputs = outputs;
            }
            stages.push(Stage { name: format!("layer{}", i + 1), layers });
        }
        stages.push(Stage { name: "avgpool".into(), layers: vec![Layer::AdaptiveAvgPool([1, 1]), Layer::Flatten] });
        let head = Stage { name: "head".into(), layers: vec![linear("fc", inputs, classes)] };
        Network { name: name.into(), stages, head, input: vec![224, 224, 3] }
    }

    fn stem(&self) -> Stage {
        let (window, pool) = match self.stem {
            Stem::Photo => (Window::square(7, 2), Some(Layer::MaxPool(Window::square(3, 2)))),
            Stem::Pixels32 => (Window::square(3, 1), None),
        };
        let layers = [conv("conv1", 3, self.width, window, 1), norm("bn1", self.width), act(Act::Relu)];
        Stage { name: "conv1".into(), layers: layers.into_iter().chain(pool).collect() }
    }
}

impl Bottleneck {
    fn body(self, prefix: &str, inputs: usize, channels: usize, stride: usize) -> Vec<Layer> {
        let part = |name: &str| format!("{prefix}.{name}");
        let inner = channels * self.group_width / 64 * self.groups;
        let one = Window::square(1, 1);
        vec![
            conv(part("conv1"), inputs, inner, one, 1),
            norm(part("bn1"), inner),
            act(Act::Relu),
            conv(part("conv2"), inner, inner, Window::square(3, stride), self.groups),
            norm(part("bn2"), inner),
            act(Act::Relu),
            conv(part("conv3"), inner, 4 * channels, one, 1),
            norm(part("bn3"), 4 * channels),
        ]
    }
}

fn basic_body(prefix: &str, inputs: usize, channels: usize, stride: usize) -> Vec<Layer> {
    let part = |name: &str| format!("{prefix}.{name}");
    vec![
        conv(part("conv1"), inputs, channels, Window::square(3, stride), 1),
        norm(part("bn1"), channels),
        act(Act::Relu),
        conv(part("conv2"), channels, channels, Window::square(3, 1), 1),
        norm(part("bn2"), channels),
    ]
}

fn shortcut(prefix: &str, inputs: usize, outputs: usize, stride: usize) -> Vec<Layer> {
    if stride == 1 && inputs == outputs {
        return vec![];
    }
    vec![
        conv(format!("{prefix}.downsample.0"), inputs, outputs, Window::square(1, stride), 1),
        norm(format!("{prefix}.downsample.1"), outputs),
    ]
}

fn norm(name: impl Into<String>, width: usize) -> Layer {
    batch_norm(name, width, EPS, MOMENTUM)
}
