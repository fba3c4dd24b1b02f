//! The folders of the boundary cache: their names, their bound, and who has to leave when it is reached.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::host_values;
use super::segment::{Draft, Key, Mapped, Segment};
use crate::files::write_atomic_bytes;
use crate::net::{Params, Stage};
use crate::observe::Observer;
use crate::{Error, Result};
use topwork_kernels::frozen::Precision;

/// To be raised whenever a kernel's results change in any bit.
const KERNELS: u32 = 1;
/// What may be held in memory of what the disk may not.
const MEMORY: u64 = 1 << 30;
/// Touched whenever a folder is used; its age decides who leaves.
const MARK: &str = "used";

/// Where boundary activations are kept, and how much of them.
#[derive(Debug, Clone)]
pub struct Cache {
    root: Option<PathBuf>,
    limit: u64,
}

/// The segments of one boundary.
pub(super) struct Folder {
    path: PathBuf,
}

impl Cache {
    /// The bound when none is given: 10 GB.
    pub const LIMIT: u64 = 10_000_000_000;

    /// In `folder` (usually `cache_dir()/features`), of at most `limit` bytes.
    pub fn at(folder: impl Into<PathBuf>, limit: u64) -> Self {
        Self { root: Some(folder.into()), limit }
    }

    /// Keeps nothing on disk.
    pub fn none() -> Self {
        Self { root: None, limit: 0 }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn memory(&self) -> u64 {
        if self.root.is_some() && self.limit == 0 { 0 } else { MEMORY }
    }

    /// The folder of a boundary, made and marked as used; `None` when nothing is kept or the folder cannot be written.
    pub(super) fn open(&self, key: &str, observer: &dyn Observer) -> Result<Option<Folder>> {
        let Some(root) = self.root.as_deref().filter(|_| self.limit > 0) else { return Ok(None) };
        let path = root.join(key);
        let marked = std::fs::create_dir_all(&path).and_then(|()| std::fs::write(path.join(MARK), b""));
        if let Err(error) = marked {
            observer.message(&format!("{}: {error}; activations are not kept", path.display()));
            return Ok(None);
        }
        Ok(Some(Folder { path }))
    }

    /// Removes what was not used for longest until `need` more bytes fit; the folders `keep` go last.
    pub(super) fn make_room(&self, need: u64, keep: &[&Folder], observer: &dyn Observer) {
        let Some(root) = self.root.as_deref() else { return };
        let mut folders: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for path in list(root).into_iter().filter(|path| path.is_dir()) {
            let used = path.join(MARK).metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            let size = list(&path).iter().filter_map(|file| file.metadata().ok()).map(|m| m.len()).sum();
            folders.push((used, size, path));
        }
        folders.sort();
        let mut total: u64 = folders.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in folders {
            if total + need <= self.limit {
                break;
            }
            if keep.iter().all(|folder| folder.path != path) {
                observer.message(&format!("making room in the feature cache: {} is removed", path.display()));
                if std::fs::remove_dir_all(&path).is_ok() {
                    total -= size;
                }
            }
        }
        // These folders themselves may hold activations of other samples: they go before the bound is exceeded.
        if total + need > self.limit {
            let segments = keep.iter().flat_map(|folder| list(&folder.path));
            for file in segments.filter(|file| file.extension().is_some_and(|e| e == "seg")) {
                // Already mapped segments stay readable after their name is gone.
                let _ = std::fs::remove_file(file);
            }
        }
    }
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

impl Folder {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The whole segments that hold some of the `wanted`; broken ones are reported and passed over.
    pub(super) fn segments(&self, wanted: &HashSet<Key>, observer: &dyn Observer) -> Vec<Segment> {
        let mut found = Vec::new();
        for path in list(&self.path).into_iter().filter(|path| path.extension().is_some_and(|e| e == "seg")) {
            let outcome = Mapped::open(&path).and_then(|mapped| {
                let segment = Segment::Mapped(mapped);
                let useful = (0..segment.len()).any(|entry| wanted.contains(segment.key(entry)));
                match &segment {
                    Segment::Mapped(mapped) if useful && !mapped.intact() => Err("its contents are damaged".into()),
                    _ => Ok(useful.then_some(segment)),
                }
            });
            match outcome {
                Ok(segment) => found.extend(segment),
                Err(reason) => {
                    let text = format!("warning: {} is ignored: {reason}; it is computed again", path.display());
                    observer.message(&text);
                    // Without its name it is not met again; failing to remove it costs only this message.
                    let _ = std::fs::remove_file(&path);
                }
            }
        }
        found
    }

    /// Writes a segment under the digest of its contents and maps it.
    pub(super) fn write(&self, draft: &Draft) -> Result<Segment> {
        let bytes = draft.encode();
        let path = self.path.join(format!("{}.seg", &blake3::hash(&bytes).to_hex()[..32]));
        write_atomic_bytes(&path, &bytes)?;
        let unreadable = |reason| Error::input(path.display(), reason, "check the disk, or use another cache folder");
        Mapped::open(&path).map(Segment::Mapped).map_err(unreadable)
    }
}

/// What the activations behind `stages`, computed with this precision, depend on besides the sample, as a file name.
///
/// # Errors
/// When a parameter is missing or cannot be read back from its device.
pub fn boundary_key(stages: &[&Stage], params: &Params, fingerprint: &str, precision: Precision) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let (version, precision) = (env!("CARGO_PKG_VERSION"), precision.name());
    let versions = format!("{KERNELS} {version} {precision} {}", topwork_kernels::instruction_set());
    let description = format!("{stages:?}");
    for text in [versions.as_str(), &description, fingerprint] {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    for spec in stages.iter().flat_map(|stage| stage.params()) {
        let value = params.get(&spec.name)?;
        hasher.update(spec.name.as_bytes());
        hasher.update(value.device().location_name().as_bytes());
        let bytes: Vec<u8> = host_values(&value)?.into_iter().flat_map(f32::to_le_bytes).collect();
        hasher.update_rayon(&bytes);
    }
    Ok(hasher.finalize().to_hex()[..32].to_string())
}

trait LocationName {
    fn location_name(&self) -> String;
}

impl LocationName for candle_core::Device {
    fn location_name(&self) -> String {
        match self.location() {
            candle_core::DeviceLocation::Cpu => "cpu".into(),
            other => format!("{other:?}"),
        }
    }
}
