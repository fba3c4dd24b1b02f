//! `pretrain` end to end: from text to a model that `train` starts from; kills, wrong input, reproduced scores.

mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use support::{Home, Ran, empty, model, table};

/// Documents of two to four sentences, every one about one of three things.
fn text(documents: usize) -> String {
    let things = ["film plot actor scene", "bread oven flour salt", "river boat bridge bank"];
    let mut draw = topwork_core::seed::Seed(4).stream();
    let mut text = String::new();
    for i in 0..documents {
        let words: Vec<&str> = things[i % 3].split(' ').collect();
        for _ in 0..2 + draw.below(3) {
            let mut pick = || words[draw.below(words.len())];
            text += &format!("the {} was near the {} and a {}\n", pick(), pick(), pick());
        }
        text.push('\n');
    }
    text
}

const SMALL: [&str; 19] = [
    "--layers",
    "2",
    "--width",
    "16",
    "--heads",
    "2",
    "--vocabulary",
    "60",
    "--max-tokens",
    "48",
    "--batch-size",
    "8",
    "--hold-out",
    "0.2",
    "--steps",
    "24",
    "--seed",
    "3",
    "--quiet",
];

fn home() -> Home {
    let home = empty();
    home.write("text/a.txt", text(90));
    home
}

fn args<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["pretrain", "--corpus", "text", "--out", "run"], &SMALL[..], more].concat()
}

fn pretrained(home: &Home, more: &[&str]) -> Ran {
    home.run(&args(more))
}

#[test]
fn a_model_from_text_alone_is_what_train_starts_from() {
    let home = home();
    let said = pretrained(&home, &[]).well();
    assert!(said.contains("hidden tokens guessed") && said.contains("run/model"), "{said}");
    assert!(!home.path("run/corpus").exists());
    let page = std::fs::read_to_string(home.path("run/report.html")).unwrap();
    for part in ["hidden tokens guessed", "steps = 24", "<svg", "pretrain --corpus text --seed 3", "--out NEW"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let config = home.json("run/model/config.json");
    assert_eq!(config["architectures"][0], "BertForPreTraining");
    let weights = topwork_core::checkpoint::read(&home.path("run/model/model.safetensors")).unwrap();
    for name in [
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.1.attention.self.query.weight",
        "bert.pooler.dense.weight",
        "cls.predictions.bias",
        "cls.predictions.transform.dense.weight",
        "cls.predictions.transform.LayerNorm.bias",
        "cls.seq_relationship.weight",
    ] {
        assert!(weights.contains_key(name), "{name}");
    }
    assert_eq!(weights.len(), 5 + 2 * 16 + 2 + 7);
    home.write("train.tsv", table(24, 1));
    home.run(&["train", "--train", "train.tsv", "--model", "run", "--out", "task", "--quiet"]).well();
}

#[test]
fn a_run_that_is_killed_and_resumed_ends_in_the_same_bytes() {
    let all: Vec<&str> = args(&[]).into_iter().map(|arg| if arg == "24" { "60" } else { arg }).collect();
    let all = [&all[..], &["--checkpoint-every", "3"]].concat();
    let other = home();
    other.run(&all).well();
    let expected = other.result("run");
    let home = home();
    home.kill_at(&all, "run", 0);
    for checkpoints in [1, 3, 5] {
        home.kill_at(&["pretrain", "--resume", "--out", "run", "--quiet"], "run", checkpoints);
    }
    // Another value of a flag would make it another run.
    home.run(&["pretrain", "--resume", "--out", "run", "--seed", "4"]).refused(&["--seed", "started with 3"]);
    home.run(&["pretrain", "--resume", "--out", "run", "--quiet"]).well();
    assert!(home.result("run") == expected);
    home.run(&["pretrain", "--resume", "--out", "run"]).refused(&["finished"]);
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let [one, three] = ["1", "3"].map(|threads| {
        let home = home();
        pretrained(&home, &["--threads", threads]).well();
        home.result("run")
    });
    assert!(one == three);
}

#[test]
fn the_scores_of_a_run_are_reproduced_from_its_model() {
    let home = home();
    let of_run: serde_json::Value = serde_json::from_str(&pretrained(&home, &["--json"]).well()).unwrap();
    let judge = ["pretrain", "--evaluate", "run", "--corpus", "text", "--json", "--quiet"];
    let judged = |more: &[&str]| -> serde_json::Value {
        serde_json::from_str(&home.run(&[&judge, more].concat()).well()).unwrap()
    };
    let again = judged(&["--hold-out", "0.2", "--seed", "3"]);
    assert_eq!(again["scores"], of_run["summary"]["scores"]);
    // Without a part held out, all of the text is judged.
    let all = judged(&[]);
    assert!(all["scores"]["pairs"].as_u64() > again["scores"]["pairs"].as_u64().map(|pairs| 3 * pairs));
}

#[test]
fn a_model_goes_on_with_its_own_tokenizer_and_new_heads() {
    let home = home();
    let go_on = ["pretrain", "--corpus", "text", "--out", "run", "--model", model(), "--steps", "3"];
    home.run(&go_on).well();
    let [ours, theirs] = [&home.path("run/model"), std::path::Path::new(model())]
        .map(|folder| std::fs::read(folder.join("vocab.txt")).unwrap());
    assert!(ours == theirs);
    // A classifier has lost the heads.
    home.run(&["pretrain", "--evaluate", model(), "--corpus", "text"]).refused(&["heads of pre-training"]);
}

#[test]
fn text_that_cannot_be_learned_from_is_refused_and_leaves_nothing() {
    let home = home();
    let small = &SMALL[..];
    let refuses = |corpus: &str, parts: &[&str]| {
        home.refuses(&[&["pretrain", "--corpus", corpus, "--out", "new/run"], small].concat(), parts);
    };
    home.write("empty.txt", "\n \n");
    home.write("one.txt", "the film was near the plot\nthe actor and a scene\n".repeat(40));
    home.write("nul.txt", text(20) + "a\0b\n");
    home.write("latin.txt", [text(20).as_bytes(), b"caf\xe9\n"].concat());
    std::fs::create_dir(home.path("nothing")).unwrap();
    refuses("empty.txt", &["no text"]);
    refuses("one.txt", &["single document", "blank line"]);
    refuses("nul.txt", &["nul.txt, line", "NUL"]);
    refuses("latin.txt", &["latin.txt, line", "UTF-8"]);
    refuses("nothing", &["nothing: holds no files"]);
    refuses("absent", &["absent"]);
    home.refuses(&["pretrain", "--out", "new"], &["--corpus"]);
    home.refuses(&["pretrain", "--corpus", "text"], &["--out"]);
    home.refuses(&args(&["--mask", "2"]), &["--mask 2"]);
    home.refuses(&["pretrain", "--corpus", "text", "--out", "new", "--vocabulary", "10"], &["--vocabulary 10"]);
    home.refuses(
        &["pretrain", "--corpus", "text", "--out", "new", "--model", model(), "--max-tokens", "64"],
        &["--max-tokens 64", "only 32"],
    );
}

#[test]
fn settings_that_cannot_be_are_refused_before_the_text_is_read() {
    let home = home();
    let on = |more: &[&str], parts: &[&str]| {
        home.refuses(&[&["pretrain", "--corpus", "absent", "--out", "new"], more].concat(), parts);
    };
    on(&["--width", "100", "--heads", "3"], &["--heads 3", "the width, 100"]);
    on(&["--layers", "99999"], &["the network", "num_hidden_layers 99999"]);
    on(&["--on-nan", "rollback"], &["--on-nan rollback", "--checkpoint-every N"]);
    home.refuses(&["pretrain", "--corpus", "text", "--evaluate", model(), "--epochs", "2"], &["--epochs"]);
}

#[test]
fn a_dry_run_tells_what_there_is_to_do_and_leaves_nothing() {
    let home = home();
    let before = home.files();
    let told = home.run(&args(&["--dry-run"])).well();
    assert!(
        told.contains("90 documents") && told.contains("24 steps") && told.contains("a step takes about"),
        "{told}"
    );
    assert!(home.files() == before);
}

#[test]
fn a_step_without_room_in_memory_is_refused_with_a_batch_that_has_it() {
    let home = home();
    let refused = home.run(&args(&["--memory-limit", "0.001"])).refused(&["a step of 8 pairs", "--batch-size"]);
    assert!(refused.contains("--memory-limit"), "{refused}");
    assert!(!home.path("run").exists());
    pretrained(&home, &["--memory-limit", "0"]).well();
}

#[test]
fn what_a_folder_links_to_elsewhere_is_not_learned_from() {
    let home = home();
    home.write("elsewhere/secret.txt", "zzyzx quux zzyzx quux\n".repeat(50));
    std::os::unix::fs::symlink(home.path("elsewhere/secret.txt"), home.path("text/b.txt")).unwrap();
    std::os::unix::fs::symlink(home.path("text/a.txt"), home.path("text/c.txt")).unwrap();
    let told = home.run(&args(&["--dry-run"])).well();
    assert!(told.contains("180 documents"), "{told}");
}

#[test]
fn checkpoints_of_another_text_are_not_gone_on_from() {
    let home = home();
    home.kill_at(&args(&["--checkpoint-every", "2"]), "run", 1);
    // Where its own cut of the text is gone, the text is read again.
    std::fs::remove_file(home.path("run/corpus/tokens")).unwrap();
    home.write("text/a.txt", text(90).replace("film", "tape"));
    home.run(&["pretrain", "--resume", "--out", "run"]).refused(&["run: its checkpoints are of another text"]);
}

#[test]
fn an_interrupt_while_text_is_read_ends_the_run_and_leaves_nothing() {
    let home = empty();
    let pipe = home.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let args = ["pretrain", "--corpus", "pipe", "--out", "run"];
    let child = home.command(&args).stderr(Stdio::piped()).spawn().unwrap();
    let mut writer = std::fs::File::options().write(true).open(&pipe).unwrap();
    let mut write = |text: String| writer.write_all(text.as_bytes());
    write(text(20)).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    // It is told before the next line.
    while write(text(20)).is_ok() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert!(told.contains("nothing is learned yet") && !home.path("run").exists(), "{told}");
}

/// A model whose normalization overflows.
fn overflowing(home: &Home) {
    let one: Vec<&str> = args(&[]).into_iter().map(|arg| if arg == "24" { "1" } else { arg }).collect();
    home.run(&one).well();
    let path = home.path("run/model/model.safetensors");
    let mut weights = topwork_core::checkpoint::read(&path).unwrap();
    let name = "bert.embeddings.LayerNorm.weight".to_string();
    weights.insert(name.clone(), (&weights[&name] * 3e38).unwrap());
    topwork_core::checkpoint::write_safetensors(&path, &weights, &std::collections::BTreeMap::new()).unwrap();
}

#[test]
fn a_loss_that_is_no_number_names_its_documents_and_may_be_left_out() {
    let home = home();
    overflowing(&home);
    let go_on = |more: &[&str]| {
        let base = ["pretrain", "--corpus", "text", "--model", "run/model", "--out", "next", "--force"];
        home.run(&[&base, more].concat())
    };
    let told = go_on(&["--steps", "4"])
        .refused(&["step 1: the loss is NaN on pairs of the documents", "the rate is probably too high"]);
    assert!(told.contains("--on-nan"), "{told}");
    go_on(&["--steps", "4", "--on-nan", "skip"]).well();
    // Five steps may be left out, and one in ten of many.
    go_on(&["--on-nan", "skip", "--steps", "6"]).refused(&["step 6: the loss is NaN"]);
    go_on(&["--steps", "4", "--on-nan", "rollback", "--checkpoint-every", "2"]).refused(&["step 1: the loss is NaN"]);
}

#[test]
fn where_the_default_cannot_be_had_the_embedded_model_takes_its_place() {
    let home = support::home();
    let mut command =
        home.command(&["train", "--train", "train.tsv", "--validation", "dev.tsv", "--out", "run", "--offline"]);
    // Not what this machine may have.
    let ran = support::run(command.env("HF_HOME", home.path("none")));
    assert!(ran.err.contains("all-minilm-l6-v2 cannot be had; tiny-bert"), "{}", ran.err);
    ran.well();
    let text = std::fs::read_to_string(home.path("run/run.toml")).unwrap();
    assert!(text.contains("model = \"tiny-bert\""), "{text}");
}

#[test]
fn the_embedded_model_is_small_and_whole_and_needs_no_network() {
    let weights = concat!(env!("CARGO_MANIFEST_DIR"), "/weights/tiny-bert/model.safetensors");
    assert!(std::fs::metadata(weights).unwrap().len() < 6_200_000);
    let home = home();
    let list = home.run(&["models", "list"]).well();
    let line = list.lines().find(|line| line.starts_with("tiny-bert")).unwrap();
    assert!(line.ends_with("embedded"), "{line}");
    let shown = home.run(&["models", "show", "tiny-bert"]).well();
    assert!(shown.contains("Debian") && shown.contains("encoder.layer.2"), "{shown}");
    // Its heads of pre-training are there.
    let guessed =
        home.run(&["fill-mask", "tiny-bert", "--offline", "--text", "This package contains the [MASK] files."]).well();
    assert!(
        guessed.contains("header") || guessed.contains("documentation") || guessed.contains("development"),
        "{guessed}"
    );
    home.run(&["pretrain", "--evaluate", "tiny-bert", "--corpus", "text", "--offline"]).well();
}
