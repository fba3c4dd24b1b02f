//! `train --folds`, through the binary.

mod support;

use std::collections::BTreeMap;
use std::fs;

use support::{Home, home};

const TUNING: [&str; 9] =
    ["--strategy", "fine-tuning", "--epochs", "2", "--batch-size", "4", "--no-augment", "--folds", "3"];

/// sample, label, predicted, fold.
fn predictions(home: &Home, run: &str) -> Vec<[String; 4]> {
    let text = fs::read_to_string(home.path(run).join("predictions.csv")).unwrap();
    let cells = |line: &str| line.split(',').map(String::from).collect::<Vec<_>>();
    text.lines().skip(1).map(|line| cells(line)[..4].to_vec().try_into().unwrap()).collect()
}

#[test]
fn every_sample_is_predicted_once_by_a_model_that_did_not_learn_from_it() {
    let home = home();
    let out = home.train("run", &["--folds", "5"]).well();
    assert!(out.contains("5 folds: accuracy 1.0000 ± 0.0000") && out.contains("on 20 out-of-fold samples"), "{out}");
    let rows = predictions(&home, "run");
    let names: BTreeMap<&str, &[String; 4]> = rows.iter().map(|row| (row[0].as_str(), row)).collect();
    assert_eq!((rows.len(), names.len()), (20, 20));
    for fold in ["1", "2", "3", "4", "5"] {
        let of_fold = |label: &str| rows.iter().filter(|row| row[3] == fold && row[1] == label).count();
        assert_eq!((of_fold("red"), of_fold("blue")), (2, 2), "fold {fold}");
        let summary = home.json(&format!("run/folds/{fold}/summary.json"));
        assert_eq!((&summary["samples"], &summary["judged_on"]), (&4.into(), &"validation".into()));
    }
    let summary = home.json("run/summary.json");
    assert_eq!((&summary["samples"], &summary["judged_on"]), (&20.into(), &"out-of-fold".into()));
    assert_eq!(summary["folds"]["each"].as_array().unwrap().len(), 5);
    assert!(fs::read_to_string(home.path("run/report.html")).unwrap().contains("mean ± deviation"));
    // The final model is a model like any other.
    let line = home.run(&["predict", "run", "data/red/1.png"]).well();
    assert!(line.contains("\tred\t"), "{line}");
}

#[test]
fn an_adapter_is_cross_validated_like_anything_else() {
    let home = home();
    let lora = ["--strategy", "lora", "--epochs", "1", "--batch-size", "4", "--no-augment", "--folds", "2"];
    home.train("run", &lora).well();
    assert_eq!(predictions(&home, "run").len(), 20);
}

#[test]
fn the_final_model_learns_from_everything() {
    let home = home();
    home.train("folded", &["--folds", "2"]).well();
    for (i, hue) in [[160, 30, 30], [30, 30, 160]].iter().enumerate() {
        home.photo(&format!("val/{}/1.png", ["red", "blue"][i]), *hue, 90);
    }
    home.run(&["train", "--train", "data", "--validation", "val", "--model", support::model(), "--out", "all"]).well();
    home.train("most", &[]).well();
    let probabilities = |run: &str| -> Vec<f64> {
        // What the network itself says: each run found another temperature.
        let _ = fs::remove_file(home.path(run).join("model/calibration.json"));
        let answers = home.run(&["predict", run, "data", "--json"]).well();
        let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        answers.lines().map(|line| value(line)["predictions"][0]["probability"].as_f64().unwrap()).collect()
    };
    let all = probabilities("all");
    let farthest = |run: &str| probabilities(run).iter().zip(&all).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    // The order of the samples is another, so that the last bits of the solution may differ.
    let (folded, most) = (farthest("folded"), farthest("most"));
    assert!(folded < 1e-4 && most > 10.0 * folded, "{folded}, without a fifth {most}");
}

#[test]
fn a_validation_part_of_the_data_judges_the_final_model_alone() {
    let home = home();
    home.photo("val/red/1.png", [160, 30, 30], 50);
    home.photo("val/blue/1.png", [30, 30, 160], 51);
    let args = ["train", "--train", "data", "--validation", "val", "--model", support::model(), "--out", "run"];
    let out = home.run(&[&args[..], &["--folds", "2"]].concat()).well();
    assert!(out.contains("on 2 validation samples"), "{out}");
    let rows = predictions(&home, "run");
    assert!(rows.len() == 20 && rows.iter().all(|row| row[0].starts_with("data")), "{rows:?}");
}

#[test]
fn a_cross_validation_that_is_killed_and_resumed_ends_in_the_same_bytes() {
    let result = |home: &Home| (home.result("run"), fs::read(home.path("run/predictions.csv")).unwrap());
    let whole = home();
    whole.train("run", &TUNING).well();
    let expected = result(&whole);
    let home = home();
    let args = Home::training("run", &TUNING);
    for fold in [1, 2] {
        let resume = ["train", "--resume", "--out", "run"];
        let mut child = home.start(if fold == 1 { &args } else { &resume });
        let checkpoint = home.path(&format!("run/folds/{fold}/checkpoints/000001.json"));
        home.wait(&mut child, || checkpoint.is_file());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(!home.path("run/report.html").exists());
    home.run(&["train", "--resume", "--out", "run", "--quiet"]).well();
    assert!(result(&home) == expected);
    home.run(&["train", "--resume", "--out", "run"]).refused(&["finished", "nothing to resume"]);
}

#[test]
fn folds_that_cannot_be_are_refused() {
    let home = home();
    let refuses = |flags: &[&str], parts: &[&str]| home.refuses(&Home::training("new", flags), parts);
    refuses(&["--folds", "1"], &["--folds 1", "use 2 or more"]);
    refuses(&["--folds", "11"], &["--folds 11", "has only 10 samples", "--folds 10 or less"]);
    refuses(&["--folds", "5", "--per-class", "3"], &["--folds 5", "has only 3 samples"]);
    let watching = ["--folds", "2", "--strategy", "fine-tuning", "--patience", "2"];
    refuses(&watching, &["--patience", "learns from every sample", "--epochs"]);
}

#[test]
fn a_dry_run_tells_of_the_folds() {
    let home = home();
    let before = home.files();
    let out = home.train("run", &["--folds", "4", "--dry-run"]).well();
    assert!(out.contains("20 training and 0 validation photos") && out.contains("4 folds"), "{out}");
    assert!(home.files() == before);
}
