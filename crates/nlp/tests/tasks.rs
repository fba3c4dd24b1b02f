//! Tasks other than one class a sentence, from the command to the answer.

mod support;

use support::{BINARY, Home, empty, home as sentences, model, table};

/// Sentences with what they are about and how good they say it is.
fn home() -> Home {
    assert!(!BINARY.is_empty());
    let home = empty();
    let mut text = "sentence\ttags\tscore\n".to_string();
    for line in table(80, 3).lines().skip(1) {
        let (sentence, label) = line.split_once('\t').unwrap();
        let about = ["film", "plot", "actor"].into_iter().filter(|word| sentence.contains(word));
        let tags: Vec<&str> = about.chain((label == "good").then_some("praise")).collect();
        let score = if label == "good" { 4.0 } else { 1.0 } + if sentence.contains("very") { 0.5 } else { 0.0 };
        text += &format!("{sentence}\t{}\t{score}\n", tags.join(";"));
    }
    home.write("rows.tsv", text);
    home
}

fn train(home: &Home, out: &str, flags: &[&str]) {
    let args = ["train", "--train", "rows.tsv", "--validation", "rows.tsv", "--model", model(), "--out", out];
    home.run(&[&args, flags].concat()).well();
}

const TUNED: [&str; 6] = ["--strategy", "fine-tuning", "--epochs", "150", "--learning-rate", "3e-3"];

#[test]
fn labels_are_learned_and_told_one_by_one() {
    let home = home();
    let labels = ["--task", "labels", "--label-column", "tags"];
    train(&home, "tuned", &[&labels[..], &TUNED].concat());
    train(&home, "solved", &[&labels[..], &["--l2", "1e-3"]].concat());
    for run in ["tuned", "solved"] {
        let summary = home.json(&format!("{run}/summary.json"));
        assert!(summary["mean_average_precision"].as_f64().unwrap() > 0.8, "{run}: {summary}");
    }
    let config = home.json("tuned/model/config.json");
    assert_eq!((&config["problem_type"], &config["num_labels"]), (&"multi_label_classification".into(), &4.into()));
    let line = home.run(&["predict", "tuned", "--text", "the film is very great"]).well();
    assert!(line.contains("\tfilm\t") && line.contains("\tpraise\t") && !line.contains("plot"), "{line}");
    let judged =
        home.run(&["evaluate", "tuned", "--validation", "rows.tsv", "--label-column", "tags", "--json"]).well();
    let judged: serde_json::Value = serde_json::from_str(&judged).unwrap();
    assert_eq!(judged["macro_f1"], home.json("tuned/summary.json")["macro_f1"]);
}

#[test]
fn values_are_learned_and_told() {
    let home = home();
    let values = ["--task", "values", "--label-column", "score"];
    train(&home, "tuned", &[&values[..], &TUNED].concat());
    let summary = home.json("tuned/summary.json");
    assert!(summary["r2"].as_f64().unwrap() > 0.8, "{summary}");
    assert_eq!(home.json("tuned/model/config.json")["problem_type"], "regression");
    let line = home.run(&["predict", "tuned", "--text", "a plot is very awful", "--json"]).well();
    let answer: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(answer["values"][0]["name"], "score");
    assert!((answer["values"][0]["value"].as_f64().unwrap() - 1.5).abs() < 1.0, "{line}");
}

#[test]
fn a_table_of_classes_is_no_table_of_values() {
    let home = sentences();
    let args = ["train", "--train", "train.tsv", "--model", model(), "--out", "run", "--task", "values"];
    home.refuses(&args, &["train.tsv", "\"label\"", "not a number"]);
}
