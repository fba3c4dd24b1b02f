//! Every network of the zoo against torchvision or timm, with weights by a formula: names and shapes, outputs in use,
//! and a pass of training with batch statistics, its gradients and its running statistics.
//!
//! The rule and how to write the file anew are in `xtask/parity/README.md`.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use serde::Deserialize;
use topwork_core::data::{Activation, Rows};
use topwork_core::device::Place;
use topwork_core::net::forward::{Mode, Pass};
use topwork_core::net::frozen::Frozen;
use topwork_core::net::{Layer, Network, Params, Stage};
use topwork_core::plan::BatchNormMode;
use topwork_core::seed::Seed;
use topwork_core::testing::{centred, fnv1a, parameter, relative_error};
use topwork_core::train::gradient::Objective;
use topwork_cv::models::names::{Library, Other};
use topwork_cv::models::{Architecture, architecture, architectures};

const CLASSES: usize = 5;
const IMAGES: usize = 4;

#[derive(Deserialize)]
struct Record {
    architecture: String,
    library: String,
    gain: f64,
    size: usize,
    names: String,
    timm_names: Option<String>,
    operations: Option<f64>,
    logits: Vec<f32>,
    features: Vec<f32>,
    training: Vec<f32>,
    /// By how much torch's float32 strays from float64 in `training`, where that was kept.
    #[serde(default)]
    float32: f64,
    gradients: BTreeMap<String, Vec<f32>>,
    statistics: BTreeMap<String, Vec<f32>>,
}

fn records() -> Vec<Record> {
    include_str!("parity/zoo.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

impl Record {
    fn architecture(&self) -> &'static Architecture {
        architecture(&self.architecture).unwrap()
    }

    /// All parameters under the names of the library that the record is of.
    fn names(&self) -> Vec<Other> {
        let library = if self.library == "timm" { Library::Timm } else { Library::Torchvision };
        self.architecture().under(library, CLASSES)
    }

    /// As another tensor of a checkpoint: by the library's names and shapes.
    fn checkpoint(&self) -> BTreeMap<String, Tensor> {
        let value = |other: &Other| {
            let values = parameter(&other.name, &other.shape, self.gain);
            Tensor::from_vec(values, other.shape.as_slice(), &Device::Cpu).unwrap()
        };
        self.names().iter().map(|other| (other.name.clone(), value(other))).collect()
    }

    fn images(&self) -> Activation {
        let values = centred("input", IMAGES * 3 * self.size * self.size, 2.0);
        let planes = Tensor::from_vec(values, (IMAGES, 3, self.size, self.size), &Device::Cpu).unwrap();
        let data = planes.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
        Activation { data, rows: Rows::One }
    }

    fn assert_close(&self, what: &str, actual: &Tensor, expected: &[f32], tolerance: f64) {
        let actual: Vec<f32> = actual.flatten_all().unwrap().to_vec1().unwrap();
        let error = relative_error(&actual[..expected.len().min(actual.len())], expected);
        println!("{} ({}) {what}: {error:.1e}", self.architecture, self.library);
        assert!(error <= tolerance, "{what} of {} ({}) is {error:e} off", self.architecture, self.library);
    }
}

fn without_dropout(mut network: Network) -> Network {
    let clean = |stage: &mut Stage| stage.layers.retain(|layer| !matches!(layer, Layer::Dropout(_)));
    network.stages.iter_mut().chain([&mut network.head]).for_each(clean);
    network
}

/// Outputs in use, of the trainable and of the fused pass.
fn agrees_in_use(record: &Record, network: &Network, params: &Params) {
    let input = record.images();
    let pass = Pass::new(params, Mode::Eval);
    let features = network.stages.iter().fold(input.clone(), |x, stage| pass.stage(stage, x, true).unwrap());
    let logits = pass.stage(&network.head, features.clone(), true).unwrap();
    let stages: Vec<_> = network.stages.iter().collect();
    let frozen = Frozen::compile(&stages, params, &Place::default()).unwrap().run(&input).unwrap();
    let head = Frozen::compile(&[&network.head], params, &Place::default()).unwrap().run(&frozen).unwrap();
    for (path, features, logits) in [("pass", features, logits), ("frozen", frozen, head)] {
        let row = features.data.get(0).unwrap().to_vec1::<f32>().unwrap();
        let step = (row.len() / record.features.len()).max(1);
        let some: Vec<f32> = row.into_iter().step_by(step).collect();
        let some = Tensor::from_vec(some.clone(), some.len(), &Device::Cpu).unwrap();
        record.assert_close(&format!("{path} features"), &some, &record.features, 1e-4);
        record.assert_close(&format!("{path} logits"), &logits.data, &record.logits, 1e-4);
    }
}

/// A pass of training, of autograd's and of the tape's: outputs, running statistics, gradients.
fn agrees_in_training(record: &Record, network: &Network, params: &mut Params) {
    let names: BTreeMap<String, String> = record.names().into_iter().map(|other| (other.name, other.own)).collect();
    let mode = Mode::Train { batch_norm: BatchNormMode::Update, seed: Seed(0) };
    let pass = Pass::new(params, mode);
    let stages = network.stages.iter().chain([&network.head]);
    let logits = stages.clone().fold(record.images(), |x, stage| pass.stage(stage, x, true).unwrap());
    // Where float32 itself strays further in torch, it may here.
    record.assert_close("pass training", &logits.data, &record.training, 1e-3f64.max(4.0 * record.float32));
    let moved: BTreeMap<String, Tensor> = pass.finish().into_iter().collect();

    let learning: BTreeSet<String> = record.gradients.keys().map(|name| names[name].clone()).collect();
    params.set_learning(&learning).unwrap();
    let objective = Objective::of_classes(stages.map(|stage| (stage, true)).collect());
    let targets: Vec<u32> = (0..IMAGES).map(|i| ((3 * i + 1) % CLASSES) as u32).collect();
    let found = objective.gradient(params, mode, &record.images(), &targets).unwrap();
    let on_tape: BTreeMap<String, Tensor> = found.statistics.into_iter().collect();
    for (name, expected) in &record.statistics {
        record.assert_close(&format!("pass {name}"), &moved[&names[name]], expected, 1e-3);
        record.assert_close(&format!("tape {name}"), &on_tape[&names[name]], expected, 1e-3);
    }
    let gradients = found.grads.unwrap();
    for (name, expected) in &record.gradients {
        let own = &names[name];
        record.assert_close(&format!("gradient of {name}"), &gradients[own], expected, 1e-3);
    }
}

fn agrees(family: impl Fn(&str) -> bool) {
    let mut seen = 0;
    for record in records().iter().filter(|record| family(&record.architecture)) {
        let architecture = record.architecture();
        let network = without_dropout(architecture.network(CLASSES));
        let mut params = Params::new(architecture.canonical(record.checkpoint()).unwrap());
        agrees_in_use(record, &network, &params);
        agrees_in_training(record, &network, &mut params);
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn alexnet_and_vgg_compute_what_the_originals_do() {
    agrees(|name| name == "alexnet" || name.starts_with("vgg"));
}

#[test]
fn resnets_compute_what_the_originals_do() {
    agrees(|name| name.contains("resnet") || name.starts_with("resnext"));
}

#[test]
fn mobilenets_compute_what_the_originals_do() {
    agrees(|name| name.starts_with("mobilenet"));
}

#[test]
fn efficientnets_compute_what_the_originals_do() {
    agrees(|name| name.starts_with("efficientnet"));
}

#[test]
fn every_architecture_has_a_record() {
    let seen: BTreeSet<String> = records().into_iter().map(|record| record.architecture).collect();
    let all: BTreeSet<String> = architectures().map(|architecture| architecture.name.to_string()).collect();
    assert_eq!(seen, all);
}

/// Of all names and shapes, sorted.
fn digest(names: &[Other]) -> String {
    let line = |other: &Other| {
        let shape = other.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        format!("{}\t{shape}\n", other.name)
    };
    let mut lines: Vec<String> = names.iter().map(line).collect();
    lines.sort();
    format!("{:016x}", fnv1a(&lines.concat()))
}

#[test]
fn names_and_shapes_are_those_of_the_originals() {
    for record in records() {
        assert_eq!(digest(&record.names()), record.names, "{} ({})", record.architecture, record.library);
        if let Some(timms) = &record.timm_names {
            let names = record.architecture().under(Library::Timm, CLASSES);
            assert_eq!(&digest(&names), timms, "{} (timm)", record.architecture);
        }
    }
}

#[test]
fn multiply_adds_are_those_that_torchvision_states() {
    let mut seen = 0;
    for record in records() {
        let Some(stated) = record.operations else { continue };
        let costs = record.architecture().network(1000).costs(1);
        let counted = costs.iter().map(|cost| cost.multiply_adds).sum::<u64>() as f64 / 1e9;
        assert!((counted - stated).abs() < 0.001 + 0.002 * stated, "{}: {counted} {stated}", record.architecture);
        seen += 1;
    }
    assert!(seen > 20);
}
