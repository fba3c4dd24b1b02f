//! The verbs of `topwork-nlp`, through the binary.

mod support;

use std::fs;

use support::{Home, converse, home, model, run};

#[test]
fn a_run_is_complete_and_can_be_used() {
    let home = home();
    let out =
        home.train("runs/first", &["--strategy", "fine-tuning", "--epochs", "4", "--learning-rate", "1e-3"]).well();
    assert!(out.contains("accuracy") && out.contains("runs/first"), "{out}");
    let files = ["run.toml", "metrics.jsonl", "summary.json", "report.html", "model/config.json", "model/vocab.txt"];
    for name in files {
        assert!(home.path("runs/first").join(name).is_file(), "{name}");
    }
    assert!(fs::read_dir(home.path("runs/first/checkpoints")).unwrap().count() > 0);
    let summary = home.json("runs/first/summary.json");
    let measured = home.run(&["evaluate", "runs/first", "--validation", "dev.tsv", "--json"]).well();
    let measured: serde_json::Value = serde_json::from_str(&measured).unwrap();
    for name in ["accuracy", "macro_f1", "samples"] {
        assert_eq!(measured[name], summary[name], "{name}");
    }
}

#[test]
fn what_a_wrong_answer_rests_on_is_marked_in_the_report() {
    let home = home();
    home.write("wrong.tsv", "text\tlabel\na film is very lovely\tbad\nthe plot is quite awful\tgood\n");
    let data = ["train", "--train", "train.tsv", "--validation", "wrong.tsv", "--model", model(), "--out", "run"];
    home.run(&[&data[..], &["--strategy", "fine-tuning", "--epochs", "12", "--learning-rate", "5e-3"]].concat()).well();
    assert_eq!(home.json("run/summary.json")["accuracy"], 0.0);
    let page = fs::read_to_string(home.path("run/report.html")).unwrap();
    for word in ["lovely", "awful"] {
        assert!(page.contains(&format!("<mark class=\"telling\">{word}</mark>")), "{word}: {page}");
    }
}

#[test]
fn a_held_out_part_is_found_again_by_the_seed() {
    let home = home();
    home.run(&["train", "--train", "train.tsv", "--model", model(), "--seed", "4", "--out", "run"]).well();
    let measured = home.run(&["evaluate", "run", "--train", "train.tsv", "--seed", "4", "--json"]).well();
    let measured: serde_json::Value = serde_json::from_str(&measured).unwrap();
    let summary = home.json("run/summary.json");
    assert_eq!((&measured["accuracy"], &measured["samples"]), (&summary["accuracy"], &summary["samples"]));
}

#[test]
fn sentences_are_predicted_from_texts_files_columns_and_standard_input() {
    let home = home();
    home.train("run", &[]).well();
    let predict = |args: &[&str]| home.run(&[&["predict", "run"], args].concat()).well();
    let lines = predict(&["--text", "a film is very lovely", "--text", "the plot is quite awful"]);
    let labels: Vec<&str> = lines.lines().map(|line| line.split('\t').nth(1).unwrap()).collect();
    assert_eq!(labels, ["good", "bad"]);
    assert_eq!(predict(&["dev.tsv"]).lines().count(), 20);
    home.write("a.csv", "id,body\n1,\"great, warm\"\n2,cold\n");
    assert_eq!(predict(&["a.csv", "--text-column", "body"]).lines().count(), 2);
    home.write("a.txt", "a great film\na cold plot\nthe actor is dull\n");
    assert_eq!(predict(&["a.txt", "dev.tsv"]).lines().count(), 23);
    let answers =
        converse(home.command(&["predict", "run", "-"]), &["a film is very lovely", "the plot is quite awful"]);
    assert!(answers[0].contains("\tgood\t") && answers[1].contains("\tbad\t"), "{answers:?}");
}

#[test]
fn a_chosen_pooling_is_trained_saved_and_found_again() {
    let home = home();
    for pooling in ["mean", "cls", "pooler"] {
        home.train(pooling, &["--strategy", "fine-tuning", "--epochs", "2", "--pooling", pooling]).well();
        assert_eq!(home.json(&format!("{pooling}/model/config.json"))["topwork"]["pooling"], pooling);
        let judged = home.run(&["evaluate", pooling, "--validation", "dev.tsv", "--json"]).well();
        let judged: serde_json::Value = serde_json::from_str(&judged).unwrap();
        assert_eq!(judged["accuracy"], home.json(&format!("{pooling}/summary.json"))["accuracy"], "{pooling}");
    }
}

#[test]
fn predictions_show_as_many_classes_as_asked_for() {
    let home = home();
    home.train("run", &[]).well();
    let json = home.run(&["predict", "run", "--text", "a film", "--top-k", "2", "--json"]).well();
    let answer: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(answer["input"], "a film");
    let sum: f64 = (0..2).map(|i| answer["predictions"][i]["probability"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{sum}");
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let home = home();
    let before = home.files();
    let out = home.train("run", &["--strategy", "fine-tuning", "--dry-run", "--limit", "20"]).well();
    assert!(out.contains("20 training and 20 validation sentences, 2 classes"), "{out}");
    assert!(out.contains("fine-tuning") && out.contains("encoder.layer.1"), "{out}");
    assert!(home.files() == before);
}

#[test]
fn flags_win_over_a_settings_file() {
    let home = home();
    home.train("first", &["--strategy", "fine-tuning", "--epochs", "2", "--limit", "20"]).well();
    let again = |flags: &[&str]| home.run(&[&["train", "--config", "first/run.toml"], flags].concat());
    again(&["--out", "same"]).well();
    assert!(home.result("same") == home.result("first"));
    let out = again(&["--out", "other", "--per-class", "5", "--dry-run"]).well();
    assert!(out.contains("10 training and 20 validation"), "{out}");
}

#[test]
fn secrets_of_the_environment_are_in_nothing_that_is_written_or_said() {
    let home = home();
    let secret = "hf_0123456789abcdefABCDEF";
    let with = |args: &[&str]| {
        let mut command = home.command(args);
        command.env("HF_TOKEN", secret).env("HF_ENDPOINT", format!("http://someone:{secret}@127.0.0.1:9"));
        run(&mut command)
    };
    let trained = with(&Home::training("run", &["--json"]));
    let missing = with(&["train", "--train", "train.tsv", "--model", "hf-hub:a/b", "--out", "other"]);
    assert_eq!((trained.code, missing.code), (Some(0), Some(2)), "{}", missing.err);
    for said in [trained.out, trained.err, missing.out, missing.err] {
        assert!(!said.contains(secret), "{said}");
    }
    for (path, bytes) in home.files() {
        assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{}", path.display());
    }
}

#[test]
fn models_are_listed_and_shown() {
    let home = home();
    let list = home.run(&["models", "list"]).well();
    assert!(list.contains("all-minilm-l6-v2"), "{list}");
    let shown = home.run(&["models", "show", model()]).well();
    assert!(shown.contains("texts of up to 32 tokens; the first row, through the pooler"), "{shown}");
    assert!(shown.contains("encoder.layer.1") && shown.contains("multiply-adds"), "{shown}");
}

#[test]
fn a_model_without_a_head_is_pooled_as_asked_and_one_with_a_head_as_it_was_trained() {
    let home = home();
    let embed = |model: &str, more: &[&str]| home.run(&[&["embed", model, "--text", "the film"], more].concat());
    let [own, first, mean] =
        [&[][..], &["--pooling", "cls"], &["--pooling", "mean"]].map(|more| embed(model(), more).well());
    assert!(own != first && own != mean && first != mean);
    home.train("run", &["--pooling", "mean"]).well();
    assert_eq!(embed("run", &["--pooling", "mean"]).well(), embed("run", &[]).well());
    embed("run", &["--pooling", "cls"]).refused(&["--pooling: the model's head was trained with another pooling"]);
}

#[test]
fn features_are_streamed() {
    let home = home();
    let answers = converse(home.command(&["embed", model(), "-"]), &["a good film", "the plot"]);
    for answer in answers {
        let numbers: Vec<f32> = answer.split('\t').skip(1).map(|n| n.parse().unwrap()).collect();
        assert_eq!(numbers.len(), 16);
    }
}

#[test]
fn vectors_go_into_a_file_and_what_could_not_be_read_is_told() {
    let home = home();
    home.write("texts.txt", "a good film\nthe plot\n");
    let told = home.run(&["embed", model(), "texts.txt", "--out", "v.npy"]).well();
    assert!(told.contains("2 vectors of 16 numbers are in v.npy"), "{told}");
    let bytes = fs::read(home.path("v.npy")).unwrap();
    let first: Vec<String> =
        bytes[128..128 + 64].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).to_string()).collect();
    let printed = home.run(&["embed", model(), "texts.txt"]).well();
    assert_eq!(printed.lines().next().unwrap().split('\t').skip(1).collect::<Vec<_>>(), first);
    assert_eq!(fs::read_to_string(home.path("v.names.jsonl")).unwrap().lines().count(), 2);
    home.run(&["embed", model(), "texts.txt", "--out", "v.npy"]).refused(&["v.npy: it exists already", "--out"]);
    assert!(fs::read(home.path("v.npy")).unwrap() == bytes);

    fs::write(home.path("bad.txt"), b"one\ncaf\xe9\ntwo\n").unwrap();
    home.run(&["embed", model(), "bad.txt", "--out", "bad.parquet"]).refused(&["line 2", "1 of 3"]);
    assert!(home.path("bad.parquet").is_file());
    home.run(&["embed", model(), "texts.txt", "--out", "v.xyz"]).refused(&["--out v.xyz", ".npy"]);
}
