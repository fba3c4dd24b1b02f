//! Models by their names: fetched, described, opened.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::adapter;
use crate::classifier::model_folder;
use crate::domain::{Domain, Opened};
use crate::observe::Observer;
use crate::source::{self, Fetcher, Reference};

/// Brings the files of the model called `name` to this machine; gives their folder.
///
/// # Errors
/// When the name is unknown or no source has it.
pub fn fetch<D: Domain>(name: &str, offline: bool, observer: &dyn Observer) -> Result<PathBuf> {
    let reference = source::parse(name, D::cards())?;
    let fetcher = Fetcher::from_env();
    let offline = offline || fetcher.is_offline();
    Ok(fetcher.with_offline(offline).fetch(&reference, D::HUB_FILES, &mut |text| observer.message(text))?.folder)
}

/// Fetches and understands the model called `name`.
///
/// # Errors
/// As [`fetch`]; and when the files are not a model of this domain.
pub fn open_model<D: Domain>(name: &str, offline: bool, observer: &dyn Observer) -> Result<Opened<D::Pipeline>> {
    match source::parse(name, D::cards())? {
        // A run is meant for its model.
        Reference::Path(path) if path.is_dir() => adapter::open_folder::<D>(&model_folder(&path)?, None),
        Reference::Path(path) => adapter::open_folder::<D>(&path, None),
        Reference::Card(card) => D::open(&fetch::<D>(name, offline, observer)?, Some(card)),
        Reference::Hub { .. } => D::open(&fetch::<D>(name, offline, observer)?, None),
    }
}

/// A model that is at hand (a run directory, a model folder) or as [`open_model`].
///
/// # Errors
/// As there; and when a run has no finished model.
pub fn open_any<D: Domain>(name: &str, offline: bool, observer: &dyn Observer) -> Result<Opened<D::Pipeline>> {
    let folder = Path::new(name);
    if folder.is_dir() {
        adapter::open_folder::<D>(&model_folder(folder)?, None)
    } else {
        open_model::<D>(name, offline, observer)
    }
}

/// Understands the model called `name` without its weights, where its card says enough; else as [`open_model`].
///
/// # Errors
/// As [`open_model`].
pub fn describe<D: Domain>(name: &str, offline: bool, observer: &dyn Observer) -> Result<Opened<D::Pipeline>> {
    let described = match source::parse(name, D::cards()) {
        Ok(Reference::Card(card)) => D::describe(card),
        Ok(Reference::Hub { .. } | Reference::Path(_)) => None,
        Err(unknown) => Some(D::outline(name).ok_or(unknown)?),
    };
    described.map_or_else(|| open_model::<D>(name, offline, observer), Ok)
}
