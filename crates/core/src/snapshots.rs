//! Numbered checkpoints of a run: tensors beside a JSON value that says what they are.
//!
//! `000007.safetensors` holds the tensors, `000007.json` the value with their digest in it. The JSON file is written last:
//! without it a checkpoint does not exist. The last two are kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::checkpoint::{parse, write_safetensors};
use crate::files::{create_dir_all, read_small, write_atomic_bytes};
use crate::{Error, Result};

const KEEP: usize = 2;

/// What the JSON file holds.
pub trait Sealed: Serialize + DeserializeOwned {
    /// BLAKE3 of the tensors' file, in hexadecimal: where it is kept.
    fn digest(&mut self) -> &mut String;
}

fn tensors_file(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("{number:06}.safetensors"))
}

/// Numbers of the checkpoints in `folder`, ascending.
fn numbers(folder: &Path) -> Vec<usize> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |path: PathBuf| {
        path.extension().is_some_and(|e| e == "json").then(|| path.file_stem()?.to_str()?.parse().ok())?
    };
    let mut all: Vec<usize> = files.filter_map(|entry| number(entry.path())).collect();
    all.sort_unstable();
    all
}

/// Writes checkpoint `number` and removes those before the last two.
///
/// # Errors
/// When it cannot be written.
pub fn write(folder: &Path, number: usize, tensors: &BTreeMap<String, Tensor>, value: &mut impl Sealed) -> Result<()> {
    create_dir_all(folder)?;
    let file = tensors_file(folder, number);
    write_safetensors(&file, tensors, &BTreeMap::new())?;
    let bytes = std::fs::read(&file).map_err(Error::io(&file))?;
    *value.digest() = blake3::hash(&bytes).to_hex().to_string();
    let json = folder.join(format!("{number:06}.json"));
    let text = serde_json::to_vec_pretty(value).map_err(|e| Error::io(&json)(e.into()))?;
    write_atomic_bytes(&json, &text)?;
    let all = numbers(folder);
    for &old in &all[..all.len().saturating_sub(KEEP)] {
        // A leftover costs space, not correctness.
        let _ = std::fs::remove_file(folder.join(format!("{old:06}.json")));
        let _ = std::fs::remove_file(tensors_file(folder, old));
    }
    Ok(())
}

/// The latest whole checkpoint in `folder`.
pub fn latest<T: Sealed>(folder: &Path) -> Option<(T, BTreeMap<String, Tensor>)> {
    numbers(folder).into_iter().rev().find_map(|number| {
        let text = read_small(&folder.join(format!("{number:06}.json"))).ok()?;
        let mut value: T = serde_json::from_slice(&text).ok()?;
        // Compared on the disk first: what somebody else put there may be larger than memory.
        let file = tensors_file(folder, number);
        let mut hasher = blake3::Hasher::new();
        hasher.update_mmap_rayon(&file).ok()?;
        if hasher.finalize().to_hex().as_str() != value.digest() {
            return None;
        }
        Some((value, parse(&std::fs::read(&file).ok()?, &file).ok()?))
    })
}
