//! `advise` on sentences, through the binary.

mod support;

use serde_json::Value;
use support::{Home, home, model, table};

const DATA: [&str; 4] = ["--train", "train.tsv", "--validation", "dev.tsv"];

fn advise(home: &Home, flags: &[&str]) -> Value {
    let args = [&["advise", "--models", model(), "--json", "--quiet"], &DATA[..], flags].concat();
    serde_json::from_str(&home.run(&args).well()).unwrap()
}

fn names(advice: &Value) -> Vec<&str> {
    advice["rules"].as_array().unwrap().iter().map(|rule| rule["name"].as_str().unwrap()).collect()
}

/// The rows of `table`, every `nth` with another label, so that no head is always right.
fn noisy(n: usize, nth: usize) -> String {
    let flip = |(i, line): (usize, &str)| match i % nth {
        1 if line.ends_with("good") => line.replace("\tgood", "\tbad"),
        1 => line.replace("\tbad", "\tgood"),
        _ => line.to_string(),
    };
    table(n, 7).lines().enumerate().map(flip).collect::<Vec<_>>().join("\n") + "\n"
}

#[test]
fn what_is_advised_is_followed_by_the_printed_command() {
    let home = home();
    let advice = advise(&home, &["--max-tokens", "16", "--out", "a plan.json", "--limit", "40"]);
    let command = advice["command"].as_str().unwrap();
    assert!(command.contains("--max-tokens 16") && command.contains("--limit 40"), "{command}");
    assert!(command.contains("--plan 'a plan.json'"), "{command}");
    let flags = ["--max-tokens", "16", "--limit", "40", "--plan", "a plan.json"];
    home.train("run", &flags).well();
    let text = std::fs::read_to_string(home.path("run/run.toml")).unwrap();
    assert!(text.contains(&format!("strategy = {}", advice["plan"]["strategy"])), "{text}");
}

#[test]
fn with_enough_rows_to_hold_out_lora_is_tried_on_half_of_them_and_the_head_taken_where_that_is_better() {
    let home = home();
    home.write("train.tsv", noisy(240, 6));
    let advice = advise(&home, &[]);
    assert_eq!(advice["compared"].as_array().unwrap().len(), 1);
    let compared = &advice["compared"][0];
    assert_eq!((&compared["learned"], &compared["held_out"]), (&120.into(), &120.into()), "{advice}");
    let value = |key: &str| compared[key].as_f64().unwrap();
    let gain = value("accuracy") - value("head");
    assert!((advice["measures"]["gain"].as_f64().unwrap() - gain).abs() < 1e-9);
    let names = names(&advice);
    assert!(names.contains(&"texts-worth-comparing"), "{names:?}");
    assert!(gain < 0.0 && names.contains(&"comparison-lost"), "{names:?}: {gain}");
    assert_eq!((&compared["strategy"], &advice["plan"]["strategy"]), (&"lora".into(), &"feature-extraction".into()));
    let again = advise(&home, &[]);
    assert_eq!((&again["plan"], &again["compared"][0]["accuracy"]), (&advice["plan"], &compared["accuracy"]));
}

#[test]
fn the_text_says_what_was_measured_what_is_advised_and_why() {
    let home = home();
    let args = [&["advise", "--models", model(), "--quiet"], &DATA[..]].concat();
    let text = home.run(&args).well();
    for part in
        ["cross-validated accuracy of heads", "logistic regression, L2 1", "s/step", "strategy ", "why:", "--plan"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn rows_that_occur_again_and_uneven_classes_are_told() {
    let home = home();
    let rows: Vec<String> = table(60, 1).lines().map(String::from).collect();
    let mostly: Vec<&String> =
        rows.iter().enumerate().filter(|(i, _)| i % 2 == 1 || i % 24 == 0).map(|(_, r)| r).collect();
    let text = mostly.iter().map(|row| format!("{row}\n")).collect::<String>();
    home.write("train.tsv", format!("{text}{}\n", rows[1]));
    home.write("dev.tsv", format!("sentence\tlabel\n{}\nthe plot was cold\tbad\n", rows[1]));
    let advice = advise(&home, &[]);
    assert_eq!(advice["measures"]["shared"], 0.5);
    assert!(advice["measures"]["imbalance"].as_f64().unwrap() >= 10.0, "{advice}");
    assert!(names(&advice).contains(&"rare-classes") && names(&advice).contains(&"repeated-samples"), "{advice}");
    assert!(advice["plan"].to_string().contains("balanced"), "{advice}");
}

#[test]
fn without_models_the_embedded_one_is_considered() {
    let home = home();
    assert!(home.run(&["advise", "--train", "train.tsv", "--quiet"]).well().contains("tiny-bert"));
}

#[test]
fn advice_on_what_makes_no_sense_is_refused() {
    let home = home();
    let refuses = |flags: &[&str], parts: &[&str]| {
        home.refuses(&[&["advise", "--quiet"], flags].concat(), parts);
    };
    refuses(&["--models", model()], &["--train", "nothing to learn from"]);
    refuses(&["--models", model(), "--train", "absent.tsv"], &["absent.tsv"]);
    refuses(&["--models", "no-such", "--train", "train.tsv"], &["none of them can be opened", "no-such"]);
    refuses(&["--models", model(), "--train", "train.tsv", "--max-tokens", "999"], &["--max-tokens 999"]);
    home.write("one.tsv", "text\tlabel\na film\tgood\nthe film\tgood\na plot\tbad\n");
    let one = ["--models", model(), "--train", "one.tsv", "--validation", "dev.tsv", "--text-column", "text"];
    home.write("dev.tsv", "text\tlabel\na film\tgood\n");
    refuses(&one, &["class \"bad\"", "a single sample"]);
}
