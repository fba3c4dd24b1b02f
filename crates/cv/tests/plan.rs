//! `train --plan`: plans in files, through the binary.

mod support;

use support::{Home, home};

const TUNING: [&str; 6] = ["--strategy", "fine-tuning", "--epochs", "2", "--batch-size", "4"];

/// The plan that a strategy would follow, as it is printed.
fn printed(home: &Home) -> String {
    home.train("run", &[&TUNING[..], &["--dry-run", "--json"]].concat()).well()
}

#[test]
fn a_printed_plan_is_followed_to_the_bytes_of_its_strategy() {
    let home = home();
    let plan = printed(&home);
    home.write("plan.json", &plan);
    let value: topwork_core::plan::Plan = serde_json::from_str(&plan).unwrap();
    home.write("plan.toml", toml::to_string(&value).unwrap());
    home.train("strategy", &TUNING).well();
    for file in ["plan.json", "plan.toml"] {
        home.train(file.split('.').nth(1).unwrap(), &["--plan", file]).well();
    }
    assert!(home.result("json") == home.result("strategy"));
    assert!(home.result("toml") == home.result("strategy"));
}

#[test]
fn a_plan_of_ones_own_is_followed_and_cross_validated() {
    let home = home();
    home.write(
        "plan.json",
        printed(&home).replace("\"fine-tuning\"", "\"mine\"").replace("\"epochs\":2", "\"epochs\":3"),
    );
    let out = home.train("run", &["--plan", "plan.json", "--dry-run"]).well();
    assert!(out.contains("strategy mine") && out.contains("3 epochs"), "{out}");
    home.train("run", &["--plan", "plan.json", "--folds", "2"]).well();
    assert_eq!(home.json("run/summary.json")["folds"]["each"].as_array().unwrap().len(), 2);
}

#[test]
fn plans_that_cannot_be_followed_are_refused() {
    let home = home();
    let plan = printed(&home);
    let refuses = |file: &str, flags: &[&str], parts: &[&str]| {
        home.refuses(&Home::training("new", &[&["--plan", file], flags].concat()), parts)
    };
    let edited = |name: &str, from: &str, to: &str| {
        assert!(plan.contains(from), "{from}: {plan}");
        home.write(name, plan.replacen(from, to, 1));
    };
    edited("stage.json", "\"stage\":\"head\"", "\"stage\":\"layer9\"");
    edited("epochs.json", "\"epochs\":2", "\"epochs\":0");
    edited("boundary.json", "\"boundary\":0", "\"boundary\":99");
    edited("word.json", "\"batch_norm\"", "\"batchnorm\"");
    edited("good.json", "{", "{");
    home.write("empty.toml", "strategy = \"mine\"\nstart = \"pretrained\"\nphases = []\n");
    refuses("stage.json", &[], &["phase \"train everything\": \"layer9\" is no stage of", "use head or one of"]);
    refuses("epochs.json", &[], &["epochs is 0", "from 1"]);
    refuses("boundary.json", &[], &["boundary is 99", "fewer stages"]);
    refuses("word.json", &[], &["word.json", "batchnorm", "--dry-run --json"]);
    refuses("empty.toml", &[], &["it has no phases"]);
    refuses("absent.toml", &[], &["absent.toml", "check the path"]);
    refuses("good.json", &["--epochs", "4"], &["--plan: how to train is set by the plan and by a flag at once"]);
    refuses("good.json", &["--strategy", "fine-tuning"], &["--plan", "--strategy"]);
}
