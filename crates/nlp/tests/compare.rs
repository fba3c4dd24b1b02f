//! `rank`, `find-lr` and `train --folds`, through the binary.

mod support;

use std::fs;

use support::{home, model, saved};

#[test]
fn encoders_are_ranked_without_a_source_head_and_runs_with_one() {
    let home = home();
    home.train("run", &[]).well();
    let models = format!("{},run,{}", model(), saved("bert-3", 3));
    let rank = |flags: &[&str]| {
        home.run(&[&["rank", "--train", "train.tsv", "--validation", "dev.tsv", "--models", &models], flags].concat())
    };
    let table = rank(&[]).well();
    assert!(table.contains("60 training sentences of 2 classes; best first by LogME"), "{table}");
    let line = table.lines().find(|line| line.starts_with(model())).unwrap();
    assert_eq!(line.matches('–').count(), 2, "LEEP and NCE: {line}");
    let all: serde_json::Value = serde_json::from_str(&rank(&["--json", "--limit", "20"]).well()).unwrap();
    let of_run = all["models"].as_array().unwrap().iter().find(|m| m["model"] == "run").unwrap().clone();
    assert!(of_run["values"]["leep"].is_f64() && of_run["samples"] == 20, "{of_run}");
}

#[test]
fn a_range_test_draws_and_writes() {
    let home = home();
    let flags = ["--train", "train.tsv", "--model", model(), "--strategy", "fine-tuning", "--steps", "30"];
    let out = home.run(&[&["find-lr", "--out", "new/place"], &flags[..]].concat()).well();
    assert!(out.contains("fine-tuning, phase \"train everything\"") && out.contains("rate"), "{out}");
    assert!(home.path("new/place/find-lr.svg").is_file() && home.path("new/place/find-lr.json").is_file());
    assert_eq!(fs::read_dir(home.path("new/place")).unwrap().count(), 2);
}

#[test]
fn sentences_are_cross_validated() {
    let home = home();
    let flags = ["--strategy", "fine-tuning", "--epochs", "2", "--folds", "3"];
    let out = home.train("run", &flags).well();
    assert!(out.contains("3 folds: accuracy") && out.contains("on 20 validation samples"), "{out}");
    let text = fs::read_to_string(home.path("run/predictions.csv")).unwrap();
    assert_eq!(text.lines().count(), 61);
    assert_eq!(text.lines().next().unwrap(), "sample,label,predicted,fold,probability of bad,probability of good");
    for line in text.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let shares: Vec<f64> = cells[cells.len() - 2..].iter().map(|p| p.parse().unwrap()).collect();
        assert!((shares[0] + shares[1] - 1.0).abs() < 1e-5, "{line}");
    }
    let folds = home.json("run/summary.json")["folds"].clone();
    assert_eq!(folds["together"]["samples"], 60);
}

#[test]
fn finished_runs_stand_side_by_side_with_what_their_seeds_say() {
    let home = home();
    for seed in ["1", "2", "3"] {
        home.train(&format!("probe-{seed}"), &["--seed", seed]).well();
        let tuned = ["--strategy", "fine-tuning", "--epochs", "4", "--learning-rate", "3e-3", "--seed", seed];
        home.train(&format!("tuned-{seed}"), &tuned).well();
    }
    let all = ["probe-1", "tuned-1", "probe-2", "tuned-2", "tuned-3", "probe-3"];
    let said = home.run(&[&["compare", "--out", "all.html"], &all[..]].concat()).well();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("settings") && lines[0].contains("accuracy"), "{said}");
    assert!(lines[1].contains("strategy ") && lines[1].contains(" ± "), "{said}");
    assert!(said.contains("paired by seed"), "{said}");
    let page = fs::read_to_string(home.path("all.html")).unwrap();
    assert!(
        page.contains("<polyline")
            && page.contains("probe-1")
            && !page.contains("src=\"http")
            && !page.contains("href"),
        "{page}"
    );
    let json = home.run(&[&["compare", "--json"], &all[..]].concat()).well();
    let found: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((found["score"].as_str(), found["rows"][1]["scores"].as_array().unwrap().len()), (Some("accuracy"), 3));
    assert!(found["rows"][1]["difference"]["p"].as_f64().is_some_and(|p| (0.0..=1.0).contains(&p)));

    home.run(&["events", "probe-1", "tuned-1", "--out", "board"]).well();
    let file = fs::read(home.path("board/tuned-1/events.out.tfevents.0.topwork")).unwrap();
    assert!(file.windows(19).any(|part| part == b"validation/accuracy"));
    // Of the same run, events are brought up to date; nothing else is replaced.
    home.run(&["events", "tuned-1", "--out", "board"]).well();
    home.write("other/tuned-1/metrics.jsonl", fs::read(home.path("probe-1/metrics.jsonl")).unwrap());
    home.run(&["events", "other/tuned-1", "--out", "board"]).refused(&["board/tuned-1", "it exists already"]);
    assert!(fs::read(home.path("board/tuned-1/events.out.tfevents.0.topwork")).unwrap() == file);
    home.run(&["events", "nowhere", "--out", "absent"]).refused(&["nowhere", "metrics.jsonl"]);
    assert!(!home.path("absent").exists());

    home.run(&["compare", "probe-1"]).refused(&["two runs"]);
    home.run(&["compare", "probe-1", "nowhere"]).refused(&["nowhere", "run.toml"]);
    home.run(&["compare", "--out", "all.html", "probe-1", "tuned-1"]).refused(&["all.html", "exists"]);
    fs::write(home.path("probe-2/summary.json"), "{").unwrap();
    home.run(&["compare", "probe-1", "probe-2"]).refused(&["probe-2/summary.json", "restore"]);
}
