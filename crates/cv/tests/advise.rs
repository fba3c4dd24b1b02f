//! `advise` on photos, through the binary.

mod support;

use serde_json::Value;
use support::{Home, home, model, saved};

fn advise(home: &Home, flags: &[&str]) -> Value {
    let args = [&["advise", "--models", model(), "--json", "--quiet"], flags].concat();
    serde_json::from_str(&home.run(&args).well()).unwrap()
}

fn names(advice: &Value) -> Vec<&str> {
    advice["rules"].as_array().unwrap().iter().map(|rule| rule["name"].as_str().unwrap()).collect()
}

#[test]
fn what_is_advised_is_a_plan_that_train_follows_by_the_printed_command() {
    let home = home();
    let advice = advise(&home, &["--data", "data", "--out", "advice.toml", "--seed", "3"]);
    assert_eq!(advice["measures"]["labels"], 16.0);
    assert!(advice["plan"]["phases"].as_array().is_some_and(|phases| !phases.is_empty()), "{advice}");
    assert!(names(&advice).contains(&"few-to-judge"), "{advice}");
    let command = advice["command"].as_str().unwrap().replace("--out RUN", "--out run");
    assert!(command.starts_with("topwork-cv train --data data --model "), "{command}");
    home.run(&command.split_whitespace().skip(1).collect::<Vec<_>>()).well();
    let text = std::fs::read_to_string(home.path("run/run.toml")).unwrap();
    let run: toml::Value = toml::from_str(&text).unwrap();
    assert_eq!(serde_json::to_value(&run["plan"]).unwrap()["strategy"], advice["plan"]["strategy"]);
    let file = std::fs::read_to_string(home.path("advice.toml")).unwrap();
    assert!(file.starts_with("# Advised by topwork-cv") && file.contains("few-to-judge"), "{file}");
}

#[test]
fn features_that_tell_the_classes_apart_make_a_head_enough() {
    let advice = advise(&home(), &["--data", "data"]);
    assert_eq!(advice["measures"]["head"], 1.0, "red and blue: {advice}");
    assert!(names(&advice).contains(&"near-ceiling") && names(&advice).contains(&"nothing-to-compare-for"));
    assert_eq!(advice["compared"], serde_json::json!([]));
    let rule = advice["rules"].as_array().unwrap().iter().find(|rule| rule["name"] == "near-ceiling").unwrap();
    assert_eq!(rule["numbers"], "error of that head: 0.0 %");
}

#[test]
fn every_option_is_timed_and_what_was_timed_does_not_change_the_advice() {
    let home = home();
    let (first, second) = (advise(&home, &["--data", "data"]), advise(&home, &["--data", "data"]));
    for key in ["plan", "rules", "model"] {
        assert_eq!(first[key], second[key]);
    }
    let costs = first["costs"].as_array().unwrap();
    let strategies: Vec<&str> = costs.iter().map(|cost| cost["strategy"].as_str().unwrap()).collect();
    assert_eq!(strategies, ["feature-extraction", "partial", "lora", "contrastive-few-shot", "lp-ft"]);
    for cost in costs {
        assert!(cost["seconds"].as_f64().unwrap() > 0.0, "{cost}");
        assert_eq!(cost["steps"].as_u64().unwrap() > 0, cost["step_seconds"].as_f64().unwrap() > 0.0, "{cost}");
    }
}

#[test]
fn photos_that_occur_again_are_told_with_their_share() {
    let home = home();
    for (from, to) in [("red", "train/red"), ("blue", "train/blue")] {
        for i in 0..10 {
            let bytes = std::fs::read(home.path(&format!("data/{from}/{i}.png"))).unwrap();
            home.write(&format!("parts/{to}/{i}.png"), bytes);
        }
    }
    let copy = |from: &str, to: &str| {
        home.write(to, std::fs::read(home.path(from)).unwrap());
    };
    copy("data/red/0.png", "parts/train/blue/again.png");
    copy("data/red/1.png", "parts/val/red/seen.png");
    home.photo("parts/val/blue/new.png", [30, 30, 160], 999);
    let advice = advise(&home, &["--data", "parts"]);
    assert_eq!(advice["measures"]["shared"], 0.5);
    assert_eq!(advice["measures"]["contradicted"], 2.0 / 21.0);
    let names = names(&advice);
    assert!(names.contains(&"shared-samples") && names.contains(&"contradictions"), "{names:?}");
}

#[test]
fn of_several_models_the_one_is_taken_whose_features_serve_best() {
    let home = home();
    home.train("run", &[]).well();
    let other = saved("resnet18", 64, None);
    let models = format!("{other},{},broken", model());
    home.write("broken/config.json", "{}");
    let ran = home.run(&["advise", "--data", "data", "--models", &models, "--json", "--quiet"]);
    let out = ran.out.clone();
    ran.refused(&["--models: 1 of the models could not be opened"]);
    let advice: Value = serde_json::from_str(&out).unwrap();
    let considered = advice["models"].as_array().unwrap();
    assert_eq!(considered.len(), 2);
    assert_eq!(advice["model"], considered[0]["model"]);
    assert_eq!(advice["failed"][0]["model"], "broken");
    let accuracy = |i: usize| considered[i]["heads"][0]["accuracy"].as_f64().unwrap();
    assert!(accuracy(0) >= accuracy(1), "{advice}");
}

#[test]
fn the_rules_are_printed_as_a_table_of_condition_advice_reason_and_source() {
    let home = home();
    let text = home.run(&["advise", "--rules"]).well();
    for part in
        ["near-ceiling\n  if error of that head < 5.0 %:", "because", "source: ", "otherwise-the-head\n  always"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let lines = home.run(&["advise", "--rules", "--json"]).well();
    let rules: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rules.len() > 10 && rules.iter().all(|rule| rule["source"].is_string() && rule["when"].is_array()));
}

#[test]
fn advice_on_what_makes_no_sense_is_refused() {
    let home = home();
    let refuses = |flags: &[&str], parts: &[&str]| {
        home.refuses(&[&["advise", "--quiet"], flags].concat(), parts);
    };
    let models = ["--models", model()];
    let with = |flags: &[&'static str]| [&models[..], flags].concat();
    refuses(&with(&[]), &["--data", "no photos are named"]);
    refuses(&with(&["--data", "absent"]), &["--data absent", "no such file"]);
    refuses(&with(&["--data", "data", "--limit", "99"]), &["--limit 99", "only 16 samples"]);
    refuses(&with(&["--data", "data", "--per-class", "0"]), &["--per-class 0", "nothing to learn from"]);
    refuses(&with(&["--data", "data", "--per-class", "1"]), &["class \"blue\"", "a single sample"]);
    refuses(&["--data", "data", "--models", "resnet19"], &["--models: none of them can be opened", "resnet19"]);
    let embedded = home.run(&["advise", "--quiet", "--data", "data", "--out", "plan.toml"]).well();
    assert!(embedded.contains("tiny-resnet"), "the model that is part of the program is at hand: {embedded}");
    home.write("taken.toml", "title = \"something else\"\n");
    refuses(&with(&["--data", "data", "--out", "taken.toml"]), &["taken.toml: it holds something else than a plan"]);
}

#[test]
fn ridge_and_parallel_adapters_are_settings_of_their_strategies() {
    let home = home();
    home.train("ridge", &["--probe", "ridge"]).well();
    assert_eq!(home.json("ridge/summary.json")["accuracy"], 1.0);
    let text = home.train("none", &["--probe", "ridge", "--dry-run"]).well();
    assert!(text.contains("ridge regression") && text.contains("chosen by leaving one out"), "{text}");
    let parallel = ["--strategy", "adapter", "--adapter-placement", "parallel", "--epochs", "1", "--batch-size", "8"];
    home.train("parallel", &parallel).well();
    home.run(&["predict", "parallel", "data/red/0.png"]).well();
    let edit = home.json("parallel/adapter/topwork.json")["adapters"][0].clone();
    assert_eq!((&edit["kind"], &edit["placement"]), (&"adapter".into(), &"parallel".into()));
}
