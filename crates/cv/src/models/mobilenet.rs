//! MobileNet-V2 (Sandler et al. 2018, table 2) and MobileNet-V3 (Howard et al. 2019, tables 1 and 2).
//!
//! Parameter names are torchvision's. timm's MobileNet-V3 is the same network with another epsilon of batch
//! normalization, so it is a row of its own.

use topwork_core::net::Act::{self, HardSigmoid, HardSwish, Relu, Relu6};

use super::inverted::{Inverted, Row, Scale, Squeeze};
use super::names::{TIMM, TIMM_V3, TORCHVISION_V2, TORCHVISION_V3};
use super::{Architecture, Form};

const V2: &str = "Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2, CVPR 2018";
const V3: &str = "Howard et al.: Searching for MobileNetV3, ICCV 2019";

/// torchvision's normalization of MobileNet-V3.
const V3_NORM: (f64, f64) = (1e-3, 0.01);
/// What timm is to be told for it.
const V3_ARGS: &[(&str, f64)] = &[("bn_eps", V3_NORM.0), ("bn_momentum", V3_NORM.1)];
/// PyTorch's own.
const NORM: (f64, f64) = (1e-5, 0.1);

/// All of them.
pub(super) static ALL: [Architecture; 5] = [
    Architecture {
        name: "mobilenet_v2",
        paper: V2,
        torchvision: true,
        timm: Some("mobilenetv2_100"),
        timm_args: &[],
        side: 224,
        form: Form::Inverted(SECOND),
    },
    v3("mobilenet_v3_small", "mobilenetv3_small_100", V3_ARGS, Inverted { norm: V3_NORM, ..SMALL }),
    v3("mobilenet_v3_large", "mobilenetv3_large_100", V3_ARGS, Inverted { norm: V3_NORM, ..LARGE }),
    v3("mobilenetv3_small_100", "mobilenetv3_small_100", &[], SMALL),
    v3("mobilenetv3_large_100", "mobilenetv3_large_100", &[], LARGE),
];

const fn v2(count: usize, stride: usize, expand: f64, outputs: usize) -> Row {
    Row { count, kernel: 3, stride, expand, outputs, squeezes: false, act: None }
}

const fn v3(
    name: &'static str,
    timm: &'static str,
    timm_args: &'static [(&'static str, f64)],
    inverted: Inverted,
) -> Architecture {
    // timm's own differs by what torchvision cannot be told.
    let torchvision = !timm_args.is_empty();
    let form = Form::Inverted(inverted);
    Architecture { name, paper: V3, torchvision, timm: Some(timm), timm_args, side: 224, form }
}

const fn row(
    (count, kernel, stride): (usize, usize, usize),
    expand: f64,
    outputs: usize,
    squeezes: bool,
    act: Option<Act>,
) -> Row {
    Row { count, kernel, stride, expand, outputs, squeezes, act }
}

/// Sandler et al. 2018, table 2.
const SECOND: Inverted = Inverted {
    stem: 32,
    stages: &[
        &[v2(1, 1, 1.0, 16)],
        &[v2(2, 2, 6.0, 24)],
        &[v2(3, 2, 6.0, 32)],
        &[v2(4, 2, 6.0, 64)],
        &[v2(3, 1, 6.0, 96)],
        &[v2(3, 2, 6.0, 160)],
        &[v2(1, 1, 6.0, 320)],
    ],
    top: 1280,
    hidden: None,
    act: Relu6,
    squeeze: None,
    scale: Scale::NONE,
    same: false,
    norm: NORM,
    dropout: 0.2,
    names: &[&TORCHVISION_V2, &TIMM],
};

/// Howard et al. 2019, table 1.
const LARGE: Inverted = Inverted {
    stem: 16,
    stages: &[
        &[row((1, 3, 1), 1.0, 16, false, Some(Relu))],
        &[row((1, 3, 2), 4.0, 24, false, Some(Relu)), row((1, 3, 1), 3.0, 24, false, Some(Relu))],
        &[row((3, 5, 2), 3.0, 40, true, Some(Relu))],
        &[
            row((1, 3, 2), 6.0, 80, false, None),
            row((1, 3, 1), 2.5, 80, false, None),
            row((2, 3, 1), 2.3, 80, false, None),
        ],
        &[row((2, 3, 1), 6.0, 112, true, None)],
        &[row((3, 5, 2), 6.0, 160, true, None)],
    ],
    top: 960,
    hidden: Some(1280),
    act: HardSwish,
    squeeze: Some(Squeeze { of_inputs: false, act: Relu, gate: HardSigmoid }),
    scale: Scale::NONE,
    same: false,
    norm: NORM,
    dropout: 0.2,
    names: &[&TORCHVISION_V3, &TIMM_V3],
};

/// Howard et al. 2019, table 2.
const SMALL: Inverted = Inverted {
    stages: &[
        &[row((1, 3, 2), 1.0, 16, true, Some(Relu))],
        &[row((1, 3, 2), 4.5, 24, false, Some(Relu)), row((1, 3, 1), 3.67, 24, false, Some(Relu))],
        &[row((1, 5, 2), 4.0, 40, true, None), row((2, 5, 1), 6.0, 40, true, None)],
        &[row((2, 5, 1), 3.0, 48, true, None)],
        &[row((3, 5, 2), 6.0, 96, true, None)],
    ],
    top: 576,
    hidden: Some(1024),
    ..LARGE
};
