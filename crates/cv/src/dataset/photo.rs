//! Where the bytes of a photo are: in a file of its own, or in a stretch of a larger one.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use topwork_core::files::{self, read_at_most};
use topwork_core::source::cache_dir;
use topwork_core::{Error, Result};

/// Most bytes of an encoded photo: half a gigabyte, as many as the largest photo has when decoded.
pub const MOST_BYTES: u64 = 512 << 20;

/// An encoded photo that can be read at any time.
#[derive(Debug, Clone)]
pub enum Photo {
    /// A file of its own.
    File(PathBuf),
    /// A stretch of a larger file.
    Part(Part),
}

/// A stretch of a [`Store`].
#[derive(Debug, Clone)]
pub struct Part {
    store: Arc<Store>,
    at: u64,
    length: u64,
    name: Arc<str>,
}

/// An open file that holds many photos.
#[derive(Debug)]
pub struct Store {
    file: Mutex<File>,
    length: u64,
}

impl Store {
    /// Of a file that is open for reading, called `name` in errors.
    ///
    /// # Errors
    /// When its length cannot be told.
    pub fn new(name: &Path, file: File) -> Result<Arc<Self>> {
        let length = file.metadata().map_err(Error::io(name))?.len();
        Ok(Arc::new(Self { file: Mutex::new(file), length }))
    }

    /// The stretch of `length` bytes from `at`, called `name` in messages.
    ///
    /// # Errors
    /// When it is longer than [`MOST_BYTES`], or the file ends before it does.
    pub fn part(self: &Arc<Self>, name: impl Into<Arc<str>>, at: u64, length: u64) -> Result<Photo> {
        let name = name.into();
        if length > MOST_BYTES {
            return Err(too_long(&name));
        }
        if at.saturating_add(length) > self.length {
            return Err(Error::input(
                name,
                "damaged or cut short: the file ends within it",
                "replace it, or pack it anew",
            ));
        }
        Ok(Photo::Part(Part { store: Arc::clone(self), at, length, name }))
    }
}

impl Photo {
    /// What to call it in messages.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Part(part) => part.name.to_string(),
        }
    }

    /// All its bytes.
    ///
    /// # Errors
    /// When they cannot be read, or are more than [`MOST_BYTES`].
    pub fn read(&self) -> Result<Vec<u8>> {
        match self {
            Self::File(path) => read_at_most(path, MOST_BYTES).map_err(|e| match e.kind() {
                io::ErrorKind::FileTooLarge => too_long(&self.name()),
                _ => Error::io(path)(e),
            }),
            Self::Part(Part { store, at, length, name }) => {
                let mut bytes = vec![0; *length as usize];
                let mut file = store.file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(*at))
                    .and_then(|_| file.read_exact(&mut bytes))
                    .map_err(Error::io(&**name))?;
                Ok(bytes)
            }
        }
    }
}

fn too_long(name: &str) -> Error {
    let reason = format!("holds more than {} million bytes", MOST_BYTES / 1_000_000);
    Error::input(name, reason, "scale the photo down, or remove it")
}

/// A file without a name in the cache directory, which is gone when the last photo of it is.
pub struct Spool {
    file: io::BufWriter<File>,
    length: u64,
}

impl Spool {
    /// An empty one.
    ///
    /// # Errors
    /// When the cache directory cannot be written to.
    pub fn new() -> Result<Self> {
        let folder = cache_dir();
        files::create_dir_all(&folder)?;
        let file = tempfile::tempfile_in(&folder).map_err(Error::io(&folder))?;
        Ok(Self { file: io::BufWriter::with_capacity(1 << 20, file), length: 0 })
    }

    /// Adds all that `source`, called `name` in errors, has, which must be at most `most` bytes; where it is now.
    ///
    /// # Errors
    /// When it cannot be read, is longer, or the disk is full.
    pub fn add(&mut self, name: &str, source: impl Read, most: u64) -> Result<(u64, u64)> {
        let length = io::copy(&mut source.take(most.saturating_add(1)), &mut self.file).map_err(Error::io(name))?;
        if length > most {
            let reason = format!("holds more than {most} bytes where so many are plausible");
            return Err(Error::input(name, reason, "unpack it, and name what is in it"));
        }
        let at = self.length;
        self.length += length;
        Ok((at, length))
    }

    /// The file, complete.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn finish(mut self) -> Result<File> {
        self.file.flush().map_err(Error::io(cache_dir()))?;
        self.file.into_inner().map_err(|e| Error::io(cache_dir())(e.into_error()))
    }
}
