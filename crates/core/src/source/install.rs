//! A model's folder in the cache: absent or whole.
//!
//! Files are collected in a folder beside the final one and checked while they are written; the folder gets its name
//! when all of them are there. `source.json` in it says where they came from, and their checksums, which are compared
//! when the folder is used again: a disk may change what it holds.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::RemoteFile;
use crate::files::{self, Sha256Writer};
use crate::{Error, Result};

const RECORD: &str = "source.json";

#[derive(Serialize, Deserialize)]
struct Record {
    source: String,
    files: Vec<RecordedFile>,
}

#[derive(Serialize, Deserialize)]
struct RecordedFile {
    path: String,
    bytes: u64,
    sha256: String,
}

/// A model folder being filled. Dropped before [`Staging::finish`], it removes what it collected.
pub(super) struct Staging {
    folder: PathBuf,
    files: Vec<RecordedFile>,
}

impl Staging {
    /// Starts anew at `folder`, whatever an interrupted process left there.
    pub fn new(folder: PathBuf) -> Result<Self> {
        remove_folder(&folder)?;
        files::create_dir_all(&folder)?;
        Ok(Self { folder, files: Vec::new() })
    }

    /// A folder for what is only needed meanwhile, such as an archive.
    pub fn scratch(&self) -> Result<PathBuf> {
        let scratch = self.folder.join(".scratch");
        remove_folder(&scratch)?;
        files::create_dir_all(&scratch)?;
        Ok(scratch)
    }

    /// Copies a file in, at most `limit` bytes of it, and compares its checksum. `origin` is what errors call it.
    pub fn add(&mut self, file: &RemoteFile, origin: &str, contents: impl Read, limit: u64) -> Result<()> {
        let path = inside(&self.folder, file.to)?;
        files::create_dir_all(files::folder_of(&path))?;
        let target = File::create(&path).map_err(Error::io(&path))?;
        let mut writer = Sha256Writer::new(&target);
        let bytes = files::copy_limited(contents, &mut writer, limit).map_err(|e| match e.kind() {
            // From the reader: a damaged archive or one that lies about its size.
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput | std::io::ErrorKind::UnexpectedEof => {
                Error::input(origin, format!("cannot be unpacked: {e}"), "fetch it again")
            }
            _ => Error::io(&path)(e),
        })?;
        let found = writer.finish();
        if let Some(expected) = file.sha256 {
            check(origin, expected, &found).inspect_err(|_| _ = std::fs::remove_file(&path))?;
        }
        target.sync_all().map_err(Error::io(&path))?;
        self.files.push(RecordedFile { path: file.to.into(), bytes, sha256: found });
        Ok(())
    }

    /// Gives the folder its final name.
    pub fn finish(mut self, folder: &Path, source: &str) -> Result<()> {
        remove_folder(&self.folder.join(".scratch"))?;
        let record = Record { source: source.into(), files: std::mem::take(&mut self.files) };
        let json = serde_json::to_vec_pretty(&record).map_err(|e| Error::io(folder)(e.into()))?;
        files::write_atomic_bytes(&self.folder.join(RECORD), &json)?;
        remove_folder(folder)?;
        std::fs::rename(&self.folder, folder).map_err(Error::io(folder))?;
        files::sync_folder(files::folder_of(folder)).map_err(Error::io(folder))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After `finish` there is nothing left under this name; otherwise what remains is of no use to anyone.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Whether `folder` was installed whole and still is.
pub(super) fn is_whole(folder: &Path) -> bool {
    let Ok(json) = files::read_small(&folder.join(RECORD)) else { return false };
    let Ok(record) = serde_json::from_slice::<Record>(&json) else { return false };
    !record.files.is_empty()
        && record.files.iter().all(|file| {
            let path = folder.join(&file.path);
            let sized = std::fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() == file.bytes);
            sized && files::sha256_file(&path).is_ok_and(|found| found == file.sha256)
        })
}

/// How the reason begins where a file is not what it should be.
pub const WRONG_CHECKSUM: &str = "wrong checksum";

/// An error that names the file and both checksums, unless they are equal.
pub(super) fn check(origin: &str, expected: &str, found: &str) -> Result<()> {
    if expected.eq_ignore_ascii_case(found) {
        return Ok(());
    }
    let reason = format!("{WRONG_CHECKSUM}: SHA-256 {expected} was expected, {found} was found; the file was removed");
    let remedy = "fetch it again; if this persists, what the source offers has changed: get the file elsewhere and \
                  pass `--model PATH`";
    Err(Error::input(origin, reason, remedy))
}

/// `folder/path`, if `path` stays inside.
fn inside(folder: &Path, path: &str) -> Result<PathBuf> {
    let relative = Path::new(path);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !plain {
        return Err(Error::input(path, "a file name that leaves the model's folder", "correct the model's card"));
    }
    Ok(folder.join(relative))
}

fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(folder)(e)),
        _ => Ok(()),
    }
}

/// Writes whole contents that are in memory as one file of a folder being filled.
pub(super) fn add_bytes(staging: &mut Staging, name: &str, bytes: &[u8]) -> Result<()> {
    let path = inside(&staging.folder, name)?;
    files::create_dir_all(files::folder_of(&path))?;
    let mut digest = Sha256Writer::new(std::io::sink());
    files::write_atomic(&path, |writer| {
        digest.write_all(bytes)?;
        writer.write_all(bytes)
    })?;
    staging.files.push(RecordedFile { path: name.into(), bytes: bytes.len() as u64, sha256: digest.finish() });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn file(to: &'static str, sha256: Option<&'static str>) -> RemoteFile {
        RemoteFile { path: "there", to, sha256, optional: false }
    }

    #[test]
    fn a_folder_is_whole_only_once_finished_and_while_sizes_agree() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("model");
        let mut staging = Staging::new(cache.path().join("staging")).unwrap();
        staging.add(&file("sub/a", None), "origin", &b"abc"[..], 3).unwrap();
        assert!(!is_whole(&folder));
        staging.finish(&folder, "test").unwrap();
        assert!(is_whole(&folder));
        std::fs::write(folder.join("sub/a"), "ab").unwrap();
        assert!(!is_whole(&folder));
    }

    #[test]
    fn a_wrong_checksum_names_file_expected_and_found() {
        let cache = tempfile::tempdir().unwrap();
        let mut staging = Staging::new(cache.path().join("staging")).unwrap();
        let expected = "00ff";
        let error = staging.add(&file("a", Some(expected)), "x.whl/a", &b"abc"[..], 9).unwrap_err().to_string();
        for part in ["x.whl/a", expected, "ba7816bf", "--model PATH"] {
            assert!(error.contains(part), "{part} in {error}");
        }
        assert!(!cache.path().join("staging/a").exists());
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let cache = tempfile::tempdir().unwrap();
        let mut staging = Staging::new(cache.path().join("staging")).unwrap();
        for to in ["", "../a", "/etc/a", "a/../../b"] {
            assert!(staging.add(&file(to, None), "origin", &b"abc"[..], 9).is_err(), "{to}");
        }
        assert!(!cache.path().join("a").exists());
    }

    #[test]
    fn what_is_abandoned_is_removed() {
        let cache = tempfile::tempdir().unwrap();
        let mut staging = Staging::new(cache.path().join("staging")).unwrap();
        staging.add(&file("a", None), "origin", &b"abc"[..], 3).unwrap();
        drop(staging);
        assert!(std::fs::read_dir(cache.path()).unwrap().next().is_none());
    }
}
