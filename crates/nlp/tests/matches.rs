//! Couples of texts end to end: an encoder that learns to place a text beside its match; what is left of it; wrong input.

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{Home, empty, knowing, model};
use topwork_core::seed::Seed;

const FILMS: [&str; 5] = ["film", "plot", "actor", "story", "scene"];
const TONES: [&str; 4] = ["good", "bad", "dull", "warm"];

/// A BERT that has words of its own for questions and for answers.
fn encoder() -> String {
    knowing("bert-of-couples", &["story", "scene", "which", "tells", "about", "?"])
}

/// A question for each thing and tone, and its answer, with some words that say nothing.
fn pairs(n: usize, seed: u64) -> String {
    let mut draw = Seed(seed).stream();
    let mut text = "question\tanswer\n".to_string();
    for i in 0..n {
        let (thing, tone) = (FILMS[i % 5], TONES[i / 5 % 4]);
        let mut pick = |words: [&'static str; 2]| words[draw.below(2)];
        let (article, filler) = (pick(["a", "the"]), pick(["very", "quite"]));
        text += &format!("which {thing} was {tone} ?\t{article} {filler} {tone} story tells about {article} {thing}\n");
    }
    text
}

fn home() -> Home {
    let home = empty();
    home.write("train.tsv", pairs(200, 1));
    home.write("dev.tsv", pairs(20, 2));
    home
}

const DATA: [&str; 6] = ["--task", "matches", "--train", "train.tsv", "--validation", "dev.tsv"];

fn args<'a>(model: &'a str, out: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
    [&["train"], &DATA[..], &["--model", model, "--out", out, "--quiet"], flags].concat()
}

fn train(home: &Home, model: &str, out: &str, flags: &[&str]) -> Value {
    home.run(&args(model, out, flags)).well();
    home.json(&format!("{out}/summary.json"))
}

const TUNED: [&str; 6] = ["--strategy", "fine-tuning", "--epochs", "30", "--learning-rate", "3e-3"];

fn judged(home: &Home, model: &str, more: &[&str]) -> Value {
    let all = [&["evaluate", model, "--validation", "dev.tsv", "--json", "--quiet"], more].concat();
    serde_json::from_str(&home.run(&all).well()).unwrap()
}

#[test]
fn texts_learn_to_find_their_matches_and_the_model_is_an_encoder() {
    let (home, encoder) = (home(), encoder());
    let before = judged(&home, &encoder, &["--task", "matches"]);
    let after = train(&home, &encoder, "run", &TUNED);
    let rank = |scores: &Value| scores["mean_reciprocal_rank"].as_f64().unwrap();
    // Twenty candidates: by chance, a rank is worth 0.18.
    assert!(rank(&before) < 0.5 && rank(&after) > 0.9, "{before} {after}");
    assert_eq!((&after["samples"], &before["samples"]), (&json!(20), &json!(20)));
    assert_eq!(rank(&judged(&home, "run", &[])), rank(&after));

    let config = home.json("run/model/config.json");
    assert_eq!((&config["architectures"][0], &config["topwork"]["pooling"]), (&json!("BertModel"), &json!("mean")));
    assert!(config.get("id2label").is_none());
    assert!(home.path("run/model/modules.json").is_file() && home.path("run/model/1_Pooling/config.json").is_file());
    let weights = topwork_core::checkpoint::read(&home.path("run/model/model.safetensors")).unwrap();
    assert!(weights.keys().all(|name| !name.starts_with("classifier")), "{:?}", weights.keys());

    let text = ["--text", "which film was good ?"];
    let vector = home.run(&[&["embed", "run"], &text[..]].concat()).well();
    assert_eq!(vector.trim().split([' ', '\t', ',']).filter(|v| v.parse::<f32>().is_ok()).count(), 16, "{vector}");
    home.run(&[&["predict", "run"], &text[..]].concat()).refused(&["embed"]);
    home.run(&["export", "run", "--format", "onnx", "--out", "run.onnx"]).well();
}

#[test]
fn what_is_learned_is_where_other_tasks_start_from() {
    let home = home();
    train(&home, &encoder(), "run", &["--strategy", "fine-tuning", "--epochs", "1"]);
    home.write("labelled.tsv", support::table(40, 1));
    home.run(&["train", "--train", "labelled.tsv", "--model", "run", "--out", "classes", "--quiet"]).well();
    assert!(home.json("classes/model/config.json")["topwork"].get("matches").is_none());
}

#[test]
fn the_batch_of_a_step_is_twice_as_many_texts_as_couples_and_adapters_learn_too() {
    let (home, encoder) = (home(), encoder());
    let lora = ["--strategy", "lora", "--epochs", "6", "--learning-rate", "2e-2", "--batch-size", "32"];
    let scores = train(&home, &encoder, "run", &lora);
    assert!(scores["mean_reciprocal_rank"].as_f64().unwrap() > 0.3, "{scores}");
    let base = ["--adapter", "run/adapter"];
    assert_eq!(judged(&home, &encoder, &base)["recall_at_10"], scores["recall_at_10"]);
    let lines = fs::read_to_string(home.path("run/metrics.jsonl")).unwrap();
    let mut steps =
        lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).filter(|v| v["kind"] == "step");
    // 200 couples, 16 a step: 13 steps an epoch, told every ten.
    assert_eq!(steps.next_back().unwrap()["step"], json!(70));
}

#[test]
fn a_run_that_is_killed_and_resumed_ends_in_the_same_bytes() {
    let all = ["--strategy", "fine-tuning", "--epochs", "20", "--limit", "60", "--checkpoint-every", "3"];
    let encoder = encoder();
    let other = home();
    train(&other, &encoder, "run", &all);
    let home = home();
    home.kill_at(&args(&encoder, "run", &all), "run", 2);
    home.run(&["train", "--resume", "--out", "run", "--quiet"]).well();
    assert!(home.result("run") == other.result("run"));
}

#[test]
fn what_makes_no_sense_of_couples_is_refused() {
    let home = home();
    let refused = |flags: &[&str], parts: &[&str]| {
        home.run(&args(model(), "no", flags)).refused(parts);
        assert!(!home.path("no").exists());
    };
    refused(&[], &["--strategy feature-extraction", "a head"]);
    refused(&["--strategy", "fine-tuning", "--folds", "3"], &["--folds 3", "one space"]);
    refused(&["--strategy", "fine-tuning", "--label-column", "question"], &["--label-column"]);
    refused(&["--strategy", "fine-tuning", "--label-smoothing", "0.1"], &["smoothed labels"]);
    refused(&["--strategy", "fine-tuning", "--mixup", "0.2"], &["mixtures"]);
    refused(&["--strategy", "fine-tuning", "--sampler", "balanced"], &["classes to balance"]);
    refused(&["--strategy", "fine-tuning", "--batch-size", "2"], &["--batch-size 2", "four texts"]);
    refused(&["--strategy", "fine-tuning", "--limit", "1"], &["the training samples", "four texts"]);
    refused(&["--strategy", "contrastive-few-shot"], &["pairs of a class"]);
    home.write("train.tsv", "text\na film\nb\n");
    refused(&["--strategy", "fine-tuning"], &["train.tsv", "--pair-column"]);
    home.write("train.tsv", "question\tanswer\na film\t\n");
    refused(&["--strategy", "fine-tuning"], &["train.tsv, line 2", "\"answer\""]);
    home.write("train.tsv", "question\tanswer\n");
    refused(&["--strategy", "fine-tuning"], &["train.tsv", "no rows"]);
    home.run(&["evaluate", model(), "--validation", "dev.tsv"]).refused(&["backbone"]);
    home.run(&["rank", "--models", model(), "--task", "matches", "--train", "dev.tsv"]).refused(&["rank"]);
}
