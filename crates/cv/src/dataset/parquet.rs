//! Parquet files with a column of encoded photos, as Hugging Face's data sets have them: bytes, or a group `{bytes, path}`.
//!
//! Classes may be numbers into a list of names that the file's metadata carry (`ClassLabel`). The photos are copied once to a
//! file in the cache directory: a row of Parquet cannot be read alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::TreeBuilder;
use parquet::record::{Field, Row};
use parquet::schema::types::{SchemaDescriptor, Type};
use serde_json::Value;
use topwork_core::guard::caught;
use topwork_core::task::{Cells, Kind, TaskArgs};
use topwork_core::{Error, Result};

use super::list::LABEL_NAMES;
use super::photo::{MOST_BYTES, Photo, Spool, Store};
use super::{Entry, Found, quoted};

/// Names that are taken for the column of photos when none is named.
const PHOTO_NAMES: [&str; 6] = ["image", "img", "photo", "picture", "jpg", "png"];
/// Rows decoded at a time: each may hold a large photo.
const BATCH: usize = 16;

/// Whether `path` is named like a Parquet file.
pub fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("parquet"))
}

/// Photos and targets of the files `files`, in order; `at` is what they are called together.
///
/// # Errors
/// When a file is damaged, has no such columns, or a row lacks a photo or target.
pub fn read(files: &[PathBuf], at: &Path, photo: Option<&str>, asked: &TaskArgs) -> Result<Found> {
    let kind = asked.kind();
    let mut found = Found { at: at.to_path_buf(), entries: Vec::new(), cells: None };
    let mut cells = Cells::default();
    let mut last: Arc<str> = "".into();
    for file in files {
        let table = Table::open(file)?;
        let photo = table.column("--path-column", photo, &PHOTO_NAMES)?;
        let targets: Vec<String> = match asked.label_column.as_deref().unwrap_or_default() {
            [] => vec![table.column("--label-column", None, &LABEL_NAMES)?],
            names => names.iter().map(|name| table.column("--label-column", Some(name), &[])).collect::<Result<_>>()?,
        };
        cells.columns.clone_from(&targets);
        let mut seen = Vec::new();
        let photos = table.photos(&photo, &targets, |row, values| {
            let texts: Option<Vec<String>> =
                values.iter().zip(&targets).map(|(value, name)| table.cell(value, name, asked.separator())).collect();
            let full = texts.filter(|texts| kind != Kind::Classes || !texts[0].is_empty());
            seen.push(full.ok_or_else(|| {
                let reason = format!("has no target in {}", quoted(&targets));
                Error::input(
                    format!("{}, row {row}", file.display()),
                    reason,
                    "fill it in, or name another --label-column",
                )
            })?);
            Ok(())
        })?;
        for (photo, texts) in photos.into_iter().zip(seen) {
            if kind != Kind::Classes {
                cells.push(texts);
            } else if *last != *texts[0] {
                last = texts[0].as_str().into();
            }
            found.entries.push(Entry { photo, label: Arc::clone(&last), row: None });
        }
    }
    if found.entries.is_empty() {
        return Err(Error::input(at.display(), "has no rows", "name files with photos in them"));
    }
    found.cells = (kind != Kind::Classes).then_some(cells);
    Ok(found)
}

/// The photos of the file `path`, whatever they show.
///
/// # Errors
/// When it is damaged, has no such column, or a row lacks its photo.
pub fn photos(path: &Path, column: Option<&str>) -> Result<Vec<Photo>> {
    let table = Table::open(path)?;
    let photo = table.column("--path-column", column, &PHOTO_NAMES)?;
    table.photos(&photo, &[], |_, _| Ok(()))
}

/// An open file.
struct Table<'p> {
    path: &'p Path,
    reader: SerializedFileReader<File>,
    /// Names of classes, by column.
    classes: BTreeMap<String, Vec<String>>,
}

impl<'p> Table<'p> {
    fn open(path: &'p Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let reader = guarded(path, || SerializedFileReader::new(file).map_err(|e| damaged(path, e)))?;
        let metadata = reader.metadata().file_metadata().key_value_metadata();
        let noted = metadata.into_iter().flatten().find(|pair| pair.key == "huggingface");
        let noted: Option<Value> = noted.and_then(|pair| serde_json::from_str(pair.value.as_deref()?).ok());
        let features = noted.as_ref().and_then(|value| value.pointer("/info/features")?.as_object());
        let classes = features.into_iter().flatten().filter_map(|(column, feature)| {
            // Labels that are listed carry the names inside.
            let of = feature.get("feature").unwrap_or(feature);
            let names: Option<Vec<String>> =
                of.get("names")?.as_array()?.iter().map(|name| name.as_str().map(String::from)).collect();
            Some((column.clone(), names?))
        });
        let classes = classes.collect();
        Ok(Self { path, reader, classes })
    }

    fn fields(&self) -> &[Arc<Type>] {
        self.reader.metadata().file_metadata().schema().get_fields()
    }

    /// The column called `wanted`, else the first of `usual`.
    fn column(&self, flag: &str, wanted: Option<&str>, usual: &[&str]) -> Result<String> {
        let names: Vec<String> = self.fields().iter().map(|field| field.name().to_string()).collect();
        let find = |name: &str| names.iter().find(|known| known.eq_ignore_ascii_case(name)).cloned();
        let found = wanted.map_or_else(|| usual.iter().find_map(|name| find(name)), find);
        found.ok_or_else(|| {
            let what = wanted.unwrap_or(usual[0]);
            let reason = format!("has no column {what:?}; it has {}", quoted(&names));
            Error::input(self.path.display(), reason, format!("name the column with {flag}"))
        })
    }

    /// The photos of the column `photo` in order; `look` sees the number of each row, from 1, and its values of `others`.
    fn photos(
        &self,
        photo: &str,
        others: &[String],
        mut look: impl FnMut(usize, &[&Field]) -> Result<()>,
    ) -> Result<Vec<Photo>> {
        let path = self.path;
        let wanted = |field: &&Arc<Type>| field.name() == photo || others.iter().any(|name| name == field.name());
        let columns = self.fields().iter().filter(wanted).cloned().collect();
        guarded(path, || {
            let schema =
                Type::group_type_builder("schema").with_fields(columns).build().map_err(|e| damaged(path, e))?;
            let schema = Arc::new(SchemaDescriptor::new(Arc::new(schema)));
            let (mut spool, mut places) = (Spool::new()?, Vec::new());
            for group in 0..self.reader.num_row_groups() {
                let group = self.reader.get_row_group(group).map_err(|e| damaged(path, e))?;
                let rows = TreeBuilder::new().with_batch_size(BATCH).as_iter(Arc::clone(&schema), &*group);
                for row in rows.map_err(|e| damaged(path, e))? {
                    let row = row.map_err(|e| damaged(path, e))?;
                    let name = format!("{}, row {}", path.display(), places.len() + 1);
                    let bytes = encoded(&row, photo).ok_or_else(|| {
                        let reason = format!("the column {photo:?} holds no bytes of a photo");
                        Error::input(&name, reason, "remove the row, or name the column of photos")
                    })?;
                    let values: Option<Vec<&Field>> = others.iter().map(|name| value(&row, name)).collect();
                    look(places.len() + 1, &values.unwrap_or_default())?;
                    places.push(spool.add(&name, bytes, MOST_BYTES)?);
                }
            }
            let store = Store::new(path, spool.finish()?)?;
            let part = |(i, (at, length))| store.part(format!("{}, row {}", path.display(), i + 1), at, length);
            places.into_iter().enumerate().map(part).collect()
        })
    }

    /// A value as a table would have it: numbers of classes by their names, what is in a list with `separator` between.
    fn cell(&self, value: &Field, column: &str, separator: &str) -> Option<String> {
        let number = match value {
            Field::Byte(n) => i64::from(*n),
            Field::Short(n) => i64::from(*n),
            Field::Int(n) => i64::from(*n),
            Field::Long(n) => *n,
            Field::UByte(n) => i64::from(*n),
            Field::UShort(n) => i64::from(*n),
            Field::UInt(n) => i64::from(*n),
            Field::Bool(yes) => i64::from(*yes),
            Field::Float(x) => return Some(x.to_string()),
            Field::Double(x) => return Some(x.to_string()),
            Field::Str(text) => return Some(text.trim().to_string()),
            Field::Bytes(bytes) => return std::str::from_utf8(bytes.data()).ok().map(|text| text.trim().to_string()),
            Field::ListInternal(list) => {
                let each = list.elements().iter().map(|value| self.cell(value, column, separator));
                return Some(each.collect::<Option<Vec<_>>>()?.join(separator));
            }
            _ => return None,
        };
        match self.classes.get(column) {
            // Hugging Face's mark of a row without a label is -1.
            Some(names) => names.get(usize::try_from(number).ok()?).cloned(),
            None => Some(number.to_string()),
        }
    }
}

fn value<'r>(row: &'r Row, column: &str) -> Option<&'r Field> {
    row.get_column_iter().find(|(name, _)| *name == column).map(|(_, value)| value)
}

/// The bytes of a photo in `column`, or in the field `bytes` of the group there.
fn encoded<'r>(row: &'r Row, column: &str) -> Option<&'r [u8]> {
    match value(row, column)? {
        Field::Bytes(bytes) => Some(bytes.data()),
        Field::Group(group) => match value(group, "bytes")? {
            Field::Bytes(bytes) => Some(bytes.data()),
            _ => None,
        },
        _ => None,
    }
}

fn damaged(path: &Path, error: parquet::errors::ParquetError) -> Error {
    Error::input(path.display(), format!("cannot be read as Parquet: {error}"), "replace it, or write it anew")
}

/// A file that makes the reader panic is a damaged file, not a reason to stop.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(read).unwrap_or_else(|| {
        let reason = "damaged: the reader gave up on it";
        Err(Error::input(path.display(), reason, "replace it, or write it anew"))
    })
}
