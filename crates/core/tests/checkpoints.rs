//! Checkpoints that PyTorch itself wrote (`xtask/parity/checkpoints.py` makes them again).

use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use topwork_core::checkpoint::{self, Tensors};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn read(name: &str) -> Tensors {
    checkpoint::read(&fixture(name)).unwrap()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn ramp(count: usize) -> Vec<f32> {
    (0..count).map(|i| i as f32 / 4.).collect()
}

fn refusal(bytes: &[u8]) -> String {
    checkpoint::parse(bytes, Path::new("some.pth")).unwrap_err().to_string()
}

#[test]
fn both_forms_hold_the_values_that_were_saved() {
    for name in ["tensors-zip.pth", "tensors-legacy.pth"] {
        let read = read(name);
        assert_eq!(read.len(), 12, "{name}");
        assert_eq!(read["weight"].dims(), [4, 3]);
        assert_eq!(floats(&read["weight"]), ramp(12));
        for key in ["half", "bfloat", "double"] {
            assert_eq!(read[key].dtype(), DType::F32, "{key}");
            assert_eq!(floats(&read[key]), ramp(5), "{name} {key}");
        }
        assert_eq!(read["steps"].to_scalar::<i64>().unwrap(), 7);
        assert_eq!(read["ints"].to_vec1::<i64>().unwrap(), [-1, 2]);
        assert_eq!(read["mask"].to_vec1::<u8>().unwrap(), [1, 0]);
        assert_eq!(read["empty"].dims(), [0, 3]);
    }
}

#[test]
fn views_are_read_in_their_own_order() {
    for name in ["tensors-zip.pth", "tensors-legacy.pth"] {
        let read = read(name);
        assert_eq!(read["transposed"].dims(), [4, 3]);
        assert_eq!(floats(&read["transposed"].t().unwrap().contiguous().unwrap()), ramp(12), "{name}");
        assert_eq!(read["expanded"].to_vec2::<f32>().unwrap(), [[0.; 3], [0.25; 3]]);
    }
}

#[test]
fn tensors_that_share_a_storage_are_both_read() {
    for name in ["tensors-zip.pth", "tensors-legacy.pth"] {
        let read = read(name);
        assert_eq!(floats(&read["shared.all"]), ramp(12));
        assert_eq!(read["shared.columns"].to_vec2::<f32>().unwrap(), [[0.5, 0.75, 1.], [2., 2.25, 2.5]], "{name}");
    }
}

#[test]
fn a_training_checkpoint_gives_its_weights_only() {
    for name in ["training-zip.pth", "training-legacy.pth"] {
        let read = read(name);
        let names: Vec<_> = read.keys().map(String::as_str).collect();
        let expected =
            ["0.bias", "0.weight", "1.bias", "1.num_batches_tracked", "1.running_mean", "1.running_var", "1.weight"];
        assert_eq!(names, expected, "{name}");
        assert_eq!(floats(&read["0.weight"]), ramp(4));
        assert_eq!(read["1.num_batches_tracked"].to_scalar::<i64>().unwrap(), 1);
    }
}

#[test]
fn a_pickle_that_would_run_a_command_is_refused_by_name() {
    let bytes = std::fs::read(fixture("malicious-zip.pth")).unwrap();
    let message = refusal(&bytes);
    assert!(message.contains("posix.system") || message.contains("nt.system"), "{message}");
    assert!(message.contains("some.pth"), "{message}");
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    for name in ["tensors-zip.pth", "tensors-legacy.pth", "training-legacy.pth"] {
        let bytes = std::fs::read(fixture(name)).unwrap();
        for end in 0..bytes.len() {
            assert!(checkpoint::parse(&bytes[..end], Path::new(name)).is_err(), "{name} cut to {end}");
        }
    }
}

/// Rewrites the archive, each member through `change` (name, contents), `None` leaving it out.
fn rezip(name: &str, change: impl Fn(&str, Vec<u8>) -> Option<Vec<u8>>, deflated: bool) -> Vec<u8> {
    let mut archive = zip::ZipArchive::new(Cursor::new(std::fs::read(fixture(name)).unwrap())).unwrap();
    let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let method = if deflated { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    for i in 0..archive.len() {
        let mut file = archive.by_index(i).unwrap();
        let member = file.name().unwrap().to_string();
        let mut contents = Vec::new();
        file.read_to_end(&mut contents).unwrap();
        if let Some(contents) = change(&member, contents) {
            out.start_file(member, options).unwrap();
            out.write_all(&contents).unwrap();
        }
    }
    out.finish().unwrap().into_inner()
}

#[test]
fn a_deflated_archive_is_read_as_well() {
    let bytes = rezip("tensors-zip.pth", |_, contents| Some(contents), true);
    let read = checkpoint::parse(&bytes, Path::new("deflated.pth")).unwrap();
    assert_eq!(checkpoint::digest(&read).unwrap(), checkpoint::digest(&self::read("tensors-zip.pth")).unwrap());
}

#[test]
fn a_big_endian_archive_is_refused() {
    let swap = |name: &str, contents| Some(if name.ends_with("byteorder") { b"big".to_vec() } else { contents });
    assert!(refusal(&rezip("tensors-zip.pth", swap, false)).contains("big-endian"));
}

#[test]
fn a_storage_of_another_size_names_the_tensor() {
    let shorten = |name: &str, mut contents: Vec<u8>| {
        if name.ends_with("data/0") {
            contents.truncate(8);
        }
        Some(contents)
    };
    assert!(refusal(&rezip("tensors-zip.pth", shorten, false)).contains("\"weight\""));
}

#[test]
fn a_missing_storage_is_an_error() {
    let drop = |name: &str, contents| (!name.ends_with("data/0")).then_some(contents);
    assert!(refusal(&rezip("tensors-zip.pth", drop, false)).contains("missing"));
}

#[test]
fn a_zip_archive_of_something_else_is_an_error() {
    let drop = |name: &str, contents| (!name.ends_with("data.pkl")).then_some(contents);
    assert!(refusal(&rezip("tensors-zip.pth", drop, false)).contains("data.pkl"));
}

/// A state dictionary of one f32 tensor, with the sizes as given.
fn pickle(storage_len: i32, size: i32, stride: i32) -> Vec<u8> {
    let mut out = b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage".to_vec();
    out.extend(b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ");
    out.extend(storage_len.to_le_bytes());
    out.extend(b"tQK\x00J");
    out.extend(size.to_le_bytes());
    out.extend(b"\x85J");
    out.extend(stride.to_le_bytes());
    out.extend(b"\x85\x89NtRs.");
    out
}

#[test]
fn declared_sizes_are_not_believed() {
    let with = |pickle: Vec<u8>, storage: usize| {
        let change = |name: &str, contents| match name.rsplit('/').next() {
            Some("data.pkl") => Some(pickle.clone()),
            Some("0") => Some(vec![0; storage]),
            _ => Some(contents),
        };
        checkpoint::parse(&rezip("tensors-zip.pth", change, true), Path::new("lying.pth"))
    };
    assert_eq!(with(pickle(4, 4, 1), 16).unwrap()["w"].dims(), [4]);
    for (claim, bytes) in [
        ("a storage of 8 GB", pickle(i32::MAX, i32::MAX, 1)),
        ("one element expanded to 8 GB", pickle(4, i32::MAX, 0)),
        ("beyond the storage", pickle(4, 5, 1)),
        ("negative", pickle(4, -1, 1)),
        ("a stride beyond the storage", pickle(4, 2, 4)),
    ] {
        assert!(with(bytes, 16).is_err(), "{claim}");
    }
}

#[test]
fn a_small_archive_that_unpacks_to_very_much_is_refused() {
    // 256 MB of zeros deflate to 256 kB
    let bomb = |name: &str, contents| {
        Some(match name.rsplit('/').next() {
            Some("data.pkl") => pickle(64 << 20, 64 << 20, 1),
            Some("0") => vec![0; 256 << 20],
            _ => contents,
        })
    };
    assert!(refusal(&rezip("training-zip.pth", bomb, true)).contains("far more than the file can hold"));
}
