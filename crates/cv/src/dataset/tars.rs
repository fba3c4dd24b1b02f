//! Shards as WebDataset writes them: tar archives in which files of the same name up to the first dot are one sample.
//!
//! The photo is the file with the ending of an image; `NAME.cls` holds the class, or `NAME.json` has it under the name of the
//! label column. Photos are read where they lie; a gzipped archive is unpacked once into the cache directory.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;
use serde_json::Value;
use tar::{Archive, EntryType};
use topwork_core::task::{Cells, Kind, TaskArgs};
use topwork_core::{Error, Result};

use super::folder::EXTENSIONS;
use super::list::LABEL_NAMES;
use super::photo::{Photo, Spool, Store};
use super::{Entry, Found, quoted};

/// Most bytes of a file that says what a photo shows.
const MOST_TARGET: u64 = 1 << 20;
/// An archive that grows by more than this was not made of photos.
const MOST_GROWTH: u64 = 100;

/// Whether `path` is named like a tar archive.
pub fn is_tar(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    [".tar", ".tar.gz", ".tgz"].iter().any(|ending| name.ends_with(ending))
}

/// Photos and targets of the shards `files`, in order; `at` is what they are called together.
///
/// # Errors
/// When a shard is damaged, or a photo in it has no target.
pub fn read(files: &[PathBuf], at: &Path, asked: &TaskArgs) -> Result<Found> {
    let kind = asked.kind();
    let columns = asked.label_column.clone().unwrap_or_default();
    let mut found = Found { at: at.to_path_buf(), entries: Vec::new(), cells: None };
    let mut cells = Cells::new(columns.clone());
    let mut last: Arc<str> = "".into();
    for file in files {
        for sample in samples(file)? {
            let Some(photo) = sample.photo else { continue };
            let targets = targets(&photo.name(), sample.class, sample.json.as_ref(), asked)?;
            if kind == Kind::Classes {
                if *last != *targets[0].1 {
                    last = targets[0].1.as_str().into();
                }
            } else {
                if cells.columns.is_empty() {
                    cells.columns = targets.iter().map(|(name, _)| name.clone()).collect();
                }
                cells.push(targets.into_iter().map(|(_, value)| value));
            }
            found.entries.push(Entry { photo, label: Arc::clone(&last), row: None });
        }
    }
    if found.entries.is_empty() {
        let reason = format!("no images are in it ({})", EXTENSIONS.join(", "));
        return Err(Error::input(
            at.display(),
            reason,
            "name tar archives of photos with NAME.cls or NAME.json beside them",
        ));
    }
    found.cells = (kind != Kind::Classes).then_some(cells);
    Ok(found)
}

/// The photos of the shard `path`, whatever they are said to show.
///
/// # Errors
/// When it is damaged.
pub fn photos(path: &Path) -> Result<Vec<Photo>> {
    Ok(samples(path)?.into_iter().filter_map(|sample| sample.photo).collect())
}

/// The files of one name.
#[derive(Default)]
struct Sample {
    name: String,
    photo: Option<Photo>,
    class: Option<String>,
    json: Option<Value>,
}

fn samples(path: &Path) -> Result<Vec<Sample>> {
    let mut file = open(path)?;
    let store = Store::new(path, file.try_clone().map_err(Error::io(path))?)?;
    let damaged = |error: std::io::Error| {
        Error::input(path.display(), format!("damaged or cut short: {error}"), "replace it, or pack it anew")
    };
    file.rewind().map_err(Error::io(path))?;
    let mut archive = Archive::new(BufReader::with_capacity(1 << 16, file));
    let mut all: Vec<Sample> = Vec::new();
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        if !matches!(entry.header().entry_type(), EntryType::Regular | EntryType::Continuous) {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let base = name.rfind('/').map_or(0, |slash| slash + 1);
        let Some(dot) = name[base..].find('.').filter(|&dot| dot > 0) else { continue };
        let (stem, ending) = (&name[..base + dot], name[base + dot + 1..].to_ascii_lowercase());
        if all.last().is_none_or(|sample| sample.name != stem) {
            all.push(Sample { name: stem.to_string(), ..Sample::default() });
        }
        let Some(sample) = all.last_mut() else { continue };
        let (at, length) = (entry.raw_file_position(), entry.size());
        let full = format!("{}/{name}", path.display());
        let mut text = || -> Result<String> {
            let mut text = String::new();
            if length > MOST_TARGET {
                let reason = format!("{length} bytes; a target has at most {MOST_TARGET}");
                return Err(Error::input(&full, reason, "correct or remove it"));
            }
            let read = entry.read_to_string(&mut text);
            read.map_err(|e| Error::input(&full, format!("is not a text of UTF-8: {e}"), "correct or remove it"))?;
            Ok(text)
        };
        match ending.as_str() {
            "cls" => sample.class = Some(text()?.trim().to_string()),
            "json" => {
                let value = serde_json::from_str(&text()?);
                sample.json =
                    Some(value.map_err(|e| Error::input(&full, format!("is not JSON: {e}"), "correct or remove it"))?);
            }
            image if EXTENSIONS.contains(&image) && sample.photo.is_none() => {
                sample.photo = Some(store.part(full, at, length)?);
            }
            _ => {}
        }
    }
    Ok(all)
}

/// The archive, unpacked if it starts like gzip.
fn open(path: &Path) -> Result<File> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut start = [0; 2];
    let gzipped = file.read_exact(&mut start).is_ok() && start == [0x1f, 0x8b];
    file.rewind().map_err(Error::io(path))?;
    if !gzipped {
        return Ok(file);
    }
    let length = file.metadata().map_err(Error::io(path))?.len();
    let mut spool = Spool::new()?;
    spool.add(&path.display().to_string(), MultiGzDecoder::new(BufReader::new(file)), length * MOST_GROWTH)?;
    spool.finish()
}

/// What is said of a photo: a name and a value for each column.
fn targets(
    photo: &str,
    class: Option<String>,
    json: Option<&Value>,
    asked: &TaskArgs,
) -> Result<Vec<(String, String)>> {
    let (kind, columns) = (asked.kind(), asked.label_column.as_deref().unwrap_or_default());
    if let (Some(class), Kind::Classes, []) = (&class, kind, columns) {
        return Ok(vec![("cls".into(), class.clone())]);
    }
    let remedy = "add NAME.cls with its class, or NAME.json that has it under the name of --label-column";
    let missing = |reason: String| Error::input(photo, reason, remedy);
    let Some(Value::Object(fields)) = json else {
        return Err(missing("nothing beside it says what it shows".into()));
    };
    let known: Vec<String> = fields.keys().cloned().collect();
    let take = |name: &str| -> Option<Result<(String, String)>> {
        let value = fields.get(name)?;
        Some(match cell(value, asked.separator()) {
            Some(text) if kind != Kind::Classes || !text.is_empty() => Ok((name.to_string(), text)),
            _ => Err(missing(format!("{name:?} beside it is {value}, which is no target"))),
        })
    };
    if columns.is_empty() {
        let usual = LABEL_NAMES.iter().find_map(|name| take(name));
        let reason = || missing(format!("the JSON beside it has no {:?}; it has {}", LABEL_NAMES[0], quoted(&known)));
        return Ok(vec![usual.ok_or_else(reason)??]);
    }
    let absent = |name: &str| missing(format!("the JSON beside it has no {name:?}; it has {}", quoted(&known)));
    columns.iter().map(|name| take(name).unwrap_or_else(|| Err(absent(name)))).collect()
}

/// A value of JSON as a table would have it, what is in a list with `separator` between.
fn cell(value: &Value, separator: &str) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(u8::from(*yes).to_string()),
        Value::Array(values) => {
            let each = values.iter().map(|value| cell(value, separator));
            Some(each.collect::<Option<Vec<_>>>()?.join(separator))
        }
        Value::Null | Value::Object(_) => None,
    }
}
