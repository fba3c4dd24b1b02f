//! The descriptions against the originals: parameter names, shapes and counts, stages, name maps.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Tensor};
use topwork_cv::models::cards::{CARDS, card};
use topwork_cv::models::names::Library;
use topwork_cv::models::{architecture, architectures, identify, network};

/// Lines of `name<TAB>shape` as stored by xtask/parity/preprocess.py.
fn stored(text: &str) -> BTreeMap<String, Vec<usize>> {
    let parse = |line: &str| {
        let (name, shape) = line.split_once('\t').unwrap();
        (name.to_string(), shape.split('x').filter(|n| !n.is_empty()).map(|n| n.parse().unwrap()).collect())
    };
    text.lines().map(parse).collect()
}

fn described(architecture: &str) -> BTreeMap<String, Vec<usize>> {
    let specs = network(architecture, 1000, 224).unwrap().params();
    specs.into_iter().map(|spec| (spec.name, spec.shape)).collect()
}

#[test]
fn parameter_counts_are_those_of_the_originals() {
    // https://pytorch.org/vision/stable/models.html and timm, with 1,000 classes.
    let counts = [
        ("alexnet", 61_100_840),
        ("vgg11", 132_863_336),
        ("vgg13", 133_047_848),
        ("vgg16", 138_357_544),
        ("vgg19", 143_667_240),
        ("vgg11_bn", 132_868_840),
        ("vgg13_bn", 133_053_736),
        ("vgg16_bn", 138_365_992),
        ("vgg19_bn", 143_678_248),
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("wide_resnet50_2", 68_883_240),
        ("wide_resnet101_2", 126_886_696),
        ("resnext50_32x4d", 25_028_904),
        ("resnext101_32x8d", 88_791_336),
        ("resnext101_64x4d", 83_455_272),
        ("mobilenet_v2", 3_504_872),
        ("mobilenet_v3_small", 2_542_856),
        ("mobilenet_v3_large", 5_483_032),
        ("mobilenetv3_small_100", 2_542_856),
        ("mobilenetv3_large_100", 5_483_032),
        ("efficientnet-lite0", 4_652_008),
        ("efficientnet_b0", 5_288_548),
        ("efficientnet_b1", 7_794_184),
        ("efficientnet_b2", 9_109_994),
    ];
    for (name, count) in counts {
        assert_eq!(network(name, 1000, 224).unwrap().parameters(), count, "{name}");
    }
}

#[test]
fn the_tiny_resnet_fits_into_six_megabytes_at_half_precision() {
    assert!(network("tiny-resnet", 200, 32).unwrap().parameters() * 2 < 6_000_000);
}

#[test]
fn resnet_has_torchvisions_names_and_shapes() {
    assert_eq!(described("resnet18"), stored(include_str!("fixtures/names/resnet18.tsv")));
    assert_eq!(described("resnet50"), stored(include_str!("fixtures/names/resnet50.tsv")));
}

#[test]
fn efficientnet_lite0_has_timms_names_and_shapes() {
    assert_eq!(described("tf_efficientnet_lite0"), stored(include_str!("fixtures/names/tf_efficientnet_lite0.tsv")));
}

#[test]
fn the_packages_names_translate_to_every_name_of_the_description() {
    let package = stored(include_str!("fixtures/names/efficientnet_lite0_package.tsv"));
    let package: BTreeMap<_, _> =
        package.into_iter().filter(|(name, _)| !name.ends_with("num_batches_tracked")).collect();
    let others = architecture("efficientnet-lite0").unwrap().under(Library::EfficientNetPytorch, 1000);
    assert_eq!(others.into_iter().map(|other| (other.name, other.shape)).collect::<BTreeMap<_, _>>(), package);
}

#[test]
fn stages_run_from_the_input_to_the_pooled_features() {
    let names = |architecture| {
        let network = network(architecture, 10, 224).unwrap();
        network.stages.iter().map(|stage| stage.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names("resnet50"), ["conv1", "layer1", "layer2", "layer3", "layer4", "avgpool"]);
    let blocks = ["blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4", "blocks.5", "blocks.6"];
    let all: Vec<_> = ["conv_stem"].into_iter().chain(blocks).chain(["conv_head", "global_pool"]).collect();
    assert_eq!(names("efficientnet-lite0"), all);
}

#[test]
fn a_checkpoint_without_a_word_is_recognized_by_its_tensors() {
    let weights = |name: &str, library| {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::U8, &Device::Cpu).unwrap();
        let all = architecture(name).unwrap().under(library, 7);
        all.into_iter().map(|other| (other.name, zeros(&other.shape))).collect::<BTreeMap<_, _>>()
    };
    let found = |weights| identify(&weights).map(|architecture| architecture.name);
    let own = |name: &'static str| weights(name, Library::Torchvision);
    for name in architectures().map(|a| a.name).filter(|name| !name.starts_with("vgg") && !name.ends_with("_100")) {
        assert_eq!(found(own(name)), Some(name));
    }
    for name in ["mobilenet_v2", "mobilenetv3_small_100", "efficientnet_b1", "efficientnet-lite2"] {
        assert_eq!(found(weights(name, Library::Timm)), Some(name));
    }
    assert_eq!(found(weights("efficientnet-lite1", Library::EfficientNetPytorch)), Some("efficientnet-lite1"));
    let mut part = own("resnet18");
    part.remove("layer2.0.conv1.weight");
    assert_eq!(found(part), None);
}

#[test]
fn names_of_cards_are_unique_and_their_architectures_known() {
    let names: Vec<&str> = CARDS.iter().flat_map(|card| card.aliases.iter().copied().chain([card.name])).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    assert!(CARDS.iter().all(|card| network(card.architecture, 2, 224).is_some()));
    for (name, card_name) in [
        ("timm/resnet18.tv_in1k", "resnet18"),
        ("torchvision:resnet50", "resnet50"),
        ("torchvision:resnet50.IMAGENET1K_V2", "resnet50.IMAGENET1K_V2"),
        ("tf_efficientnet_lite3", "efficientnet-lite3"),
    ] {
        assert_eq!(card(name).unwrap().name, card_name);
    }
}
