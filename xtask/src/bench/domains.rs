//! Contests of photos and of sentences: labelled samples become files under `target/bench/data`, and a model is found for
//! them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use topwork_core::domain::Domain;
use topwork_core::observe::Observer;
use topwork_core::{Error, fit};
use topwork_cv::Photos;
use topwork_nlp::Sentences;

use super::grid::Entry;
use super::transfer::Transfer;

/// What photos are fitted with in the long benchmark.
pub const PHOTO_MODEL: &str = "efficientnet-lite0";
/// What sentences are.
pub const TEXT_MODEL: &str = "all-minilm-l6-v2";

/// Samples with their labels: to learn from, and to judge by.
pub type Parts<I> = (Vec<(I, String)>, Vec<(I, String)>);

type Say<'a> = &'a (dyn Fn(String) + Sync);

/// A contest on photos with a model, which sees them at a size of its own or `side` pixels wide.
pub fn photos(
    name: &'static str,
    (train, test): Parts<PathBuf>,
    (model, side): (&str, Option<usize>),
    entries: Vec<Entry>,
    setting: String,
    folder: &Path,
    say: Say<'_>,
) -> Result<Transfer<Photos, PathBuf>> {
    let lists = folder.join("data").join(name).join("lists");
    replace(&lists, |lists| {
        write_list(&lists.join("train.csv"), &train)?;
        write_list(&lists.join("test.csv"), &test)?;
        write_list(&lists.join("brief.csv"), &first_of_each(&train))
    })?;
    let part = |validation: &str| topwork_cv::DataArgs {
        train: Some(lists.join("train.csv")),
        validation: Some(lists.join(validation)),
        size: side,
        ..topwork_cv::DataArgs::default()
    };
    Ok(Transfer {
        domain: "cv",
        data: name,
        classes: first_of_each(&train).len(),
        missing: missing::<Photos>(model, say)?,
        whole: part("test.csv"),
        brief: part("brief.csv"),
        test,
        entries,
        setting,
        work: folder.join("work"),
        kept: Vec::new(),
    })
}

/// A contest on sentences with a model, cut after so many `tokens`.
pub fn sentences(
    name: &'static str,
    (train, test): Parts<String>,
    (model, tokens): (&str, usize),
    entries: Vec<Entry>,
    setting: String,
    folder: &Path,
    say: Say<'_>,
) -> Result<Transfer<Sentences, String>> {
    let data = folder.join("data").join(name);
    replace(&data, |data| {
        write_rows(&data.join("train.tsv"), &train)?;
        write_rows(&data.join("test.tsv"), &test)?;
        write_rows(&data.join("brief.tsv"), &first_of_each(&train))
    })?;
    let part = |validation: &str| topwork_nlp::DataArgs {
        train: Some(data.join("train.tsv")),
        validation: Some(data.join(validation)),
        max_tokens: Some(tokens),
        ..topwork_nlp::DataArgs::default()
    };
    Ok(Transfer {
        domain: "nlp",
        data: name,
        classes: first_of_each(&train).len(),
        missing: missing::<Sentences>(model, say)?,
        whole: part("test.tsv"),
        brief: part("brief.tsv"),
        test,
        entries,
        setting,
        work: folder.join("work"),
        kept: Vec::new(),
    })
}

/// The bundled digits as files below `folder`.
pub fn digits(folder: &Path) -> Result<Parts<PathBuf>> {
    let images = crate::digits::read(&crate::root().join("datasets"))?;
    let data = folder.join("data/digits");
    replace(&data, |data| crate::digits::write_folders(&images, data).map(drop))?;
    Ok((class_folders(&data.join("train"))?, class_folders(&data.join("test"))?))
}

/// The bundled package descriptions.
pub fn debian_sections() -> Result<Parts<String>> {
    let source = crate::root().join("datasets/debian-sections");
    Ok((rows(&source.join("train.tsv"))?, rows(&source.join("test.tsv"))?))
}

/// The files of `folder/CLASS/…`, sorted.
pub fn class_folders(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for class in list(folder)?.into_iter().filter(|path| path.is_dir()) {
        let label = class.file_name().unwrap_or_default().to_string_lossy().into_owned();
        found.extend(list(&class)?.into_iter().map(|file| (file, label.clone())));
    }
    ensure!(!found.is_empty(), "{}: no classes are in it", folder.display());
    found.sort_unstable();
    Ok(found)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// Text and label of each row below the header.
pub fn rows(path: &Path) -> Result<Vec<(String, String)>> {
    let mut lines = Vec::new();
    let source = topwork_nlp::table::open_source(path)?;
    for line in std::io::BufRead::lines(source) {
        lines.push(line.with_context(|| path.display().to_string())?);
    }
    let row = |line: &String| {
        let (text, label) = line.rsplit_once('\t')?;
        Some((text.to_string(), label.to_string()))
    };
    let rows: Option<Vec<_>> = lines.iter().skip(1).map(row).collect();
    let rows = rows.with_context(|| format!("{}: a row is not text, tab, label", path.display()))?;
    ensure!(!rows.is_empty(), "{}: it is empty", path.display());
    Ok(rows)
}

fn first_of_each<I: Clone>(samples: &[(I, String)]) -> Vec<(I, String)> {
    let mut seen = BTreeSet::new();
    samples.iter().filter(|(_, label)| seen.insert(label)).cloned().collect()
}

fn write_rows(path: &Path, rows: &[(String, String)]) -> Result<()> {
    let lines: String = rows.iter().map(|(text, label)| format!("{text}\t{label}\n")).collect();
    super::write_whole(path, &format!("text\tlabel\n{lines}"))
}

fn write_list(path: &Path, photos: &[(PathBuf, String)]) -> Result<()> {
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record(["path", "label"])?;
    for (photo, label) in photos {
        let photo = std::path::absolute(photo).with_context(|| photo.display().to_string())?;
        let name = photo.to_str().with_context(|| format!("{}: its name is not UTF-8", photo.display()))?;
        table.write_record([name, label])?;
    }
    let bytes = table.into_inner().map_err(|e| anyhow::anyhow!("{e}"))?;
    super::write_whole(path, &String::from_utf8(bytes)?)
}

/// Makes a folder anew with what `fill` writes to it.
pub fn replace(folder: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    fill(folder)
}

/// Why no source has the model's weights, if so. What else goes wrong (a full disk) ends the benchmark.
fn missing<D: Domain>(name: &str, say: Say<'_>) -> Result<Option<String>> {
    match fit::fetch::<D>(name, false, &Relay(say)) {
        Ok(_) => Ok(None),
        Err(Error::Input { subject, reason, .. }) => {
            // Every source has its line, and its remedy on the next one.
            let reasons: Vec<&str> = reason.lines().map(str::trim).filter(|line| line.starts_with("- ")).collect();
            Ok(Some(format!("{subject}: {}", if reasons.is_empty() { reason } else { reasons.join(" ") })))
        }
        Err(error) => Err(error.into()),
    }
}

/// Passes messages on.
struct Relay<'a>(Say<'a>);

impl Observer for Relay<'_> {
    fn message(&self, text: &str) {
        (self.0)(text.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_photos_survives_odd_names() {
        let folder = tempfile::tempdir().unwrap();
        let class = folder.path().join("train/ants");
        std::fs::create_dir_all(&class).unwrap();
        std::fs::write(class.join("a, \"b\".jpg"), "").unwrap();
        let found = class_folders(&folder.path().join("train")).unwrap();
        let path = folder.path().join("list.csv");
        write_list(&path, &found).unwrap();
        let read = topwork_cv::dataset::list::read(
            &path,
            &topwork_cv::DataArgs::default(),
            &topwork_core::task::TaskArgs::default(),
        )
        .unwrap();
        assert_eq!(read.entries.len(), 1);
        assert_eq!(read.entries[0].photo.name(), found[0].0.display().to_string());
        assert_eq!(&*read.entries[0].label, "ants");
    }
}
