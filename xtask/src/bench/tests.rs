//! The runner on a contest without data.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use topwork_core::strategy::Options;

use super::*;
use cell::Outcome;

struct Fake {
    entries: Vec<Entry>,
    missing: Option<String>,
    measured: Arc<AtomicUsize>,
    most: usize,
}

fn rate(rate: f64) -> Options {
    Options { learning_rate: Some(rate), ..Options::default() }
}

fn entry(strategy: &'static str, pretrained: bool, grid: Vec<Options>) -> Entry {
    let budgets = [40, 160, 640].map(|labels| Budget { labels, seeds: 3, grid: grid.clone() }).to_vec();
    Entry { strategy, pretrained, model: "m".into(), follows: None, aid: None, budgets }
}

impl Contest for Fake {
    fn domain(&self) -> &'static str {
        "cv"
    }
    fn data(&self) -> &'static str {
        "digits"
    }
    fn entries(&self) -> &[Entry] {
        &self.entries
    }
    fn without_weights(&self) -> Option<String> {
        self.missing.clone()
    }
    fn setting(&self) -> String {
        "a fake".into()
    }
    fn measure(&mut self, entry: &Entry, budget: &Budget, seed: u64, chosen: Option<Choice>) -> Result<Finding> {
        anyhow::ensure!(self.measured.fetch_add(1, Ordering::Relaxed) < self.most, "killed");
        if entry.strategy == "prefix" {
            return Ok(Finding::Refused { reason: "it has no attention".into() });
        }
        let now = Choice { options: rate(seed as f64), folds: vec![0.5], processor: 1.0 };
        let choice = (budget.grid.len() > 1).then(|| chosen.unwrap_or(now));
        let (accuracy, trained) = (1.0 / seed as f64, budget.labels);
        Ok(Finding::Measured(Outcome { accuracy, seconds: 1.0, processor: 2.0, trained, choice }))
    }
}

fn usual() -> Vec<Entry> {
    vec![entry("from-scratch", false, vec![rate(1.0)]), entry("feature-extraction", true, vec![rate(1.0)])]
}

fn bench(folder: &Path, entries: Vec<Entry>, missing: Option<&str>, most: usize) -> (Result<Found>, usize) {
    let measured = Arc::new(AtomicUsize::new(0));
    let fake = Fake { entries, missing: missing.map(Into::into), measured: measured.clone(), most };
    let store = Store { folder: folder.join("cells") };
    let found = measure(&mut [Box::new(fake)], "v1", &store, Known::default(), None, &mut |_| {});
    (found, measured.load(Ordering::Relaxed))
}

#[test]
fn an_interrupted_benchmark_continues_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    assert!(bench(folder.path(), usual(), None, 5).0.is_err());
    let (found, measured) = bench(folder.path(), usual(), None, 100);
    assert_eq!((found.unwrap().records.len(), measured), (18, 13));
    assert_eq!(bench(folder.path(), usual(), None, 0).1, 0);
}

#[test]
fn one_seed_of_everything_comes_before_the_next() {
    let folder = tempfile::tempdir().unwrap();
    assert!(bench(folder.path(), usual(), None, 6).0.is_err());
    let seeds = std::fs::read_dir(folder.path().join("cells")).unwrap();
    let names: Vec<String> = seeds.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.len() == 6 && names.iter().all(|name| name.ends_with("-s1.json")), "{names:?}");
}

#[test]
fn settings_are_chosen_with_the_first_seed_and_stay() {
    let folder = tempfile::tempdir().unwrap();
    let found = bench(folder.path(), vec![entry("lora", true, vec![rate(1.0), rate(2.0)])], None, 100).0.unwrap();
    for Record { outcome, .. } in found.records {
        let Finding::Measured(Outcome { choice: Some(choice), .. }) = outcome else { panic!("a choice was made") };
        assert_eq!(choice.options.learning_rate, Some(1.0));
    }
}

#[test]
fn what_is_known_is_not_measured_unless_its_settings_have_changed() {
    let folder = tempfile::tempdir().unwrap();
    let known = bench(folder.path(), usual(), None, 100).0.unwrap().records;
    let again = |entries: Vec<Entry>| {
        let elsewhere = tempfile::tempdir().unwrap();
        let measured = Arc::new(AtomicUsize::new(0));
        let fake = Fake { entries, missing: None, measured: measured.clone(), most: 100 };
        let known = Known(known.iter().cloned().map(|record| (record.cell.key(), record)).collect());
        let store = Store { folder: elsewhere.path().into() };
        let found = measure(&mut [Box::new(fake)], "v1", &store, known, None, &mut |_| {}).unwrap();
        (found.records.len(), measured.load(Ordering::Relaxed))
    };
    assert_eq!(again(usual()), (18, 0));
    assert_eq!(again(vec![entry("from-scratch", false, vec![rate(3.0)])]), (18, 9));
}

#[test]
fn nothing_is_begun_after_the_time_and_what_is_missing_is_told() {
    let folder = tempfile::tempdir().unwrap();
    assert!(bench(folder.path(), usual(), None, 7).0.is_err());
    let fake = Fake { entries: usual(), missing: None, measured: Arc::default(), most: 0 };
    let store = Store { folder: folder.path().join("cells") };
    let contests: &mut [Box<dyn Contest>] = &mut [Box::new(fake)];
    let found = measure(contests, "v1", &store, Known::default(), Some(Instant::now()), &mut |_| {}).unwrap();
    let text = found.notes.join("\n");
    assert!(found.records.len() == 7 && text.contains("11 of 18 cells did not fit"), "{text}");
    assert!(text.contains("seed 2: digits with 40 labels: feature-extraction\n"), "{text}");
    assert!(text.contains("seed 2: digits with 640 labels: nothing of it\nseed 3 did not fit at all"), "{text}");
}

#[test]
fn the_report_is_written_in_both_forms() {
    let folder = tempfile::tempdir().unwrap();
    let found = bench(folder.path(), usual(), None, 100).0.unwrap();
    Report::new("size default".into(), found, false).write(folder.path()).unwrap();
    let text = std::fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(text.contains("| digits | 40 | feature-extraction |"), "{text}");
    let json = std::fs::read_to_string(folder.path().join("report.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["rows"].as_array().map(Vec::len), Some(6));
}

#[test]
fn the_report_of_a_comparison_has_a_table_for_each_set_and_says_why_one_did_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let entries = [usual(), vec![entry("prefix", true, vec![rate(1.0)])]].concat();
    let found = bench(folder.path(), entries, None, 100).0.unwrap();
    Report::new("all".into(), found, true).write(folder.path()).unwrap();
    let text = std::fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(text.contains("## digits") && text.contains("| prefix | does not run: it has no attention"), "{text}");
    assert!(text.contains("| feature-extraction | 61.1 ± 34.7 | 2.0 |"), "{text}");
}

#[test]
fn without_weights_only_training_from_scratch_runs_and_the_report_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let found = bench(folder.path(), usual(), Some("pip is not installed"), 100).0.unwrap();
    let report = Report::new("size default".into(), found, false);
    assert!(report.rows.iter().all(|row| row.strategy == "from-scratch"));
    assert!(report.page().contains("pip is not installed"));
}

#[test]
fn the_page_in_the_book_is_the_report_of_the_records() {
    let records = cell::read_lines(&crate::root().join(RECORDS)).unwrap();
    let page = std::fs::read_to_string(crate::root().join("docs/compared.md")).unwrap();
    let how = "cargo xtask bench --strategies all --report-only, then copy target/bench/report.md to docs/compared.md";
    assert!(page == of_records(records).page(), "docs/compared.md is not up to date: {how}");
}
