//! Image folders: one folder per class, any depth below it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use topwork_core::files::leads_into;
use topwork_core::{Error, Result};

use super::photo::Photo;
use super::{Entry, Found};

/// File name extensions of photos, in any case; other files are passed over.
pub const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// Photos of `root`, whose folders are the classes. Hidden files and folders, other kinds of files and symbolic links
/// that lead out of `root` are passed over. Sorted by class, then path.
///
/// # Errors
/// When there are no class folders, one is empty, or something cannot be read.
pub fn read(root: &Path) -> Result<Found> {
    let mut entries = Vec::new();
    for folder in class_folders(root)? {
        let name = folder
            .file_name()
            .and_then(OsStr::to_str)
            .ok_or_else(|| Error::input(folder.display(), "the class folder's name is not valid UTF-8", "rename it"))?;
        let label: Arc<str> = name.into();
        let photos = photos_below(&folder)?;
        if photos.is_empty() {
            return Err(Error::input(
                folder.display(),
                format!("the class folder holds no images ({})", EXTENSIONS.join(", ")),
                "add photos, or remove the folder",
            ));
        }
        entries.extend(photos.into_iter().map(|path| Entry {
            photo: Photo::File(path),
            label: Arc::clone(&label),
            row: None,
        }));
    }
    if entries.is_empty() {
        let loose = photos_below(root)?.len();
        let reason = match loose {
            0 => "no images are in it".to_string(),
            n => format!("{n} images lie in it, but not in one folder per class"),
        };
        return Err(Error::input(
            root.display(),
            reason,
            "arrange photos as FOLDER/<class>/photo.jpg, or give a CSV list with the columns path and label",
        ));
    }
    Ok(Found { at: root.to_path_buf(), entries, cells: None })
}

fn class_folders(root: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(root).map_err(Error::io(root))? {
        let entry = entry.map_err(Error::io(root))?;
        let path = entry.path();
        // What macOS's archiver leaves is no class.
        let passed_over = hidden(&path) || entry.file_name() == "__MACOSX";
        if !passed_over && entry.file_type().map_err(Error::io(&path))?.is_dir() {
            folders.push(path);
        }
    }
    folders.sort_unstable();
    Ok(folders)
}

/// All photos in `root` and the folders below it, sorted by path.
///
/// # Errors
/// When a folder cannot be read.
pub fn photos_below(root: &Path) -> Result<Vec<PathBuf>> {
    let home = fs::canonicalize(root).map_err(Error::io(root))?;
    let (mut photos, mut pending) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let entry = entry.map_err(Error::io(&folder))?;
            let path = entry.path();
            if hidden(&path) {
                continue;
            }
            let kind = entry.file_type().map_err(Error::io(&path))?;
            if kind.is_dir() {
                pending.push(path);
            } else if is_photo(&path) && (kind.is_file() || leads_into(&path, &home)) {
                photos.push(path);
            }
        }
    }
    photos.sort_unstable();
    Ok(photos)
}

fn hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn is_photo(path: &Path) -> bool {
    path.extension().is_some_and(|found| EXTENSIONS.iter().any(|known| found.eq_ignore_ascii_case(known)))
}
