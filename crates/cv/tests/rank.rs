//! `rank` and `find-lr`, through the binary.

mod support;

use support::{Home, home, model, saved};

/// The model of random weights, and the same saved as a classifier of three classes: with a head of its own.
fn with_head() -> String {
    saved("resnet18", 64, Some(["a", "b"].map(String::from).to_vec()))
}

fn ranking(home: &Home, models: &str, flags: &[&str]) -> serde_json::Value {
    let out = home.run(&[&["rank", "--data", "data", "--models", models, "--json"], flags].concat()).well();
    serde_json::from_str(&out).unwrap()
}

#[test]
fn models_are_ranked_with_every_score_and_the_time_it_took() {
    let home = home();
    let run = home.train("run", &[]);
    run.well();
    let models = format!("{},run,{}", model(), with_head());
    let all = ranking(&home, &models, &[]);
    let ranked = all["models"].as_array().unwrap();
    assert_eq!(ranked.len(), 3);
    let logme: Vec<f64> = ranked.iter().map(|m| m["values"]["logme"].as_f64().unwrap()).collect();
    assert!(logme.windows(2).all(|w| w[0] >= w[1]), "best first: {logme:?}");
    for m in ranked {
        assert_eq!((&m["samples"], &m["classes"]), (&16.into(), &2.into()), "the training part: {m}");
        for score in ["logme", "h-score", "transrate", "knn", "ridge"] {
            assert!(m["values"][score].is_f64() && m["seconds"][score].is_f64(), "{score}: {m}");
        }
        assert!(m["feature_seconds"].as_f64().unwrap() > 0.0);
    }
    // The run's own head knows the classes.
    let of_run = ranked.iter().find(|m| m["model"] == "run").unwrap();
    assert!(of_run["values"]["nce"].as_f64().unwrap() > -0.01, "{of_run}");

    let by_knn = ranking(&home, &models, &["--by", "knn", "--per-class", "5"]);
    let knn: Vec<f64> =
        by_knn["models"].as_array().unwrap().iter().map(|m| m["values"]["knn"].as_f64().unwrap()).collect();
    assert!(knn.windows(2).all(|w| w[0] >= w[1]), "best first: {knn:?}");
    assert_eq!(by_knn["models"][0]["samples"], 10);
}

#[test]
fn a_model_that_cannot_be_opened_is_listed_beside_the_others() {
    let home = home();
    home.write("broken/config.json", "{}");
    let ran = home.run(&["rank", "--data", "data", "--models", &format!("resnet19,{},broken", model()), "--quiet"]);
    assert!(ran.out.lines().any(|line| line.starts_with(model())), "{}", ran.out);
    for name in ["resnet19", "broken"] {
        let line = ran.out.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line.contains("cannot be opened: "), "{line}");
    }
    ran.refused(&["--models: 2 of 3 models could not be opened", "the others are ranked"]);
}

#[test]
fn what_cannot_be_ranked_is_refused() {
    let home = home();
    let refuses = |args: &[&str], parts: &[&str]| home.refuses(&[&["rank"], args].concat(), parts);
    refuses(&["--data", "absent", "--models", model()], &["--data absent", "no such file"]);
    refuses(&["--data", "data", "--models", "resnet19"], &["--models: none of them can be opened", "resnet19"]);
    refuses(&["--data", "data", "--models", model(), "--limit", "99"], &["--limit 99", "only 16 samples"]);
    refuses(&["--data", "data", "--models", model(), "--cache-limit", "-1"], &["--cache-limit -1"]);
    refuses(&["--data", "data", "--models", model(), "--by", "beauty"], &["--by", "logme"]);
}

const TUNING: [&str; 6] = ["--strategy", "fine-tuning", "--batch-size", "4", "--steps", "40"];

fn testing<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    [&["find-lr", "--data", "data", "--model", model()], flags].concat()
}

#[test]
fn a_range_test_shows_the_course_of_the_loss_and_leaves_a_run_as_it_is() {
    let home = home();
    home.train("run", &[]).well();
    let before = home.files();
    let out = home.run(&testing(&[&TUNING[..], &["--out", "run"]].concat())).well();
    assert!(out.contains("1e-5") && out.contains("█"), "{out}");
    let mut after = home.files();
    let svg = String::from_utf8(after.remove(&home.path("run/find-lr.svg")).unwrap()).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("polyline"));
    after.remove(&home.path("run/find-lr.json")).unwrap();
    assert!(before == after);
    let test = home.json("run/find-lr.json");
    let points = test["points"].as_array().unwrap();
    assert!(points.len() <= 40 && (points.len() == 40 || test["diverged"] == true), "{test}");
    let rates: Vec<f64> = points.iter().map(|p| p["rate"].as_f64().unwrap()).collect();
    assert!((rates[0] - 1e-7).abs() < 1e-12);
    let factor = 10f64.powf(8.0 / 39.0);
    assert!(rates.windows(2).all(|w| (w[1] / w[0] / factor - 1.0).abs() < 1e-9));
    // The first losses are those of a head that knows nothing.
    assert!(points[0]["loss"].as_f64().unwrap() > 0.3);
    assert_eq!(
        home.run(&testing(&[&TUNING[..], &["--json"]].concat())).well(),
        home.run(&testing(&[&TUNING[..], &["--json", "--threads", "1"]].concat())).well(),
    );
}

#[test]
fn a_range_test_that_makes_no_sense_is_refused() {
    let home = home();
    let refuses = |flags: &[&str], parts: &[&str]| home.refuses(&testing(flags), parts);
    refuses(&[], &["--strategy feature-extraction", "--probe gradient"]);
    refuses(&["--steps", "3"], &["--steps 3", "100"]);
    refuses(&["--highest", "-1"], &["--highest -1", "no learning rate"]);
    refuses(&["--decades", "0"], &["--decades 0"]);
    refuses(&["--folds", "3"], &["--folds", "leave it out"]);
    home.write("taken", "");
    refuses(&["--out", "taken"], &["taken: it is a file"]);
}
