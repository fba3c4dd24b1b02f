//! The verbs of `topwork-cv`, through the binary.

mod support;

use std::fs;

use support::{converse, home, model};

#[test]
fn a_run_is_complete_and_can_be_used() {
    let home = home();
    let out = home.train("runs/first", &["--seed", "3"]).well();
    assert!(out.contains("accuracy 1.0000") && out.contains("runs/first"), "{out}");
    for name in
        ["run.toml", "metrics.jsonl", "summary.json", "report.html", "model/config.json", "model/model.safetensors"]
    {
        assert!(home.path("runs/first").join(name).is_file(), "{name}");
    }
    assert!(fs::read_dir(home.path("runs/first/checkpoints")).unwrap().count() > 0);
    let summary = home.json("runs/first/summary.json");
    let measured = home.run(&["evaluate", "runs/first", "--data", "data", "--seed", "3", "--json"]).well();
    let measured: serde_json::Value = serde_json::from_str(&measured).unwrap();
    for name in ["accuracy", "macro_f1", "samples"] {
        assert_eq!(measured[name], summary[name], "{name}");
    }
    let table = home.run(&["evaluate", "runs/first", "--data", "data", "--seed", "3"]).well();
    assert!(table.contains("precision") && table.contains("blue"), "{table}");
    let args = ["evaluate", "runs/first", "--data", "data", "--size", "96"];
    home.refuses(&args, &["--size 96", "as it was trained", "leave it out"]);
}

#[test]
fn photos_are_predicted_from_files_folders_lists_and_standard_input() {
    let home = home();
    home.train("run", &[]).well();
    let predict = |args: &[&str]| home.run(&[&["predict", "run"], args].concat()).well();
    let lines = predict(&["data/blue/1.png", "data/red/2.png"]);
    let labels: Vec<&str> = lines.lines().map(|line| line.split('\t').nth(1).unwrap()).collect();
    assert_eq!(labels, ["blue", "red"]);
    assert_eq!(predict(&["data"]).lines().count(), 20);
    home.write("list.tsv", "id\twhere\n1\tdata/red/1.png\n2\tdata/blue/1.png\n");
    assert_eq!(predict(&["list.tsv", "--path-column", "where"]).lines().count(), 2);
    let answers = converse(home.command(&["predict", "run", "-"]), &["data/red/5.png", "data/blue/5.png"]);
    assert!(answers[0].starts_with("data/red/5.png\tred\t") && answers[1].contains("\tblue\t"), "{answers:?}");
}

#[test]
fn predictions_show_as_many_classes_as_asked_for() {
    let home = home();
    home.train("run", &[]).well();
    let line = home.run(&["predict", "run", "data/red/1.png", "--top-k", "9"]).well();
    assert_eq!(line.trim().split('\t').count(), 5, "a name, two labels with their probabilities: {line}");
    let json = home.run(&["predict", "run", "data/red/1.png", "--top-k", "2", "--json"]).well();
    let answer: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (answer["input"].as_str(), answer["predictions"][0]["label"].as_str()),
        (Some("data/red/1.png"), Some("red"))
    );
    let sum: f64 = (0..2).map(|i| answer["predictions"][i]["probability"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{sum}");
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let home = home();
    let before = home.files();
    let out = home.train("run", &["--strategy", "fine-tuning", "--dry-run"]).well();
    assert!(out.contains("16 training and 4 validation photos, 2 classes") && out.contains("fine-tuning"), "{out}");
    let plan = home.train("run", &["--dry-run", "--json"]).well();
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["strategy"], "feature-extraction");
    assert!(home.files() == before);
}

#[test]
fn flags_win_over_a_settings_file() {
    let home = home();
    let flags = ["--strategy", "fine-tuning", "--epochs", "1", "--batch-size", "8", "--no-augment"];
    home.train("first", &flags).well();
    let again = |flags: &[&str]| home.run(&[&["train", "--config", "first/run.toml"], flags].concat());
    again(&["--out", "same"]).well();
    assert!(home.result("same") == home.result("first"));
    let plan = again(&["--out", "other", "--epochs", "2", "--dry-run", "--json"]).well();
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    let phase = plan["phases"].as_array().unwrap().last().unwrap().to_string();
    assert!(
        phase.contains("\"epochs\":2") && phase.contains("\"batch_size\":8") || phase.contains("\"batch-size\":8"),
        "{phase}"
    );
    assert!(phase.contains("\"augment\":false"), "{phase}");
}

#[test]
fn models_are_listed_and_shown() {
    let home = home();
    let list = home.run(&["models", "list"]).well();
    assert!(list.contains("resnet18") && list.contains("efficientnet-lite0"), "{list}");
    for line in home.run(&["models", "list", "--json"]).well().lines() {
        let card: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(card["licence"].is_string() && card["paper"].is_string(), "{line}");
    }
    let shown = home.run(&["models", "show", "resnet50"]).well();
    for part in ["4,089.2 M", "25,557,032", "76.1 % top-1 (torchvision)", "BSD-3-Clause", "centre 224 × 224"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let shown = home.run(&["models", "show", model()]).well();
    assert!(shown.contains("efficientnet-lite0") && shown.contains("multiply-adds"), "{shown}");
    home.train("run", &[]).well();
    let json = home.run(&["models", "show", "run/model", "--json"]).well();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["classes"], serde_json::json!(["blue", "red"]));
}

#[test]
fn features_are_streamed() {
    let home = home();
    let answers =
        converse(home.command(&["embed", model(), "-", "--normalize"]), &["data/red/1.png", "data/blue/1.png"]);
    for answer in answers {
        let numbers: Vec<f64> = answer.split('\t').skip(1).map(|n| n.parse().unwrap()).collect();
        assert_eq!(numbers.len(), 1280);
        assert!((numbers.iter().map(|n| n * n).sum::<f64>() - 1.0).abs() < 1e-4);
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let home = home();
    home.train("run", &[]).well();
    let script = format!("{} predict run data | head -n 1", support::BINARY);
    let ran = support::run(&mut home.of_program("sh", &["-c", &script]));
    assert!(!ran.err.contains("panicked") && !ran.err.contains("pipe"), "{}", ran.err);
    assert_eq!(ran.well().lines().count(), 1);
}

#[test]
fn the_help_names_every_verb_and_its_flags() {
    let home = home();
    let help = home.run(&["--help"]).well();
    assert!(["train", "evaluate", "predict", "embed", "models"].iter().all(|verb| help.contains(verb)), "{help}");
    let help = home.run(&["train", "--help"]).well();
    assert!(["--data", "--model", "--strategy", "--resume", "--dry-run"].iter().all(|f| help.contains(f)), "{help}");
}
