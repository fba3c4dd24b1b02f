//! Weights files: reading what others wrote, writing what everybody reads.
//!
//! [`read`] takes safetensors, the zip form of `torch.save` and the form before PyTorch 1.6, told apart by their
//! contents, and gives tensors by name; [`write_safetensors`] writes. Files are distrusted: nothing in them is
//! executed, and no size they declare is believed beyond what the file can hold. Which names a network wants, and what
//! to do with the others, is for [`crate::net`].

mod element;
mod pickle;
mod safetensors;
mod torch;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use candle_core::Tensor;

pub use self::safetensors::write_safetensors;
use crate::{Error, Result};

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Reads a weights file into tensors on the CPU: floats of any width as f32, signed integers as i64, bytes and
/// booleans as u8, wider unsigned integers as u32 (u64: i64).
///
/// A PyTorch file may hold the state dictionary itself, or a checkpoint with it under `state_dict`,
/// `model_state_dict` or `model`; what else a checkpoint holds is passed over.
///
/// # Errors
/// A missing, truncated or inconsistent file, one of another format, and a pickle that asks for anything but tensors
/// (named in the error).
pub fn read(path: &Path) -> Result<Tensors> {
    let file = File::open(path).map_err(Error::io(path))?;
    let metadata = file.metadata().map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(Error::input(path.display(), "not a file", "name the weights file itself"));
    }
    if metadata.len() == 0 {
        return Err(Bad::new("the file is empty").at(path)); // and an empty file cannot be mapped
    }
    // SAFETY: the map is read-only and lives for this call; as with every memory-mapped reader, the file must not be
    // cut short by another process meanwhile. topwork itself replaces files whole, never in place.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
    parse(&map, path)
}

/// [`read`] for contents that are in memory already; `name` is what errors call them.
pub fn parse(bytes: &[u8], name: &Path) -> Result<Tensors> {
    let tensors = match Format::of(bytes, name) {
        Ok(Format::Safetensors) => safetensors::parse(bytes),
        Ok(Format::TorchZip) => torch::parse_zip(bytes),
        Ok(Format::TorchLegacy) => torch::parse_legacy(bytes),
        Err(bad) => Err(bad),
    };
    tensors.map_err(|bad| bad.at(name))
}

/// A digest of names, types, shapes and values, 64 hexadecimal digits: equal exactly if the tensors are equal bit for
/// bit, whatever file they came from.
pub fn digest(tensors: &Tensors) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for (name, tensor) in tensors {
        // Lengths before contents keep ("ab", "c") apart from ("a", "bc").
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        hasher.update(tensor.dtype().as_str().as_bytes()).update(&[0]);
        hasher.update(&(tensor.rank() as u64).to_le_bytes());
        for &dim in tensor.dims() {
            hasher.update(&(dim as u64).to_le_bytes());
        }
        hasher.update(&element::bytes_of(tensor)?);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

enum Format {
    Safetensors,
    TorchZip,
    TorchLegacy,
}

impl Format {
    fn of(bytes: &[u8], name: &Path) -> Result<Self, Bad> {
        if bytes.starts_with(b"PK\x03\x04") {
            return Ok(Self::TorchZip);
        }
        if bytes.starts_with(b"\x80") && torch::is_legacy(bytes) {
            return Ok(Self::TorchLegacy);
        }
        if bytes.get(8) == Some(&b'{') || name.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors")) {
            return Ok(Self::Safetensors);
        }
        Err(if bytes.starts_with(b"version https://git-lfs") {
            Bad::new("a Git LFS pointer, not the weights").remedy("run `git lfs pull` where it came from")
        } else if bytes.starts_with(b"\x80") {
            Bad::new("a Python pickle, but not (or no longer whole) one written by torch.save")
        } else {
            Bad::new("neither safetensors nor a file written by torch.save")
        })
    }
}

/// What is wrong with a file's contents, before its name is known.
#[derive(Debug)]
struct Bad {
    reason: String,
    remedy: String,
}

impl Bad {
    fn new(reason: impl Into<String>) -> Self {
        let remedy = "fetch or export the file again: it must be a .safetensors file or a state dictionary saved by \
                      torch.save";
        Self { reason: reason.into(), remedy: remedy.into() }
    }

    fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: remedy.into(), ..self }
    }

    fn at(self, path: &Path) -> Error {
        Error::input(path.display(), self.reason, self.remedy)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn digests_differ_by_name_shape_type_and_value() {
        let tensor = |v: &[f32], shape: &[usize]| Tensor::from_slice(v, shape, &Device::Cpu).unwrap();
        let of = |name: &str, t: Tensor| digest(&Tensors::from([(name.to_string(), t)])).unwrap();
        let all = [
            of("a", tensor(&[1., 2.], &[2])),
            of("b", tensor(&[1., 2.], &[2])),
            of("a", tensor(&[1., 2.], &[2, 1])),
            of("a", tensor(&[1., 3.], &[2])),
            of("a", tensor(&[1., 2.], &[2]).to_dtype(candle_core::DType::F64).unwrap()),
        ];
        for (i, digest) in all.iter().enumerate() {
            assert!(!all[..i].contains(digest), "{i}");
        }
        assert_eq!(all[0], of("a", tensor(&[1., 2.], &[2])));
    }

    #[test]
    fn other_files_are_told_what_they_are() {
        let says = |bytes: &[u8], name: &str| parse(bytes, Path::new(name)).unwrap_err().to_string();
        assert!(says(b"version https://git-lfs.github.com/spec/v1\n", "a.pth").contains("git lfs pull"));
        assert!(says(b"<html>not found</html>", "a.pth").contains("neither safetensors nor"));
        assert!(says(b"<html>", "model.safetensors").contains("model.safetensors"));
        assert!(says(b"\x80\x04K\x01.", "a.pkl").contains("pickle"));
    }

    #[test]
    fn missing_and_empty_files_and_folders_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty.safetensors");
        std::fs::write(&path, "").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("empty"));
        assert!(read(folder.path()).unwrap_err().to_string().contains("not a file"));
        assert!(matches!(read(&folder.path().join("absent")), Err(Error::Io { .. })));
    }
}
