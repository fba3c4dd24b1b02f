//! The descriptions against the originals: parameter names, shapes and counts, stages, name maps.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Tensor};
use topwork_cv::models::cards::{CARDS, card};
use topwork_cv::models::efficientnet_lite::canonical_name;
use topwork_cv::models::{ARCHITECTURES, identify, network};

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
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("efficientnet-lite0", 4_652_008),
        ("alexnet", 61_100_840),
        ("vgg11", 132_863_336),
        ("vgg13", 133_047_848),
        ("vgg16", 138_357_544),
        ("vgg19", 143_667_240),
        ("vgg11_bn", 132_868_840),
        ("vgg13_bn", 133_053_736),
        ("vgg16_bn", 138_365_992),
        ("vgg19_bn", 143_678_248),
    ];
    assert_eq!(counts.map(|(name, _)| name), ARCHITECTURES);
    for (name, count) in counts {
        assert_eq!(network(name, 1000, 224).unwrap().parameters(), count, "{name}");
    }
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
    let translated: BTreeMap<_, _> = package
        .into_iter()
        .map(|(name, shape)| (canonical_name(&name).unwrap_or_else(|| panic!("{name}")), shape))
        .filter(|(name, _)| !name.ends_with("num_batches_tracked"))
        .collect();
    assert_eq!(translated, described("efficientnet-lite0"));
}

#[test]
fn foreign_names_are_not_translated() {
    for name in
        ["conv1.weight", "_blocks.16._bn0.weight", "_blocks.0._expand_conv.weight", "_blocks.x._bn0.bias", "_fc"]
    {
        assert_eq!(canonical_name(name), None, "{name}");
    }
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
    let weights = |architecture| {
        let specs = network(architecture, 1000, 224).unwrap().params();
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::U8, &Device::Cpu).unwrap();
        specs.into_iter().map(|spec| (spec.name, zeros(&spec.shape))).collect::<BTreeMap<_, _>>()
    };
    for architecture in ["resnet18", "resnet34", "resnet50", "efficientnet-lite0"] {
        assert_eq!(identify(&weights(architecture)), Some(architecture));
    }
    let mut part = weights("resnet18");
    part.remove("layer2.0.conv1.weight");
    assert_eq!(identify(&part), None);
}

#[test]
fn names_of_cards_are_unique_and_their_architectures_known() {
    let names: Vec<&str> = CARDS.iter().flat_map(|card| card.aliases.iter().copied().chain([card.name])).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    assert!(CARDS.iter().all(|card| network(card.architecture, 2, 224).is_some()));
    assert_eq!(card("timm/resnet18.tv_in1k").unwrap().name, "resnet18");
}
