//! The one error type of the workspace: what a user can cause names its subject, the reason and the remedy.

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Shorthand used throughout the workspace.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Bytes of a subject or reason that are told.
const MOST_SHOWN: usize = 2000;

/// What can go wrong, split by who can mend it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something the user supplied is unusable: a file, a row, a flag, a model.
    #[error("{subject}: {reason}\n  {remedy}")]
    Input {
        /// The file, row or flag.
        subject: String,
        /// What is wrong with it.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
    /// The operating system refused to read or write a file.
    #[error("{}: {source}{}", path.display(), io_remedy(source))]
    Io {
        /// The file or folder concerned.
        path: PathBuf,
        /// The refusal.
        source: std::io::Error,
    },
    /// The user stopped it; nothing that was done is lost.
    #[error("stopped\n  {remedy}")]
    Stopped {
        /// How to go on.
        remedy: String,
    },
    /// A tensor operation failed: a defect of topwork or a device out of memory, not of the input.
    #[error("internal: {0}")]
    Tensor(#[from] candle_core::Error),
}

fn io_remedy(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::*;
    match error.kind() {
        NotFound => "\n  check the path",
        PermissionDenied => "\n  check its permissions, or choose another place",
        StorageFull | QuotaExceeded => "\n  free some space, or choose another place",
        FileTooLarge => "\n  raise the limit on the size of files, or choose another place",
        ReadOnlyFilesystem => "\n  choose another place",
        IsADirectory => "\n  name a file",
        NotADirectory => "\n  name a folder",
        InvalidData => "\n  restore it, or save it anew as UTF-8",
        _ => "\n  check the file and the disk it is on, then try again",
    }
}

/// A text that may quote a file: neither longer than a screen nor able to steer a terminal.
fn printable(text: impl Display) -> String {
    let text = text.to_string();
    let mut shown = String::with_capacity(text.len().min(MOST_SHOWN));
    for c in text.chars() {
        if shown.len() > MOST_SHOWN {
            shown.push('…');
            break;
        }
        match c {
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => shown.extend(c.escape_debug()),
            c => shown.push(c),
        }
    }
    shown
}

impl Error {
    /// An [`Error::Input`]: `subject` is the file, row or flag, `remedy` an instruction.
    pub fn input(subject: impl Display, reason: impl Display, remedy: impl Display) -> Self {
        Self::Input { subject: printable(subject), reason: printable(reason), remedy: remedy.to_string() }
    }

    /// For `map_err` on file operations.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// The exit code of a binary that ends with this error: 2 for what the user can mend, 130 as of any program that Ctrl-C
    /// ended, 1 for the rest.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Input { .. } | Self::Io { .. } => 2,
            Self::Stopped { .. } => 130,
            Self::Tensor(_) => 1,
        }
    }
}
