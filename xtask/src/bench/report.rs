//! The report of a benchmark: a page of tables, and the same as JSON.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::Found;
use super::cell::{Cell, Finding, Record};
use super::page::Contents;
use super::summary::{self, Overall, Row};

/// What the table over all sets says.
const OVER_ALL: &str = "Points of accuracy above feature-extraction with the same labels, the mean over sets (how many), the least and \
                        the largest. Few labels: the smaller number of a set that has two.";
/// What the seconds of the comparison are.
const PROCESSORS: &str = "processor seconds (user and system, two threads; about twice the wall-clock seconds of two idle cores) \
                          from the files to the saved model, without the choice of settings and the test";
/// Those of the short benchmark.
const TRAINING: &str = "training, features computed by an earlier line or run not counted again";

/// What is written to `report.json`.
#[derive(Debug, Serialize)]
pub struct Report {
    topwork: &'static str,
    /// What was measured.
    pub title: String,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// Means over seeds.
    pub rows: Vec<Row>,
    /// Strategies over all sets.
    overall: Vec<Overall>,
    cells: Vec<Record>,
    /// One table for each set, with what strategies need.
    #[serde(skip)]
    by_set: bool,
}

impl Report {
    /// Of all that was found.
    pub fn new(title: String, found: Found, by_set: bool) -> Self {
        let (rows, overall) = (summary::rows(&found.records), summary::overall(&found.records));
        let topwork = env!("CARGO_PKG_VERSION");
        Self { topwork, title, notes: found.notes, rows, overall, cells: found.records, by_set }
    }

    /// Writes `report.html`, `report.md` and `report.json` to `folder`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        super::write_whole(&folder.join("report.json"), &(serde_json::to_string_pretty(self)? + "\n"))?;
        super::write_whole(&folder.join("report.html"), &self.html())?;
        super::write_whole(&folder.join("report.md"), &self.page())
    }

    /// The page to look at.
    fn html(&self) -> String {
        let seconds: (&str, fn(&Row) -> f64) = match self.by_set {
            true => (PROCESSORS, |row| row.processor),
            false => (TRAINING, |row| row.seconds),
        };
        let title = format!("topwork {}, {}", self.topwork, self.title);
        let refusals = self.refusals();
        let overall = if self.by_set { Some((OVER_ALL, &self.overall[..])) } else { None };
        Contents { title: &title, notes: &self.notes, rows: &self.rows, overall, refusals: &refusals, seconds }.page()
    }

    /// The page.
    pub fn page(&self) -> String {
        let mut text = format!(
            "# Strategies compared\n\ntopwork {}, {}. Accuracy on the test part, mean ± standard deviation over seeds; a \
             seed also chooses the labelled samples. ",
            self.topwork, self.title
        );
        if self.by_set {
            text += &format!("s: {PROCESSORS}. ");
            text += "Numbers of parameters trained.\n";
            text += &summary::by_set(&self.rows, &self.refusals());
            text += &format!("\n## Over all sets\n\n{OVER_ALL}\n\n| {} |\n|---|", summary::OVERALL.join(" | "));
            text += &"--:|".repeat(summary::OVERALL.len() - 1);
            for line in summary::overall_lines(&self.overall) {
                text += &format!("\n| {} |", line.join(" | "));
            }
            text.push('\n');
        } else {
            text += &format!("Seconds: {TRAINING}; parameters trained.\n\n");
            text += &summary::markdown(&self.rows);
        }
        for note in &self.notes {
            text += &format!("\nNote: {note}\n");
        }
        text
    }

    /// Why a strategy did not run on a set.
    fn refusals(&self) -> BTreeMap<(String, String), String> {
        let mut found = BTreeMap::new();
        for Record { cell, outcome } in &self.cells {
            if let Finding::Refused { reason } = outcome {
                found.insert((cell.data.clone(), cell.strategy.clone()), reason.clone());
            }
        }
        found
    }
}

/// What became of a cell, in a few words.
pub fn brief(finding: &Finding) -> String {
    match finding {
        Finding::Measured(outcome) => format!(
            "{:.1} % in {:.1} s, {:.1} s of processors",
            100.0 * outcome.accuracy,
            outcome.seconds,
            outcome.processor
        ),
        Finding::Refused { reason } => format!("does not run: {reason}"),
    }
}

/// Strategies that are missing of a set and budget, and how many there are in all.
type Missing<'a> = (Vec<&'a str>, usize);

/// Lines about the cells that did not fit, of `all`, each with whether it is known.
pub fn left(all: &[(&Cell, bool)]) -> Vec<String> {
    let mut seeds: BTreeMap<u64, BTreeMap<(&str, usize), Missing>> = BTreeMap::new();
    for (cell, known) in all {
        let (missing, count) = seeds.entry(cell.seed).or_default().entry((&cell.data, cell.labels)).or_default();
        *count += 1;
        if !known {
            missing.push(&cell.strategy);
        }
    }
    let count = all.iter().filter(|(_, known)| !known).count();
    let mut lines = Vec::new();
    if count > 0 {
        lines.push(format!("{count} of {} cells did not fit into the time", all.len()));
    }
    for (seed, groups) in seeds {
        if groups.values().all(|(missing, count)| missing.len() == *count) {
            lines.push(format!("seed {seed} did not fit at all"));
            continue;
        }
        for ((data, labels), (missing, count)) in groups.iter().filter(|(_, (missing, _))| !missing.is_empty()) {
            let which = if missing.len() == *count { "nothing of it".into() } else { missing.join(", ") };
            lines.push(format!("did not fit, seed {seed}: {data} with {labels} labels: {which}"));
        }
    }
    lines
}
