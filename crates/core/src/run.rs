//! The run directory: everything one run leaves behind, owned by one process while it is being written.
//!
//! `run.toml`, `metrics.jsonl`, `checkpoints/`, `model/`, `summary.json`, `report.html`; and `adapter/`, where the strategy
//! learns one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::files::{is_unfinished, sync_folder, write_atomic_bytes};
use crate::{Error, Result};

/// The course of a run, a JSON object a line.
pub const METRICS: &str = "metrics.jsonl";
/// The page about it, its last file.
pub const REPORT: &str = "report.html";
const LOCK: &str = ".lock";
/// Which run it is.
const IDENTITY: &str = ".identity";
/// Where an earlier run waits until the one that replaces it has got somewhere.
const REPLACED: &str = ".replaced";
/// A model or adapter that is not whole yet.
const UNFINISHED: &str = ".unfinished";

/// A run directory in use by this process.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    lock: File,
    /// The folders that this process made: `path` and those above it, innermost first.
    made: Vec<PathBuf>,
    /// What is in it shall stay.
    kept: AtomicBool,
}

/// The error of resuming where there is no run.
pub(crate) fn nothing_to_resume(path: &Path) -> Error {
    let reason = "there is no run to resume: it has no run.toml";
    Error::input(path.display(), reason, "leave out --resume, or name the run's folder with --out")
}

/// The error of going on with what has become another run.
pub(crate) fn another(path: &Path) -> Error {
    let reason = "it was begun with another plan, model, seed or data";
    Error::input(path.display(), reason, "resume with the flags and data of the run, or choose another --out")
}

impl RunDir {
    /// Makes `path`, or takes an empty folder; `force` replaces an earlier run there, and nothing but a run.
    ///
    /// Unless [`RunDir::keep`] is called, dropping the value removes again what was made, and an earlier run stays.
    ///
    /// # Errors
    /// When the folder holds something, is in use by another process, or cannot be written.
    pub fn create(path: &Path, force: bool) -> Result<Self> {
        if path.exists() && !path.is_dir() {
            return Err(Error::input(path.display(), "it is a file, not a folder", "choose another --out"));
        }
        // First of all: what another process is writing is not to be judged.
        if let Some(owner) = owner(path) {
            return Err(in_use(path, &owner));
        }
        let run = is_run(path) || path.join(REPLACED).join("run.toml").is_file();
        match (contents(path).is_empty(), run, force) {
            (true, ..) | (_, true, true) => {}
            (_, true, false) => {
                let remedy = "continue it with --resume, replace it with --force, or choose another --out";
                return Err(Error::input(path.display(), "the folder is already in use by another run", remedy));
            }
            (_, false, _) => {
                let reason = "the folder is already in use: it holds something else than a run";
                return Err(Error::input(path.display(), reason, "choose another --out"));
            }
        }
        let made: Vec<PathBuf> =
            path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).map(Path::to_path_buf).collect();
        let remove = |made: &[PathBuf]| made.iter().for_each(|folder| _ = std::fs::remove_dir(folder));
        std::fs::create_dir_all(path).map_err(Error::io(path)).inspect_err(|_| remove(&made))?;
        let lock = take(path).inspect_err(|_| remove(&made))?;
        leftovers(path).iter().for_each(|name| self::remove(&path.join(name)));
        let run = Self { path: path.to_path_buf(), lock, made, kept: AtomicBool::new(false) };
        // Left by a process that was killed while it had an earlier run put aside.
        if run.path.join(REPLACED).is_dir() {
            run.restore();
        }
        run.put_aside()?;
        Ok(run)
    }

    /// Takes the folder of an earlier run to continue it.
    ///
    /// # Errors
    /// When there is none, or another process is at it.
    pub fn resume(path: &Path) -> Result<Self> {
        if !path.join("run.toml").is_file() {
            return Err(nothing_to_resume(path));
        }
        let lock = take(path)?;
        leftovers(path).iter().for_each(|name| remove(&path.join(name)));
        Ok(Self { path: path.to_path_buf(), lock, made: Vec::new(), kept: AtomicBool::new(true) })
    }

    /// Moves an earlier run out of the way, its `run.toml` last.
    fn put_aside(&self) -> Result<()> {
        let mut earlier = contents(&self.path);
        earlier.sort_by_key(|name| name == "run.toml");
        if earlier.is_empty() {
            return Ok(());
        }
        let aside = self.path.join(REPLACED);
        std::fs::create_dir_all(&aside).map_err(Error::io(&aside))?;
        for name in earlier {
            let old = self.path.join(&name);
            std::fs::rename(&old, aside.join(&name)).map_err(Error::io(&old))?;
        }
        Ok(())
    }

    /// Removes what this process wrote, and brings back an earlier run. What cannot be removed is no reason to fail a
    /// second time.
    fn restore(&self) {
        let aside = self.path.join(REPLACED);
        for name in contents(&self.path).iter().filter(|name| *name != REPLACED) {
            // Of an earlier run that was only in part put aside, this part is still in its place.
            if aside.is_dir() && !aside.join("run.toml").is_file() {
                break;
            }
            remove(&self.path.join(name));
        }
        for name in contents(&aside) {
            let _ = std::fs::rename(aside.join(&name), self.path.join(&name));
        }
        let _ = std::fs::remove_dir(aside);
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
        let aside = self.path.join(REPLACED);
        if aside.is_dir() {
            remove(&aside);
        }
    }

    /// Writes the final model with `save`, which gets a folder: `model/` is whole or absent.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn install_model(&self, save: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        self.install(&self.model(), save)
    }

    /// Writes the adapter that was trained: `adapter/` is whole or absent.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn install_adapter(&self, save: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        self.install(&self.path.join("adapter"), save)
    }

    fn install(&self, place: &Path, save: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let unfinished = self.path.join(UNFINISHED);
        remove(&unfinished);
        save(&unfinished).inspect_err(|_| remove(&unfinished))?;
        remove(place);
        std::fs::rename(&unfinished, place).map_err(Error::io(place))?;
        sync_folder(&self.path).map_err(Error::io(&self.path))
    }

    /// Notes what the run is before anything is done: `identity` is a digest of all that decides what it becomes, `settings` its
    /// `run.toml`.
    ///
    /// # Errors
    /// When the run that is gone on with was begun as another one, or the files cannot be written.
    pub fn begin(&self, identity: &str, settings: &str) -> Result<()> {
        match std::fs::read(self.path.join(IDENTITY)) {
            Ok(known) if known != identity.as_bytes() => Err(another(&self.path)),
            Ok(_) => self.write("run.toml", settings),
            Err(_) => self.write(IDENTITY, identity).and_then(|()| self.write("run.toml", settings)),
        }
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
        let path = self.path.join(METRICS);
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
        let path = self.path.join(METRICS);
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
        // Nothing half-written stays.
        self.restore();
        if !contents(&self.path).is_empty() {
            let _ = self.lock.set_len(0);
            return;
        }
        remove(&self.path.join(LOCK));
        for folder in &self.made {
            // Refused where somebody else put something meanwhile.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// What a run folder holds, the lock and what a killed process left aside.
fn contents(path: &Path) -> Vec<std::ffi::OsString> {
    let leftovers = leftovers(path);
    names(path).filter(|name| name != LOCK && !leftovers.contains(name)).collect()
}

fn names(path: &Path) -> impl Iterator<Item = std::ffi::OsString> {
    std::fs::read_dir(path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name()))
}

/// Whether there is a run, be it one whose `run.toml` is gone.
fn is_run(path: &Path) -> bool {
    let other = |name: std::ffi::OsString| name != LOCK && name != IDENTITY && !is_unfinished(&name);
    path.join("run.toml").is_file() || (path.join(IDENTITY).is_file() && names(path).any(other))
}

/// What a process that was killed before its run began, or while it wrote a file, left in a run folder.
fn leftovers(path: &Path) -> Vec<std::ffi::OsString> {
    names(path).filter(|name| is_unfinished(name) || (name == IDENTITY && !is_run(path))).collect()
}

fn remove(path: &Path) {
    let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
}

fn in_use(folder: &Path, owner: &str) -> Error {
    let reason = format!("another run is using the folder: {owner}");
    Error::input(folder.display(), reason, "wait for it to end, or choose another --out")
}

/// Who holds the lock of a folder, if it is not free.
fn owner(folder: &Path) -> Option<String> {
    let mut file = File::open(folder.join(LOCK)).ok()?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // An unreadable owner is still an owner.
            let _ = file.read_to_string(&mut owner);
            Some(owner.trim().to_string())
        }
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

/// Locks the folder for this process. The lock is the operating system's and ends with the process, however it ends.
fn take(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let mut options = OpenOptions::new();
    let mut file = options.create(true).truncate(false).read(true).write(true).open(&path).map_err(Error::io(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(in_use(folder, &owner(folder).unwrap_or_default()));
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
        assert!(message.contains("something else") && message.contains("--out"), "{message}");
        assert!(RunDir::create(root.path(), true).is_err(), "notes are not a run");
        assert!(root.path().join("notes").exists());
    }

    #[test]
    fn what_a_process_left_that_was_killed_before_its_run_began_is_no_run() {
        let root = folder();
        for name in [".writing-a1b2.tmp", IDENTITY, LOCK] {
            std::fs::write(root.path().join(name), "x").unwrap();
        }
        let run = RunDir::create(root.path(), false).unwrap();
        assert_eq!(names(root.path()).collect::<Vec<_>>(), [LOCK]);
        run.begin("one", "x = 1").unwrap();
        run.keep();
        drop(run);
        let run = RunDir::resume(root.path()).unwrap();
        run.begin("one", "x = 1").unwrap();
        assert!(run.begin("two", "x = 1").unwrap_err().to_string().contains("another plan"));
    }

    #[test]
    fn a_run_whose_settings_are_gone_can_be_replaced() {
        let root = folder();
        let run = RunDir::create(root.path(), false).unwrap();
        run.begin("one", "x = 1").unwrap();
        std::fs::create_dir(run.checkpoints()).unwrap();
        run.keep();
        drop(run);
        std::fs::remove_file(root.path().join("run.toml")).unwrap();
        assert!(RunDir::create(root.path(), false).unwrap_err().to_string().contains("--force"));
        let run = RunDir::create(root.path(), true).unwrap();
        run.begin("two", "x = 2").unwrap();
        run.keep();
        assert!(!run.checkpoints().exists());
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
    fn folders_made_above_a_run_that_fails_go_too() {
        let root = folder();
        drop(RunDir::create(&root.path().join("a/b/run"), false).unwrap());
        assert!(!root.path().join("a").exists());
    }

    #[test]
    fn a_run_is_replaced_only_once_the_new_one_is_kept() {
        let root = folder();
        let path = root.path().join("run");
        let text = || std::fs::read_to_string(path.join("run.toml")).unwrap();
        let first = RunDir::create(&path, false).unwrap();
        first.write("run.toml", "first").unwrap();
        first.keep();
        drop(first);
        let second = RunDir::create(&path, true).unwrap();
        second.write("run.toml", "second").unwrap();
        drop(second);
        assert_eq!(text(), "first");
        let third = RunDir::create(&path, true).unwrap();
        third.write("run.toml", "third").unwrap();
        third.keep();
        drop(third);
        assert_eq!(text(), "third");
        assert!(!path.join(REPLACED).exists());
    }

    #[test]
    fn a_model_that_cannot_be_saved_leaves_none() {
        let root = folder();
        let run = RunDir::create(&root.path().join("run"), false).unwrap();
        let half = |to: &Path| {
            std::fs::create_dir_all(to).map_err(Error::io(to))?;
            std::fs::write(to.join("config.json"), "{}").map_err(Error::io(to))?;
            Err(Error::input("disk", "full", "free some space"))
        };
        assert!(run.install_model(half).is_err());
        assert!(contents(run.path()).is_empty());
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
        assert_eq!(std::fs::read_to_string(run.path().join(METRICS)).unwrap(), "1\n3\n");
    }
}
