//! One training run of the benchmark: what identifies it, what came out, and the file that remembers it.
//!
//! A cell that has been measured is not measured again while its fingerprint (model, data, code version) is the same.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What is trained: a point of the grid.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// `cv` or `nlp`.
    pub domain: String,
    /// Name of the data set.
    pub data: String,
    /// Name of the strategy.
    pub strategy: String,
    /// Number of labelled training samples.
    pub labels: usize,
    /// The run seed; it also chooses the samples.
    pub seed: u64,
    /// Everything else that the outcome depends on: weights, settings, version of topwork.
    pub fingerprint: String,
}

/// What came out of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// Share of the test samples that were classified correctly.
    pub accuracy: f64,
    /// Wall-clock seconds of training, evaluation excluded.
    pub seconds: f64,
    /// Number of parameters that learned.
    pub trained: usize,
}

#[derive(Serialize, Deserialize)]
struct Record {
    cell: Cell,
    outcome: Outcome,
}

impl Cell {
    /// The file's name: legible, and different for cells that differ in anything but the fingerprint.
    pub fn key(&self) -> String {
        format!("{}-{}-{}-{}-s{}", self.domain, self.data, self.strategy, self.labels, self.seed)
    }
}

/// The folder of measured cells.
pub struct Store {
    /// `target/bench/cells`.
    pub folder: PathBuf,
}

impl Store {
    fn path(&self, cell: &Cell) -> PathBuf {
        self.folder.join(cell.key() + ".json")
    }

    /// The outcome of `cell`, if exactly it was measured. A file that cannot be understood counts as not measured.
    pub fn get(&self, cell: &Cell) -> Option<Outcome> {
        let record: Record = serde_json::from_slice(&fs::read(self.path(cell)).ok()?).ok()?;
        (record.cell == *cell).then_some(record.outcome)
    }

    /// Remembers an outcome; a process killed meanwhile leaves the file as it was.
    pub fn put(&self, cell: &Cell, outcome: &Outcome) -> Result<()> {
        fs::create_dir_all(&self.folder).with_context(|| self.folder.display().to_string())?;
        let record = Record { cell: cell.clone(), outcome: outcome.clone() };
        super::write_whole(&self.path(cell), &(serde_json::to_string_pretty(&record)? + "\n"))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn cell(strategy: &str, labels: usize, seed: u64) -> Cell {
        let text = str::to_string;
        Cell {
            domain: text("cv"),
            data: text("digits"),
            strategy: text(strategy),
            labels,
            seed,
            fingerprint: text("f"),
        }
    }

    fn outcome() -> Outcome {
        Outcome { accuracy: 0.5, seconds: 1.25, trained: 7 }
    }

    #[test]
    fn a_measured_cell_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store { folder: folder.path().join("cells") };
        assert_eq!(store.get(&cell("a", 4, 1)), None);
        store.put(&cell("a", 4, 1), &outcome()).unwrap();
        assert_eq!(store.get(&cell("a", 4, 1)), Some(outcome()));
        assert_eq!(store.get(&cell("a", 4, 2)), None);
    }

    #[test]
    fn another_fingerprint_or_a_damaged_file_is_measured_anew() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store { folder: folder.path().to_path_buf() };
        store.put(&cell("a", 4, 1), &outcome()).unwrap();
        assert_eq!(store.get(&Cell { fingerprint: "g".into(), ..cell("a", 4, 1) }), None);
        fs::write(store.path(&cell("a", 4, 1)), "{\"cell\"").unwrap();
        assert_eq!(store.get(&cell("a", 4, 1)), None);
    }
}
