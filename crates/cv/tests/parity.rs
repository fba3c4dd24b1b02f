//! Against torchvision and timm: outputs in use and twenty steps of training, with weights by a formula.
//!
//! The rule, the files and how to write them anew are in `xtask/parity/README.md`.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use serde::Deserialize;
use topwork_core::data::{Activation, Rows};
use topwork_core::device::Place;
use topwork_core::net::forward::{Mode, Pass};
use topwork_core::net::frozen::Frozen;
use topwork_core::net::grad_cam::GradCam;
use topwork_core::net::{Network, Params, Role};
use topwork_core::plan::{BatchNormMode, Optimizer as Rule};
use topwork_core::seed::Seed;
use topwork_core::testing::{centred, parameter, relative_error};
use topwork_core::train::Optimizer;
use topwork_core::train::gradient::Objective;
use topwork_cv::models::names::Library;
use topwork_cv::models::resnet::ResNet;
use topwork_cv::models::{architecture, network};

/// Outputs in evaluation mode.
#[derive(Deserialize)]
struct Outputs {
    gain: f64,
    classes: usize,
    images: usize,
    size: usize,
    logits: Vec<Vec<f32>>,
    features: Vec<Vec<f32>>,
    feature_step: usize,
}

/// Twenty steps of training.
#[derive(Deserialize)]
struct Training {
    gain: f64,
    classes: usize,
    samples: usize,
    size: usize,
    batch: usize,
    targets: Vec<u32>,
    optimizer: Sgd,
    losses: Vec<f32>,
    #[serde(rename = "final")]
    whole: BTreeMap<String, Vec<f32>>,
    final_start: BTreeMap<String, Vec<f32>>,
}

#[derive(Deserialize)]
struct Sgd {
    momentum: f64,
    learning_rate: f64,
    weight_decay: f64,
}

/// The heat of one class in what comes out of a module.
#[derive(Deserialize)]
struct Heat {
    model: String,
    module: String,
    gain: f64,
    classes: usize,
    images: usize,
    size: usize,
    class: usize,
    maps: [usize; 2],
    heat: Vec<Vec<f32>>,
}

/// The formula's values for `network`; `seen` gives the name that the formula sees.
fn params(network: &Network, gain: f64, seen: impl Fn(&str) -> String) -> Params {
    let value = |name: &str, shape: &[usize]| {
        Tensor::from_vec(parameter(&seen(name), shape, gain), shape, &Device::Cpu).unwrap()
    };
    Params::new(network.params().into_iter().map(|p| (p.name.clone(), value(&p.name, &p.shape))).collect())
}

/// The formula's images, `[count, size, size, 3]`; it numbers them as `[count, 3, size, size]`.
fn images(count: usize, size: usize) -> Tensor {
    let values = centred("input", count * 3 * size * size, 2.0);
    let planes = Tensor::from_vec(values, (count, 3, size, size), &Device::Cpu).unwrap();
    planes.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap()
}

fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
    tensor.to_vec2().unwrap()
}

fn assert_close(what: &str, actual: &[f32], expected: &[f32], tolerance: f64) {
    let error = relative_error(actual, expected);
    println!("{what}: {error:.1e}");
    assert!(error <= tolerance, "{what} is {error:e} off");
}

/// Both forward passes give the stored pooled features and logits.
fn agrees(architecture: &str, stored: &str, seen: impl Fn(&str) -> String) {
    let stored: Outputs = serde_json::from_str(stored).unwrap();
    let network = network(architecture, stored.classes, stored.size).unwrap();
    let params = params(&network, stored.gain, seen);
    let input = Activation { data: images(stored.images, stored.size), rows: Rows::One };

    let pass = Pass::new(&params, Mode::Eval);
    let features = network.stages.iter().fold(input.clone(), |x, stage| pass.stage(stage, x, true).unwrap());
    let logits = pass.stage(&network.head, features.clone(), true).unwrap();

    let stages: Vec<_> = network.stages.iter().collect();
    let frozen = Frozen::compile(&stages, &params, &Place::default()).unwrap().run(&input).unwrap();
    let head = Frozen::compile(&[&network.head], &params, &Place::default()).unwrap().run(&frozen).unwrap();

    for (path, features, logits) in [("pass", features, logits), ("frozen", frozen, head)] {
        let (features, logits) = (rows(&features.data), rows(&logits.data));
        assert_eq!((features.len(), logits.len()), (stored.images, stored.images));
        for (i, (features, logits)) in features.iter().zip(&logits).enumerate() {
            let some: Vec<f32> = features.iter().copied().step_by(stored.feature_step).collect();
            assert_close(&format!("{architecture} {path} features of {i}"), &some, &stored.features[i], 1e-4);
            assert_close(&format!("{architecture} {path} logits of {i}"), logits, &stored.logits[i], 1e-4);
        }
    }
}

#[test]
fn resnet18_computes_what_torchvision_does() {
    agrees("resnet18", include_str!("parity/resnet18.json"), str::to_string);
}

#[test]
fn resnet50_computes_what_torchvision_does() {
    agrees("resnet50", include_str!("parity/resnet50.json"), str::to_string);
}

#[test]
fn efficientnet_lite0_computes_what_timm_does() {
    agrees("efficientnet-lite0", include_str!("parity/efficientnet_lite0_timm_96.json"), str::to_string);
}

/// The name in the original checkpoint of each of timm's, by the map that reads such checkpoints.
fn originals() -> BTreeMap<String, String> {
    let all = architecture("efficientnet-lite0").unwrap().under(Library::EfficientNetPytorch, 1000);
    all.into_iter().map(|other| (other.own, other.name)).collect()
}

#[test]
fn efficientnet_lite0_with_the_original_names_computes_what_timm_does() {
    let originals = originals();
    for stored in [
        include_str!("parity/efficientnet_lite0_original_96.json"),
        include_str!("parity/efficientnet_lite0_original_224.json"),
    ] {
        agrees("efficientnet-lite0", stored, |name| originals[name].clone());
    }
}

#[test]
fn twenty_steps_of_training_follow_torchvision() {
    let stored: Training = serde_json::from_str(include_str!("parity/training_resnet.json")).unwrap();
    let network = ResNet::basic(&[1, 1, 1, 1]).network("resnet10", stored.classes);
    let mut params = params(&network, stored.gain, str::to_string);
    let learned: Vec<_> = network.params().into_iter().filter(|p| p.role != Role::Buffer).collect();
    params.set_learning(&learned.iter().map(|p| p.name.clone()).collect::<BTreeSet<_>>()).unwrap();
    let Sgd { momentum, learning_rate, weight_decay } = stored.optimizer;
    let rule = Rule::Sgd { momentum, nesterov: false, weight_decay };
    let mut optimizer = Optimizer::new(rule, learned.into_iter().map(|p| (p.name, p.role, 1.0)));

    let photos = images(stored.samples, stored.size);
    let mut losses = Vec::new();
    for step in 0..stored.losses.len() {
        let chosen: Vec<u32> = (0..stored.batch).map(|k| ((stored.batch * step + k) % stored.samples) as u32).collect();
        let targets: Vec<u32> = chosen.iter().map(|&i| stored.targets[i as usize]).collect();
        let chosen = Tensor::new(chosen, &Device::Cpu).unwrap();
        let input = Activation { data: photos.index_select(&chosen, 0).unwrap(), rows: Rows::One };
        let mode = Mode::Train { batch_norm: BatchNormMode::Update, seed: Seed(0) };
        let stages = network.stages.iter().chain([&network.head]).map(|stage| (stage, true)).collect();
        let objective = Objective { recompute: step % 2 == 1, ..Objective::of_classes(stages) };
        let gradient = objective.gradient(&params, mode, &input, &targets).unwrap();
        losses.push(gradient.loss as f32);
        optimizer.step(&params, &gradient.grads.unwrap(), learning_rate, 1.0).unwrap();
        gradient.statistics.into_iter().for_each(|(name, value)| params.set(&name, value.detach()).unwrap());
    }

    for (step, (&actual, &expected)) in losses.iter().zip(&stored.losses).enumerate() {
        assert_close(&format!("loss of step {step}"), &[actual], &[expected], 1e-3);
    }
    for (name, expected) in stored.whole.iter().chain(&stored.final_start) {
        let actual: Vec<f32> = params.get(name).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(actual.len() == expected.len(), stored.whole.contains_key(name), "{name}");
        assert_close(name, &actual[..expected.len()], expected, 1e-3);
    }
}

#[test]
fn grad_cam_finds_the_heat_that_torch_does() {
    let stored: BTreeMap<String, Heat> = serde_json::from_str(include_str!("parity/grad_cam.json")).unwrap();
    for (name, stored) in stored {
        let network = network(&stored.model, stored.classes, stored.size).unwrap();
        let params = params(&network, stored.gain, str::to_string);
        // torchvision calls all before the pooling `features`.
        let stage = (stored.module != "features").then_some(stored.module.as_str());
        let cam = GradCam::new(&network, params, &Place::default(), stage).unwrap();
        let input = Activation { data: images(stored.images, stored.size), rows: Rows::One };
        let found = cam.explain(&input, |_| stored.class).unwrap();
        for (i, (found, expected)) in found.iter().zip(&stored.heat).enumerate() {
            assert_eq!(found.heat.size, stored.maps, "{name}");
            assert_close(&format!("{name}, heat of {i}"), &found.heat.values, expected, 1e-4);
        }
    }
}
