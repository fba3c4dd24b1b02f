//! The run directory: everything one run leaves behind, owned by one process while it is being written.
//!
//! `run.toml`, `metrics.jsonl`, `checkpoints/`, `model/`, `summary.json`, `report.html`.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::files::write_atomic_bytes;
use crate::{Error, Result};

const LOCK: &str = ".lock";

/// A run directory in use by this process.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    lock: File,
    /// The folder itself was made by this process.
    made: bool,
    /// What is in it shall stay.
    kept: AtomicBool,
}

impl RunDir {
    /// Makes `path`, or takes an empty folder; `force` replaces an earlier run there, and nothing but a run.
    ///
    /// Unless [`RunDir::keep`] is called, dropping the value removes again what was made.
    ///
    /// # Errors
    /// When the folder holds something, is in use by another process, or cannot be written.
    pub fn create(path: &Path, force: bool) -> Result<Self> {
        let made = !path.exists();
        if path.is_file() {
            return Err(Error::input(path.display(), "it is a file, not a folder", "choose another --out"));
        }
        let others: Vec<_> = entries(path).into_iter().filter(|name| name != LOCK).collect();
        if !others.is_empty() && !force {
            return Err(Error::input(
                path.display(),
                "the folder is already in use",
                "continue its run with --resume, or choose another --out",
            ));
        }
        if !others.is_empty() && !path.join("run.toml").is_file() {
            return Err(Error::input(
                path.display(),
                "the folder holds something else than a run, which is not overwritten",
                "choose another --out",
            ));
        }
        std::fs::create_dir_all(path).map_err(Error::io(path))?;
        let lock = take(path)?;
        for name in others {
            let old = path.join(name);
            let removed = if old.is_dir() { std::fs::remove_dir_all(&old) } else { std::fs::remove_file(&old) };
            removed.map_err(Error::io(&old))?;
        }
        Ok(Self { path: path.to_path_buf(), lock, made, kept: AtomicBool::new(false) })
    }

    /// Takes the folder of an earlier run to continue it.
    ///
    /// # Errors
    /// When there is none, or another process is at it.
    pub fn resume(path: &Path) -> Result<Self> {
        if !path.join("run.toml").is_file() {
            let reason = "there is no run to continue: it has no run.toml";
            return Err(Error::input(path.display(), reason, "leave out --resume, or name the run's folder"));
        }
        Ok(Self { path: path.to_path_buf(), lock: take(path)?, made: false, kept: AtomicBool::new(true) })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where checkpoints are.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Where the final model is.
    pub fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    /// From now on the folder stays, whatever happens.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// Writes a file of the run: `run.toml`, `report.html`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, contents: &str) -> Result<()> {
        write_atomic_bytes(&self.path.join(name), contents.as_bytes())
    }

    /// Writes a value as a JSON file of the run: `summary.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let path = self.path.join(name);
        let text = serde_json::to_string_pretty(value).map_err(|e| Error::io(&path)(e.into()))?;
        self.write(name, &(text + "\n"))
    }

    /// Appends a line to `metrics.jsonl` and returns its new length in bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn record(&self, line: &impl Serialize) -> Result<u64> {
        let path = self.path.join("metrics.jsonl");
        let append = || {
            let mut text = serde_json::to_string(line)?;
            text.push('\n');
            let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
            file.write_all(text.as_bytes())?;
            file.stream_position()
        };
        append().map_err(Error::io(&path))
    }

    /// Cuts `metrics.jsonl` back to `length` bytes: what was recorded after a checkpoint is recorded again.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn rewind(&self, length: u64) -> Result<()> {
        let path = self.path.join("metrics.jsonl");
        let cut = || {
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            if file.metadata()?.len() > length { file.set_len(length) } else { Ok(()) }
        };
        cut().map_err(Error::io(&path))
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if self.kept.load(Ordering::Relaxed) {
            // The name of the owner goes; the lock itself ends with the file handle.
            let _ = self.lock.set_len(0);
            return;
        }
        // Nothing half-written stays; what cannot be removed is no reason to fail a second time.
        if self.made {
            let _ = std::fs::remove_dir_all(&self.path);
        } else {
            for name in entries(&self.path) {
                let path = self.path.join(name);
                let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
            }
        }
    }
}

fn entries(path: &Path) -> Vec<std::ffi::OsString> {
    std::fs::read_dir(path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name())).collect()
}

/// Locks the folder for this process. The lock is the operating system's and ends with the process, however it ends.
fn take(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let mut options = OpenOptions::new();
    let mut file = options.create(true).truncate(false).read(true).write(true).open(&path).map_err(Error::io(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // An unreadable owner is still an owner.
            let _ = file.read_to_string(&mut owner);
            let reason = format!("another run is using the folder: {}", owner.trim());
            return Err(Error::input(folder.display(), reason, "wait for it to end, or choose another --out"));
        }
        // A file system without locks: one user is assumed.
        Err(TryLockError::Error(_)) => return Ok(file),
    }
    let owner = format!("process {}\n", std::process::id());
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(owner.as_bytes())
    };
    write(&mut file).map_err(Error::io(&path))?;
    Ok(file)
}

/// The largest memory this process has held, in bytes; `None` where the system does not tell.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(1024 * line.split_whitespace().nth(1)?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_folder_in_use_is_refused_with_the_way_out() {
        let root = folder();
        std::fs::write(root.path().join("notes"), "mine").unwrap();
        let message = RunDir::create(root.path(), false).unwrap_err().to_string();
        assert!(message.contains("--resume") && message.contains("--out"), "{message}");
        assert!(RunDir::create(root.path(), true).is_err(), "notes are not a run");
        assert!(root.path().join("notes").exists());
    }

    #[test]
    fn a_run_that_fails_early_leaves_nothing() {
        let root = folder();
        let path = root.path().join("run");
        let run = RunDir::create(&path, false).unwrap();
        run.write("run.toml", "x = 1").unwrap();
        drop(run);
        assert!(!path.exists());
    }

    #[test]
    fn a_kept_run_stays_and_can_be_resumed() {
        let root = folder();
        let path = root.path().join("run");
        let run = RunDir::create(&path, false).unwrap();
        run.write("run.toml", "x = 1").unwrap();
        run.keep();
        drop(run);
        assert!(RunDir::resume(&path).is_ok());
        assert!(RunDir::create(&path, false).is_err());
        assert!(RunDir::create(&path, true).is_ok());
    }

    #[test]
    fn two_owners_are_refused_by_name() {
        let root = folder();
        let path = root.path().join("run");
        let _first = RunDir::create(&path, false).unwrap();
        let message = RunDir::create(&path, false).unwrap_err().to_string();
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
    }

    #[test]
    fn metrics_can_be_rewound() {
        let root = folder();
        let run = RunDir::create(&root.path().join("run"), false).unwrap();
        let first = run.record(&1).unwrap();
        run.record(&2).unwrap();
        run.rewind(first).unwrap();
        run.record(&3).unwrap();
        assert_eq!(std::fs::read_to_string(run.path().join("metrics.jsonl")).unwrap(), "1\n3\n");
    }
}
