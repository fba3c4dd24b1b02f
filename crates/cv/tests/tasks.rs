//! Tasks other than one class a photo, from the command to the answer.

mod support;

use support::{BINARY, Home, empty, model};

/// Forty photos, redder and redder, some of them with blue; a list of them, with tags and numbers.
fn home() -> Home {
    assert!(!BINARY.is_empty());
    let home = empty();
    let mut list = "path,tags,warm,cool,redness\n".to_string();
    for i in 0..40u64 {
        let (red, blue) = ((40 + 4 * i) as u8, if i % 3 == 0 { 150 } else { 10 });
        home.photo(&format!("photos/{i}.png"), [red, 20, blue], i);
        let (warm, cool) = (i >= 20, i % 3 == 0);
        let tags = [(warm, "warm"), (cool, "cool")].iter().filter(|t| t.0).map(|t| t.1).collect::<Vec<_>>().join("; ");
        let bit = |is| if is { "1" } else { "0" };
        list += &format!("photos/{i}.png,{tags},{},{},{}\n", bit(warm), bit(cool), f64::from(red) / 255.0);
    }
    home.write("list.csv", list);
    home
}

fn train(home: &Home, out: &str, flags: &[&str]) -> String {
    let args = ["train", "--train", "list.csv", "--validation", "list.csv", "--model", model(), "--out", out];
    home.run(&[&args, flags].concat()).well()
}

#[test]
fn labels_are_learned_from_a_column_that_lists_them_or_from_one_each() {
    let home = home();
    for (out, columns) in [("listed", "tags"), ("each", "cool,warm")] {
        for strategy in ["feature-extraction", "fine-tuning"] {
            let out = format!("{out}-{strategy}");
            let flags = [
                "--task",
                "labels",
                "--label-column",
                columns,
                "--strategy",
                strategy,
                "--epochs",
                "40",
                "--l2",
                "0.01",
            ];
            let said = train(
                &home,
                &out,
                &[&flags[..], &["--learning-rate", "2e-3", "--no-augment", "--batch-size", "8"]].concat(),
            );
            assert!(said.contains("mean average precision"), "{said}");
            let summary = home.json(&format!("{out}/summary.json"));
            assert!(summary["macro_f1"].as_f64().unwrap() > 0.8, "{out}: {summary}");
            assert_eq!(summary["labels"][0]["name"], "cool");
        }
    }
    let config = home.json("listed-fine-tuning/model/config.json");
    assert_eq!(config["problem_type"], "multi_label_classification");
    let line = home.run(&["predict", "listed-feature-extraction", "photos/39.png", "--json"]).well();
    let answer: serde_json::Value = serde_json::from_str(&line).unwrap();
    let labels: Vec<&str> =
        answer["predictions"].as_array().unwrap().iter().map(|p| p["label"].as_str().unwrap()).collect();
    assert_eq!(labels.len(), 2, "each on its own: {line}");
    let none = home.run(&["predict", "listed-feature-extraction", "photos/1.png"]).well();
    assert_eq!(none.trim(), "photos/1.png", "neither warm nor cool");
    let judged =
        home.run(&["evaluate", "listed-fine-tuning", "--validation", "list.csv", "--label-column", "tags"]).well();
    assert!(judged.contains("micro-F1") && judged.contains("warm"), "{judged}");
}

#[test]
fn values_are_learned_and_measured() {
    let home = home();
    let column = ["--task", "values", "--label-column", "redness"];
    train(&home, "solved", &[&column[..], &["--strategy", "feature-extraction"]].concat());
    let tuned = ["--strategy", "fine-tuning", "--epochs", "30", "--learning-rate", "3e-3", "--no-augment"];
    train(&home, "tuned", &[&column[..], &tuned].concat());
    for (run, least) in [("solved", 0.8), ("tuned", 0.5)] {
        let summary = home.json(&format!("{run}/summary.json"));
        assert!(summary["r2"].as_f64().unwrap() > least, "{run}: {summary}");
        let report = std::fs::read_to_string(home.path(run).join("report.html")).unwrap();
        assert!(report.contains("R²") && !report.contains("Confusion"));
        assert!(report.contains("<h2>Largest errors</h2>") && report.contains("<b>redness</b>: "), "{report}");
    }
    let line = home.run(&["predict", "solved", "photos/39.png"]).well();
    let fields: Vec<&str> = line.trim().split('\t').collect();
    assert_eq!(fields[1], "redness");
    assert!((fields[2].parse::<f64>().unwrap() - 196.0 / 255.0).abs() < 0.15, "{line}");
    let judged = home.run(&["evaluate", "solved", "--validation", "list.csv"]).well();
    assert!(judged.contains("mean absolute error") && judged.contains("Pearson"), "{judged}");
    let folds = [&column[..], &["--folds", "4", "--strategy", "feature-extraction"]].concat();
    let said = home
        .run(&[&["train", "--train", "list.csv", "--model", model(), "--out", "folds"], &folds[..]].concat())
        .well();
    assert!(said.contains("4 folds: R²"), "{said}");
}

#[test]
fn what_other_tasks_lack_is_refused() {
    let home = home();
    let run = |flags: &[&str], parts: &[&str]| {
        let args = ["train", "--train", "list.csv", "--model", model(), "--out", "run"];
        home.refuses(&[&args, flags].concat(), parts);
    };
    let labels = ["--task", "labels", "--label-column", "tags"];
    run(&[&labels[..], &["--strategy", "prototypes"]].concat(), &["prototypes", "means of classes", "labels"]);
    run(&[&labels[..], &["--strategy", "contrastive-few-shot"]].concat(), &["pairs of a class"]);
    let values = ["--task", "values", "--label-column", "redness"];
    run(&[&values[..], &["--label-smoothing", "0.1", "--strategy", "fine-tuning"]].concat(), &["smoothed labels"]);
    run(&["--task", "values", "--label-column", "tags"], &["row 2", "\"tags\"", "not a number"]);
    run(&["--label-column", "warm,cool"], &["--label-column", "--task labels"]);
    run(&["--task", "tokens"], &["tokens", "possible values: classes, labels, values"]);
    home.refuses(&[&["rank", "--train", "list.csv", "--models", model()], &labels[..]].concat(), &["rank", "labels"]);
}
