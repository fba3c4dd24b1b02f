//! The two containers of `torch.save`: a zip archive since PyTorch 1.6, a sequence of pickles and raw bytes before.
//!
//! Both hold a pickle of the structure and the elements of its storages apart. Only storages that a wanted tensor
//! looks into are read, one at a time, so the optimizer state of a training checkpoint costs nothing.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use zip::ZipArchive;
use zip::result::ZipError;

use super::element::{self, Element};
use super::pickle::{Id, Pickle, TensorRef, Value};
use super::{Bad, Tensors};

/// `torch.serialization.MAGIC_NUMBER`, little-endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Entries under which training scripts keep the weights.
const WRAPPERS: [&str; 3] = ["state_dict", "model_state_dict", "model"];

/// Tensors may be larger than their file (half precision widened, shared storages, deflated archives), but not
/// without bound.
fn memory_allowed(file_len: usize) -> usize {
    file_len.saturating_mul(64).saturating_add(16 << 20)
}

/// Whether this begins as `torch.save` did before PyTorch 1.6.
pub(super) fn is_legacy(bytes: &[u8]) -> bool {
    // PROTO 2, LONG1 of ten bytes
    bytes.starts_with(&[0x80, 2, 0x8a, 10]) && bytes[4..].starts_with(&MAGIC)
}

/// Magic number, protocol version, machine, structure, list of storage keys; then per key a length and the elements.
pub(super) fn parse_legacy(bytes: &[u8]) -> Result<Tensors, Bad> {
    let mut rest = bytes;
    let mut next = || {
        let pickle = Pickle::parse(rest)?;
        rest = &rest[pickle.len..];
        Ok::<_, Bad>(pickle)
    };
    next()?; // the magic number
    let version = next()?;
    if version.get(version.root) != &Value::Int(1001) {
        return Err(Bad::new("a version of PyTorch's legacy format other than 1001"));
    }
    let machine = next()?;
    if entry(&machine, machine.root, "little_endian").is_some_and(|v| machine.get(v) == &Value::Bool(false)) {
        return Err(big_endian());
    }
    let structure = next()?;
    let keys = next()?;
    let wanted = StateDict::find(&structure)?;
    let elements: BTreeMap<&str, Element> = storages(&structure);

    let Value::List(keys_in_order) = keys.get(keys.root) else {
        return Err(Bad::new("a damaged PyTorch file (no list of storages)"));
    };
    let mut by_key = BTreeMap::new();
    for &key in keys_in_order {
        let &Value::Str(key) = keys.get(key) else {
            return Err(Bad::new("a damaged PyTorch file (a storage key that is not text)"));
        };
        let element = elements.get(key).ok_or_else(|| Bad::new("a damaged PyTorch file (an unknown storage)"))?;
        let (len, after) = rest.split_first_chunk().ok_or_else(truncated)?;
        let len = usize::try_from(u64::from_le_bytes(*len)).ok().and_then(|len| len.checked_mul(element.size()));
        let (data, after) = len.and_then(|len| after.split_at_checked(len)).ok_or_else(truncated)?;
        by_key.insert(key, data);
        rest = after;
    }
    wanted.read(memory_allowed(bytes.len()), |key, read| {
        read(by_key.get(key).ok_or_else(|| Bad::new(format!("storage {key:?} is missing from the file")))?)
    })
}

/// `<name>/data.pkl` with the structure, `<name>/data/<key>` with the elements, `<name>/byteorder`.
pub(super) fn parse_zip(bytes: &[u8]) -> Result<Tensors, Bad> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|e| zip_error("archive", e))?;
    let mut names = archive.file_names().filter_map(Result::ok);
    let prefix = names.find_map(|name| Some(name.strip_suffix("data.pkl")?.to_string())).filter(|p| p.len() < 4096);
    drop(names);
    let prefix = prefix.ok_or_else(|| Bad::new("a zip archive, but not one written by torch.save (no data.pkl)"))?;
    let allowed = memory_allowed(bytes.len());

    let byteorder = format!("{prefix}byteorder");
    if archive.index_for_name(&byteorder).is_some() && member(&mut archive, &byteorder, 16)? == b"big" {
        return Err(big_endian());
    }
    let pickle = member(&mut archive, &format!("{prefix}data.pkl"), allowed)?;
    let structure = Pickle::parse(&pickle)?;
    StateDict::find(&structure)?
        .read(allowed, |key, read| read(&member(&mut archive, &format!("{prefix}data/{key}"), allowed)?))
}

/// One member of the archive, checked against its CRC; more than `limit` bytes are an error.
fn member(archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str, limit: usize) -> Result<Vec<u8>, Bad> {
    let file = archive.by_name(name).map_err(|e| zip_error(name, e))?;
    let too_large = || Bad::new(format!("{name} in the archive unpacks to more than {limit} bytes"));
    let size = usize::try_from(file.size()).ok().filter(|&size| size <= limit).ok_or_else(too_large)?;
    // The declared size may lie: it is the read that is bounded, and memory grows with what really comes.
    let mut contents = Vec::with_capacity(size.min(file.compressed_size() as usize).min(1 << 20));
    let read = file.take(limit as u64 + 1).read_to_end(&mut contents);
    read.map_err(|e| Bad::new(format!("{name} in the archive cannot be unpacked: {e}")))?;
    if contents.len() > limit { Err(too_large()) } else { Ok(contents) }
}

fn zip_error(what: &str, error: ZipError) -> Bad {
    Bad::new(match error {
        ZipError::FileNotFound => format!("{what} is missing from the archive"),
        error => format!("a damaged or truncated zip archive ({what}: {error})"),
    })
}

fn truncated() -> Bad {
    Bad::new("the file ends too early: its copy or download was cut off")
}

fn big_endian() -> Bad {
    Bad::new("written on a big-endian machine").remedy("convert it to safetensors in Python")
}

fn entry(pickle: &Pickle<'_>, dict: Id, key: &str) -> Option<Id> {
    let Value::Dict(entries) = pickle.get(dict) else { return None };
    // As in Python, the last one set counts.
    entries.iter().rev().find(|(k, _)| pickle.get(*k) == &Value::Str(key)).map(|&(_, value)| value)
}

/// The element type of every storage the structure mentions, tensors of other entries included.
fn storages<'a>(pickle: &Pickle<'a>) -> BTreeMap<&'a str, Element> {
    pickle.storages().map(|storage| (storage.key, storage.element)).collect()
}

/// The named tensors of a checkpoint.
struct StateDict<'p, 'a> {
    tensors: BTreeMap<&'a str, &'p TensorRef<'a>>,
}

impl<'p, 'a> StateDict<'p, 'a> {
    fn find(pickle: &'p Pickle<'a>) -> Result<Self, Bad> {
        let mut dict = pickle.root;
        // Bounded, because a dictionary may hold itself.
        for _ in 0..4 {
            let inner = WRAPPERS
                .iter()
                .find_map(|key| entry(pickle, dict, key).filter(|&inner| matches!(pickle.get(inner), Value::Dict(_))));
            match inner {
                Some(inner) => dict = inner,
                None => break,
            }
        }
        let Value::Dict(entries) = pickle.get(dict) else {
            return Err(Bad::new("holds no dictionary of tensors").remedy("save `model.state_dict()`"));
        };
        let tensors: BTreeMap<_, _> = entries
            .iter()
            .filter_map(|&(key, value)| match (pickle.get(key), pickle.get(value)) {
                (&Value::Str(key), Value::Tensor(tensor)) => Some((key, tensor)),
                _ => None, // counters, versions and the like
            })
            .collect();
        if tensors.is_empty() {
            let keys = entries.iter().filter_map(|&(key, _)| match pickle.get(key) {
                Value::Str(key) => Some(format!("{key:?}")),
                _ => None,
            });
            let keys = keys.take(8).collect::<Vec<_>>().join(", ");
            return Err(Bad::new(format!("a dictionary without tensors (its keys: {keys})"))
                .remedy("save the state dictionary itself, or under the key \"state_dict\""));
        }
        Ok(Self { tensors })
    }

    /// Reads the elements. `with_storage` hands the bytes of a storage to the function it is given.
    fn read(
        &self,
        allowed: usize,
        mut with_storage: impl FnMut(&str, &mut dyn FnMut(&[u8]) -> Result<(), Bad>) -> Result<(), Bad>,
    ) -> Result<Tensors, Bad> {
        let mut by_storage: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut memory = 0usize;
        for (&name, tensor) in &self.tensors {
            let count = tensor.layout.checked_count(tensor.storage.len).map_err(|bad| at(name, bad))?;
            memory = memory.saturating_add(count.saturating_mul(tensor.storage.element.size_read()));
            by_storage.entry(tensor.storage.key).or_default().push(name);
        }
        if memory > allowed {
            return Err(Bad::new(format!("declares {memory} bytes of tensors, far more than the file can hold")));
        }
        let mut tensors = Tensors::new();
        for (key, names) in by_storage {
            with_storage(key, &mut |data| {
                for &name in &names {
                    let TensorRef { storage, layout } = self.tensors[name];
                    if storage.len.checked_mul(storage.element.size()) != Some(data.len()) {
                        let reason = format!("its storage holds {} bytes, not {} elements", data.len(), storage.len);
                        return Err(at(name, Bad::new(reason)));
                    }
                    let tensor = element::tensor(storage.element, data, layout).map_err(|bad| at(name, bad))?;
                    tensors.insert(name.to_string(), tensor);
                }
                Ok(())
            })?;
        }
        Ok(tensors)
    }
}

fn at(name: &str, bad: Bad) -> Bad {
    Bad { reason: format!("tensor {name:?}: {}", bad.reason), ..bad }
}
