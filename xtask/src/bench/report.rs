//! The report of a benchmark: a page of tables, and the same as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::Found;
use super::cell::{Finding, Record};
use super::summary::{self, Row};

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
    cells: Vec<Record>,
    /// One table for each set, with what strategies need.
    #[serde(skip)]
    by_set: bool,
}

impl Report {
    /// Of all that was found.
    pub fn new(title: String, found: Found, by_set: bool) -> Self {
        let rows = summary::rows(&found.records);
        Self { topwork: env!("CARGO_PKG_VERSION"), title, notes: found.notes, rows, cells: found.records, by_set }
    }

    /// Writes `report.md` and `report.json` to `folder`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        super::write_whole(&folder.join("report.json"), &(serde_json::to_string_pretty(self)? + "\n"))?;
        super::write_whole(&folder.join("report.md"), &self.page())
    }

    /// The page.
    pub fn page(&self) -> String {
        let mut text = format!(
            "# Strategies compared\n\ntopwork {}, {}. Accuracy on the test part, mean ± standard deviation over seeds; a \
             seed also chooses the labelled samples. ",
            self.topwork, self.title
        );
        if self.by_set {
            text += "Processor seconds (user and system, two threads; about twice the wall-clock seconds of two idle cores) \
                     from the files to the saved model, without the choice of settings and the test. ";
            text += "Numbers of parameters trained.\n";
            text += &summary::by_set(&self.rows, &self.refusals());
        } else {
            text += "Seconds of training, features computed by an earlier line or run not counted again; parameters \
                     trained.\n\n";
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

/// Lines about the cells that did not fit: (seed, set, labels, strategy).
pub fn left(cells: &BTreeSet<(u64, String, usize, String)>) -> Vec<String> {
    let mut groups: BTreeMap<(u64, &str, usize), Vec<&str>> = BTreeMap::new();
    for (seed, data, labels, strategy) in cells {
        groups.entry((*seed, data, *labels)).or_default().push(strategy);
    }
    let line = |((seed, data, labels), strategies): ((u64, &str, usize), Vec<&str>)| {
        format!("did not fit, seed {seed}: {data} with {labels} labels: {}", strategies.join(", "))
    };
    let count = (!cells.is_empty()).then(|| format!("{} cells did not fit into the time", cells.len()));
    count.into_iter().chain(groups.into_iter().map(line)).collect()
}
