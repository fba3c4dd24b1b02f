//! The strategies of `topwork-cv`, through the binary: each leaves a model that works, and says what it lacks.

mod support;

use std::fs;

use support::{Home, home, model, saved};

fn names(home: &Home) -> Vec<String> {
    let list = home.run(&["strategies", "--json"]).well();
    let name = |line: &str| {
        let strategy: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(!strategy["summary"].as_str().unwrap().is_empty() && !strategy["source"].as_str().unwrap().is_empty());
        strategy["name"].as_str().unwrap().to_string()
    };
    list.lines().map(name).collect()
}

#[test]
fn every_strategy_that_is_listed_leaves_a_model_that_evaluates_as_it_says() {
    let home = home();
    home.train("teacher", &[]).well();
    // Prefixes stand in front of keys and values, which photos do not have.
    for name in names(&home).into_iter().filter(|name| name != "prefix") {
        let (epochs, run) = (["--epochs", "1", "--stage-epochs", "1", "--pairs", "1"], format!("run-{name}"));
        let others = ["--runs", "teacher", "--teacher", "teacher", "--teacher-features", "0.1"];
        let flags = ["--strategy", &name, "--batch-size", "8", "--no-augment"];
        home.train(&run, &[&flags[..], &epochs, &others].concat()).well();
        let measured = home.run(&["evaluate", &run, "--data", "data", "--json"]).well();
        let measured: serde_json::Value = serde_json::from_str(&measured).unwrap();
        let said = home.json(&format!("{run}/summary.json"));
        assert_eq!(measured["accuracy"], said["accuracy"], "{name}");
        let plan = fs::read_to_string(home.path(&run).join("run.toml")).unwrap();
        assert!(plan.contains(&format!("strategy = \"{name}\"")), "{plan}");
    }
}

#[test]
fn a_soup_of_one_run_is_that_run_and_needs_no_model() {
    let home = home();
    home.train("one", &["--strategy", "fine-tuning", "--epochs", "1", "--no-augment"]).well();
    home.run(&["train", "--data", "data", "--strategy", "soup", "--runs", "one", "--out", "soup"]).well();
    assert!(home.result("soup").0 == home.result("one").0);
}

#[test]
fn runs_at_another_size_than_the_model_came_with_are_mixed() {
    let home = home();
    let size = ["--size", "64"];
    home.train("one", &[&["--strategy", "fine-tuning", "--epochs", "1", "--no-augment"], &size[..]].concat()).well();
    home.train("soup", &[&["--strategy", "soup", "--runs", "one"], &size[..]].concat()).well();
    assert!(home.result("soup").0 == home.result("one").0);
}

#[test]
fn what_a_strategy_lacks_is_said() {
    let home = home();
    home.train("run", &[]).well();
    for i in 0..4 {
        home.photo(&format!("other/green/{i}.png"), [30, 160, 30], i);
        home.photo(&format!("other/grey/{i}.png"), [90, 90, 90], 50 + i);
    }
    let refuses = |flags: &[&str], parts: &[&str]| {
        home.refuses(&Home::training("new", flags), parts);
    };
    refuses(&["--strategy", "soup"], &["--runs"]);
    refuses(&["--strategy", "soup", "--runs", "nowhere"], &["nowhere", "no such run"]);
    refuses(&["--strategy", "distillation"], &["--teacher"]);
    refuses(&["--strategy", "distillation", "--teacher", model()], &["names no outputs"]);
    refuses(&["--strategy", "partial", "--last-stages", "40"], &["--last-stages 40", "9 stages"]);
    refuses(&["--strategy", "wise-ft", "--alpha", "1.5"], &["--alpha 1.5"]);
    refuses(&["--strategy", "l2-sp", "--penalty", "-1"], &["--penalty -1"]);
    refuses(&["--strategy", "nonsense"], &["nonsense", "gradual-unfreezing"]);
    let other = ["train", "--data", "other", "--model", model(), "--out", "new", "--strategy", "distillation"];
    home.refuses(&[&other[..], &["--teacher", "run"]].concat(), &["blue, red", "green, grey"]);
    let resnet = saved("resnet18", 32, None);
    let other = ["train", "--data", "data", "--model", &resnet, "--out", "new", "--strategy", "soup", "--runs", "run"];
    home.refuses(&other, &["run", "another one"]);
}
