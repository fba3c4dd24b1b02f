//! Labels for words end to end: from CoNLL files and JSON lines to entities with their places; wrong input.

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{Home, empty, knowing, member};
use topwork_core::seed::Seed;

const NAMES: [&str; 6] = ["anna", "peter", "maria", "smith", "jones", "novak"];
const PLACES: [&str; 5] = ["paris", "london", "oslo", "rome", "york"];

fn model() -> String {
    knowing("bert-of-names", &[&NAMES[..], &PLACES, &["new", "in", "lives", ".", "met"]].concat())
}

/// Labelled sentences.
fn sentences(n: usize, seed: u64) -> Vec<Vec<(&'static str, &'static str)>> {
    let mut draw = Seed(seed).stream();
    let mut sentence = || {
        let mut pick = |words: &[&'static str]| words[draw.below(words.len())];
        let mut found = Vec::new();
        let person = |found: &mut Vec<_>, first, last: Option<&'static str>| {
            found.push((first, "B-PER"));
            found.extend(last.map(|last| (last, "I-PER")));
        };
        let last = [Some("smith"), Some("novak"), None][usize::from(pick(&NAMES[..3]) == "anna") * 2];
        person(&mut found, pick(&NAMES[..3]), last);
        if pick(&["met", "lives"]) == "met" {
            found.push(("met", "O"));
            person(&mut found, pick(&NAMES[..3]), Some(pick(&NAMES[3..])));
        } else {
            found.extend([("lives", "O"), ("in", "O")]);
            match pick(&PLACES) {
                "york" => found.extend([("new", "B-LOC"), ("york", "I-LOC")]),
                place => found.push((place, "B-LOC")),
            }
        }
        found.push((".", "O"));
        found
    };
    (0..n).map(|_| sentence()).collect()
}

fn conll(sentences: &[Vec<(&str, &str)>]) -> String {
    let line = |(word, label): &(&str, &str)| format!("{word} X {label}\n");
    let text = |sentence: &Vec<(&str, &str)>| sentence.iter().map(line).collect::<String>() + "\n";
    "-DOCSTART- -X- O\n\n".to_string() + &sentences.iter().map(text).collect::<String>()
}

fn home() -> Home {
    let home = empty();
    home.write("train.conll", conll(&sentences(120, 1)));
    home.write("dev.conll", conll(&sentences(40, 2)));
    home
}

fn train(home: &Home, model: &str, out: &str, flags: &[&str]) -> Value {
    let args = ["train", "--task", "tokens", "--train", "train.conll", "--validation", "dev.conll", "--model", model];
    home.run(&[&args[..], &["--out", out, "--quiet"], flags].concat()).well();
    home.json(&format!("{out}/summary.json"))
}

const TUNED: [&str; 6] = ["--strategy", "fine-tuning", "--epochs", "20", "--learning-rate", "5e-3"];

#[test]
fn entities_are_learned_judged_and_told_with_their_places() {
    let home = home();
    let summary = train(&home, &model(), "run", &TUNED);
    assert!(summary["f1"].as_f64().unwrap() > 0.95, "{summary}");
    let config = home.json("run/model/config.json");
    assert_eq!(
        (&config["architectures"][0], &config["id2label"]["0"]),
        (&json!("BertForTokenClassification"), &json!("B-LOC"))
    );
    assert!(config.get("problem_type").is_none());
    let weights = topwork_core::checkpoint::read(&home.path("run/model/model.safetensors")).unwrap();
    assert_eq!(weights["classifier.weight"].dims(), [5, 16]);
    assert!(weights.contains_key("bert.encoder.layer.1.output.dense.weight"));
    assert!(!weights.keys().any(|name| name.contains("pooler")));

    let judged = home.run(&["evaluate", "run", "--validation", "dev.conll", "--json"]).well();
    let judged: Value = serde_json::from_str(&judged).unwrap();
    assert_eq!((&judged["f1"], &judged["samples"]), (&summary["f1"], &json!(40)));
    assert!(home.run(&["evaluate", "run", "--validation", "dev.conll"]).well().contains("\nLOC "));

    // Characters, not bytes; punctuation beside a name is no part of it.
    let line = home.run(&["predict", "run", "--text", "«Anna Smith» lives in New York.", "--json"]).well();
    let found: Value = serde_json::from_str(&line).unwrap();
    let entities = found["entities"].as_array().unwrap();
    let places: Vec<Value> = entities.iter().map(|e| json!([e["text"], e["type"], e["start"], e["end"]])).collect();
    assert!(places.contains(&json!(["New York", "LOC", 22, 30])), "{line}");
    assert!(entities.iter().all(|e| e["score"].as_f64().unwrap() > 0.4), "{line}");
    let line = home.run(&["predict", "run", "--text", "maria lives in oslo ."]).well();
    assert!(line.contains("\tmaria\tPER\t0\t5\t") && line.contains("\toslo\tLOC\t15\t19\t"), "{line}");

    // A model of the very same labels goes on learning; of whole sentences it is another one.
    home.run(&["embed", "run", "--text", "a"]).refused(&["tells tokens"]);
    home.run(&["predict", "run", "--text", "a", "--top-k", "2"]).refused(&["--top-k 2"]);
    home.run(&["predict", "run", "dev.conll"]).refused(&["dev.conll: is a file of labelled words", "evaluate"]);
    home.write("text.txt", "maria lives in oslo .\nmet .\n");
    let lines = home.run(&["predict", "run", "text.txt"]).well();
    assert!(lines.contains("text.txt, line 1\tmaria\tPER\t") && lines.contains("text.txt, line 2\t"), "{lines}");
    home.write("classes.tsv", "text\tlabel\n".to_string() + &"anna\tx\noslo\ty\n".repeat(10));
    home.run(&["train", "--train", "classes.tsv", "--model", "run", "--out", "classes", "--quiet"]).well();
}

#[test]
fn a_long_text_is_labelled_whole() {
    let home = home();
    train(&home, &model(), "run", &[&TUNED[..], &["--max-tokens", "12", "--stride", "4"]].concat());
    let text = "anna smith lives in oslo . ".repeat(12);
    let found: Value = serde_json::from_str(&home.run(&["predict", "run", "--text", &text, "--json"]).well()).unwrap();
    let places: Vec<u64> = found["entities"].as_array().unwrap().iter().map(|e| e["start"].as_u64().unwrap()).collect();
    let expected: Vec<u64> = (0..12).flat_map(|i| [27 * i, 27 * i + 20]).collect();
    assert_eq!(places, expected, "{found}");
}

#[test]
fn strategies_label_rows_or_say_why_not() {
    let home = home();
    let model = model();
    for (strategy, flags) in [
        ("feature-extraction", &["--l2", "1e-3"][..]),
        ("lp-ft", &["--epochs", "2"]),
        ("lora", &["--epochs", "2"]),
        ("bitfit", &["--epochs", "2"]),
        ("partial", &["--epochs", "8", "--class-weights", "balanced", "--label-smoothing", "0.1"]),
        ("from-scratch", &["--epochs", "2"]),
        ("delta", &["--epochs", "2", "--channel-weights", "uniform"]),
    ] {
        let summary = train(&home, &model, strategy, &[&["--strategy", strategy], flags].concat());
        assert!(summary["token_accuracy"].as_f64().unwrap() > 0.2, "{strategy}: {summary}");
    }
    assert!(home.json("feature-extraction/summary.json")["f1"].as_f64().unwrap() > 0.9);
    let page = fs::read_to_string(home.path("from-scratch/report.html")).unwrap();
    assert!(page.contains("<h2>Surest mistakes</h2>") && page.contains("<mark class=\"wrong\">"), "{page}");
    assert!(page.contains("dev.conll, line") && page.contains("taken for"), "{page}");
    assert_eq!(home.json("lora/adapter/adapter_config.json")["task_type"], "TOKEN_CLS");
    let answer = home.run(&["predict", "lora", "--text", "anna met peter jones ."]).well();
    let beside = home.run(&["predict", &model, "--adapter", "lora/adapter", "--text", "anna met peter jones ."]).well();
    let labels =
        |text: &str| text.lines().map(|line| line.rsplit_once('\t').unwrap().0.to_string()).collect::<Vec<_>>();
    assert_eq!(labels(&answer), labels(&beside));
    let refused = |flags: &[&str], parts: &[&str]| {
        let args = ["train", "--task", "tokens", "--train", "train.conll", "--model", &model, "--out", "new"];
        home.refuses(&[&args[..], flags].concat(), parts);
    };
    refused(&["--strategy", "prototypes"], &["means of classes", "tokens do not have"]);
    refused(&["--strategy", "contrastive-few-shot"], &["pairs of a class"]);
    refused(&["--strategy", "fine-tuning", "--mixup", "0.2"], &["mixtures of samples"]);
    refused(&["--folds", "3"], &["--folds 3", "tear apart"]);
    refused(&["--pooling", "mean"], &["--pooling", "none is pooled"]);
}

#[test]
fn members_of_the_family_label_words_and_come_back() {
    let home = home();
    for kind in ["roberta", "distilbert", "albert"] {
        train(&home, &member(kind), kind, &["--strategy", "fine-tuning", "--epochs", "1"]);
        let judged = home.run(&["evaluate", kind, "--validation", "dev.conll", "--json"]).well();
        let judged: Value = serde_json::from_str(&judged).unwrap();
        assert_eq!(judged["token_accuracy"], home.json(&format!("{kind}/summary.json"))["token_accuracy"], "{kind}");
    }
    // As transformers saves them, without a word of ours.
    let said = |name: &str| home.run(&["predict", name, "--text", "anna met the film", "--json"]).well();
    let before = said("roberta");
    let mut config = home.json("roberta/model/config.json");
    config.as_object_mut().unwrap().remove("topwork");
    home.write("roberta/model/config.json", config.to_string());
    assert_eq!(said("roberta"), before);
    let class = |kind: &str| home.json(&format!("{kind}/model/config.json"))["architectures"][0].clone();
    assert_eq!(
        (class("roberta"), class("albert")),
        (json!("RobertaForTokenClassification"), json!("AlbertForTokenClassification"))
    );
}

#[test]
fn json_lines_with_numbers_are_learned_by_the_names_that_are_given() {
    let home = empty();
    let line = |sentence: &Vec<(&str, &str)>| {
        let number = |label: &str| ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"].iter().position(|l| *l == label);
        let words: Vec<&str> = sentence.iter().map(|pair| pair.0).collect();
        let tags: Vec<Option<usize>> = sentence.iter().map(|pair| number(pair.1)).collect();
        json!({ "tokens": words, "ner_tags": tags }).to_string() + "\n"
    };
    home.write("train.jsonl", sentences(60, 1).iter().map(line).collect::<String>());
    let model = model();
    let args = ["train", "--task", "tokens", "--train", "train.jsonl", "--model", &model, "--out", "run", "--quiet"];
    let names = ["--label-names", "O,B-PER,I-PER,B-LOC,I-LOC", "--l2", "1e-3"];
    home.run(&[&args[..], &names].concat()).well();
    assert_eq!(home.json("run/model/config.json")["label2id"]["I-LOC"], 4);
    let mut args = args.to_vec();
    args[8] = "new";
    home.refuses(&args, &["train.jsonl, line 1", "--label-names"]);
    home.refuses(&[&args[..], &["--no-answer-threshold", "1"]].concat(), &["--no-answer-threshold", "data of tokens"]);
}

#[test]
fn wrong_input_is_named_by_file_and_line() {
    let home = home();
    let model = model();
    let refuses = |name: &str, text: &str, parts: &[&str]| {
        home.write(name, text);
        home.refuses(&["train", "--task", "tokens", "--train", name, "--model", &model, "--out", "new"], parts);
    };
    refuses("a.conll", "anna B-PER\nlives\n", &["a.conll, line 2", "no label for \"lives\"", "blank line"]);
    refuses("a.conll", "", &["a.conll: holds no words"]);
    refuses("a.conll", "anna O\npeter O\n", &["all words have the label \"O\""]);
    refuses(
        "a.jsonl",
        "{\"tokens\": [\"a\"], \"tags\": [\"O\", \"O\"]}\n",
        &["a.jsonl, line 1: has 1 words and 2 labels"],
    );
    home.write("other.conll", "anna B-PER\n\noslo B-GPE\n");
    let both =
        ["train", "--task", "tokens", "--train", "train.conll", "--validation", "other.conll", "--model", &model];
    home.refuses(&[&both[..], &["--out", "new"]].concat(), &["other.conll, line 3", "\"B-GPE\"", "none of"]);
    fs::remove_file(home.path("other.conll")).unwrap();
}
