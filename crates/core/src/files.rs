//! Files that are whole or absent: atomic writes, checksums, locks between processes.
//!
//! Everything topwork leaves on disk goes through here, so that a kill, a full disk or a second process never leaves
//! half a file under its final name. What the files contain is the business of the callers.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Writes `path` through a temporary file in the same folder: after this returns, the new contents are on the disk;
/// if it fails or the process dies, whatever `path` held before is still there.
///
/// # Errors
/// [`Error::Io`] naming `path`, for a full disk and for whatever `write` reports. The temporary file is removed.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    write_then_rename(path, write).map_err(Error::io(path))
}

/// [`write_atomic`] for contents that are already in memory.
pub fn write_atomic_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic(path, |writer| writer.write_all(bytes))
}

fn write_then_rename(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(1 << 20, Partial::begin(path)?);
    write(&mut writer)?;
    writer.into_inner().map_err(io::IntoInnerError::into_error)?.complete()
}

/// How the names of files begin that are being written.
const UNFINISHED: &str = ".writing-";

/// Whether `name` is that of a file whose writing did not come to its end.
pub(crate) fn is_unfinished(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes())
}

/// A file that is not there before it is whole: dropped, it leaves nothing behind.
pub struct Partial {
    file: tempfile::NamedTempFile,
    path: PathBuf,
}

impl Partial {
    /// Begins the file that will be at `path`.
    ///
    /// # Errors
    /// When its folder cannot be written to.
    pub fn create(path: &Path) -> Result<Self> {
        Self::begin(path).map_err(Error::io(path))
    }

    fn begin(path: &Path) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(UNFINISHED).suffix(".tmp");
        #[cfg(unix)]
        {
            // Temporary files are private by default; the result should have the permissions of any new file.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        Ok(Self { file: builder.tempfile_in(folder_of(path))?, path: path.to_path_buf() })
    }

    /// Puts it in its place, in that of what may be there.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn finish(self) -> Result<()> {
        let path = self.path.clone();
        self.complete().map_err(Error::io(path))
    }

    fn complete(self) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        self.file.persist(&self.path).map_err(|e| e.error)?;
        sync_folder(folder_of(&self.path))
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_file_mut().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.as_file_mut().flush()
    }
}

impl io::Seek for Partial {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.file.as_file_mut().seek(to)
    }
}

/// The folder a file lies in; `.` for a bare file name.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes a rename inside `folder` survive a power cut. Windows cannot open folders and needs no such call.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Most bytes of a file that is read into memory at once: settings, descriptions, vocabularies.
const MOST: u64 = 256 << 20;

/// [`std::fs::read`] for files that are small if they are what they should be.
///
/// # Errors
/// As there; and for more than 256 MB.
pub fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    read_at_most(path, MOST).map_err(|e| match e.kind() {
        io::ErrorKind::FileTooLarge => {
            io::Error::other(format!("larger than {} MB, which no such file is", MOST >> 20))
        }
        _ => e,
    })
}

/// [`std::fs::read`] for files of at most `most` bytes. A device tells no length and has no end.
///
/// # Errors
/// As there; and [`io::ErrorKind::FileTooLarge`] for more.
pub fn read_at_most(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > most {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// [`std::fs::read_to_string`] for such files.
///
/// # Errors
/// As there; and for more than 256 MB.
pub fn read_small_text(path: &Path) -> io::Result<String> {
    let text = String::from_utf8(read_small(path)?);
    text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not valid UTF-8"))
}

/// [`std::fs::create_dir_all`] with an error that names the folder.
pub fn create_dir_all(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(Error::io(path))
}

/// What to do where nothing may be written over.
pub const ELSEWHERE: &str = "choose another --out";

/// Refuses to write over what is there; `remedy` is how to do otherwise.
///
/// # Errors
/// When there is something at `path`.
pub fn vacant(path: &Path, remedy: &str) -> Result<()> {
    if path.exists() {
        return Err(Error::input(path.display(), "it exists already", remedy));
    }
    Ok(())
}

/// Whether a symbolic link ends at a file below `home`, a path without links. What a folder of data links to elsewhere is
/// none of it.
pub fn leads_into(link: &Path, home: &Path) -> bool {
    std::fs::canonicalize(link).is_ok_and(|target| target.starts_with(home) && target.is_file())
}

/// The SHA-256 of a file's contents, 64 lower-case hexadecimal digits.
pub fn sha256_file(path: &Path) -> Result<String> {
    let file = File::open(path).map_err(Error::io(path))?;
    let mut digest = Sha256Writer::new(io::sink());
    io::copy(&mut BufReader::with_capacity(1 << 20, file), &mut digest).map_err(Error::io(path))?;
    Ok(digest.finish())
}

/// A writer that computes the SHA-256 of what passes through it.
pub struct Sha256Writer<W> {
    inner: W,
    digest: Sha256,
}

impl<W: Write> Sha256Writer<W> {
    /// Passes everything on to `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, digest: Sha256::new() }
    }

    /// The digest of everything written so far, 64 lower-case hexadecimal digits.
    pub fn finish(self) -> String {
        self.digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl<W: Write> Write for Sha256Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Copies at most `limit` bytes; more is an error, so that a lying size in an archive cannot fill the disk.
pub(crate) fn copy_limited(reader: impl Read, writer: &mut impl Write, limit: u64) -> io::Result<u64> {
    let copied = io::copy(&mut reader.take(limit.saturating_add(1)), writer)?;
    if copied > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("holds more than the declared {limit} bytes")));
    }
    Ok(copied)
}

/// An advisory lock between processes (and between threads), held until dropped.
///
/// The lock file stays: removing it would let a third process lock a file that has no name any more.
#[derive(Debug)]
pub struct FileLock {
    file: File,
    path: PathBuf,
}

impl FileLock {
    /// Creates the lock file if need be and waits until nobody else holds it; `on_wait` is called once, before
    /// waiting, and not at all when the lock is free.
    pub fn acquire(path: &Path, on_wait: impl FnOnce()) -> Result<Self> {
        create_dir_all(folder_of(path))?;
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(path).map_err(Error::io(path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                on_wait();
                file.lock().map_err(Error::io(path))?;
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(Error::io(path)(e)),
        }
        Ok(Self { file, path: path.to_path_buf() })
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing the file would release it as well; nothing to do if this fails.
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn no_more_is_read_than_is_allowed_not_even_of_what_has_no_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [7; 1000]).unwrap();
        assert_eq!(read_at_most(&path, 1000).unwrap(), [7; 1000]);
        let endless = Path::new("/dev/zero");
        for path in [path.as_path(), endless].into_iter().filter(|path| path.exists()) {
            assert_eq!(read_at_most(path, 999).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        }
    }

    #[test]
    fn a_failed_write_keeps_the_old_contents_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.json");
        write_atomic_bytes(&path, b"old").unwrap();
        let error = write_atomic(&path, |writer| {
            writer.write_all(b"new, but only ha")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["metrics.json"]);
        let message = error.to_string();
        assert!(message.contains("metrics.json") && message.contains("free some space"), "{message}");
    }

    #[test]
    fn a_write_replaces_the_contents() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_atomic_bytes(&path, b"old").unwrap();
        write_atomic_bytes(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn a_full_device_is_an_error_that_names_the_file() {
        // /dev/full refuses every write with "no space left", without filling a disk.
        let Ok(full) = OpenOptions::new().write(true).open("/dev/full") else {
            eprintln!("skipped: this system has no /dev/full");
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let error = write_atomic(&path, |_| (&full).write_all(b"x")).unwrap_err();
        assert!(error.to_string().contains("weights.safetensors"), "{error}");
        assert!(matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull));
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn sha256_of_a_known_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        // FIPS 180-4, example 1
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_file(&path).unwrap(), expected);
    }

    #[test]
    fn copying_stops_at_the_limit() {
        let mut out = Vec::new();
        assert!(copy_limited(io::repeat(0), &mut out, 10).is_err());
        assert!(out.len() <= 11);
    }

    #[test]
    fn a_lock_lets_one_in_at_a_time_and_tells_who_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let (inside, waited) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let first = FileLock::acquire(&path, || panic!("nobody holds it")).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let count = || _ = waited.fetch_add(1, Ordering::SeqCst);
                    let _lock = FileLock::acquire(&path, count).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    std::thread::sleep(std::time::Duration::from_millis(5));
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
            while waited.load(Ordering::SeqCst) < 3 {
                std::thread::yield_now();
            }
            drop(first);
        });
        assert_eq!(waited.load(Ordering::SeqCst), 3);
    }
}
