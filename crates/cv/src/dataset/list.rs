//! CSV and TSV lists of photos, with a header row. Paths are relative to the list's folder.

use std::fs::File;
use std::io::{BufRead, BufReader, Chain, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use csv::{ByteRecord, Reader, ReaderBuilder, StringRecord};
use topwork_core::bounded::{Allowance, Bounded, END, MOST_OF_ROW};
use topwork_core::task::{Cells, Kind, TaskArgs};
use topwork_core::{Error, Result};

use super::photo::Photo;
use super::{DataArgs, Entry, Found, quoted};

/// Headers that are taken for the column of paths when none is named.
const PATH_NAMES: [&str; 7] = ["path", "file", "image", "filename", "filepath", "file_name", "photo"];
/// The same for labels.
pub(super) const LABEL_NAMES: [&str; 5] = ["label", "class", "target", "category", "label_name"];

/// Photos and labels of the list `path`, in its order.
///
/// # Errors
/// When a column is missing, a row is broken or empty, or a row's file does not exist.
pub fn read(path: &Path, args: &DataArgs, asked: &TaskArgs) -> Result<Found> {
    let mut rows = Rows::open(path)?;
    let file = rows.column("--path-column", args.path_column.as_deref(), &PATH_NAMES)?;
    let kind = asked.kind();
    let labels: Vec<usize> = match asked.label_column.as_deref().unwrap_or_default() {
        [] => vec![rows.column("--label-column", None, &LABEL_NAMES)?],
        names => names.iter().map(|name| rows.column("--label-column", Some(name), &[])).collect::<Result<_>>()?,
    };
    let mut entries = Vec::new();
    let mut last: Arc<str> = "".into();
    let mut cells = Cells::new(labels.iter().map(|&c| rows.headers[c].clone()).collect());
    while let Some((row, record)) = rows.next()? {
        let photo = rows.field(row, &record, file)?;
        let name = if kind == Kind::Classes { rows.field(row, &record, labels[0])? } else { "" };
        let photo = rows.resolve(photo);
        if !photo.is_file() {
            return Err(Error::input(
                format!("{}, row {row}", path.display()),
                format!("{} does not exist", photo.display()),
                "correct the path (relative to the list's folder), or remove the row",
            ));
        }
        if *last != *name {
            last = name.into();
        }
        if kind != Kind::Classes {
            cells.push(labels.iter().map(|&c| record.get(c).unwrap_or_default()));
        }
        entries.push(Entry { photo: Photo::File(photo), label: Arc::clone(&last), row: Some(row) });
    }
    if entries.is_empty() {
        return Err(Error::input(path.display(), "no images are listed in it", "add rows below the header"));
    }
    let cells = (kind != Kind::Classes).then_some(cells);
    Ok(Found { at: path.to_path_buf(), entries, cells })
}

/// Paths of the list `path`, row by row, for prediction.
///
/// # Errors
/// When the list cannot be opened or has no such column; a broken row is an error in its place.
pub fn paths(path: &Path, column: Option<&str>) -> Result<impl Iterator<Item = Result<PathBuf>> + Send + use<>> {
    let mut rows = Rows::open(path)?;
    let column = rows.column("--path-column", column, &PATH_NAMES)?;
    Ok(std::iter::from_fn(move || match rows.next() {
        Ok(Some((row, record))) => Some(rows.field(row, &record, column).map(|photo| rows.resolve(photo))),
        Ok(None) => None,
        Err(e) => Some(Err(e)),
    }))
}

/// Whether `path` is named like a list.
pub fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|found| ["csv", "tsv", "tab"].iter().any(|known| found.eq_ignore_ascii_case(known)))
}

/// The rows of an open list.
struct Rows {
    path: PathBuf,
    headers: Vec<String>,
    reader: Reader<Bounded<Chain<BufReader<File>, &'static [u8]>>>,
    /// How many bytes more the row may take.
    left: Allowance,
    /// Nothing follows a failed read.
    broken: bool,
}

impl Rows {
    fn open(path: &Path) -> Result<Self> {
        let mut file = BufReader::new(File::open(path).map_err(Error::io(path))?);
        let start = file.fill_buf().map_err(Error::io(path))?;
        if start.is_empty() {
            return Err(Error::input(path.display(), "is empty", "it needs a header row and rows below it"));
        }
        let header = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let delimiter = if header.contains(&b'\t') { b'\t' } else { b',' };
        let left = Allowance::of(MOST_OF_ROW);
        let mut reader =
            ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(Bounded::new(file.chain(END), &left));
        let headers = reader.headers().map_err(|e| broken(path, 1, &e))?;
        let headers: Vec<String> = headers.iter().map(|name| name.trim().to_string()).collect();
        Ok(Self { path: path.to_path_buf(), headers, reader, left, broken: false })
    }

    /// Index of the column called `wanted`, else of the first of `usual`.
    fn column(&self, flag: &str, wanted: Option<&str>, usual: &[&str]) -> Result<usize> {
        let find = |name: &str| self.headers.iter().position(|header| header.eq_ignore_ascii_case(name));
        let missing = |what: String| {
            Error::input(
                self.path.display(),
                format!("has no column {what}; its first row names {}", quoted(&self.headers)),
                format!("name the column with {flag}, or add a header row"),
            )
        };
        match wanted {
            Some(name) => find(name).ok_or_else(|| missing(format!("{name:?}"))),
            None => usual.iter().find_map(|name| find(name)).ok_or_else(|| missing(format!("{:?}", usual[0]))),
        }
    }

    /// The next row and its number as a spreadsheet counts: the header is row 1.
    fn next(&mut self) -> Result<Option<(u64, StringRecord)>> {
        let mut record = ByteRecord::new();
        self.left.set(MOST_OF_ROW);
        let next = self.reader.position().record() + 1;
        let more = !self.broken
            && self.reader.read_byte_record(&mut record).map_err(|e| {
                self.broken = true;
                broken(&self.path, next, &e)
            })?;
        if !more || (record.len() == 1 && record[0] == END[1..]) {
            return Ok(None);
        }
        let row = record.position().map_or(0, |position| position.record() + 1);
        let wrong = |reason: String| {
            let remedy = "correct the row, or save the list anew as UTF-8 CSV";
            Error::input(format!("{}, row {row}", self.path.display()), reason, remedy)
        };
        if record.iter().next_back().is_some_and(|last| last.ends_with(END)) {
            return Err(wrong("opens a quote that is not closed".into()));
        }
        if record.len() != self.headers.len() {
            return Err(wrong(format!("has {} columns where the header has {}", record.len(), self.headers.len())));
        }
        let record = StringRecord::from_byte_record(record).map_err(|_| wrong("is not valid UTF-8".into()))?;
        Ok(Some((row, record)))
    }

    fn field<'r>(&self, row: u64, record: &'r StringRecord, column: usize) -> Result<&'r str> {
        let value = record.get(column).unwrap_or_default().trim();
        if value.is_empty() {
            return Err(Error::input(
                format!("{}, row {row}", self.path.display()),
                format!("column {:?} is empty", self.headers[column]),
                "fill it in, or remove the row",
            ));
        }
        Ok(value)
    }

    fn resolve(&self, photo: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(photo)
    }
}

fn broken(path: &Path, row: u64, error: &csv::Error) -> Error {
    let reason = match error.kind() {
        csv::ErrorKind::Utf8 { .. } => "is not valid UTF-8".to_string(),
        csv::ErrorKind::Io(e) if e.kind() == ErrorKind::FileTooLarge => {
            format!("goes on for more than {} MB", MOST_OF_ROW >> 20)
        }
        _ => error.to_string(),
    };
    Error::input(
        format!("{}, row {row}", path.display()),
        reason,
        "correct the row, or save the list anew as UTF-8 CSV",
    )
}
