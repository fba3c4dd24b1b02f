//! `pretrain` through the binary: a model from nothing that others start from, runs that go on, wrong flags.

mod support;

use support::{Home, home};

/// A few steps of everything that pre-training has beside `train`.
const FLAGS: [&str; 17] = [
    "--epochs",
    "6",
    "--batch-size",
    "4",
    "--view-scales",
    "0.5,1",
    "--mixup",
    "0.2",
    "--cutmix",
    "1",
    "--mix-share",
    "0.5",
    "--average",
    "0.9",
    "--auto-augment",
    "rand",
    "--quiet",
];

fn pretraining<'a>(out: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
    [&["pretrain", "--data", "data", "--model", "tiny-resnet", "--out", out], flags].concat()
}

#[test]
fn what_was_pretrained_is_a_model_to_start_from() {
    let home = home();
    let flags = ["--epochs", "10", "--batch-size", "4", "--learning-rate", "0.02", "--view-scales", "0.5,1"];
    let out = home.run(&pretraining("first", &flags)).well();
    assert!(out.contains("accuracy 1.0000"), "{out}");
    let text = std::fs::read_to_string(home.path("first/run.toml")).unwrap();
    assert!(text.contains("strategy = \"from-scratch\"") && text.contains("one-cycle"), "{text}");
    let out = home.run(&["train", "--data", "data", "--model", "first/model", "--out", "second"]).well();
    assert!(out.contains("accuracy 1.0000"), "{out}");
}

#[test]
fn a_pretraining_that_is_killed_and_resumed_ends_in_the_same_bytes() {
    let whole = home();
    whole.run(&pretraining("run", &FLAGS)).well();
    let home = home();
    let flags = [&FLAGS[..], &["--checkpoint-every", "3"]].concat();
    home.kill_at(&pretraining("run", &flags), "run", 2);
    home.kill_at(&["pretrain", "--resume", "--out", "run", "--quiet"], "run", 1);
    home.run(&["pretrain", "--resume", "--out", "run", "--quiet"]).well();
    assert!(home.result("run") == whole.result("run"));
}

#[test]
fn any_architecture_can_be_pretrained_without_weights() {
    let home = home();
    for (network, side) in [("tiny-resnet", "32"), ("resnet18-32px", "32"), ("mobilenet_v3_small", "224")] {
        let flags = ["--data", "data", "--model", network, "--dry-run", "--size", side];
        let plan = home.run(&[&["pretrain"], &flags[..]].concat()).well();
        assert!(plan.contains("from random weights") && plan.contains("one cycle"), "{network}: {plan}");
    }
}

#[test]
fn the_recipe_is_what_flags_do_not_say() {
    let home = home();
    let plan = home.run(&pretraining("run", &["--dry-run", "--json", "--momentum", "0.8", "--no-augment"])).well();
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    let phase = &plan["phases"][0];
    assert_eq!(
        phase["optimizer"],
        serde_json::json!({
            "name": "sgd", "momentum": 0.8, "nesterov": true, "weight_decay": 5e-4
        })
    );
    assert_eq!((phase["batch_size"].as_u64(), phase["augment"].as_bool()), (Some(128), Some(false)));
    assert_eq!(phase["objective"]["label_smoothing"], 0.1);
}

#[test]
fn wrong_flags() {
    let home = home();
    let refuses = |flags: &[&str], parts: &[&str]| _ = home.refuses(&pretraining("new", flags), parts);
    refuses(&["--strategy", "fine-tuning"], &["--strategy fine-tuning", "random weights", "verb train"]);
    refuses(&["--view-scales", "0.5,1.5"], &["--view-scales", "1.5 is not from 0.1 to 1"]);
    refuses(&["--view-scales", "0"], &["--view-scales", "0 is not from 0.1 to 1"]);
    refuses(&["--mix-share", "2"], &["--mix-share 2", "at most 1"]);
    refuses(&["--mixup", "-1"], &["--mixup -1", "at least 0"]);
    refuses(&["--crop-scale", "3"], &["--crop-scale 3", "from 0 to 1"]);
    let unnamed = ["pretrain", "--data", "data", "--out", "new"];
    home.refuses(&unnamed, &["--model: no network is named", "models list"]);
    home.refuses(&[&unnamed[..], &["--model", "tiny-resnett"]].concat(), &["tiny-resnett", "did you mean tiny-resnet"]);
}

#[test]
fn the_help_shows_no_flags_of_other_strategies() {
    let help = Home::run(&home(), &["pretrain", "--help"]).well();
    assert!(["--view-scales", "--cutmix", "--resume", "NETWORK"].iter().all(|flag| help.contains(flag)), "{help}");
    assert!(["--lora-alpha", "--teacher", "--probe", "--strategy"].iter().all(|flag| !help.contains(flag)), "{help}");
}

#[test]
fn where_the_default_cannot_be_had_the_embedded_model_takes_its_place() {
    let home = home();
    let flags = ["train", "--data", "data", "--out", "run", "--offline"];
    let mut command = home.command(&flags);
    // Not what this machine may have.
    let ran = support::run(command.env("HF_HOME", home.path("none")).env("TORCH_HOME", home.path("none")));
    assert!(ran.err.contains("efficientnet-lite0 cannot be had; tiny-resnet"), "{}", ran.err);
    assert!(ran.well().contains("accuracy 1.0000"));
    let text = std::fs::read_to_string(home.path("run/run.toml")).unwrap();
    assert!(text.contains("model = \"tiny-resnet\""), "{text}");
}

#[test]
fn the_embedded_model_is_listed_and_shown_and_needs_no_network() {
    let home = home();
    let line = home.run(&["models", "list"]).well();
    let line = line.lines().find(|line| line.starts_with("tiny-resnet")).unwrap().to_string();
    assert!(line.contains("2,753,896") && line.ends_with("embedded"), "{line}");
    let shown = home.run(&["models", "show", "tiny-resnet"]).well();
    assert!(shown.contains("Tiny ImageNet") && shown.contains("centre 32 × 32"), "{shown}");
    home.run(&["models", "fetch", "tiny-resnet"]).well();
}

#[test]
fn an_export_in_half_precision_is_half_as_large_and_answers_alike() {
    let home = home();
    home.run(&["export", "tiny-resnet", "--out", "whole.safetensors"]).well();
    home.run(&["export", "tiny-resnet", "--half", "--out", "half.safetensors"]).well();
    let size = |name: &str| std::fs::metadata(home.path(name)).unwrap().len();
    assert!(size("half.safetensors") < size("whole.safetensors") * 51 / 100);
    let features = |model: &str| -> Vec<f64> {
        let line = home.run(&["embed", model, "data/red/1.png", "--offline"]).well();
        line.trim().split('\t').skip(1).map(|number| number.parse().unwrap()).collect()
    };
    let (half, whole) = (features("half.safetensors"), features("whole.safetensors"));
    assert_eq!(half.len(), 256);
    assert!(half.iter().zip(&whole).all(|(a, b)| (a - b).abs() < 1e-3 * b.abs().max(1.0)));
}
