//! The strategies of `topwork-nlp`, through the binary: each leaves a model that works, and says what it lacks.

mod support;

use support::{Home, home};

/// What a sentence encoder without a head of its own, and without batch normalization, cannot do.
const UNSUITED: [(&str, &str); 2] = [("co-tuning", "no head of its own"), ("stoch-norm", "no batch normalization")];

#[test]
fn every_strategy_that_is_listed_leaves_a_model_that_evaluates_as_it_says() {
    let home = home();
    home.train("teacher", &["--pooling", "mean"]).well();
    let list = home.run(&["strategies", "--json"]).well();
    for line in list.lines() {
        let strategy: serde_json::Value = serde_json::from_str(line).unwrap();
        let (name, run) = (strategy["name"].as_str().unwrap(), format!("run-{}", strategy["name"].as_str().unwrap()));
        let flags = ["--strategy", name, "--epochs", "1", "--stage-epochs", "1", "--pairs", "1", "--pooling", "mean"];
        let others = ["--runs", "teacher", "--teacher", "teacher", "--teacher-features", "0.1"];
        let flags = [&flags[..], &others].concat();
        if let Some((_, reason)) = UNSUITED.iter().find(|(unsuited, _)| *unsuited == name) {
            home.refuses(&Home::training(&run, &flags), &[reason]);
            continue;
        }
        home.train(&run, &flags).well();
        let measured = home.run(&["evaluate", &run, "--validation", "dev.tsv", "--json"]).well();
        let measured: serde_json::Value = serde_json::from_str(&measured).unwrap();
        assert_eq!(measured["accuracy"], home.json(&format!("{run}/summary.json"))["accuracy"], "{name}");
    }
}

#[test]
fn a_teacher_of_another_pooling_teaches() {
    let home = home();
    home.train("teacher", &["--strategy", "fine-tuning", "--epochs", "4", "--pooling", "cls"]).well();
    let flags = ["--strategy", "distillation", "--teacher", "teacher", "--epochs", "2", "--pooling", "mean"];
    let out = home.train("student", &flags).well();
    assert!(out.contains("accuracy"), "{out}");
}
