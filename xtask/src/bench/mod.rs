//! `cargo xtask bench`: strategies × label budgets × seeds on the two bundled sets, as one table.
//!
//! Every measured cell is kept under `target/bench/cells/`, so that an interrupted benchmark continues; the report is
//! written to `target/bench/report.md` and `report.json`.

mod cell;
mod domains;
mod grid;
mod summary;
mod transfer;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use cell::{Cell, Outcome, Store};
pub use grid::{Limits, Size};
use summary::Row;

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How much to measure
    #[arg(long, value_enum, default_value = "default")]
    size: Size,
    /// Forget what was measured before
    #[arg(long)]
    fresh: bool,
    /// Folder for cells and report [default: target/bench]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// One data set with the strategies that are compared on it.
pub trait Contest {
    /// `cv` or `nlp`.
    fn domain(&self) -> &'static str;
    /// Name of the data set.
    fn data(&self) -> &'static str;
    /// Number of classes.
    fn classes(&self) -> usize;
    /// Strategies by name, in the order of the table.
    fn strategies(&self) -> Vec<(&'static str, Limits)>;
    /// Why pre-trained weights cannot be had, if so; only strategies without them run then.
    fn without_weights(&self) -> Option<String>;
    /// Model, sizes and lengths, for the report.
    fn setting(&self) -> String;
    /// What all outcomes depend on besides the cell and the program: weights, settings.
    fn fingerprint(&self) -> String;
    /// Trains and evaluates.
    fn measure(&mut self, strategy: &str, labels: usize, seed: u64) -> Result<Outcome>;
}

/// What is written to `report.json`.
#[derive(Debug, Serialize)]
struct Report {
    topwork: &'static str,
    size: String,
    notes: Vec<String>,
    rows: Vec<Row>,
    cells: Vec<(Cell, Outcome)>,
}

/// Measures what is not known yet and writes the report.
pub fn run(args: &Args) -> Result<()> {
    let folder = args.out.clone().unwrap_or_else(|| crate::root().join("target/bench"));
    if args.fresh && folder.join("cells").exists() {
        std::fs::remove_dir_all(folder.join("cells")).with_context(|| folder.display().to_string())?;
    }
    let mut contests = domains::contests(args.size, &folder, &|line| eprintln!("{line}"))?;
    let report = measure(&mut contests, args.size, &program()?, &folder, &mut |line| eprintln!("{line}"))?;
    print!("{}", summary::terminal(&report.rows));
    for note in &report.notes {
        println!("note: {note}");
    }
    println!("{}", folder.join("report.md").display());
    Ok(())
}

/// A key of this program: what another version measured is measured anew.
fn program() -> Result<String> {
    let path = std::env::current_exe()?;
    let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
    Ok(crate::digits::sha256(&bytes)[..12].to_string())
}

fn measure(
    contests: &mut [Box<dyn Contest>],
    size: Size,
    program: &str,
    folder: &Path,
    say: &mut dyn FnMut(String),
) -> Result<Report> {
    let store = Store { folder: folder.join("cells") };
    let (mut cells, mut notes) = (Vec::new(), Vec::new());
    for contest in contests {
        let missing = contest.without_weights();
        if let Some(reason) = &missing {
            let note = format!("{}: no pre-trained weights, so only from scratch: {reason}", contest.data());
            say(note.clone());
            notes.push(note);
        }
        notes.push(contest.setting());
        let fingerprint = format!("{program}; {}", contest.fingerprint());
        for (strategy, limits) in contest.strategies() {
            if limits.pretrained && missing.is_some() {
                continue;
            }
            for (labels, seed) in grid::points(size, limits, contest.classes()) {
                let cell = Cell {
                    domain: contest.domain().to_string(),
                    data: contest.data().to_string(),
                    strategy: strategy.to_string(),
                    labels,
                    seed,
                    fingerprint: fingerprint.clone(),
                };
                let outcome = match store.get(&cell) {
                    Some(outcome) => outcome,
                    None => {
                        let outcome = contest.measure(strategy, labels, seed).with_context(|| cell.key())?;
                        store.put(&cell, &outcome)?;
                        say(format!("{}: {:.1} % in {:.1} s", cell.key(), 100.0 * outcome.accuracy, outcome.seconds));
                        outcome
                    }
                };
                cells.push((cell, outcome));
            }
        }
    }
    let size = format!("{size:?}").to_lowercase();
    let rows = summary::rows(&cells);
    let report = Report { topwork: env!("CARGO_PKG_VERSION"), size, notes, rows, cells };
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    write_whole(&folder.join("report.json"), &(serde_json::to_string_pretty(&report)? + "\n"))?;
    write_whole(&folder.join("report.md"), &page(&report))?;
    Ok(report)
}

fn page(report: &Report) -> String {
    let mut text = format!(
        "# Strategies compared\n\ntopwork {}, size {}. Accuracy on the test part, mean ± standard deviation over seeds; \
         a seed also chooses the labelled samples. Seconds of training, features computed by an earlier line or run not \
         counted again; parameters trained.\n\n",
        report.topwork, report.size
    );
    text += &summary::markdown(&report.rows);
    for note in &report.notes {
        text += &format!("\nNote: {note}\n");
    }
    text
}

/// Writes a file so that it is never seen in part.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, text).with_context(|| partial.display().to_string())?;
    std::fs::rename(&partial, path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Fake {
        missing: Option<String>,
        measured: Arc<AtomicUsize>,
        most: usize,
    }

    impl Contest for Fake {
        fn domain(&self) -> &'static str {
            "cv"
        }
        fn data(&self) -> &'static str {
            "digits"
        }
        fn classes(&self) -> usize {
            10
        }
        fn strategies(&self) -> Vec<(&'static str, Limits)> {
            let quick = Limits { pretrained: false, slow: false };
            vec![("from-scratch", quick), ("feature-extraction", Limits { pretrained: true, ..quick })]
        }
        fn without_weights(&self) -> Option<String> {
            self.missing.clone()
        }
        fn setting(&self) -> String {
            "a fake".into()
        }
        fn fingerprint(&self) -> String {
            "1".into()
        }
        fn measure(&mut self, _: &str, labels: usize, seed: u64) -> Result<Outcome> {
            anyhow::ensure!(self.measured.fetch_add(1, Ordering::Relaxed) < self.most, "killed");
            Ok(Outcome { accuracy: 1.0 / seed as f64, seconds: 1.0, trained: labels })
        }
    }

    fn bench(folder: &Path, missing: Option<&str>, most: usize) -> (Result<Report>, usize) {
        let measured = Arc::new(AtomicUsize::new(0));
        let fake = Fake { missing: missing.map(Into::into), measured: measured.clone(), most };
        let report = measure(&mut [Box::new(fake)], Size::Default, "v1", folder, &mut |_| {});
        (report, measured.load(Ordering::Relaxed))
    }

    #[test]
    fn an_interrupted_benchmark_continues_where_it_stopped() {
        let folder = tempfile::tempdir().unwrap();
        assert!(bench(folder.path(), None, 5).0.is_err());
        let (report, measured) = bench(folder.path(), None, 100);
        assert_eq!((report.unwrap().cells.len(), measured), (18, 13));
        assert_eq!(bench(folder.path(), None, 0).1, 0);
    }

    #[test]
    fn the_report_is_written_in_both_forms() {
        let folder = tempfile::tempdir().unwrap();
        bench(folder.path(), None, 100).0.unwrap();
        let text = std::fs::read_to_string(folder.path().join("report.md")).unwrap();
        assert!(text.contains("| digits | 40 | feature-extraction |"), "{text}");
        let json = std::fs::read_to_string(folder.path().join("report.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["rows"].as_array().map(Vec::len), Some(6));
    }

    #[test]
    fn without_weights_only_training_from_scratch_runs_and_the_report_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let report = bench(folder.path(), Some("pip is not installed"), 100).0.unwrap();
        assert!(report.rows.iter().all(|row| row.strategy == "from-scratch"));
        assert!(page(&report).contains("pip is not installed"));
    }
}
