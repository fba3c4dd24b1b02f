//! Labelled photos: image folders, CSV/TSV lists, tar shards and Parquet files, as data sets of `topwork-core`.
//!
//! [`folder`], [`list`], [`tars`] and [`parquet`] find photos and their labels; here they become classes and splits; [`inputs`] is the stream
//! of unlabelled photos that `predict` and `embed` read.

pub mod folder;
pub mod inputs;
pub mod list;
pub mod parquet;
pub mod photo;
pub mod tars;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::{Deserialize, Serialize};
use topwork_core::data::{Dataset, Excerpt, Sample, Splits, View, hold_out};
use topwork_core::seed::Seed;
use topwork_core::task::{Cells, Kind, Task, TaskArgs};
use topwork_core::{Error, Result};

use crate::look::raster;
use crate::pipeline::Pipeline;
use crate::pipeline::augment::Policy;
use crate::pipeline::decode::decode;
use photo::Photo;

/// Share of the photos that is held out when the data come without a validation part.
pub const VALIDATION_SHARE: f64 = 0.2;

/// Where labelled photos are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DataArgs {
    /// Folder with train/CLASS/… and val/CLASS/…, or with CLASS/…; a CSV/TSV list; tar shards (WebDataset) or Parquet files:
    /// one, or a folder of them, those of training named train…
    #[arg(long, value_name = "PATH", conflicts_with_all = ["train", "validation"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Folder with CLASS/…, CSV/TSV list, tar shard or Parquet file, or a folder of these, to learn from
    #[arg(long, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<PathBuf>,
    /// The same, to validate on
    #[arg(long, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<PathBuf>,
    /// Column of a list with the photos' paths, relative to the list, or of Parquet with their bytes [default: path, file,
    /// image, …]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_column: Option<String>,
    /// What is asked of a sample: one of several classes, any number of labels, or values, which are numbers [default: classes]
    #[arg(long, value_name = "KIND", value_parser = of_photos())]
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

/// Reads the name of a task that photos have.
fn of_photos() -> impl TypedValueParser<Value = Kind> {
    let names = Kind::OF_SAMPLES.iter().filter_map(ValueEnum::to_possible_value);
    PossibleValuesParser::new(names).try_map(|name| Kind::from_str(&name, false))
}

impl DataArgs {
    /// How targets are to be understood.
    fn asked(&self, known: Option<&Task>) -> TaskArgs {
        let Self { task, label_column, label_separator, .. } = self.clone();
        TaskArgs { task, label_column, label_separator }.of_model(known)
    }
}

/// One photo and its label, as found.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it is.
    pub photo: Photo,
    /// The class's name.
    pub label: Arc<str>,
    /// Its row in a list, the header being row 1.
    pub row: Option<u64>,
}

/// The photos found in one place.
#[derive(Debug, Clone)]
pub struct Found {
    /// The folder, list or file.
    pub at: PathBuf,
    /// In a fixed order.
    pub entries: Vec<Entry>,
    /// The targets of a list whose task is not of classes, by entry.
    pub cells: Option<Cells>,
}

impl Found {
    /// Where the label of `entry` comes from.
    fn place(&self, entry: &Entry) -> String {
        match (entry.row, &entry.photo) {
            (Some(row), _) => format!("{}, row {row}", self.at.display()),
            (None, Photo::File(_)) => self.at.join(&*entry.label).display().to_string(),
            (None, photo) => photo.name(),
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
            let photos = self.entries.iter().map(|entry| entry.photo.clone()).zip(understood.classes).collect();
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
            photos.push((entry.photo.clone(), target as u32));
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
    photos: Arc<[(Photo, u32)]>,
    /// Of labels and values, those of each photo, behind each other.
    numbers: Arc<[f32]>,
    pipeline: Pipeline,
}

impl ImageData {
    /// Photos with their class indices, rendered by `pipeline`.
    pub fn new(photos: Vec<(Photo, u32)>, pipeline: Pipeline) -> Self {
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
        let each = self.numbers.len() / self.photos.len().max(1);
        &self.numbers[i * each..(i + 1) * each]
    }
    fn name(&self, i: usize) -> String {
        self.photos[i].0.name()
    }
    fn digest(&self, i: usize) -> Result<[u8; 32]> {
        Ok(*blake3::hash(&self.photos[i].0.read()?).as_bytes())
    }
    fn load(&self, i: usize, view: View) -> Result<Sample> {
        let photo = &self.photos[i].0;
        self.pipeline.load(&photo.name(), &photo.read()?, view)
    }
    fn excerpt(&self, i: usize) -> Result<Excerpt> {
        let photo = &self.photos[i].0;
        raster::excerpt(&decode(&photo.name(), &photo.read()?)?, raster::THUMBNAIL)
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
    if let Some(side) = args.size.filter(|&side| known.is_some() && side != pipeline.crop) {
        let reason = format!("the model is judged at {0} × {0} pixels, as it was trained", pipeline.crop);
        return Err(Error::input(format!("--size {side}"), reason, "leave it out"));
    }
    let read = |place: Place| match place.form {
        Form::Folder => folder::read(&place.at),
        Form::List => list::read(&place.at, args, &asked),
        Form::Tars => tars::read(&place.files, &place.at, &asked),
        Form::Parquets => parquet::read(&place.files, &place.at, args.path_column.as_deref(), &asked),
    };
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
    let share = args.validation_share.unwrap_or(VALIDATION_SHARE);
    if !(share > 0.0 && share < 1.0) {
        return Err(Error::input(
            format!("--validation-share {share}"),
            "is not between 0 and 1",
            "use for instance --validation-share 0.2",
        ));
    }
    let at = train.as_ref().map(|found| found.at.clone()).unwrap_or_default();
    let labelled = |found: Option<Found>| found.map(|found| found.into_data(&task, &asked, pipeline)).transpose();
    let (train, validation) = (labelled(train)?, labelled(validation)?);
    if train.is_none() && validation.is_none() {
        return Err(no_data());
    }
    Splits::of(task.clone(), train, validation, |all| {
        let targets: Vec<u32> = all.photos.iter().map(|(_, target)| *target).collect();
        let (kept, held) = hold_out(&targets, share, seed);
        if held.is_empty() || kept.is_empty() {
            return Err(Error::input(
                at.display(),
                format!("{} photos are too few to hold some out for validation", all.len()),
                "add photos: two or more of each class",
            ));
        }
        Ok((kept, held))
    })
}

fn no_data() -> Error {
    Error::input("--data", "no photos are named", "pass --data FOLDER, or --train and --validation")
}

/// How labelled photos come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Folder,
    List,
    Tars,
    Parquets,
}

/// Labelled photos of one part.
struct Place {
    at: PathBuf,
    form: Form,
    /// The shards.
    files: Vec<PathBuf>,
}

impl Place {
    fn of(at: PathBuf) -> Result<Self> {
        let shards = shards_in(&at)?;
        let form = match shards.first().and_then(|file| shard(file)) {
            Some(form) => form,
            None if at.is_dir() => Form::Folder,
            None => Form::List,
        };
        Ok(Self { at, form, files: shards })
    }
}

/// The form of a file that holds many photos.
fn shard(path: &Path) -> Option<Form> {
    match (tars::is_tar(path), parquet::is_parquet(path)) {
        (true, _) => Some(Form::Tars),
        (_, true) => Some(Form::Parquets),
        _ => None,
    }
}

/// The shards of the form of the first one that `at` is, or that lie in it, by name.
fn shards_in(at: &Path) -> Result<Vec<PathBuf>> {
    let mut found = match at.is_dir() {
        false => vec![at.to_path_buf()],
        true => {
            let entries = fs::read_dir(at).map_err(Error::io(at))?;
            entries.map(|entry| entry.map(|entry| entry.path()).map_err(Error::io(at))).collect::<Result<_>>()?
        }
    };
    found.retain(|path| shard(path).is_some() && path.is_file());
    found.sort_unstable();
    let form = found.first().and_then(|path| shard(path));
    found.retain(|path| shard(path) == form);
    Ok(found)
}

/// Names of what is validated on, in this order.
const VALIDATION_NAMES: [&str; 4] = ["val", "valid", "validation", "test"];

/// Where the photos to learn from and to validate on are.
fn parts(args: &DataArgs) -> Result<(Option<Place>, Option<Place>)> {
    let place = |path: PathBuf| Place::of(path).map(Some);
    let Some(data) = &args.data else {
        for (flag, path) in [("--train", &args.train), ("--validation", &args.validation)] {
            path.as_ref().map_or(Ok(()), |path| exists(flag, path))?;
        }
        let part = |path: &Option<PathBuf>| path.clone().map(Place::of).transpose();
        return Ok((part(&args.train)?, part(&args.validation)?));
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
    if train.is_dir() {
        let validation = VALIDATION_NAMES.iter().map(|name| data.join(name)).find(|path| path.is_dir());
        return Ok((place(train)?, validation.map(Place::of).transpose()?));
    }
    let whole = Place::of(data.clone())?;
    let named = |start: &str| {
        let begins = |file: &&PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start));
        let files: Vec<PathBuf> = whole.files.iter().filter(begins).cloned().collect();
        (!files.is_empty()).then(|| Place { at: data.clone(), form: whole.form, files })
    };
    match named("train").filter(|_| data.is_dir()) {
        Some(train) => Ok((Some(train), VALIDATION_NAMES.iter().find_map(|name| named(name)))),
        None => Ok((Some(whole), None)),
    }
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
