//! Answers in texts end to end: from SQuAD's JSON and JSON lines to passages with their places; wrong input.

mod support;

use serde_json::{Value, json};
use support::{Home, empty, knowing, member};
use topwork_core::seed::Seed;

const NAMES: [&str; 6] = ["anna", "peter", "maria", "john", "olga", "chen"];
const PLACES: [&str; 6] = ["paris", "london", "oslo", "rome", "madrid", "tokyo"];

fn model() -> String {
    knowing(
        "bert-of-questions",
        &[&NAMES[..], &PLACES, &["who", "where", "when", "?", "in", "lives", ".", "old"]].concat(),
    )
}

/// Questions with texts and answers, with some that have none where asked for.
fn questions(n: usize, seed: u64, unanswerable: bool) -> Vec<(String, String, String)> {
    let mut draw = Seed(seed).stream();
    let mut question = |i: usize| {
        let mut pick = |words: &[&'static str]| words[draw.below(words.len())];
        let (name, place) = (pick(&NAMES), pick(&PLACES));
        let place = if pick(&["old", "new"]) == "old" { format!("old {place}") } else { place.to_string() };
        let filling = pick(&["the film was good . ", ""]);
        let context = format!("{filling}{name} lives in {place} .");
        match i % if unanswerable { 3 } else { 2 } {
            0 => ("who ?".into(), context, name.to_string()),
            1 => ("where ?".into(), context, place),
            _ => ("when ?".into(), context, String::new()),
        }
    };
    (0..n).map(&mut question).collect()
}

fn squad(questions: &[(String, String, String)]) -> String {
    let paragraph = |(i, (question, context, answer)): (usize, &(String, String, String))| {
        let answers: Vec<Value> = context
            .find(answer.as_str())
            .filter(|_| !answer.is_empty())
            .into_iter()
            .map(|start| json!({ "text": answer, "answer_start": start }))
            .collect();
        json!({ "context": context, "qas": [{ "id": format!("q{i}"), "question": question, "answers": answers,
            "is_impossible": answer.is_empty() }] })
    };
    let paragraphs: Vec<Value> = questions.iter().enumerate().map(paragraph).collect();
    format!("{:#}\n", json!({ "version": "v2.0", "data": [{ "title": "t", "paragraphs": paragraphs }] }))
}

fn lines(questions: &[(String, String, String)]) -> String {
    let line = |(question, context, answer): &(String, String, String)| {
        json!({ "question": question, "context": context, "answer": answer }).to_string() + "\n"
    };
    questions.iter().map(line).collect()
}

fn train(home: &Home, out: &str, flags: &[&str]) -> Value {
    let args = ["train", "--task", "spans", "--train", "train.json", "--validation", "dev.json", "--model"];
    home.run(&[&args[..], &[&model(), "--out", out, "--quiet"], flags].concat()).well();
    home.json(&format!("{out}/summary.json"))
}

const TUNED: [&str; 6] = ["--strategy", "fine-tuning", "--epochs", "20", "--learning-rate", "5e-3"];

#[test]
fn answers_are_learned_judged_and_told_with_their_places() {
    let home = empty();
    home.write("train.json", squad(&questions(160, 1, false)));
    home.write("dev.json", squad(&questions(40, 2, false)));
    let summary = train(&home, "run", &TUNED);
    assert!(summary["exact_match"].as_f64().unwrap() > 0.9, "{summary}");
    assert!(summary.get("no_answer_threshold").is_none());
    let config = home.json("run/model/config.json");
    assert_eq!(config["architectures"][0], "BertForQuestionAnswering");
    assert!(config.get("id2label").is_none() && config.get("problem_type").is_none());
    let weights = topwork_core::checkpoint::read(&home.path("run/model/model.safetensors")).unwrap();
    assert_eq!(weights["qa_outputs.weight"].dims(), [2, 16]);
    let judged: Value =
        serde_json::from_str(&home.run(&["evaluate", "run", "--validation", "dev.json", "--json"]).well()).unwrap();
    assert_eq!((&judged["f1"], &judged["samples"]), (&summary["f1"], &json!(40)));

    // Characters, not bytes.
    let text = "Thé film was göod . Olga lives in old Rome .";
    let line = home.run(&["predict", "run", "--text", text, "--question", "Where?", "--json"]).well();
    let found: Value = serde_json::from_str(&line).unwrap();
    let best = &found["answers"][0];
    assert_eq!((&best["text"], &best["start"], &best["end"]), (&json!("old Rome"), &json!(34), &json!(42)), "{line}");
    // Files of all kinds, and several answers.
    home.write("rows.tsv", "question\tcontext\nwho ?\tjohn lives in oslo .\n");
    let of_rows = home.run(&["predict", "run", "rows.tsv"]).well();
    assert!(of_rows.contains("rows.tsv, line 2\tjohn\t0\t4\t"), "{of_rows}");
    let of_file = home.run(&["predict", "run", "dev.json"]).well();
    assert!(of_file.lines().count() == 40 && of_file.starts_with("q0\t"), "{of_file}");
    let several = home.run(&["predict", "run", "rows.tsv", "--top-k", "3"]).well();
    assert_eq!(several.lines().count(), 3);
    home.run(&["predict", "run", "--text", "a"]).refused(&["--question", "1 texts and 0 questions"]);
}

#[test]
fn questions_without_an_answer_get_none_by_a_threshold_from_the_validation_part() {
    let home = empty();
    home.write("train.json", squad(&questions(240, 1, true)));
    home.write("dev.json", squad(&questions(60, 2, true)));
    let summary = train(&home, "run", &TUNED);
    assert!(
        summary["f1"].as_f64().unwrap() > 0.9 && summary["unanswerable_accuracy"].as_f64().unwrap() > 0.9,
        "{summary}"
    );
    let threshold = &home.json("run/model/config.json")["topwork"]["no-answer-threshold"];
    assert_eq!(threshold, &summary["no_answer_threshold"]);
    let judged: Value =
        serde_json::from_str(&home.run(&["evaluate", "run", "--validation", "dev.json", "--json"]).well()).unwrap();
    assert_eq!(judged["f1"], summary["f1"]);
    let text = ["--text", "anna lives in oslo .", "--question", "when ?"];
    let none = home.run(&[&["predict", "run"], &text[..]].concat()).well();
    assert_eq!(none, "when ?\t\n");
    let some = home.run(&[&["predict", "run", "--no-answer-threshold", "1000"], &text[..]].concat()).well();
    assert!(some.len() > none.len(), "{some}");
}

#[test]
fn a_long_text_is_searched_whole() {
    let home = empty();
    // What is around the answer is longer than a window here, too.
    let long = |mut questions: Vec<(String, String, String)>| {
        let filling = |i: usize| "the film was good . ".repeat(i % 8);
        questions.iter_mut().enumerate().for_each(|(i, q)| q.1 = format!("{}{} {}", filling(i), q.1, filling(i / 8)));
        questions
    };
    home.write("train.json", squad(&long(questions(160, 1, false))));
    home.write("dev.json", squad(&long(questions(40, 2, false))));
    train(&home, "run", &[&TUNED[..], &["--max-tokens", "24", "--stride", "8"]].concat());
    let text = "the film was good . ".repeat(20) + "chen lives in madrid . " + &"the film was good . ".repeat(20);
    let found = home.run(&["predict", "run", "--text", &text, "--question", "where ?"]).well();
    assert!(found.contains("\tmadrid\t414\t420\t"), "{found}");
}

#[test]
fn strategies_find_passages_or_say_why_not() {
    let home = empty();
    home.write("train.json", squad(&questions(60, 1, false)));
    home.write("dev.json", squad(&questions(20, 2, false)));
    for strategy in ["feature-extraction", "lora", "partial", "from-scratch"] {
        let summary = train(&home, strategy, &["--strategy", strategy, "--epochs", "2"]);
        assert!(summary["f1"].as_f64().is_some(), "{strategy}: {summary}");
    }
    assert_eq!(home.json("lora/adapter/adapter_config.json")["task_type"], "QUESTION_ANS");
    let page = std::fs::read_to_string(home.path("from-scratch/report.html")).unwrap();
    assert!(page.contains("<h2>Worst answers</h2>") && page.contains("<mark class=\"right"), "{page}");
    assert!(page.contains("right is <b>") && page.contains("<blockquote>who ?\n\n"), "{page}");
    let refused = |flags: &[&str], parts: &[&str]| {
        let args = ["train", "--task", "spans", "--train", "train.json", "--model", &model(), "--out", "new"];
        home.refuses(&[&args[..], flags].concat(), parts);
    };
    refused(&["--strategy", "lp-ft"], &["a regression of samples", "spans do not have"]);
    refused(&["--probe", "ridge"], &["a regression of samples"]);
    refused(&["--strategy", "prototypes"], &["means of classes"]);
    refused(&["--strategy", "fine-tuning", "--label-smoothing", "0.1"], &["smoothed labels"]);
}

#[test]
fn a_model_without_segments_finds_passages_too() {
    let home = empty();
    home.write("train.jsonl", lines(&questions(40, 1, false)));
    let args = ["train", "--task", "spans", "--train", "train.jsonl", "--model", &member("roberta"), "--out", "run"];
    home.run(&[&args[..], &["--strategy", "fine-tuning", "--epochs", "1", "--quiet"]].concat()).well();
    let line = home.run(&["predict", "run", "--text", "anna lives in oslo", "--question", "who ?", "--json"]).well();
    let found: Value = serde_json::from_str(&line).unwrap();
    let best = &found["answers"][0];
    let (start, end) = (best["start"].as_u64().unwrap() as usize, best["end"].as_u64().unwrap() as usize);
    assert_eq!(&"anna lives in oslo"[start..end], best["text"].as_str().unwrap(), "{line}");
    assert!(!best["text"].as_str().unwrap().starts_with(' '));
}

#[test]
fn wrong_input_is_named_by_file_and_line() {
    let home = empty();
    let model = model();
    let refuses = |name: &str, text: &str, parts: &[&str]| {
        home.write(name, text);
        home.refuses(&["train", "--task", "spans", "--train", name, "--model", &model, "--out", "new"], parts);
    };
    let line = |answer: &str| json!({ "question": "q", "context": "anna lives", "answer": answer }).to_string() + "\n";
    refuses("a.jsonl", &line("peter"), &["a.jsonl, line 1", "\"peter\" is not in the passage", "correct the answer"]);
    refuses("a.jsonl", &line(""), &["no question in it has an answer"]);
    refuses("a.jsonl", "{\"question\": \"q\"}\n", &["a.jsonl, line 1: has no text under \"context\""]);
    refuses("a.json", "{\n \"data\": [{\"paragraphs\": 3}]}\n", &["a.json, line 2", "SQuAD's JSON"]);
    refuses("a.tsv", "question\tbody\tanswer\na\tb\tc\n", &["a.tsv: has no column \"context\"", "\"body\""]);
}
