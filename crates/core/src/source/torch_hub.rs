//! Weights from torch hub's cache on this machine, where torchvision keeps what it has downloaded.
//!
//! Its file names end in the first eight digits of the contents' SHA-256: `resnet50-0676ba61.pth`.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::RemoteFile;
use super::install::{Staging, WRONG_CHECKSUM};
use crate::{Error, Result, files};

/// `$TORCH_HOME/hub/checkpoints`, else `$XDG_CACHE_HOME/torch/hub/checkpoints`, else `~/.cache/torch/hub/checkpoints`, as
/// torch has it.
pub(super) fn folder() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = var("TORCH_HOME")
        .or_else(|| var("XDG_CACHE_HOME").map(|cache| cache.join("torch")))
        .or_else(|| var("HOME").map(|home| home.join(".cache/torch")))
        .unwrap_or_else(|| PathBuf::from("torch"));
    home.join("hub/checkpoints")
}

/// Brings `file` from `folder` into the model's own; the error where it is not there tells how to get it from `url`.
pub(super) fn fetch(staging: &mut Staging, folder: &Path, file: &'static str, url: &str) -> Result<()> {
    let path = folder.join(file);
    let origin = path.display().to_string();
    if !path.is_file() {
        let remedy =
            format!("download {url}/{file} into {}, on another machine if this one is offline", folder.display());
        return Err(Error::input(origin, "no such file", remedy));
    }
    let digits = Path::new(file).file_stem().and_then(|stem| stem.to_str()?.rsplit_once('-')).map(|(_, digits)| digits);
    if let Some(expected) = digits {
        let found = files::sha256_file(&path)?;
        if !found.starts_with(expected) {
            let reason =
                format!("{WRONG_CHECKSUM}: a SHA-256 that begins with {expected} was expected, {found} was found");
            return Err(Error::input(origin, reason, "remove it and fetch it again"));
        }
    }
    let contents = File::open(&path).map_err(Error::io(&path))?;
    let file = RemoteFile { path: file, to: file, sha256: None, optional: false };
    staging.add(&file, &origin, contents, u64::MAX - 1)
}
