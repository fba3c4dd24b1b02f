//! Labelled photos: image folders and CSV/TSV lists, as data sets of `topwork-core`.
//!
//! [`folder`] and [`list`] find files and their labels; here they become classes and splits; [`inputs`] is the stream
//! of unlabelled photos that `predict` and `embed` read.

pub mod folder;
pub mod inputs;
pub mod list;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use topwork_core::data::{Dataset, Excerpt, Sample, Splits, Subset, View, hold_out};
use topwork_core::seed::Seed;
use topwork_core::task::{Cells, Kind, Task, TaskArgs};
use topwork_core::{Error, Result};

use crate::look::raster;
use crate::pipeline::Pipeline;
use crate::pipeline::augment::Policy;
use crate::pipeline::decode::decode;

/// Share of the photos that is held out when the data come without a validation part.
pub const VALIDATION_SHARE: f64 = 0.2;

/// Where labelled photos are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DataArgs {
    /// Folder with train/CLASS/… and val/CLASS/…, or with CLASS/…; or a CSV/TSV list
    #[arg(long, value_name = "PATH", conflicts_with_all = ["train", "validation"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Folder with CLASS/…, or a CSV/TSV list, to learn from
    #[arg(long, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<PathBuf>,
    /// The same, to validate on
    #[arg(long, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<PathBuf>,
    /// Column of a list with the photos' paths, relative to the list [default: path, file, image, …]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_column: Option<String>,
    /// What is asked of a sample: one of several classes, any number of labels, or values, which are numbers [default: classes]
    #[arg(long, value_name = "KIND")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<Kind>,
    /// Column of the class; of labels the column that lists them, or one of 0 and 1 for each, of values one for each, separated by
    /// commas [default: label, class, …]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_column: Option<Vec<String>>,
    /// What stands between the labels in a column that lists them [default: ;]
    #[arg(long, value_name = "TEXT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_separator: Option<String>,
    /// Share to hold out where the data have no validation part [default: 0.2]
    #[arg(long, value_name = "SHARE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_share: Option<f64>,
    /// Height and width in pixels at which the network sees photos, a multiple of 32 from 64 on; smaller is faster [default: the
    /// model's own]
    #[arg(long, value_name = "PIXELS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// Least share of a photo's area that a random view shows [default: 0.35]
    #[arg(long, value_name = "SHARE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_scale: Option<f64>,
    /// Random changes of pixels in random views: one of the published policies
    #[arg(long, value_enum, value_name = "POLICY")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_augment: Option<Policy>,
    /// Vary brightness, contrast and saturation of random views by up to this share
    #[arg(long, value_name = "SHARE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub colour_jitter: Option<f64>,
    /// Probability that a rectangle of a random view is erased
    #[arg(long, value_name = "P")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random_erase: Option<f64>,
}

impl DataArgs {
    /// How targets are to be understood.
    fn asked(&self, known: Option<&Task>) -> TaskArgs {
        let Self { task, label_column, label_separator, .. } = self.clone();
        TaskArgs { task, label_column, label_separator }.of_model(known)
    }
}

/// One photo and its label, as found.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The file.
    pub path: PathBuf,
    /// The class's name.
    pub label: Arc<str>,
    /// Its row in a list, the header being row 1.
    pub row: Option<u64>,
}

/// The photos found in one place.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The folder or list.
    pub at: PathBuf,
    /// In a fixed order.
    pub entries: Vec<Entry>,
    /// The targets of a list whose task is not of classes, by entry.
    pub cells: Option<Cells>,
}

impl Found {
    /// Where the label of `entry` comes from.
    fn place(&self, entry: &Entry) -> String {
        match entry.row {
            Some(row) => format!("{}, row {row}", self.at.display()),
            None => self.at.join(&*entry.label).display().to_string(),
        }
    }

    fn classes(&self) -> Vec<String> {
        let mut classes: Vec<String> = self.entries.iter().map(|e| e.label.to_string()).collect();
        classes.sort_unstable();
        classes.dedup();
        classes
    }

    /// What is asked of these photos, if they are to be learned from.
    fn task(&self, args: &TaskArgs) -> Result<Task> {
        match &self.cells {
            Some(cells) => args.task(cells, &self.at.display().to_string()),
            None => Ok(Task::classes(several_classes(self)?)),
        }
    }

    fn into_data(self, task: &Task, args: &TaskArgs, pipeline: &Pipeline) -> Result<ImageData> {
        if self.cells.is_some() == task.is_classes() {
            let found = if self.cells.is_some() { args.kind() } else { Kind::Classes };
            let reason = format!("holds {found}, and {} are asked for", task.kind);
            return Err(Error::input(self.at.display(), reason, format!("give a list, with --task {}", task.kind)));
        }
        if let Some(cells) = &self.cells {
            let understood = args.understand(cells, task, |i| match self.entries.get(i) {
                Some(entry) => self.place(entry),
                None => self.at.display().to_string(),
            })?;
            let photos = self.entries.iter().map(|entry| entry.path.clone()).zip(understood.classes).collect();
            let numbers = understood.numbers.into();
            return Ok(ImageData { photos, numbers, pipeline: *pipeline });
        }
        let classes: &[String] = task;
        let index = |label: &str| classes.iter().position(|class| class == label);
        let mut photos = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            let target = index(&entry.label).ok_or_else(|| {
                Error::input(
                    self.place(entry),
                    format!("the label {:?} was unseen in training; known are {}", entry.label, quoted(classes)),
                    "correct the label, remove it, or train with photos of it",
                )
            })?;
            photos.push((entry.path.clone(), target as u32));
        }
        Ok(ImageData::new(photos, *pipeline))
    }
}

/// Up to ten names, for messages.
pub(crate) fn quoted(names: &[String]) -> String {
    let mut text = names.iter().take(10).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    if names.len() > 10 {
        text.push_str(&format!(" and {} more", names.len() - 10));
    }
    text
}

/// Photos with class indices, decoded when asked for.
#[derive(Debug, Clone)]
pub struct ImageData {
    photos: Arc<[(PathBuf, u32)]>,
    /// Of labels and values, those of each photo.
    numbers: Arc<[Vec<f32>]>,
    pipeline: Pipeline,
}

impl ImageData {
    /// Photos with their class indices, rendered by `pipeline`.
    pub fn new(photos: Vec<(PathBuf, u32)>, pipeline: Pipeline) -> Self {
        Self { photos: photos.into(), numbers: Arc::default(), pipeline }
    }
}

impl Dataset for ImageData {
    fn len(&self) -> usize {
        self.photos.len()
    }
    fn target(&self, i: usize) -> u32 {
        self.photos[i].1
    }
    fn numbers(&self, i: usize) -> &[f32] {
        self.numbers.get(i).map_or(&[], Vec::as_slice)
    }
    fn name(&self, i: usize) -> String {
        self.photos[i].0.display().to_string()
    }
    fn digest(&self, i: usize) -> Result<[u8; 32]> {
        let path = &self.photos[i].0;
        Ok(*blake3::hash(&fs::read(path).map_err(Error::io(path))?).as_bytes())
    }
    fn load(&self, i: usize, view: View) -> Result<Sample> {
        self.pipeline.load_file(&self.photos[i].0, view)
    }
    fn excerpt(&self, i: usize) -> Result<Excerpt> {
        let path = &self.photos[i].0;
        let bytes = fs::read(path).map_err(Error::io(path))?;
        raster::excerpt(&decode(&self.name(i), &bytes)?, raster::THUMBNAIL)
    }
    fn scaled(&self, scale: f64) -> Option<Arc<dyn Dataset>> {
        Some(Arc::new(Self {
            photos: self.photos.clone(),
            numbers: self.numbers.clone(),
            pipeline: self.pipeline.scaled(scale),
        }))
    }
}

/// Reads labelled photos; see [`topwork_core::domain::Domain::splits`].
///
/// # Errors
/// When the data cannot be used: the file or row, the reason, the remedy.
pub fn splits(args: &DataArgs, pipeline: &Pipeline, known: Option<&Task>, seed: Seed) -> Result<Splits> {
    let (train, validation) = parts(args)?;
    let asked = args.asked(known);
    asked.check()?;
    let read = |path: PathBuf| if path.is_dir() { folder::read(&path) } else { list::read(&path, args, &asked) };
    let train = train.map(read).transpose()?;
    let validation = validation.map(read).transpose()?;

    let task = match (known, &train, &validation) {
        (Some(known), _, _) => known.clone(),
        (None, Some(train), _) => train.task(&asked)?,
        (None, None, Some(found)) => {
            return Err(Error::input(
                format!("--validation {}", found.at.display()),
                "there is nothing to learn from",
                "add --train PATH, or give both as --data PATH",
            ));
        }
        (None, None, None) => return Err(no_data()),
    };
    match (train, validation) {
        (Some(train), None) => split(train, task, &asked, pipeline, args.validation_share, seed),
        (train, Some(validation)) => {
            let train = train.unwrap_or_else(|| Found {
                at: validation.at.clone(),
                entries: vec![],
                cells: validation.cells.as_ref().map(|cells| Cells { rows: vec![], ..cells.clone() }),
            });
            let train = Arc::new(train.into_data(&task, &asked, pipeline)?);
            let validation = Arc::new(validation.into_data(&task, &asked, pipeline)?);
            Ok(Splits { task, train, validation, held_out: false })
        }
        (None, None) => Err(no_data()),
    }
}

fn no_data() -> Error {
    Error::input("--data", "no photos are named", "pass --data FOLDER, or --train and --validation")
}

/// Where the photos to learn from and to validate on are.
fn parts(args: &DataArgs) -> Result<(Option<PathBuf>, Option<PathBuf>)> {
    let Some(data) = &args.data else {
        for (flag, path) in [("--train", &args.train), ("--validation", &args.validation)] {
            path.as_ref().map_or(Ok(()), |path| exists(flag, path))?;
        }
        return Ok((args.train.clone(), args.validation.clone()));
    };
    if args.train.is_some() || args.validation.is_some() {
        return Err(Error::input(
            "--data",
            "it cannot be combined with --train or --validation",
            "name the photos in one of the two ways",
        ));
    }
    exists("--data", data)?;
    let train = data.join("train");
    if !train.is_dir() {
        return Ok((Some(data.clone()), None));
    }
    let names = ["val", "valid", "validation", "test"];
    Ok((Some(train), names.iter().map(|name| data.join(name)).find(|path| path.is_dir())))
}

fn exists(flag: &str, path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::input(format!("{flag} {}", path.display()), "there is no such file or folder", "check the path"))
        }
        Err(e) => Err(Error::io(path)(e)),
    }
}

fn several_classes(found: &Found) -> Result<Vec<String>> {
    let classes = found.classes();
    if let [only] = classes.as_slice() {
        return Err(Error::input(
            found.at.display(),
            format!("all {} photos are of one class, {only:?}", found.entries.len()),
            "a classifier needs two classes or more: add photos of another one",
        ));
    }
    Ok(classes)
}

/// Holds out a part of `found`, stratified by class.
fn split(
    found: Found,
    task: Task,
    args: &TaskArgs,
    pipeline: &Pipeline,
    share: Option<f64>,
    seed: Seed,
) -> Result<Splits> {
    let share = share.unwrap_or(VALIDATION_SHARE);
    if !(share > 0.0 && share < 1.0) {
        return Err(Error::input(
            format!("--validation-share {share}"),
            "is not between 0 and 1",
            "use for instance --validation-share 0.2",
        ));
    }
    let at = found.at.clone();
    let all = found.into_data(&task, args, pipeline)?;
    let targets: Vec<u32> = all.photos.iter().map(|(_, target)| *target).collect();
    let (kept, held) = hold_out(&targets, share, seed);
    if held.is_empty() || kept.is_empty() {
        return Err(Error::input(
            at.display(),
            format!("{} photos are too few to hold some out for validation", all.len()),
            "add photos: two or more of each class",
        ));
    }
    let all: Arc<dyn Dataset> = Arc::new(all);
    let part = |indices: Vec<usize>| Arc::new(Subset::new(all.clone(), indices));
    Ok(Splits { task, train: part(kept), validation: part(held), held_out: true })
}
