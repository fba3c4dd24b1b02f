//! Strategies that learn an adapter in a frozen backbone of photos, through the binary: what moves, what is saved, how it
//! is used again, and what is refused.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use support::{Home, home, model, saved};
use topwork_core::checkpoint;

/// The bytes of every tensor in a file, whatever its type.
fn tensors(path: &Path) -> BTreeMap<String, Vec<u64>> {
    let bits = |tensor: candle_core::Tensor| {
        let values = tensor.flatten_all().unwrap().to_dtype(candle_core::DType::F64).unwrap();
        values.to_vec1::<f64>().unwrap().into_iter().map(f64::to_bits).collect()
    };
    checkpoint::read(path).unwrap().into_iter().map(|(name, tensor)| (name, bits(tensor))).collect()
}

fn trained(kind: &str, model: &str, more: &[&str]) -> Home {
    let home = home();
    let args = ["train", "--data", "data", "--model", model, "--out", "run", "--strategy", kind, "--epochs", "2"];
    let flags = ["--learning-rate", "1e-2", "--rank", "2", "--bottleneck", "3", "--quiet"];
    home.run(&[&args[..], &flags, more].concat()).well();
    home
}

/// Tensors of the backbone that a run changed in its `model/`.
fn moved(home: &Home, model: &str, head: &str) -> BTreeSet<String> {
    let before = tensors(&Path::new(model).join("model.safetensors"));
    let after = tensors(&home.path("run/model/model.safetensors"));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    let differs = |name: &&String| !name.starts_with(head) && before[*name] != after[*name];
    before.keys().filter(differs).cloned().collect()
}

fn probabilities(home: &Home, args: &[&str]) -> Vec<f64> {
    let command = [&["predict"], args, &["data", "--json", "--top-k", "2", "--quiet"]].concat();
    let of_red = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let guesses = line["predictions"].as_array().unwrap();
        guesses.iter().find(|guess| guess["label"] == "red").unwrap()["probability"].as_f64().unwrap()
    };
    home.run(&command).well().lines().map(of_red).collect()
}

fn close(a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{a} and {b}"));
}

#[test]
fn only_what_a_strategy_may_change_is_changed() {
    let resnet = saved("resnet18", 64, None);
    // No statistics of batch normalization among them: they belong to the base.
    let lora = moved(&trained("lora", &resnet, &[]), &resnet, "fc");
    let mut kernels: BTreeSet<String> = tensors(&Path::new(&resnet).join("model.safetensors")).into_keys().collect();
    kernels.retain(|name| name.contains("conv") && name.ends_with("weight") || name.ends_with("downsample.0.weight"));
    assert_eq!(lora, kernels);
    let ia3 = moved(&trained("ia3", &resnet, &[]), &resnet, "fc");
    let last = (1..=4).flat_map(|i| (0..2).map(move |block| format!("layer{i}.{block}.conv2.weight")));
    assert_eq!(ia3, last.collect());
    assert_eq!(moved(&trained("adapter", &resnet, &[]), &resnet, "fc"), BTreeSet::new());
}

#[test]
fn depthwise_convolutions_keep_their_weights_under_lora() {
    let moved = moved(&trained("lora", model(), &[]), model(), "classifier");
    assert!(moved.contains("blocks.1.0.conv_pwl.weight") && moved.contains("conv_stem.weight"), "{moved:?}");
    assert!(!moved.iter().any(|name| name.contains("conv_dw") || name.contains("bn")), "{moved:?}");
}

#[test]
fn a_run_and_its_adapter_on_the_base_give_the_same_answers() {
    for kind in ["lora", "ia3", "adapter"] {
        let home = trained(kind, model(), &[]);
        let run = probabilities(&home, &["run"]);
        assert!(run.iter().any(|p| (p - run[0]).abs() > 1e-3), "{kind} answers the same to everything: {run:?}");
        close(&run, &probabilities(&home, &[model(), "--adapter", "run/adapter"]));
        if kind == "adapter" {
            assert!(home.path("run/model/adapter/topwork.json").is_file());
            home.refuses(&["merge", model(), "run/adapter", "--out", "merged"], &["cannot be merged"]);
        } else {
            home.run(&["merge", model(), "run/adapter", "--out", "merged"]).well();
            close(&run, &probabilities(&home, &["merged"]));
        }
    }
}

#[test]
fn a_size_that_was_trained_with_comes_back_with_the_adapter() {
    let home = trained("ia3", model(), &["--size", "64"]);
    close(&probabilities(&home, &["run"]), &probabilities(&home, &[model(), "--adapter", "run/adapter"]));
}

#[test]
fn the_files_are_those_of_peft() {
    let home = trained("lora", model(), &["--targets", "blocks.6,conv_head"]);
    let config = home.json("run/adapter/adapter_config.json");
    let targets = ["blocks.6.0.conv_pw", "blocks.6.0.conv_pwl", "conv_head"];
    assert_eq!((&config["peft_type"], &config["target_modules"]), (&"LORA".into(), &serde_json::json!(targets)));
    assert_eq!(config["modules_to_save"], serde_json::json!(["classifier"]));
    let file = checkpoint::read(&home.path("run/adapter/adapter_model.safetensors")).unwrap();
    let shape = |name: &str| file[&format!("base_model.model.{name}")].dims().to_vec();
    assert_eq!(shape("conv_head.lora_A.weight"), [2, 320, 1, 1]);
    assert_eq!(shape("conv_head.lora_B.weight"), [1280, 2, 1, 1]);
    assert_eq!(shape("classifier.weight"), [2, 1280]);
    assert_eq!(file.len(), 2 * 3 + 2);
}

#[test]
fn the_boundary_stands_where_the_first_edit_is() {
    let home = home();
    let plan = home.train("run", &["--strategy", "lora", "--targets", "blocks.6", "--dry-run"]).well();
    assert!(plan.contains("the first 7 stages"), "{plan}");
    let plan = home.train("run", &["--strategy", "lora", "--dry-run"]).well();
    assert!(plan.contains("kept: nothing"), "{plan}");
}

#[test]
fn a_killed_run_ends_in_the_same_bytes() {
    let flags = ["--strategy", "adapter", "--epochs", "4", "--batch-size", "4", "--checkpoint-every", "2", "--quiet"];
    let (whole, home) = (home(), home());
    whole.train("run", &flags).well();
    home.kill_at(&Home::training("run", &flags), "run", 1);
    home.run(&["train", "--resume", "--out", "run", "--quiet"]).well();
    assert!(home.result("run") == whole.result("run"));
    let adapter = |home: &Home| fs::read(home.path("run/adapter/adapter_model.safetensors")).unwrap();
    assert!(adapter(&home) == adapter(&whole));
}

#[test]
fn what_makes_no_sense_for_photos_is_refused() {
    let home = trained("lora", model(), &[]);
    let refuse = |flags: &[&str], parts: &[&str]| home.refuses(&Home::training("other", flags), parts);
    refuse(&["--strategy", "prefix"], &["prefix", "no attention"]);
    refuse(&["--strategy", "lora", "--targets", "blocks.77"], &["blocks.77"]);
    refuse(&["--strategy", "lora", "--targets", "conv_dw"], &["conv_dw"]);
    refuse(&["--strategy", "adapter", "--batch-norm", "update"], &["--batch-norm update"]);
    let resnet = saved("resnet18", 64, None);
    home.refuses(&["predict", &resnet, "data", "--adapter", "run/adapter"], &["run/adapter", "trained on"]);
    home.refuses(&["predict", model(), "data", "--adapter", "data"], &["data", "no topwork.json"]);
    home.write("text/topwork.json", r#"{"program": "topwork-nlp", "adapters": []}"#);
    home.refuses(&["predict", model(), "data", "--adapter", "text"], &["text", "models of topwork-nlp"]);
}
