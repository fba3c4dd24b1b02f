//! Model folders: what is written is read back, and what else is understood.

use std::fs;

use candle_core::{Device, Tensor};
use topwork_core::domain::{Domain, Opened};
use topwork_core::net::Params;
use topwork_core::seed::Seed;
use topwork_core::task::Task;
use topwork_cv::Photos;
use topwork_cv::model_folder::{open, save};
use topwork_cv::models::{self, cards::card};
use topwork_cv::pipeline::{Interpolation, Pipeline};

/// A small model of random weights.
fn model(architecture: &str) -> Opened<Pipeline> {
    let network = models::network(architecture, 3, 64).unwrap();
    let weights = Params::initial(&network.params(), Seed(1), &Device::Cpu).unwrap().snapshot();
    let pipeline = Pipeline { resize: 75, crop: 64, interpolation: Interpolation::Bicubic, ..Pipeline::imagenet() };
    let task = Some(Task::classes(["ant", "bee", "wasp"].map(String::from).to_vec()));
    Opened { network, weights, pipeline, task }
}

#[test]
fn what_is_saved_is_opened_again() {
    for architecture in ["resnet18", "tiny-resnet", "efficientnet-lite0", "mobilenet_v3_small", "mobilenetv3_small_100"]
    {
        let folder = tempfile::tempdir().unwrap();
        let saved = model(architecture);
        save(folder.path(), &saved).unwrap();
        let opened = open(folder.path(), None).unwrap();
        assert_eq!(opened.network, saved.network);
        assert_eq!(opened.pipeline, saved.pipeline);
        assert_eq!(opened.task, saved.task);
        assert!(opened.weights.keys().eq(saved.weights.keys()));
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(opened.weights.iter().all(|(name, t)| values(t) == values(&saved.weights[name])));
    }
}

#[test]
fn every_pair_of_sizes_survives_the_share_that_timm_stores() {
    let folder = tempfile::tempdir().unwrap();
    let mut saved = model("efficientnet-lite0");
    save(folder.path(), &saved).unwrap();
    for resize in 64..130 {
        saved.pipeline.resize = resize;
        save(folder.path(), &saved).unwrap();
        assert_eq!(open(folder.path(), None).unwrap().pipeline.resize, resize);
    }
}

#[test]
fn a_bare_checkpoint_is_recognized_and_prepared_as_its_family() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), &model("resnet18")).unwrap();
    fs::remove_file(folder.path().join("config.json")).unwrap();
    let opened = open(&folder.path().join("model.safetensors"), None).unwrap();
    assert_eq!((opened.network.name.as_str(), opened.network.classes()), ("resnet18", 3));
    assert_eq!(opened.pipeline, Pipeline::imagenet());
    assert_eq!(opened.task, None);
}

#[test]
fn what_is_saved_has_timms_names_and_tells_timm_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), &model("mobilenet_v3_small")).unwrap();
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(config["architecture"], "mobilenetv3_small_100");
    assert_eq!(config["model_args"], serde_json::json!({ "bn_eps": 1e-3, "bn_momentum": 0.01 }));
    assert_eq!(config["pretrained_cfg"]["first_conv"], "conv_stem");
    let weights = topwork_core::checkpoint::read(&folder.path().join("model.safetensors")).unwrap();
    assert_eq!(weights["conv_head.weight"].dims(), [1024, 576, 1, 1]);
    assert!(weights.contains_key("blocks.1.0.bn3.num_batches_tracked"));
}

#[test]
fn a_card_names_the_architecture_when_the_folder_does_not() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), &model("efficientnet-lite0")).unwrap();
    fs::remove_file(folder.path().join("config.json")).unwrap();
    let opened = open(folder.path(), card("efficientnet-lite0")).unwrap();
    assert_eq!(opened.pipeline.mean, [0.5; 3]);
    assert_eq!(opened.network.name, "efficientnet-lite0");
}

#[test]
fn folders_that_are_no_model_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let refused = || open(folder.path(), None).unwrap_err().to_string();
    assert!(refused().contains("no model is in it"));
    save(folder.path(), &model("resnet18")).unwrap();
    let config = folder.path().join("config.json");
    for (text, reason) in [
        ("{\"architecture\": \"vit_tiny\"}", "\"vit_tiny\" is not known"),
        ("{\"architecture\": ", "is not timm's model configuration"),
        ("{\"architecture\": \"resnet18\", \"label_names\": [\"a\"]}", "names 1 labels"),
        ("{\"architecture\": \"resnet18\", \"pretrained_cfg\": {\"interpolation\": \"lanczos\"}}", "\"lanczos\""),
        ("{\"architecture\": \"resnet18\", \"pretrained_cfg\": {\"crop_pct\": 0}}", "resized to"),
        ("{\"architecture\": \"resnet18\", \"pretrained_cfg\": {\"std\": [1, 0, 1]}}", "deviation"),
    ] {
        fs::write(&config, text).unwrap();
        let message = refused();
        assert!(message.contains("config.json") && message.contains(reason), "{message}");
    }
}

#[test]
fn the_fingerprint_changes_with_every_setting() {
    let base = Pipeline::imagenet();
    let others = [
        Pipeline { resize: 257, ..base },
        Pipeline { crop: 225, ..base },
        Pipeline { mean: [0.5; 3], ..base },
        Pipeline { std: [0.5; 3], ..base },
        Pipeline { interpolation: Interpolation::Bicubic, ..base },
    ];
    assert!(others.iter().all(|other| Photos::fingerprint(other) != Photos::fingerprint(&base)));
}
