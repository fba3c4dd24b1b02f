//! What the cells of a table say of samples: classes by name, labels by name or as a column each, numbers.

use std::collections::BTreeSet;

use super::{Kind, Task, strata};
use crate::{Error, Result};

/// How target cells are to be understood: what the flags `--task`, `--label-column` and `--label-separator` say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskArgs {
    /// What is asked of a sample; by default classes.
    pub task: Option<Kind>,
    /// Columns of the targets: of classes one; of labels one that lists them, or one of 0 and 1 for each; of values one for
    /// each. By default one of a usual name.
    pub label_column: Option<Vec<String>>,
    /// What stands between the labels in a column that lists them; by default a semicolon.
    pub label_separator: Option<String>,
}

/// The targets of a table, before they are numbers: compact, as a table may have millions of rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cells {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// All cells behind each other, and where each ends.
    text: String,
    ends: Vec<usize>,
}

impl Cells {
    /// No rows yet.
    pub fn new(columns: Vec<String>) -> Self {
        Self { columns, ..Self::default() }
    }

    /// Adds a row: a cell for each column.
    pub fn push<C: AsRef<str>>(&mut self, row: impl IntoIterator<Item = C>) {
        for cell in row {
            self.text.push_str(cell.as_ref());
            self.ends.push(self.text.len());
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ends.len() / self.columns.len().max(1)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The cells of a row.
    pub fn row(&self, i: usize) -> impl Iterator<Item = &str> {
        let width = self.columns.len();
        (i * width..(i + 1) * width).map(|cell| {
            let start = cell.checked_sub(1).map_or(0, |before| self.ends[before]);
            &self.text[start..self.ends[cell]]
        })
    }

    /// All rows, one after the other.
    pub fn rows(&self) -> impl Iterator<Item = impl Iterator<Item = &str>> {
        (0..self.len()).map(|i| self.row(i))
    }
}

/// Targets, as a data set has them.
#[derive(Debug, Clone, PartialEq)]
pub struct Understood {
    /// The class, or group, of each sample.
    pub classes: Vec<u32>,
    /// Of labels and values, as many for each sample as the task has outputs, behind each other.
    pub numbers: Vec<f32>,
}

impl TaskArgs {
    /// The same for judging a model whose task is `known`: it says itself what its outputs are.
    pub fn of_model(self, known: Option<&Task>) -> Self {
        let Some(task) = known else { return self };
        let columns = (task.kind == Kind::Values).then(|| task.outputs.clone());
        Self { task: Some(task.kind), label_column: self.label_column.or(columns), ..self }
    }

    /// The kind of task.
    pub fn kind(&self) -> Kind {
        self.task.unwrap_or_default()
    }

    /// Looks whether the flags fit together.
    ///
    /// # Errors
    /// Naming the flag that has no meaning here.
    pub fn check(&self) -> Result<()> {
        let kind = self.kind();
        if !kind.of_samples() {
            let reason = "it is asked of texts";
            return Err(Error::input(format!("--task {kind}"), reason, "use classes, labels or values"));
        }
        if self.kind() == Kind::Classes && self.label_column.as_ref().is_some_and(|names| names.len() != 1) {
            let reason = "classes stand in one column";
            return Err(Error::input("--label-column", reason, "name one, or say --task labels or --task values"));
        }
        if self.label_separator.as_ref().is_some_and(|separator| separator.is_empty() || self.kind() != Kind::Labels) {
            let reason = "only labels that are listed in a column have something between them";
            return Err(Error::input("--label-separator", reason, "leave it out, or say --task labels"));
        }
        Ok(())
    }

    /// What stands between labels that are listed.
    pub fn separator(&self) -> &str {
        self.label_separator.as_deref().unwrap_or(";")
    }

    fn listed<'a>(&'a self, cell: &'a str) -> impl Iterator<Item = &'a str> {
        cell.split(self.separator()).map(str::trim).filter(|name| !name.is_empty())
    }

    /// The task that labels or numbers in `cells` are of; `table` is what to call them in errors.
    ///
    /// # Errors
    /// When there is nothing to tell.
    pub fn task(&self, cells: &Cells, table: &str) -> Result<Task> {
        let kind = self.kind();
        let names: Vec<String> = match (kind, &cells.columns[..]) {
            (Kind::Labels, [_]) => {
                let all: BTreeSet<&str> = cells.rows().flatten().flat_map(|cell| self.listed(cell)).collect();
                all.into_iter().map(String::from).collect()
            }
            (_, columns) => columns.to_vec(),
        };
        if names.is_empty() {
            let reason = format!("no sample has a label in column {:?}", cells.columns[0]);
            return Err(Error::input(table, reason, "name another --label-column"));
        }
        Ok(Task { kind, outputs: names })
    }

    /// `cells` as numbers for `task`, of labels or values; `place` names a row in errors.
    ///
    /// # Errors
    /// At the first cell that is no number, no yes or no, or a label that `task` does not know.
    pub fn understand(&self, cells: &Cells, task: &Task, place: impl Fn(usize) -> String) -> Result<Understood> {
        let mut numbers = vec![0f32; cells.len() * task.len()];
        let lists = task.kind == Kind::Labels && cells.columns.len() == 1 && task.outputs != cells.columns;
        if !lists && task.outputs != cells.columns {
            let reason = format!("has the columns {}, the model tells {}", cells.columns.join(", "), task.join(", "));
            return Err(Error::input(place(0), reason, "name the model's with --label-column, in its order"));
        }
        for ((i, row), of_row) in cells.rows().enumerate().zip(numbers.chunks_mut(task.len().max(1))) {
            if lists {
                for name in row.flat_map(|cell| self.listed(cell)) {
                    let label = task.iter().position(|known| known == name).ok_or_else(|| {
                        let reason = format!("has the label {name:?}, which was unseen in training");
                        Error::input(place(i), reason, "correct it, or train with samples that have it")
                    })?;
                    of_row[label] = 1.0;
                }
            } else {
                for ((number, cell), column) in of_row.iter_mut().zip(row).zip(&cells.columns) {
                    let found = if task.kind == Kind::Labels { yes_or_no(cell) } else { finite(cell) };
                    *number = found.ok_or_else(|| {
                        let wanted = if task.kind == Kind::Labels { "0 or 1" } else { "a number" };
                        let reason = format!("column {column:?} holds {cell:?}, which is not {wanted}");
                        Error::input(place(i), reason, "correct the cell, or remove the row")
                    })?;
                }
            }
        }
        let rows: Vec<&[f32]> = numbers.chunks(task.len().max(1)).collect();
        Ok(Understood { classes: strata(task.kind, &rows), numbers })
    }
}

fn finite(cell: &str) -> Option<f32> {
    cell.trim().parse().ok().filter(|number: &f32| number.is_finite())
}

fn yes_or_no(cell: &str) -> Option<f32> {
    match cell.trim().to_ascii_lowercase().as_str() {
        "1" | "1.0" | "true" | "yes" => Some(1.0),
        "0" | "0.0" | "false" | "no" | "" => Some(0.0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_of_words_is_no_task_of_whole_samples() {
        let args = TaskArgs { task: Some(Kind::Tokens), ..TaskArgs::default() };
        let message = args.check().unwrap_err().to_string();
        assert!(message.contains("--task tokens") && message.contains("use classes"), "{message}");
    }

    fn cells(columns: &[&str], rows: &[&[&str]]) -> Cells {
        let mut cells = Cells::new(columns.iter().map(|name| (*name).to_string()).collect());
        rows.iter().for_each(|row| cells.push(*row));
        cells
    }

    fn args(kind: Kind) -> TaskArgs {
        TaskArgs { task: Some(kind), ..TaskArgs::default() }
    }

    fn read(args: &TaskArgs, cells: &Cells, known: Option<&Task>) -> Result<(Task, Vec<f32>)> {
        let task = known.cloned().map_or_else(|| args.task(cells, "table"), Ok)?;
        let understood = args.understand(cells, &task, |i| format!("row {i}"))?;
        Ok((task, understood.numbers))
    }

    #[test]
    fn labels_are_listed_in_a_column_or_have_one_each() {
        let listed = cells(&["tags"], &[&["sea; sand"], &[""], &["sand"]]);
        let (task, numbers) = read(&args(Kind::Labels), &listed, None).unwrap();
        assert_eq!(task.outputs, ["sand", "sea"]);
        assert_eq!(numbers, [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
        let each = cells(&["sand", "sea"], &[&["1", "true"], &["0", "no"], &["yes", ""]]);
        assert_eq!(read(&args(Kind::Labels), &each, Some(&task)).unwrap().1, numbers);
        let comma = TaskArgs { label_separator: Some(",".into()), ..args(Kind::Labels) };
        assert_eq!(read(&comma, &cells(&["tags"], &[&["a,b"]]), None).unwrap().0.outputs, ["a", "b"]);
    }

    #[test]
    fn values_are_numbers() {
        let (task, numbers) = read(&args(Kind::Values), &cells(&["age"], &[&["3.5"], &["-1"]]), None).unwrap();
        assert_eq!((task.outputs, numbers), (vec!["age".to_string()], vec![3.5, -1.0]));
    }

    #[test]
    fn wrong_cells_name_the_row_and_the_column() {
        let said = |kind, cells: &Cells, known: Option<&Task>| read(&args(kind), cells, known).unwrap_err().to_string();
        let age = cells(&["age"], &[&["3"], &["old"]]);
        let message = said(Kind::Values, &age, None);
        assert!(message.contains("row 1") && message.contains("\"age\"") && message.contains("\"old\""), "{message}");
        assert!(said(Kind::Values, &cells(&["age"], &[&["inf"]]), None).contains("not a number"));
        let known = Task { kind: Kind::Labels, outputs: vec!["a".into(), "b".into()] };
        assert!(said(Kind::Labels, &cells(&["tags"], &[&["c"]]), Some(&known)).contains("unseen"));
        assert!(said(Kind::Labels, &cells(&["a", "c"], &[&["1", "0"]]), Some(&known)).contains("--label-column"));
        assert!(said(Kind::Labels, &cells(&["tags"], &[&[""]]), None).contains("no sample has a label"));
    }

    #[test]
    fn flags_without_meaning_are_refused() {
        let two = TaskArgs { label_column: Some(vec!["a".into(), "b".into()]), ..TaskArgs::default() };
        assert!(two.check().is_err() && TaskArgs { task: Some(Kind::Values), ..two }.check().is_ok());
        let separator = TaskArgs { label_separator: Some(";".into()), ..args(Kind::Values) };
        assert!(separator.check().is_err());
    }
}
