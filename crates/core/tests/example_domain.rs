//! The domain that `docs/new-domain.md` makes: what the page says of it is true, and the page is what is compiled.

#[allow(dead_code)] // The test calls the library; `main` is the program's.
#[path = "../examples/signals.rs"]
mod signals;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use signals::{DataArgs, Signals, generate};
use topwork_core::classifier::Classifier;
use topwork_core::fit::Fit;
use topwork_core::machine::Machine;
use topwork_core::metrics::Scores;
use topwork_core::observe::Silent;
use topwork_core::rank::Rank;

const MOTOR: [f64; 8] = [0.05, 0.08, 0.11, 0.14, 0.17, 0.2, 0.24, 0.29];
const WEATHER: [f64; 4] = [0.01, 0.015, 0.02, 0.025];
const PUMP: [f64; 4] = [0.09, 0.13, 0.19, 0.26];

/// A folder with the data of the page.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.write("motor.csv", &generate(&MOTOR, 0.7, 500, 0));
        place.write("weather.csv", &generate(&WEATHER, 0.2, 500, 0));
        place.write("test.csv", &generate(&PUMP, 0.7, 100, 2));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn fit(&self, train: &str, validation: Option<&str>, strategy: &str, out: &str) -> Fit<Signals> {
        let data = DataArgs { train: Some(self.path(train)), validation: validation.map(|name| self.path(name)) };
        let machine = Machine { cache_limit: Some(0.0), ..Machine::default() };
        // Nobody goes on with runs of a second.
        let checkpoint_pause = Duration::from_secs(60);
        Fit { machine, checkpoint_pause, ..Fit::new(data).strategy(strategy).out(self.path(out)) }
    }
}

fn accuracy(fit: &Fit<Signals>) -> f64 {
    match fit.run(&Silent).unwrap().summary.metrics.scores {
        Scores::Classes(scores) => scores.accuracy,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_related_source_knows_helps_and_ranking_tells_it_from_an_unrelated_one() {
    let place = Place::new();
    assert!(accuracy(&place.fit("motor.csv", None, "from-scratch", "motor")) > 0.7);
    assert!(accuracy(&place.fit("weather.csv", None, "from-scratch", "weather")) > 0.8);
    let motor = place.path("motor").display().to_string();
    let weather = place.path("weather").display().to_string();
    let [mut scratch, mut extraction, mut tuning] = [0.0; 3];
    for seed in [1, 3, 4] {
        place.write("pump.csv", &generate(&PUMP, 0.7, 4, seed));
        let few = |strategy: &str| place.fit("pump.csv", Some("test.csv"), strategy, &format!("{strategy} {seed}"));
        scratch += accuracy(&few("from-scratch")) / 3.0;
        extraction += accuracy(&few("feature-extraction").model(&motor)) / 3.0;
        tuning += accuracy(&few("fine-tuning").model(&motor)) / 3.0;

        let Fit { machine, data, .. } = few("feature-extraction");
        let rank = Rank::<Signals> { machine, ..Rank::new([&weather, &motor], data) };
        let order = rank.run(&Silent).unwrap().models;
        assert_eq!(order.iter().map(|ranked| &ranked.model).collect::<Vec<_>>(), [&motor, &weather]);
    }
    assert!(extraction > scratch + 0.05 && tuning > scratch + 0.05, "{scratch} {extraction} {tuning}");

    let classifier = Classifier::<Signals>::load(place.path("fine-tuning 1")).unwrap();
    let text = generate(&PUMP, 0.0, 1, 7);
    for line in text.lines().skip(1) {
        let (label, numbers) = line.split_once(',').unwrap();
        let signal: Vec<f32> = numbers.split(',').map(|number| number.parse().unwrap()).collect();
        assert_eq!(classifier.predict(&[signal.as_slice()]).unwrap()[0].label(), label);
    }
    assert!(classifier.predict(&[[0.0f32; 3].as_slice()]).unwrap_err().to_string().contains("3 measurements"));
}

#[test]
fn a_wrong_table_is_told_with_file_and_row() {
    let place = Place::new();
    let good = generate(&PUMP, 0.7, 2, 1);
    let mut lines: Vec<String> = good.lines().map(String::from).collect();
    let row = lines[3].clone();
    let mut says = |third: String, parts: &[&str]| {
        lines[3] = third;
        place.write("bad.csv", &lines.join("\n"));
        let message = match place.fit("bad.csv", None, "from-scratch", "out").run(&Silent) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{parts:?}: nothing is said"),
        };
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        assert!(!place.path("out").exists());
    };
    let cells: Vec<&str> = row.split(',').collect();
    says(row.replacen(cells[5], "loud", 1), &["bad.csv, row 4", "\"t4\"", "\"loud\"", "correct it"]);
    says(cells[..100].join(","), &["bad.csv, row 4"]);
    says(row.replacen(cells[0], "", 1), &["bad.csv, row 4", "its label is none of"]);
    place.write("bad.csv", "label\n");
    let message = place.fit("bad.csv", None, "from-scratch", "out").run(&Silent).err().unwrap().to_string();
    assert!(message.contains("bad.csv: holds no signals"), "{message}");
}

/// The program of the example, which cargo builds beside the tests.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().and_then(Path::parent).unwrap().join("examples/signals");
    assert!(program.is_file(), "{} is not built: run cargo test with --examples", program.display());
    program
}

#[test]
fn the_program_has_the_verbs_of_all_domains() {
    let place = Place::new();
    place.write("pump.csv", &generate(&PUMP, 0.7, 20, 1));
    let run = |line: &str| {
        let mut command = Command::new(program());
        command.args(line.split(' ')).current_dir(place.0.path()).env("TOPWORK_CACHE", place.path("cache"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let made = run("generate --pitches 0.09,0.13,0.19,0.26 --noise 0.7 --each 20 --seed 1");
    assert_eq!(made.trim_end(), generate(&PUMP, 0.7, 20, 1));
    run("train --train motor.csv --limit 800 --epochs 5 --strategy from-scratch --out runs/motor");
    run("train --train pump.csv --model runs/motor --strategy lora --out runs/pump");
    assert!(run("evaluate runs/pump --validation test.csv").contains("on 400 signals"));
    assert_eq!(run("predict runs/pump test.csv").lines().count(), 400);
    assert!(run("rank --train pump.csv --models runs/motor").contains("LogME"));
    assert!(run("advise --train pump.csv --models runs/motor --out plan.toml").contains("why:"));
    run("train --train pump.csv --plan plan.toml --model runs/motor --out runs/advised");
    run("export runs/pump --format onnx --out pump.onnx");
    assert!(run("models show runs/pump").contains("stage3"));
}

#[test]
fn the_page_is_the_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("../../docs/new-domain.md")).unwrap();
    let file = fs::read_to_string(root.join("examples/signals.rs")).unwrap();
    let pieces: Vec<&str> = page.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    for piece in &pieces {
        assert!(file.contains(piece), "the page has what the file has not:\n{piece}");
    }
    // Who types the page has the program.
    let (_, program) = file.split_once("\n\n").unwrap();
    assert_eq!(pieces.join("\n"), program);
    assert!(file.lines().count() < 300);
}
