//! Strategies that learn an adapter in a frozen encoder, through the binary: what moves, what is saved, how it is used
//! again, and what is refused.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use support::{Home, home, model, saved};
use topwork_core::checkpoint;

const KINDS: [&str; 4] = ["lora", "ia3", "adapter", "prefix"];

/// The bytes of every tensor in a file.
fn tensors(path: &Path) -> BTreeMap<String, Vec<u32>> {
    let read = checkpoint::read(path).unwrap().into_iter();
    let bits = |tensor: candle_core::Tensor| {
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    read.map(|(name, tensor)| (name, bits(tensor))).collect()
}

/// The encoder with matrices so much larger that its rows tell sentences apart.
fn base() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bert-large-weights");
        fs::create_dir_all(&folder).unwrap();
        for name in ["config.json", "vocab.txt"] {
            let bytes = fs::read(Path::new(model()).join(name)).unwrap();
            topwork_core::files::write_atomic_bytes(&folder.join(name), &bytes).unwrap();
        }
        let mut weights = checkpoint::read(&Path::new(model()).join("model.safetensors")).unwrap();
        for value in weights.values_mut().filter(|value| value.rank() == 2) {
            *value = (&*value * 12.0).unwrap();
        }
        checkpoint::write_safetensors(&folder.join("model.safetensors"), &weights, &BTreeMap::new()).unwrap();
        folder.display().to_string()
    })
}

/// The arguments of a short run of a strategy on the made-up sentences.
fn training<'a>(kind: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let data = ["train", "--train", "train.tsv", "--validation", "dev.tsv", "--model", base(), "--out", out];
    let flags = ["--strategy", kind, "--epochs", "5", "--learning-rate", "1e-2", "--quiet"];
    [&data[..], &flags, more].concat()
}

fn trained(kind: &str, more: &[&str]) -> Home {
    let home = home();
    home.run(&training(kind, "run", &[&["--rank", "4"], more].concat())).well();
    home
}

/// Names of the encoder's tensors that a run changed in its `model/`.
fn moved(home: &Home) -> BTreeSet<String> {
    let before = tensors(&Path::new(base()).join("model.safetensors"));
    let after = tensors(&home.path("run/model/model.safetensors"));
    let encoder: BTreeMap<&str, &Vec<u32>> =
        after.iter().filter_map(|(name, bits)| Some((name.strip_prefix("bert.")?, bits))).collect();
    assert_eq!(encoder.keys().copied().collect::<Vec<_>>(), before.keys().map(String::as_str).collect::<Vec<_>>());
    before.iter().filter(|(name, bits)| encoder[name.as_str()] != *bits).map(|(name, _)| name.clone()).collect()
}

/// Probabilities of the first class for the sentences of `dev.tsv`.
fn probabilities(home: &Home, args: &[&str]) -> Vec<f64> {
    let command =
        [&["predict"], args, &["dev.tsv", "--text-column", "sentence", "--json", "--top-k", "2", "--quiet"]].concat();
    let of_bad = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let guesses = line["predictions"].as_array().unwrap();
        guesses.iter().find(|guess| guess["label"] == "bad").unwrap()["probability"].as_f64().unwrap()
    };
    home.run(&command).well().lines().map(of_bad).collect()
}

fn close(a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{a} and {b}"));
}

#[test]
fn only_what_a_strategy_may_change_is_changed() {
    let layers = |parts: &[&str]| -> BTreeSet<String> {
        let of = |i: usize| parts.iter().map(move |part| format!("encoder.layer.{i}.{part}"));
        (0..2).flat_map(of).collect()
    };
    let expected = [
        ("lora", layers(&["attention.self.query.weight", "attention.self.value.weight"])),
        (
            "ia3",
            layers(&[
                "attention.self.key.weight",
                "attention.self.key.bias",
                "attention.self.value.weight",
                "attention.self.value.bias",
                "output.dense.weight",
            ]),
        ),
        ("adapter", BTreeSet::new()),
        ("prefix", BTreeSet::new()),
    ];
    for (kind, expected) in expected {
        let mut expected = expected;
        if kind == "ia3" {
            // The biases start at zero here, and a factor leaves them there.
            expected.retain(|name| !name.ends_with("bias"));
        }
        assert_eq!(moved(&trained(kind, &[])), expected, "{kind}");
    }
}

#[test]
fn a_run_and_its_adapter_on_the_base_give_the_same_answers() {
    for kind in KINDS {
        let home = trained(kind, &[]);
        let run = probabilities(&home, &["run"]);
        assert!(run.iter().any(|p| (p - run[0]).abs() > 1e-3), "{kind} answers the same to everything: {run:?}");
        close(&run, &probabilities(&home, &["run/model"]));
        close(&run, &probabilities(&home, &[base(), "--adapter", "run/adapter"]));
        let summary = home.json("run/summary.json");
        let args = ["evaluate", base(), "--adapter", "run/adapter", "--validation", "dev.tsv", "--json"];
        let measured: serde_json::Value = serde_json::from_str(&home.run(&args).well()).unwrap();
        assert_eq!(measured["accuracy"], summary["accuracy"], "{kind}");
        let embed =
            |args: &[&str]| home.run(&[&["embed"], args, &["dev.tsv", "--text-column", "sentence"]].concat()).well();
        let numbers =
            |text: String| -> Vec<f64> { text.split_whitespace().filter_map(|word| word.parse().ok()).collect() };
        close(&numbers(embed(&["run"])), &numbers(embed(&[base(), "--adapter", "run/adapter"])));
    }
}

#[test]
fn a_merged_model_answers_as_the_adapter_does_and_stands_alone() {
    for kind in ["lora", "ia3"] {
        let home = trained(kind, &[]);
        home.run(&["merge", base(), "run/adapter", "--out", "merged"]).well();
        close(&probabilities(&home, &["run"]), &probabilities(&home, &["merged"]));
        assert!(!home.path("merged/adapter").exists() && !home.path("run/model/adapter").exists());
        home.refuses(&["merge", base(), "run/adapter", "--out", "merged"], &["merged", "exists"]);
    }
    for kind in ["adapter", "prefix"] {
        let home = trained(kind, &[]);
        home.refuses(&["merge", base(), "run/adapter", "--out", "merged"], &[kind, "cannot be merged", "--adapter"]);
    }
}

#[test]
fn the_files_are_those_of_peft_where_it_knows_the_kind() {
    let home = trained("lora", &["--pooling", "pooler"]);
    let config = home.json("run/adapter/adapter_config.json");
    assert_eq!((&config["peft_type"], &config["task_type"]), (&"LORA".into(), &"SEQ_CLS".into()));
    assert_eq!((&config["r"], &config["lora_alpha"]), (&4.into(), &16.0.into()));
    assert_eq!(config["modules_to_save"], serde_json::json!(["classifier"]));
    let names: Vec<String> = tensors(&home.path("run/adapter/adapter_model.safetensors")).into_keys().collect();
    let part = "base_model.model.bert.encoder.layer.0.attention.self";
    assert!(names.contains(&format!("{part}.query.lora_A.weight")), "{names:?}");
    assert!(names.contains(&format!("{part}.value.lora_B.weight")), "{names:?}");
    assert!(names.contains(&"base_model.model.classifier.bias".to_string()), "{names:?}");
    assert_eq!(names.len(), 2 * 2 * 2 + 2);

    let home = trained("ia3", &["--pooling", "mean"]);
    let config = home.json("run/adapter/adapter_config.json");
    assert_eq!((&config["peft_type"], &config["task_type"]), (&"IA3".into(), &"FEATURE_EXTRACTION".into()));
    let feed_forward = ["encoder.layer.0.output.dense", "encoder.layer.1.output.dense"];
    assert_eq!(config["feedforward_modules"], serde_json::json!(feed_forward));
    let names = tensors(&home.path("run/adapter/adapter_model.safetensors"));
    assert!(names.contains_key("base_model.model.encoder.layer.0.output.dense.ia3_l"), "{:?}", names.keys());

    for kind in ["adapter", "prefix"] {
        let home = trained(kind, &[]);
        assert!(!home.path("run/adapter/adapter_config.json").exists());
        assert_eq!(home.json("run/adapter/topwork.json")["adapters"][0]["kind"], kind);
    }
}

#[test]
fn what_a_run_was_configured_with_comes_back_with_its_adapter() {
    let home = trained("prefix", &["--pooling", "cls", "--max-tokens", "6"]);
    close(&probabilities(&home, &["run"]), &probabilities(&home, &[base(), "--adapter", "run/adapter"]));
}

#[test]
fn several_adapters_are_kept_beside_one_base() {
    let home = trained("lora", &[]);
    home.run(&training("prefix", "other", &["--seed", "7"])).well();
    for run in ["run", "other"] {
        let adapter = format!("{run}/adapter");
        close(&probabilities(&home, &[run]), &probabilities(&home, &[base(), "--adapter", &adapter]));
    }
}

#[test]
fn a_model_that_carries_an_adapter_learns_on_but_takes_no_second_one() {
    for kind in ["adapter", "prefix"] {
        let home = trained(kind, &[]);
        let train = |strategy: &'static str, rate: &'static str, out: &'static str| {
            let data = ["train", "--train", "train.tsv", "--validation", "dev.tsv", "--model", "run/model", "--quiet"];
            let flags = ["--strategy", strategy, "--epochs", "1", "--learning-rate", rate, "--out", out];
            [&data[..], &flags].concat()
        };
        // At a rate that moves nothing, the answers are those of before: the adapter came along.
        home.run(&train("fine-tuning", "1e-12", "still")).well();
        close(&probabilities(&home, &["run"]), &probabilities(&home, &["still"]));
        home.run(&train("fine-tuning", "1e-2", "on")).well();
        assert_ne!(probabilities(&home, &["run"]), probabilities(&home, &["on"]));
        let weights = |run: &str| tensors(&home.path(run).join("model/adapter/adapter_model.safetensors"));
        assert_ne!(weights("run"), weights("on"), "the adapter learns as well");
        home.refuses(&train("lora", "1e-3", "over"), &["run/model", kind, "already"]);
    }
}

#[test]
fn a_killed_run_ends_in_the_same_bytes() {
    let flags = ["--epochs", "12", "--batch-size", "4", "--checkpoint-every", "2", "--seed", "5", "--quiet"];
    for (kind, more) in [("lora", ["--lora-dropout", "0.1"]), ("prefix", ["--prefix-length", "3"])] {
        let flags = [&["--strategy", kind][..], &flags, &more].concat();
        let (whole, home) = (home(), home());
        whole.train("run", &flags).well();
        home.kill_at(&Home::training("run", &flags), "run", 0);
        for checkpoints in [1, 4, 9] {
            home.kill_at(&["train", "--resume", "--out", "run", "--quiet"], "run", checkpoints);
        }
        home.run(&["train", "--resume", "--out", "run", "--quiet"]).well();
        assert!(home.result("run") == whole.result("run"), "{kind}");
        let adapter = |home: &Home| fs::read(home.path("run/adapter/adapter_model.safetensors")).unwrap();
        assert!(adapter(&home) == adapter(&whole), "{kind}");
    }
}

#[test]
fn the_plan_tells_what_is_edited_and_where_the_boundary_stands() {
    let home = home();
    let plan = |flags: &[&str]| home.train("run", &[flags, &["--dry-run"]].concat()).well();
    let text = plan(&["--strategy", "lora"]);
    assert!(text.contains("lora of rank 8, alpha 16") && text.contains("4 layers"), "{text}");
    assert!(text.contains("the first 1 stages"), "{text}");
    let text = plan(&["--strategy", "ia3", "--targets", "encoder.layer.1"]);
    assert!(text.contains("the first 2 stages") && text.contains("running statistics, not updated"), "{text}");
    let text = plan(&["--strategy", "adapter", "--bottleneck", "5"]);
    assert!(text.contains("adapter 5 wide in 4 blocks"), "{text}");
    let text = plan(&["--strategy", "prefix", "--prefix-length", "3"]);
    assert!(text.contains("prefix of 3 keys and values in 2 attentions"), "{text}");
}

#[test]
fn wrong_settings_are_refused_by_name() {
    let home = home();
    let refuse = |flags: &[&str], parts: &[&str]| home.refuses(&Home::training("run", flags), parts);
    refuse(&["--strategy", "lora", "--rank", "0"], &["--rank 0"]);
    refuse(&["--strategy", "lora", "--rank", "17"], &["rank of 17", "at most 16"]);
    refuse(&["--strategy", "lora", "--lora-alpha", "-1"], &["--lora-alpha -1"]);
    refuse(&["--strategy", "lora", "--lora-dropout", "1"], &["--lora-dropout 1"]);
    refuse(&["--strategy", "lora", "--targets", "querry"], &["querry", "whole parts"]);
    refuse(&["--strategy", "lora", "--targets", "query,,value"], &["--targets"]);
    refuse(&["--strategy", "adapter", "--bottleneck", "0"], &["--bottleneck 0"]);
    refuse(&["--strategy", "prefix", "--prefix-length", "0"], &["--prefix-length 0"]);
    refuse(&["--strategy", "prefix", "--targets", "pooler"], &["pooler", "attention"]);
    refuse(&["--strategy", "lora", "--batch-norm", "update"], &["--batch-norm update"]);
}

#[test]
fn wrong_adapter_folders_are_refused_by_name() {
    let home = trained("lora", &[]);
    let refuse = |args: &[&str], parts: &[&str]| {
        home.refuses(&[&["predict"], args, &["--text", "a film"]].concat(), parts);
    };
    refuse(&[base(), "--adapter", "nowhere"], &["nowhere", "no such adapter folder"]);
    refuse(&[base(), "--adapter", "run"], &["run", "topwork.json", "run/adapter"]);
    refuse(&[&saved("bert-3", 3), "--adapter", "run/adapter"], &["run/adapter", "trained on", base()]);
    refuse(&["run", "--adapter", "run/adapter"], &["run/adapter", "trained on"]);

    let text = fs::read_to_string(home.path("run/adapter/topwork.json")).unwrap();
    let weights = fs::read(home.path("run/adapter/adapter_model.safetensors")).unwrap();
    let damaged = |name: &str, text: &str, weights: Option<&[u8]>, parts: &[&str]| {
        home.write(&format!("{name}/topwork.json"), text);
        if let Some(weights) = weights {
            home.write(&format!("{name}/adapter_model.safetensors"), weights);
        }
        refuse(&[base(), "--adapter", name], parts);
    };
    damaged("unknown", &text.replace("\"lora\"", "\"lore\""), Some(&weights), &["unknown/topwork.json", "lore"]);
    damaged("half", "{", Some(&weights), &["half/topwork.json", "cannot be understood"]);
    damaged("bare", &text, None, &["bare/adapter_model.safetensors"]);
    damaged("short", &text, Some(&weights[..200]), &["short/adapter_model.safetensors"]);
    damaged("shape", &text.replace("\"rank\": 4", "\"rank\": 5"), Some(&weights), &["lora_A.weight", "[4, 16]"]);
    let fewer = text.replace("\"encoder.layer.1.attention.self.query\",", "");
    assert_ne!(fewer, text);
    damaged("fewer", &fewer, Some(&weights), &["fewer/adapter_model.safetensors", "lacks"]);
    let other = text.replace("attention.self.query", "attention.self.nothing");
    damaged("other", &other, Some(&weights), &["other", "nothing"]);
}
