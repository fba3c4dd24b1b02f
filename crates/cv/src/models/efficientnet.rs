//! EfficientNet (Tan & Le 2019, *EfficientNet: Rethinking Model Scaling*, table 1): one table of blocks, scaled in width
//! and depth together; and EfficientNet-Lite (Liu 2020), the same without squeeze-and-excitation, with ReLU6 in place of
//! swish so that it quantizes well, ends that do not grow, and TensorFlow's padding.
//!
//! Parameter names are torchvision's for EfficientNet, timm's for EfficientNet-Lite, which torchvision has not.

use topwork_core::net::Act::{Relu6, Sigmoid, Silu};

use super::inverted::{Inverted, Row, Scale, Squeeze};
use super::names::{EFFICIENTNET_PYTORCH, TIMM, TORCHVISION_EFFICIENTNET};
use super::{Architecture, Form};

/// The smallest EfficientNet-Lite.
pub const LITE0: &str = "efficientnet-lite0";

const PAPER: &str = "Tan, Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019";
const LITE_PAPER: &str =
    "Tan, Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019; Lite: Liu 2020";

/// All of them.
pub(super) static ALL: [Architecture; 8] = [
    lite(LITE0, "tf_efficientnet_lite0", (1.0, 1.0), 224, 0.2),
    lite("efficientnet-lite1", "tf_efficientnet_lite1", (1.0, 1.1), 240, 0.2),
    lite("efficientnet-lite2", "tf_efficientnet_lite2", (1.1, 1.2), 260, 0.3),
    lite("efficientnet-lite3", "tf_efficientnet_lite3", (1.2, 1.4), 300, 0.3),
    lite("efficientnet-lite4", "tf_efficientnet_lite4", (1.4, 1.8), 380, 0.3),
    b("efficientnet_b0", (1.0, 1.0), 224, 0.2),
    b("efficientnet_b1", (1.0, 1.1), 240, 0.2),
    b("efficientnet_b2", (1.1, 1.2), 288, 0.3),
];

const fn b(name: &'static str, (width, depth): (f64, f64), side: usize, dropout: f32) -> Architecture {
    let scale = Scale { width, depth, fixed_ends: false };
    let form = Form::Inverted(Inverted { scale, dropout, ..B });
    Architecture { name, paper: PAPER, torchvision: true, timm: Some(name), timm_args: &[], side, form }
}

const fn lite(
    name: &'static str,
    timm: &'static str,
    (width, depth): (f64, f64),
    side: usize,
    dropout: f32,
) -> Architecture {
    let scale = Scale { width, depth, fixed_ends: true };
    let form = Form::Inverted(Inverted { scale, dropout, ..LITE });
    Architecture { name, paper: LITE_PAPER, torchvision: false, timm: Some(timm), timm_args: &[], side, form }
}

const fn row(count: usize, kernel: usize, stride: usize, expand: f64, outputs: usize) -> Row {
    Row { count, kernel, stride, expand, outputs, squeezes: true, act: None }
}

/// Tan & Le 2019, table 1.
const B: Inverted = Inverted {
    stem: 32,
    stages: &[
        &[row(1, 3, 1, 1.0, 16)],
        &[row(2, 3, 2, 6.0, 24)],
        &[row(2, 5, 2, 6.0, 40)],
        &[row(3, 3, 2, 6.0, 80)],
        &[row(3, 5, 1, 6.0, 112)],
        &[row(4, 5, 2, 6.0, 192)],
        &[row(1, 3, 1, 6.0, 320)],
    ],
    top: 1280,
    hidden: None,
    act: Silu,
    squeeze: Some(Squeeze { of_inputs: true, act: Silu, gate: Sigmoid }),
    scale: Scale::NONE,
    same: false,
    norm: (1e-5, 0.1),
    dropout: 0.2,
    names: &[&TORCHVISION_EFFICIENTNET, &TIMM],
};

const LITE: Inverted = Inverted {
    act: Relu6,
    squeeze: None,
    same: true,
    // TensorFlow's epsilon. The momentum is timm's: TensorFlow's 0.99 leaves running statistics far behind in the few
    // steps of a small data set.
    norm: (1e-3, 0.1),
    names: &[&TIMM, &EFFICIENTNET_PYTORCH],
    ..B
};
