//! One training run of the benchmark: what identifies it, what came out, and the files that remember it.
//!
//! A cell that has been measured is not measured again while its fingerprint (model, data, settings) is the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize, Serializer};
use topwork_core::strategy::Options;

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

/// What became of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant)] // There are some hundreds of them.
pub enum Finding {
    /// It was trained and judged.
    Measured(Outcome),
    /// The strategy does not work there.
    Refused {
        /// Why.
        reason: String,
    },
}

/// What came out of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// Share of the test samples that were classified correctly.
    pub accuracy: f64,
    /// Wall-clock seconds of training, evaluation excluded.
    pub seconds: f64,
    /// Seconds of processors, from the files to the saved model; choosing the settings and the test excluded.
    #[serde(default)]
    pub processor: f64,
    /// Number of parameters that learned.
    pub trained: usize,
    /// How the settings were chosen, where there was a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<Choice>,
}

/// Settings chosen by cross-validation within the training part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The best ones.
    #[serde(serialize_with = "compact")]
    pub options: Options,
    /// The accuracy of each candidate on what its folds held out, in the order of the grid.
    pub folds: Vec<f64>,
    /// Seconds of processors that it took.
    pub processor: f64,
}

/// Options without those that were left to the defaults.
fn compact<S: Serializer>(options: &Options, serializer: S) -> Result<S::Ok, S::Error> {
    let value = serde_json::to_value(options).map_err(serde::ser::Error::custom)?;
    let set = value.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    set.collect::<BTreeMap<_, _>>().serialize(serializer)
}

/// A cell with what became of it: a file of its own, or a line among others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was trained.
    pub cell: Cell,
    /// What came of it.
    pub outcome: Finding,
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

    /// What became of `cell`, if exactly it was measured. A file that cannot be understood counts as not measured.
    pub fn get(&self, cell: &Cell) -> Option<Finding> {
        let record: Record = serde_json::from_slice(&fs::read(self.path(cell)).ok()?).ok()?;
        (record.cell == *cell).then_some(record.outcome)
    }

    /// Remembers what became of a cell; a process killed meanwhile leaves the file as it was.
    pub fn put(&self, cell: &Cell, outcome: &Finding) -> Result<()> {
        fs::create_dir_all(&self.folder).with_context(|| self.folder.display().to_string())?;
        let record = Record { cell: cell.clone(), outcome: outcome.clone() };
        super::write_whole(&self.path(cell), &(serde_json::to_string_pretty(&record)? + "\n"))
    }
}

/// Reads records, one a line.
pub fn read_lines(path: &Path) -> Result<Vec<Record>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let line = |(i, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}, line {}: restore the file", path.display(), i + 1))
    };
    text.lines().enumerate().map(line).collect()
}

/// Writes records, one a line.
pub fn write_lines(path: &Path, records: &[Record]) -> Result<()> {
    let lines = records.iter().map(|record| Ok(serde_json::to_string(record)? + "\n"));
    let text: String = lines.collect::<Result<_>>()?;
    let folder = path.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    super::write_whole(path, &text)
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

    pub fn outcome(accuracy: f64, seconds: f64) -> Outcome {
        Outcome { accuracy, seconds, processor: 2.0 * seconds, trained: 1_234_567, choice: None }
    }

    fn finding() -> Finding {
        Finding::Measured(outcome(0.5, 1.25))
    }

    #[test]
    fn a_measured_cell_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store { folder: folder.path().join("cells") };
        assert_eq!(store.get(&cell("a", 4, 1)), None);
        store.put(&cell("a", 4, 1), &finding()).unwrap();
        assert_eq!(store.get(&cell("a", 4, 1)), Some(finding()));
        assert_eq!(store.get(&cell("a", 4, 2)), None);
    }

    #[test]
    fn another_fingerprint_or_a_damaged_file_is_measured_anew() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store { folder: folder.path().to_path_buf() };
        store.put(&cell("a", 4, 1), &finding()).unwrap();
        assert_eq!(store.get(&Cell { fingerprint: "g".into(), ..cell("a", 4, 1) }), None);
        fs::write(store.path(&cell("a", 4, 1)), "{\"cell\"").unwrap();
        assert_eq!(store.get(&cell("a", 4, 1)), None);
    }

    #[test]
    fn lines_hold_choices_and_refusals_and_no_option_that_was_not_set() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docs/records.jsonl");
        let options = Options { learning_rate: Some(1e-3), ..Options::default() };
        let choice = Some(Choice { options, folds: vec![0.25, 0.5], processor: 3.0 });
        let refused = Finding::Refused { reason: "no head".into() };
        let records = [Finding::Measured(Outcome { choice, ..outcome(0.5, 1.0) }), refused];
        let records = records.map(|outcome| Record { cell: cell("a", 4, 1), outcome });
        write_lines(&path, &records).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() == 2 && text.contains("{\"learning-rate\":0.001}"), "{text}");
        assert_eq!(read_lines(&path).unwrap(), records);
    }

    #[test]
    fn a_broken_line_is_named_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.jsonl");
        fs::write(&path, "{\"cell\"\n").unwrap();
        assert!(format!("{:#}", read_lines(&path).unwrap_err()).contains("records.jsonl, line 1"));
    }
}
