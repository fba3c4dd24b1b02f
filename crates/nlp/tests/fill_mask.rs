//! `fill-mask` end to end.

mod support;

use serde_json::Value;
use support::{empty, home, member, model};

/// Two things that are said over and over.
fn text() -> String {
    let mut text = String::new();
    for _ in 0..60 {
        text += "the film was very good and warm\nthe film was very good\n\nthe plot is quite bad and cold\nthe plot is quite bad\n\n";
    }
    text
}

#[test]
fn a_pretrained_model_guesses_the_words_that_it_has_read() {
    let home = empty();
    home.write("text/a.txt", text());
    let args =
        ["pretrain", "--corpus", "text", "--out", "run", "--layers", "1", "--width", "32", "--heads", "2", "--quiet"];
    let more = [
        "--vocabulary",
        "200",
        "--max-tokens",
        "32",
        "--batch-size",
        "16",
        "--steps",
        "800",
        "--learning-rate",
        "5e-3",
    ];
    home.run(&[&args[..], &more].concat()).well();
    for mask in ["[MASK]", "<mask>"] {
        let line =
            home.run(&["fill-mask", "run", "--text", &format!("the film was very {mask}"), "--top-k", "2"]).well();
        assert_eq!(line.lines().count(), 2, "{line}");
        assert!(line.starts_with("the film was very good\tgood\t"), "{line}");
    }
    let both = "the [MASK] is quite [MASK]";
    let line = home.run(&["fill-mask", "run", "--text", both, "--json"]).well();
    let found: Value = serde_json::from_str(&line).unwrap();
    let words: Vec<&str> = found["masks"].as_array().unwrap().iter().map(|m| m[0]["word"].as_str().unwrap()).collect();
    assert_eq!(words, ["plot", "bad"], "{line}");
    let shares: f64 = found["masks"][0].as_array().unwrap().iter().map(|g| g["probability"].as_f64().unwrap()).sum();
    assert!(shares > 0.5 && shares <= 1.0001, "{line}");
    // One that cannot be answered does not take the others' answers.
    home.write("texts.txt", "the film was very [MASK]\nthe film\nthe plot was very [MASK]\n");
    let ran = home.run(&["fill-mask", "run", "texts.txt", "--top-k", "1"]);
    assert_eq!(ran.out.lines().count(), 2, "{}", ran.out);
    ran.refused(&["no word is hidden in it", "1 of 3 could not be answered"]);
    home.run(&["fill-mask", "run", "--text", "the film"]).refused(&["no word is hidden in it", "write [MASK]"]);
}

#[test]
fn a_model_without_the_head_says_so() {
    let home = home();
    let parts = ["cls.predictions.transform.dense", "cannot guess hidden words", "BertForMaskedLM"];
    home.run(&["fill-mask", model(), "--text", "a [MASK]"]).refused(&parts);
    home.run(&["fill-mask", &member("roberta"), "--text", "a <mask>"])
        .refused(&["lm_head.dense", "RobertaForMaskedLM"]);
    home.run(&["fill-mask", model(), "--text", "a [MASK]", "--top-k", "0"]).refused(&["--top-k 0"]);
}
