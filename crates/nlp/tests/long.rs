//! Texts that are longer than a sequence: cut, or read in windows that are pooled together.

mod support;

use serde_json::Value;
use support::{Home, empty, model, table};

/// Praise or blame behind more words without a meaning than a sequence has room for.
fn long_table(n: usize, seed: u64) -> String {
    let filler = "the film was a film and the plot was a plot and the actor was an actor ".repeat(2);
    let rows = table(n, seed);
    let long = |(i, line): (usize, &str)| if i == 0 { format!("{line}\n") } else { format!("{filler} {line}\n") };
    rows.lines().enumerate().map(long).collect()
}

fn home() -> Home {
    let home = empty();
    home.write("train.tsv", long_table(60, 1));
    home.write("dev.tsv", long_table(30, 2));
    home
}

const WINDOWS: [&str; 8] = ["--pooling", "mean", "--max-tokens", "16", "--windows", "9", "--stride", "4"];

fn accuracy(home: &Home, out: &str) -> f64 {
    home.json(&format!("{out}/summary.json"))["accuracy"].as_f64().unwrap()
}

#[test]
fn what_stands_at_the_end_of_a_long_text_is_read_in_windows_and_lost_by_a_cut() {
    let home = home();
    let tuned = ["--strategy", "fine-tuning", "--epochs", "10", "--learning-rate", "3e-3", "--quiet"];
    home.train("windows", &[&WINDOWS[..], &tuned].concat()).well();
    home.train("cut", &[&WINDOWS[..4], &tuned].concat()).well();
    let [windows, cut] = ["windows", "cut"].map(|out| accuracy(&home, out));
    assert!(windows > 0.95 && cut < 0.7, "{windows} {cut}");
    // The model remembers how it reads.
    let judged = home.run(&["evaluate", "windows", "--validation", "dev.tsv", "--json", "--quiet"]).well();
    assert_eq!(serde_json::from_str::<Value>(&judged).unwrap()["accuracy"].as_f64().unwrap(), windows);
    for flags in [&["--windows", "3"][..], &["--max-tokens", "20"], &["--windows", "9", "--stride", "2"]] {
        let args = [&["evaluate", "windows", "--validation", "dev.tsv"], flags].concat();
        home.run(&args).refused(&[&flags[flags.len() - 2..].join(" "), "as it was trained"]);
    }
    let text = long_table(2, 7).lines().nth(1).unwrap().replace("\tgood", "");
    let said = home.run(&["predict", "windows", "--text", &text]).well();
    assert!(said.contains("good"), "{said}");
    home.run(&["predict", "windows", "--text", &text, "--stride", "2"]).well();
    home.run(&["export", "windows", "--format", "onnx", "--out", "w.onnx"]).refused(&["windows"]);
}

#[test]
fn one_window_is_the_text_as_ever_and_more_are_their_mean() {
    let home = empty();
    let mean = ["--max-tokens", "8"];
    home.run(&["embed", model(), "--text", "the film", "--windows", "3"]).refused(&["--windows 3", "--pooling mean"]);
    home.run(&["embed", model(), "--text", "the film", "--windows", "3", "--pooling", "mean"]).well();
    home.write("train.tsv", table(20, 1));
    let flags = ["train", "--train", "train.tsv", "--model", model(), "--pooling", "mean", "--out", "mean", "--quiet"];
    home.run(&flags).well();
    let of = |text: &str, more: &[&str]| {
        let said = home.run(&[&["embed", "mean", "--json", "--text", text], &mean[..], more].concat()).well();
        let said: Value = serde_json::from_str(&said).unwrap();
        said["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<f64>>()
    };
    let short = "the film was good";
    assert_eq!(of(short, &[]), of(short, &["--windows", "5"]));
    // Six tokens of text fit between the two marks; the windows are as long, so that their rows count the same.
    let (first, second) = ("the film was very very good", "a plot is quite quite bad");
    let joined = of(&format!("{first} {second}"), &["--windows", "5", "--stride", "0"]);
    let (a, b) = (of(first, &[]), of(second, &[]));
    for ((joined, a), b) in joined.iter().zip(a).zip(b) {
        assert!((joined - (a + b) / 2.0).abs() < 1e-5, "{joined} {a} {b}");
    }
    // What is behind the last window is cut.
    let cut = of(&format!("{first} {second}"), &["--windows", "1"]);
    assert_eq!(cut, of(first, &[]));
}

#[test]
fn windows_that_cannot_be_are_refused() {
    let home = home();
    let refused = |flags: &[&str], parts: &[&str]| {
        home.train("no", flags).refused(parts);
    };
    refused(&["--windows", "4"], &["--windows 4", "--pooling mean"]);
    refused(&["--pooling", "mean", "--windows", "0"], &["--windows 0"]);
    refused(
        &["--pooling", "mean", "--windows", "3", "--max-tokens", "16", "--stride", "14"],
        &["--stride 14", "13 or less"],
    );
    refused(&["--pooling", "mean", "--stride", "3"], &["--stride"]);
    home.write("train.tsv", "premise\thypothesis\tlabel\na film\tthe plot\tx\ngood\tbad\ty\na\tb\tx\nc\td\ty\n");
    home.write("dev.tsv", "premise\thypothesis\tlabel\na film\tthe plot\tx\ngood\tbad\ty\n");
    refused(&["--pooling", "mean", "--windows", "3"], &["--windows", "pairs"]);
}

#[test]
fn a_task_of_words_has_windows_of_its_own() {
    let home = home();
    home.train("windows", &[&WINDOWS[..], &["--quiet"]].concat()).well();
    home.write("words.conll", "the O\nfilm B-X\nwas O\ngood O\n\na O\nplot B-X\nis O\ndull O\n\n".repeat(6));
    let args =
        ["train", "--task", "tokens", "--train", "words.conll", "--validation", "words.conll", "--max-tokens", "24"];
    home.run(&[&args[..], &["--model", "windows", "--out", "words", "--quiet"]].concat()).well();
    let config = home.json("words/model/config.json");
    assert!(config["topwork"].get("windows").is_none() && config["topwork"]["max-tokens"] == 24, "{config}");
}
