//! The safetensors format: read through its crate, written here.
//!
//! Written here because the crate takes the metadata as a hash map and so writes two or more entries in random order;
//! a run must end in the same bytes every time.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::{fmt, io};

use ::safetensors::tensor::{Dtype, SafeTensors};
use candle_core::DType;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value, json};

use super::element::{self, Element, Layout};
use super::{Bad, Tensors};
use crate::{Error, Result, files};

pub(super) fn parse(bytes: &[u8]) -> Result<Tensors, Bad> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| Bad::new(format!("not a whole safetensors file: {e}")))?;
    let (header, _) = SafeTensors::read_metadata(bytes).map_err(|e| Bad::new(e.to_string()))?;
    let header = bytes.get(8..8 + header).unwrap_or_default();
    let names = serde_json::from_slice::<Names>(header).map_err(|e| Bad::new(e.to_string()))?;
    if let Some(name) = names.repeated {
        return Err(Bad::new(format!("names the tensor {name:?} twice")));
    }
    let mut tensors = Tensors::new();
    for (name, view) in file.iter() {
        let named = |bad: Bad| Bad { reason: format!("tensor {name:?}: {}", bad.reason), ..bad };
        let element = element_of(view.dtype()).map_err(named)?;
        let layout = Layout::contiguous(view.shape().to_vec()).map_err(named)?;
        tensors.insert(name.to_string(), element::tensor(element, view.data(), &layout).map_err(named)?);
    }
    Ok(tensors)
}

/// The first key of an object that is in it twice.
struct Names {
    repeated: Option<String>,
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Self { repeated: None })
    }
}

impl<'de> Visitor<'de> for Names {
    type Value = Self;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        let mut seen = HashSet::new();
        while let Some((name, _)) = map.next_entry::<String, IgnoredAny>()? {
            if self.repeated.is_none() && !seen.insert(name.clone()) {
                self.repeated = Some(name);
            }
        }
        Ok(self)
    }
}

fn element_of(dtype: Dtype) -> Result<Element, Bad> {
    Ok(match dtype {
        Dtype::F64 => Element::F64,
        Dtype::F32 => Element::F32,
        Dtype::F16 => Element::F16,
        Dtype::BF16 => Element::BF16,
        Dtype::I64 => Element::I64,
        Dtype::I32 => Element::I32,
        Dtype::I16 => Element::I16,
        Dtype::I8 => Element::I8,
        Dtype::U64 => Element::U64,
        Dtype::U32 => Element::U32,
        Dtype::U16 => Element::U16,
        Dtype::U8 => Element::U8,
        Dtype::BOOL => Element::Bool,
        other => {
            return Err(Bad::new(format!("elements of type {other}, which topwork does not read"))
                .remedy("convert the weights to F32, F16 or BF16"));
        }
    })
}

/// Writes tensors as safetensors, atomically; equal tensors and metadata give equal bytes. Metadata gets
/// `format: pt` unless it says otherwise, without which transformers refuses the file.
///
/// Tensors lie in the order of their names, those with wider elements first, so that every one is aligned.
pub fn write_safetensors(path: &Path, tensors: &Tensors, metadata: &BTreeMap<String, String>) -> Result<()> {
    if tensors.contains_key("__metadata__") {
        let reason = "the name `__metadata__` is taken by the format";
        return Err(Error::input(path.display(), reason, "rename that tensor"));
    }
    let mut ordered = tensors.iter().collect::<Vec<_>>();
    ordered.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.dtype().size_in_bytes())); // stable: names stay sorted

    let mut metadata = metadata.clone();
    metadata.entry("format".into()).or_insert_with(|| "pt".into());
    let mut header = Map::new();
    header.insert("__metadata__".into(), metadata.into_iter().map(|(k, v)| (k, Value::String(v))).collect());
    let mut end = 0;
    for (name, tensor) in &ordered {
        let start = end;
        end += tensor.elem_count() * tensor.dtype().size_in_bytes();
        let info = json!({"dtype": dtype_name(tensor.dtype())?, "shape": tensor.dims(), "data_offsets": [start, end]});
        header.insert(name.to_string(), info);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');

    files::write_atomic(path, |writer| {
        writer.write_all(&(header.len() as u64).to_le_bytes())?;
        writer.write_all(&header)?;
        for (_, tensor) in &ordered {
            writer.write_all(&element::bytes_of(tensor).map_err(io::Error::other)?)?;
        }
        Ok(())
    })
}

fn dtype_name(dtype: DType) -> Result<&'static str> {
    Ok(match dtype {
        DType::U8 => "U8",
        DType::U32 => "U32",
        DType::I16 => "I16",
        DType::I32 => "I32",
        DType::I64 => "I64",
        DType::BF16 => "BF16",
        DType::F16 => "F16",
        DType::F32 => "F32",
        DType::F64 => "F64",
        other => return Err(candle_core::Error::Msg(format!("tensors of type {}", other.as_str())).into()),
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    fn example() -> Tensors {
        let cpu = &Device::Cpu;
        Tensors::from([
            ("a.steps".to_string(), Tensor::new(&[3i64], cpu).unwrap()),
            ("a.bytes".to_string(), Tensor::new(&[1u8, 2, 3], cpu).unwrap()),
            ("b.weight".to_string(), Tensor::new(&[[1f32, 2.], [3., 4.]], cpu).unwrap().t().unwrap()),
            ("scalar".to_string(), Tensor::new(5f32, cpu).unwrap()),
        ])
    }

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    #[test]
    fn what_was_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        write_safetensors(&path, &example(), &BTreeMap::new()).unwrap();
        let read = crate::checkpoint::read(&path).unwrap();
        assert_eq!(read.keys().collect::<Vec<_>>(), example().keys().collect::<Vec<_>>());
        assert_eq!(read["b.weight"].to_vec2::<f32>().unwrap(), [[1., 3.], [2., 4.]]);
        assert_eq!(read["a.steps"].to_vec1::<i64>().unwrap(), [3]);
        assert_eq!(read["a.bytes"].to_vec1::<u8>().unwrap(), [1, 2, 3]);
        assert_eq!(read["scalar"].to_scalar::<f32>().unwrap(), 5.);
    }

    #[test]
    fn the_same_tensors_give_the_same_bytes_with_sorted_metadata() {
        let folder = tempfile::tempdir().unwrap();
        let metadata: BTreeMap<_, _> = (0..9).map(|i| (format!("key{i}"), i.to_string())).collect();
        let write = |name: &str| {
            let path = folder.path().join(name);
            write_safetensors(&path, &example(), &metadata).unwrap();
            std::fs::read(path).unwrap()
        };
        let bytes = write("one");
        assert_eq!(bytes, write("two"));
        let header = String::from_utf8_lossy(&bytes[8..]).into_owned();
        let expected = "{\"__metadata__\":{\"format\":\"pt\",\"key0\":\"0\",\"key1\":\"1\"";
        assert!(header.starts_with(expected), "{header}");
    }

    #[test]
    fn every_tensor_starts_at_a_multiple_of_its_element_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write_safetensors(&path, &example(), &BTreeMap::new()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for (name, view) in file.iter() {
            let start = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
            assert_eq!(start % (view.dtype().bitsize() / 8), 0, "{name}");
        }
    }

    #[test]
    fn a_tensor_may_not_take_the_name_of_the_metadata() {
        let folder = tempfile::tempdir().unwrap();
        let tensors = Tensors::from([("__metadata__".to_string(), Tensor::new(5f32, &Device::Cpu).unwrap())]);
        assert!(write_safetensors(&folder.path().join("x"), &tensors, &BTreeMap::new()).is_err());
        assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write_safetensors(&path, &example(), &BTreeMap::new()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for end in 0..bytes.len() {
            assert!(super::super::parse(&bytes[..end], &path).is_err(), "{end} of {} bytes", bytes.len());
        }
    }

    #[test]
    fn offsets_and_shapes_that_lie_are_errors() {
        let one = |shape: &str, offsets: &str| {
            format!("{{\"a\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":{offsets}}}}}")
        };
        let two = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\
                    \"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}";
        for (claim, header, data) in [
            ("overlapping", two.to_string(), 12),
            ("beyond the file", one("[4]", "[0,16]"), 8),
            ("reversed", one("[2]", "[8,0]"), 8),
            ("a hole before", one("[1]", "[4,8]"), 8),
            ("shape of another size", one("[3]", "[0,8]"), 8),
            ("shape that overflows", one("[4611686018427387904,4]", "[0,0]"), 0),
            ("strides that overflow", one("[0,4611686018427387904,4]", "[0,0]"), 0),
            ("terabytes", one("[1099511627776]", "[0,4398046511104]"), 8),
            ("negative", one("[-1]", "[0,4]"), 4),
            ("bytes after the end", one("[1]", "[0,4]"), 12),
        ] {
            assert!(parse(&file(&header, &vec![0; data])).is_err(), "{claim}");
        }
        assert!(parse(&file(&one("[2]", "[0,8]"), &[0; 8])).is_ok());
    }

    #[test]
    fn a_header_longer_than_the_file_is_an_error() {
        assert!(parse(&[&u64::MAX.to_le_bytes()[..], b"{}"].concat()).is_err());
        assert!(parse(&[&1_000_000u64.to_le_bytes()[..], b"{}"].concat()).is_err());
    }

    #[test]
    fn an_unreadable_element_type_is_named() {
        let header = "{\"w\":{\"dtype\":\"F8_E4M3\",\"shape\":[4],\"data_offsets\":[0,4]}}";
        let bad = parse(&file(header, &[0; 4])).unwrap_err();
        assert!(bad.reason.contains("F8_E4M3") && bad.reason.contains("\"w\""), "{}", bad.reason);
    }
}
