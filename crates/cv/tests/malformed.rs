//! Malformed photos, data sets, weights and settings, through the binary: each is refused in words that name the file, in
//! bounded time and memory, or taken for what it is.

mod support;

use std::fs::{self, File, Permissions};
use std::io::{Cursor, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;

use flate2::{Compression, write::GzEncoder, write::ZlibEncoder};
use parquet::column::writer::ColumnWriter;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use support::malformed::{Case, case, check, file, payload, safetensors, tensor_pickle, torch_zip};
use support::{Home, home, model, photo, png_of};

/// `train` on `data/` with the weights in this file.
fn weights(path: &str) -> String {
    format!("train --data data --out new --quiet --model ./{path}")
}

/// `train` on these data.
fn data(path: &str) -> String {
    format!("train --data {path} --out new --quiet --model MODEL")
}

const LEARN: &str = "train --data data --out new --quiet --model MODEL";
/// A photo among sound ones.
const STRICT: &str = "train --data data --out new --quiet --model MODEL --strict";
const PREDICT: &str = "embed MODEL --quiet ";

fn png() -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    photo(40, 30, [160, 30, 30], 1).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A file that is as long as it says, and takes no room on the disk.
fn sparse(home: &Home, name: &str, start: &[u8], length: u64) {
    let path = home.write(name, start);
    File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

#[test]
fn weights_in_safetensors() {
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let st = |name, bytes: Vec<u8>, says: &[&'static str]| {
        let all: Vec<&'static str> = ["w.safetensors"].into_iter().chain(says.iter().copied()).collect();
        file(name, "w.safetensors", bytes, &weights("w.safetensors"), &all)
    };
    let two = |first: &str, second: &str| {
        let one =
            |name: &str, offsets: &str| format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}"#);
        format!("{{{},{}}}", one("a", first), one("b", second))
    };
    let named_twice = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    check(
        home,
        model(),
        vec![
            st("safetensors: a header longer than the file", [&(1u64 << 40).to_le_bytes()[..], b"{}"].concat(), &[]),
            st("safetensors: a header that is no JSON", safetensors("{\"a\": [", 0), &[]),
            st("safetensors: a header nested 100,000 deep", safetensors(&"[".repeat(100_000), 0), &[]),
            st("safetensors: a negative shape", safetensors(&tensor("F32", "[-1]", "[0,4]"), 4), &[]),
            st(
                "safetensors: a shape that overflows",
                safetensors(&tensor("F32", "[4611686018427387904,8]", "[0,4]"), 4),
                &[],
            ),
            st(
                "safetensors: a shape of 100,000 dimensions",
                safetensors(&tensor("F32", &format!("[{}1]", "1,".repeat(99_999)), "[0,4]"), 4),
                &[],
            ),
            st("safetensors: offsets beyond the file", safetensors(&tensor("F32", "[4]", "[0,16]"), 4), &[]),
            st("safetensors: offsets backwards", safetensors(&tensor("F32", "[1]", "[4,0]"), 4), &[]),
            st("safetensors: tensors that overlap", safetensors(&two("[0,8]", "[4,12]"), 12), &[]),
            st("safetensors: a tensor named twice", safetensors(named_twice, 4), &["\"a\""]),
            st("safetensors: elements of an unknown type", safetensors(&tensor("F7", "[1]", "[0,4]"), 4), &[]),
            st(
                "safetensors: elements of 8-bit floats",
                safetensors(&tensor("F8_E4M3", "[4]", "[0,4]"), 4),
                &["\"w\"", "convert"],
            ),
            st(
                "safetensors: none of the tensors of a network",
                safetensors(&tensor("F32", "[1]", "[0,4]"), 4),
                &["none of the networks"],
            ),
            st("weights: a page of HTML", b"<!DOCTYPE html><html>not found</html>".to_vec(), &[]),
            case("weights: 2 GB of nothing", |home| sparse(home, "w.pth", b"", 2 << 30), &weights("w.pth"), &["w.pth"]),
            case(
                "weights: a folder",
                |home| fs::create_dir(home.path("w.pth")).unwrap(),
                &weights("w.pth"),
                &["w.pth: no model is in it"],
            ),
        ],
    );
}

/// A folder of the sound model with one thing changed.
fn spoilt(name: &'static str, spoil: impl Fn(&Home) + 'static, says: &[&'static str]) -> Case {
    let make = move |home: &Home| {
        fs::create_dir(home.path("m")).unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(format!("{}/{file}", model()), home.path(&format!("m/{file}"))).unwrap();
        }
        spoil(home);
    };
    case(name, make, "train --data data --out new --quiet --model ./m", says)
}

/// The bytes of the sound weights, with the header of one tensor or its values changed.
fn rewritten(change: impl Fn(&mut topwork_core::checkpoint::Tensors)) -> impl Fn(&Home) {
    move |home| {
        let path = home.path("m/model.safetensors");
        let mut tensors = topwork_core::checkpoint::read(&path).unwrap();
        change(&mut tensors);
        topwork_core::checkpoint::write_safetensors(&path, &tensors, &Default::default()).unwrap();
    }
}

#[test]
fn weights_that_do_not_fit() {
    use candle_core::{DType, Tensor};
    type Tensors = topwork_core::checkpoint::Tensors;
    let first = |tensors: &Tensors| tensors.iter().find(|(_, t)| t.rank() == 4).map(|(name, _)| name.clone()).unwrap();
    let of_value = move |value: f64| {
        rewritten(move |tensors| {
            let name = first(tensors);
            let changed = (tensors[&name].ones_like().unwrap() * value).unwrap();
            tensors.insert(name, changed);
        })
    };
    check(
        home,
        model(),
        vec![
            spoilt("weights that hold NaN", of_value(f64::NAN), &["m", "holds NaN or infinity", "another checkpoint"]),
            spoilt("weights that hold infinity", of_value(f64::INFINITY), &["m", "holds NaN or infinity"]),
            spoilt(
                "weights without a tensor",
                rewritten(move |tensors| drop(tensors.remove(&first(tensors)))),
                &["m", "not a checkpoint of efficientnet-lite0: 1 parameters are missing"],
            ),
            spoilt(
                "weights with a tensor too many",
                rewritten(move |tensors| {
                    let (name, value) = (first(tensors), tensors[&first(tensors)].clone());
                    let (stage, _) = name.split_once('.').unwrap();
                    tensors.insert(format!("{stage}.9.9.weight"), value);
                }),
                &["m", "more parameters"],
            ),
            spoilt(
                "weights with a tensor of another shape",
                rewritten(move |tensors| {
                    let (name, value) = (first(tensors), tensors[&first(tensors)].clone());
                    tensors.insert(name, value.flatten_all().unwrap());
                }),
                &["m", "have another shape"],
            ),
            spoilt(
                "weights of whole numbers",
                rewritten(move |tensors| {
                    let (name, value) = (first(tensors), tensors[&first(tensors)].clone());
                    tensors.insert(name, Tensor::zeros(value.dims(), DType::I64, value.device()).unwrap());
                }),
                &["m", "whole numbers"],
            ),
        ],
    );
}

#[test]
fn weights_of_python() {
    let pth = |name, bytes: Vec<u8>, says: &[&'static str]| {
        let all: Vec<&'static str> = ["w.pth"].into_iter().chain(says.iter().copied()).collect();
        file(name, "w.pth", bytes, &weights("w.pth"), &all)
    };
    let legacy = |pickle: &[u8]| {
        let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
        [&magic[..], pickle].concat()
    };
    let bomb = {
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
        archive.start_file("a/data.pkl", zip::write::SimpleFileOptions::default()).unwrap();
        (0..1 << 10).for_each(|_| archive.write_all(&vec![b'N'; 1 << 20]).unwrap());
        archive.finish().unwrap().into_inner()
    };
    let memo: Vec<u8> = (0..400_000u32).flat_map(|i| [&b"Nr"[..], &(i * 10_007).to_le_bytes()].concat()).collect();
    let ran = home();
    let witness = ran.path("ran");
    let touch = payload(&format!("touch {}", witness.display()));
    check(
        home,
        model(),
        vec![
            pth(
                "pickle: a call of os.system, as torch.save has it",
                torch_zip(&touch, &[]),
                &["`os.system`", "does not execute"],
            ),
            pth("pickle: the same in the old form", legacy(&touch), &["`os.system`", "does not execute"]),
            pth("pickle: the same alone", touch.clone(), &["pickle"]),
            pth(
                "pickle: nested 4 million deep",
                torch_zip(&[&b"\x80\x02"[..], &b"(".repeat(4_000_000), b"."].concat(), &[]),
                &[],
            ),
            pth(
                "pickle: lists in lists, a million deep",
                torch_zip(&[&b"\x80\x02"[..], &b"]".repeat(1_000_000), &b"a".repeat(999_999), b"."].concat(), &[]),
                &["no dictionary"],
            ),
            pth(
                "pickle: a list that holds itself",
                torch_zip(b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.", &[]),
                &["without tensors"],
            ),
            pth(
                "pickle: a memo of 400,000 places far apart",
                torch_zip(&[&b"\x80\x02"[..], &memo, b"."].concat(), &[]),
                &[],
            ),
            pth("pickle: an endless string", torch_zip(b"\x80\x02X\xff\xff\xff\xffab", &[]), &["pickle"]),
            pth("pickle: cut short", torch_zip(b"\x80\x02}q\x00(X\x06\x00\x00\x00we", &[]), &["pickle"]),
            pth("pickle: items where there is no stack", torch_zip(b"\x80\x02tRs.", &[]), &["pickle"]),
            pth(
                "pickle: a tensor of a negative size",
                torch_zip(&tensor_pickle(&[-4], &[1], 4), &[("0", vec![0; 16])]),
                &["negative"],
            ),
            pth(
                "pickle: a tensor whose size overflows",
                torch_zip(&tensor_pickle(&[1 << 40, 1 << 40], &[1, 1], 4), &[("0", vec![0; 16])]),
                &["\"w\"", "impossible shape"],
            ),
            pth(
                "pickle: a tensor of 4 TB over one number",
                torch_zip(&tensor_pickle(&[1 << 40], &[0], 4), &[("0", vec![0; 16])]),
                &["declares"],
            ),
            pth(
                "pickle: strides beyond the storage",
                torch_zip(&tensor_pickle(&[2, 2], &[1 << 62, 1 << 62], 4), &[("0", vec![0; 16])]),
                &["does not fit"],
            ),
            pth(
                "pickle: a storage that is shorter than it says",
                torch_zip(&tensor_pickle(&[4], &[1], 4), &[("0", vec![0; 3])]),
                &["holds 3 bytes"],
            ),
            pth("pickle: a storage that is not there", torch_zip(&tensor_pickle(&[4], &[1], 4), &[]), &["missing"]),
            pth("zip: a bomb of 1 GB in 1 MB", bomb, &["data.pkl", "unpacks to more than"]),
            pth(
                "zip: cut short",
                torch_zip(&tensor_pickle(&[4], &[1], 4), &[("0", vec![0; 16])])[..90].to_vec(),
                &["zip"],
            ),
            pth("zip: an empty archive", b"PK\x05\x06".iter().copied().chain([0; 18]).collect(), &[]),
        ],
    );
    assert!(!witness.exists(), "the pickle was executed");
}

/// A PNG of these dimensions, with so many rows of black behind its header.
fn huge(width: u32, height: u32, rows: usize) -> Vec<u8> {
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    let row = vec![0; width.div_ceil(8) as usize + 1];
    (0..rows).for_each(|_| zlib.write_all(&row).unwrap());
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[1, 0, 0, 0, 0]].concat();
    png_of(&[(b"IHDR", header), (b"IDAT", zlib.finish().unwrap()), (b"IEND", vec![])])
}

/// A progressive JPEG that says it is 150 million pixels large, its first scan a thousand times more.
fn scanned(mut jpeg: Vec<u8>) -> Vec<u8> {
    let find = |jpeg: &[u8], from: usize, wanted: &dyn Fn(u8) -> bool| {
        from + jpeg[from..].windows(2).position(|pair| pair[0] == 0xff && wanted(pair[1])).unwrap()
    };
    let frame = find(&jpeg, 0, &|marker| marker == 0xc2);
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x30, 0, 0x30, 0]);
    let scan = find(&jpeg, 0, &|marker| marker == 0xda);
    let end = find(&jpeg, scan + 2, &|marker| marker != 0 && !(0xd0..=0xd7).contains(&marker));
    let again = jpeg[scan..end].repeat(1000);
    jpeg.splice(end..end, again);
    jpeg
}

#[test]
fn photos() {
    let fixture =
        |name: &str| fs::read(format!("{}/tests/fixtures/formats/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let bad = |name, bytes: Vec<u8>, says: &[&'static str]| {
        let all: Vec<&'static str> = ["data/red/bad.png"].into_iter().chain(says.iter().copied()).collect();
        file(name, "data/red/bad.png", bytes, STRICT, &all)
    };
    let half = |name: &str| {
        let bytes = fixture(name);
        bytes[..bytes.len() / 2].to_vec()
    };
    let with = |name: &str, at: usize, bytes: &[u8]| {
        let mut file = fixture(name);
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    // A profile that unpacks to a gigabyte.
    let profile = {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
        (0..1 << 10).for_each(|_| zlib.write_all(&vec![0; 1 << 20]).unwrap());
        let header = [&8u32.to_be_bytes()[..], &8u32.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
        let profile = [&b"x\0\0"[..], &zlib.finish().unwrap()].concat();
        png_of(&[(b"IHDR", header), (b"iCCP", profile), (b"IEND", vec![])])
    };
    check(
        home,
        model(),
        vec![
            bad("photo: empty", vec![], &["the file is empty"]),
            bad("photo: PNG of 50,000 × 50,000", huge(50_000, 50_000, 0), &["50000 × 50000 pixels"]),
            bad("photo: PNG of 4 billion × 4 billion", huge(u32::MAX >> 1, u32::MAX >> 1, 0), &[]),
            bad("photo: PNG of no pixels", huge(0, 7, 0), &[]),
            bad("photo: PNG with fewer rows than it says", huge(64, 64, 3), &[]),
            bad("photo: PNG with a colour profile of 1 GB", profile, &[]),
            bad("photo: PNG with a wrong checksum", with("rgb.png", 40, &[9; 8]), &[]),
            bad("photo: PNG cut short", half("rgb.png"), &["damaged or cut short"]),
            bad("photo: JPEG cut short", half("baseline.jpg"), &["cut short"]),
            bad("photo: progressive JPEG cut short", half("progressive.jpg"), &["cut short"]),
            bad(
                "photo: progressive JPEG of 1000 scans of 150 million pixels",
                scanned(fixture("progressive.jpg")),
                &["1010 scans"],
            ),
            bad("photo: JPEG of its first two bytes", vec![0xff, 0xd8], &[]),
            bad("photo: GIF cut short", half("still.gif"), &[]),
            bad(
                "photo: GIF of 65,535 × 65,535 with a frame of none",
                [&b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\0\0\0\0\0\x02\0;"[..]].concat(),
                &[],
            ),
            bad("photo: WebP cut short", half("lossy.webp"), &[]),
            bad("photo: lossless WebP cut short", half("lossless_alpha.webp"), &[]),
            bad(
                "photo: WebP of a header alone",
                b"RIFF\xff\xff\xff\x7fWEBPVP8L\xff\xff\xff\x7f\x2f\xff\xff\xff\xff".to_vec(),
                &[],
            ),
            bad("photo: BMP cut short", half("plain.bmp"), &[]),
            bad("photo: BMP of a negative width", with("plain.bmp", 18, &(-9i32).to_le_bytes()), &[]),
            bad(
                "photo: BMP of 2 billion × 2 billion",
                with("plain.bmp", 18, &[0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0x7f]),
                &[],
            ),
            bad("photo: TIFF cut short", half("plain.tiff"), &[]),
            bad("photo: TIFF whose directory is itself", b"II*\0\x08\0\0\0\0\0\x08\0\0\0".to_vec(), &[]),
            bad("photo: a page of HTML", b"<!DOCTYPE html>".to_vec(), &["is no JPEG, PNG"]),
            case(
                "photo: 3 GB of nothing",
                |home| sparse(home, "data/red/bad.png", b"\x89PNG\r\n\x1a\n", 3 << 30),
                STRICT,
                &["data/red/bad.png", "more than 536 million"],
            ),
            case("photo: without end", |_| (), &format!("{PREDICT}/dev/zero"), &["/dev/zero", "more than 536 million"]),
            case(
                "photo: a folder of that name",
                |home| fs::create_dir(home.path("x.png")).unwrap(),
                &format!("{PREDICT}x.png"),
                &["x.png: no images are in it"],
            ),
        ],
    );
}

fn tar(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        // Unlike the builder's, these bytes are not looked at.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A tar archive with one header of this kind and size, and nothing behind it.
fn tar_header(kind: tar::EntryType, name: &str, link: &str, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header.as_bytes().to_vec()
}

#[test]
fn shards() {
    let shard = |name, bytes: Vec<u8>, says: &[&'static str]| {
        let says: Vec<&'static str> =
            if says.is_empty() { vec![] } else { ["d.tar"].into_iter().chain(says.iter().copied()).collect() };
        file(name, "d.tar", bytes, &data("d.tar"), &says)
    };
    let text = |text: &str| text.as_bytes().to_vec();
    let both = |first: &str, second: &str| {
        let member = |name: &str, end: &str| format!("{name}{end}");
        let mut all = Vec::new();
        for (i, name) in [first, second].into_iter().enumerate() {
            for copy in 0..6 {
                let name = format!("{name}{copy}");
                all.push((member(&name, ".png"), png()));
                all.push((member(&name, ".cls"), text(["a", "b"][i])));
            }
        }
        tar(&all.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect::<Vec<_>>())
    };
    let mut gz = GzEncoder::new(Vec::new(), Compression::best());
    (0..1 << 9).for_each(|_| gz.write_all(&vec![0; 1 << 20]).unwrap());
    let bomb = gz.finish().unwrap();
    check(
        home,
        model(),
        vec![
            shard(
                "tar: members above the folder and at absolute paths are names, never places",
                both("../../up", "/tmp/absolute"),
                &[],
            ),
            shard(
                "tar: a link to a file of the system",
                tar_header(tar::EntryType::Symlink, "a.png", "/etc/passwd", 0),
                &["no images are in it"],
            ),
            shard(
                "tar: a hard link to a file of the system",
                tar_header(tar::EntryType::Link, "a.png", "/etc/passwd", 0),
                &["no images are in it"],
            ),
            shard("tar: a device", tar_header(tar::EntryType::Char, "a.png", "", 0), &["no images are in it"]),
            shard(
                "tar: a photo of 4 EB",
                tar_header(tar::EntryType::Regular, "a.png", "", 1 << 62),
                &["d.tar/a.png", "more than 536 million"],
            ),
            shard("tar: a class of 8 GB", tar_header(tar::EntryType::Regular, "a.cls", "", 1 << 33), &["d.tar/a.cls"]),
            shard(
                "tar: a name of 4 EB",
                tar_header(tar::EntryType::GNULongName, "././@LongLink", "", 1 << 62),
                &["damaged or cut short"],
            ),
            shard(
                "tar: a sparse file",
                tar_header(tar::EntryType::GNUSparse, "a.png", "", 1 << 40),
                &["damaged or cut short"],
            ),
            shard("tar: a header of ones", vec![b'1'; 1024], &["damaged or cut short"]),
            shard("tar: cut short", tar(&[("a.png", png()), ("a.cls", text("x"))])[..900].to_vec(), &["cut short"]),
            shard("tar: empty", vec![], &["no images are in it"]),
            shard(
                "tar: JSON nested 100,000 deep",
                tar(&[("a.json", "[".repeat(100_000).into_bytes()), ("a.png", png())]),
                &["d.tar/a.json"],
            ),
            shard(
                "tar: a class that is no text",
                tar(&[("a.png", png()), ("a.cls", vec![0xff, 0xfe])]),
                &["d.tar/a.cls", "UTF-8"],
            ),
            shard(
                "tar: a target that is an object",
                tar(&[("a.json", text("{\"label\": {}}")), ("a.png", png())]),
                &["d.tar/a.png", "no target"],
            ),
            shard("tar: a photo without a class", tar(&[("a.png", png())]), &["d.tar/a.png", "nothing beside it"]),
            shard(
                "tar: one class",
                tar(&[("a.png", png()), ("a.cls", text("x")), ("b.png", png()), ("b.cls", text("x"))]),
                &["one class"],
            ),
            file("tar: gzip of 512 MB of nothing", "d.tar.gz", bomb, &data("d.tar.gz"), &["d.tar.gz", "plausible"]),
            file("tar: gzip cut short", "d.tgz", [0x1f, 0x8b, 8, 0, 0], &data("d.tgz"), &["d.tgz"]),
        ],
    );
}

/// A Parquet file with the columns of this schema, each of whose rows is a photo, `red` or 7.
fn table(schema: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut first = true;
    while let Some(mut next) = group.next_column().unwrap() {
        match next.untyped() {
            ColumnWriter::ByteArrayColumnWriter(writer) => {
                let values: Vec<_> = (0..6).map(|_| if first { png() } else { b"red".to_vec() }.into()).collect();
                writer.write_batch(&values, None, None).unwrap();
            }
            ColumnWriter::Int64ColumnWriter(writer) => drop(writer.write_batch(&[7; 6], None, None).unwrap()),
            _ => unreachable!(),
        };
        first = false;
        next.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn parquet_files() {
    let parquet = |name, bytes: Vec<u8>, says: &[&'static str]| {
        let all: Vec<&'static str> = ["d.parquet"].into_iter().chain(says.iter().copied()).collect();
        file(name, "d.parquet", bytes, &data("d.parquet"), &all)
    };
    let sound = table("message m { required binary image; required binary label (UTF8); }");
    let spoilt = |at: usize, bytes: &[u8]| {
        let mut file = sound.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let footer = sound.len() - 8;
    check(
        home,
        model(),
        vec![
            parquet("Parquet: cut short", sound[..sound.len() / 2].to_vec(), &["Parquet"]),
            parquet("Parquet: empty", vec![], &["Parquet"]),
            parquet("Parquet: a footer longer than the file", spoilt(footer, &[0xff, 0xff, 0xff, 0x7f]), &["Parquet"]),
            parquet("Parquet: a footer of ones", spoilt(footer - 100, &[0xff; 100]), &[]),
            parquet("Parquet: a first page of ones", spoilt(4, &[0xff; 60]), &[]),
            parquet(
                "Parquet: no column of photos",
                table("message m { required binary picasso; required int64 label; }"),
                &["\"image\"", "\"picasso\""],
            ),
            parquet(
                "Parquet: photos that are numbers",
                table("message m { required int64 image; required int64 label; }"),
                &["row 1", "no bytes of a photo"],
            ),
            parquet("Parquet: no column of labels", table("message m { required binary image; }"), &["\"label\""]),
            parquet("Parquet: one class", sound.clone(), &["one class"]),
        ],
    );
}

#[test]
fn lists() {
    let list = |name, bytes: &[u8], says: &[&'static str]| {
        let all: Vec<&'static str> = ["d.csv"].into_iter().chain(says.iter().copied()).collect();
        file(name, "d.csv", bytes, &data("d.csv"), &all)
    };
    let utf16: Vec<u8> = "\u{feff}path,label\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    check(
        home,
        model(),
        vec![
            list("list: empty", b"", &["is empty"]),
            list("list: a header alone", b"path,label\n", &["no images are listed"]),
            list("list: one class", b"path,label\ndata/red/1.png,x\ndata/red/2.png,x\n", &["one class"]),
            list("list: of UTF-16", &utf16, &["UTF-8"]),
            list("list: rows of no UTF-8", b"path,label\ndata/red/1.png,caf\xe9\n", &["row 2", "UTF-8"]),
            list("list: NUL bytes in a path", b"path,label\ndata/red/1.png\0,x\n", &["row 2", "does not exist"]),
            list(
                "list: a path out of the list's folder that is not there",
                b"path,label\n../../nothing.png,x\n",
                &["row 2", "does not exist"],
            ),
            list(
                "list: a quote that is not closed",
                b"label,path\nx,data/red/1.png\nx,\"data/red/2.png\nx,data/red/3.png\n",
                &["row 3", "quote"],
            ),
            list("list: ragged rows", b"path,label\ndata/red/1.png,x,y\n", &["row 2", "3 columns"]),
            case(
                "list: a line of 2 GB",
                |home| sparse(home, "d.csv", b"path,label\n", 2 << 30),
                &data("d.csv"),
                &["d.csv, row 2", "16 MB"],
            ),
            case(
                "list: a header of 2 GB",
                |home| sparse(home, "d.csv", b"", 2 << 30),
                &data("d.csv"),
                &["d.csv, row 1", "16 MB"],
            ),
            case(
                "list: a file of which nobody may read",
                |home| {
                    fs::set_permissions(home.write("d.csv", "path,label\n"), Permissions::from_mode(0o0)).unwrap();
                    // Whoever may read everything finds an empty list.
                },
                &data("d.csv"),
                &["d.csv"],
            ),
        ],
    );
}

#[test]
fn folders() {
    check(
        home,
        model(),
        vec![
            case(
                "folder: a link to the folder above is passed over",
                |home| {
                    symlink("..", home.path("data/red/loop")).unwrap();
                    symlink("../..", home.path("data/red/loop.png")).unwrap();
                },
                LEARN,
                &[],
            ),
            case(
                "folder: a link to itself",
                |home| {
                    fs::remove_dir_all(home.path("data")).unwrap();
                    symlink("data", home.path("data")).unwrap();
                },
                LEARN,
                &["data"],
            ),
            case(
                "folder: a photo that is a link out of it is passed over",
                |home| {
                    home.write("secret.png", "no image");
                    symlink("../../secret.png", home.path("data/red/secret.png")).unwrap();
                },
                STRICT,
                &[],
            ),
            case(
                "folder: a class whose only photo is a link out of it",
                |home| {
                    home.write("secret.png", png());
                    fs::create_dir(home.path("data/green")).unwrap();
                    symlink("../../secret.png", home.path("data/green/secret.png")).unwrap();
                },
                LEARN,
                &["data/green", "holds no images"],
            ),
            case(
                "folder: one class",
                |home| fs::remove_dir_all(home.path("data/blue")).unwrap(),
                LEARN,
                &["one class"],
            ),
            case(
                "folder: one photo a class",
                |home| {
                    for class in ["red", "blue"] {
                        (1..10).for_each(|i| fs::remove_file(home.path(&format!("data/{class}/{i}.png"))).unwrap());
                    }
                },
                LEARN,
                &["data"],
            ),
            case(
                "folder: a pipe among the photos is passed over",
                |home| {
                    let made = std::process::Command::new("mkfifo").arg(home.path("data/red/pipe.png")).status();
                    assert!(made.is_ok_and(|status| status.success()));
                },
                LEARN,
                &[],
            ),
        ],
    );
}

#[test]
fn settings_of_models() {
    let config = |name, text: &str, says: &[&'static str]| {
        let text = text.to_string();
        let all: Vec<&'static str> = ["m/config.json"].into_iter().chain(says.iter().copied()).collect();
        spoilt(name, move |home| drop(home.write("m/config.json", &text)), &all)
    };
    let with = |more: &str| format!(r#"{{"architecture": "tf_efficientnet_lite0", {more}}}"#);
    check(
        home,
        model(),
        vec![
            config("config.json: nested 100,000 deep", &"[".repeat(100_000), &[]),
            config(
                "config.json: unknown keys nested 100,000 deep",
                &with(&format!("\"x\": {}", "[".repeat(100_000))),
                &["expected value"],
            ),
            config("config.json: a list", "[1, 2]", &[]),
            config("config.json: wrong types", &with("\"num_classes\": \"many\""), &["invalid type"]),
            config(
                "config.json: a negative size",
                &with("\"pretrained_cfg\": {\"input_size\": [3, -1, -1]}"),
                &["invalid value"],
            ),
            config(
                "config.json: an input of 2^40 pixels a side",
                &with("\"pretrained_cfg\": {\"input_size\": [3, 1099511627776, 1099511627776]}"),
                &["input size"],
            ),
            config(
                "config.json: an input of no pixels",
                &with("\"pretrained_cfg\": {\"input_size\": [3, 0, 0]}"),
                &["input size of 0"],
            ),
            config(
                "config.json: a crop of nearly nothing",
                &with("\"pretrained_cfg\": {\"crop_pct\": 1e-300}"),
                &["resized"],
            ),
            config("config.json: a deviation of 0", &with("\"pretrained_cfg\": {\"std\": [0, 1, 1]}"), &["deviation"]),
            config("config.json: more labels than outputs", &with("\"label_names\": [\"a\"]"), &["names 1 labels"]),
            config("config.json: labels that are numbers", &with("\"label_names\": [1, 2]"), &["label_names"]),
            config(
                "config.json: an unknown network",
                "{\"architecture\": \"alexandria\"}",
                &["\"alexandria\" is not known"],
            ),
            config("config.json: no text", "\u{0}", &[]),
            spoilt(
                "config.json: 2 GB of nothing",
                |home| sparse(home, "m/config.json", b"{", 2 << 30),
                &["m/config.json", "larger than"],
            ),
        ],
    );
}

#[test]
fn plans_and_runs() {
    let plan = |name, file_name: &'static str, text: &str, says: &[&'static str]| {
        let all: Vec<&'static str> = [file_name].into_iter().chain(says.iter().copied()).collect();
        file(name, file_name, text, &format!("{LEARN} --plan {file_name}"), &all)
    };
    let printed = home()
        .run(&["train", "--data", "data", "--model", model(), "--strategy", "fine-tuning", "--dry-run", "--json"])
        .well();
    // In the first phase.
    let with = |name, key: &str, value: serde_json::Value, says: &[&'static str]| {
        let mut plan: serde_json::Value = serde_json::from_str(&printed).unwrap();
        plan["phases"][0][key] = value;
        file(name, "p.json", plan.to_string(), &format!("{LEARN} --plan p.json"), says)
    };
    let run =
        |name, text: &str, says: &[&'static str]| file(name, "run/run.toml", text, "train --resume --out run", says);
    let calibration = |name, text: &str, says: &[&'static str]| {
        let text = text.to_string();
        let all: Vec<&'static str> = ["c/calibration.json"].into_iter().chain(says.iter().copied()).collect();
        case(
            name,
            move |home| {
                let folder = support::saved("efficientnet-lite0", 64, Some(vec!["a".into(), "b".into()]));
                fs::create_dir(home.path("c")).unwrap();
                for file in ["config.json", "model.safetensors"] {
                    fs::copy(format!("{folder}/{file}"), home.path(&format!("c/{file}"))).unwrap();
                }
                home.write("c/calibration.json", &text);
            },
            "predict c data/red/1.png --quiet",
            &all,
        )
    };
    check(
        home,
        model(),
        vec![
            plan("plan: no TOML", "p.toml", "phases = [", &["TOML parse error"]),
            with("plan: an unknown key", "colour", 3.into(), &["p.json", "colour"]),
            with("plan: -4 epochs", "epochs", (-4).into(), &["p.json", "invalid value"]),
            with("plan: epochs beyond any number", "epochs", 1e30.into(), &["p.json", "invalid type"]),
            with("plan: epochs in words", "epochs", "many".into(), &["p.json", "invalid type"]),
            with("plan: batches of none", "batch_size", 0.into(), &["phase \"train everything\": batch_size is 0"]),
            with("plan: a rate below zero", "learning_rate", (-1.0).into(), &["learning_rate is -1"]),
            with("plan: more stages to keep than there are", "boundary", 99.into(), &["boundary is 99"]),
            plan("plan: no phases", "p.toml", "strategy = \"x\"\nphases = []", &[]),
            plan("plan: a phase of an unknown kind", "p.toml", "strategy = \"x\"\n[[phases]]\nkind = \"dance\"", &[]),
            plan("plan: TOML nested 100,000 deep", "p.toml", &format!("a = {}", "[".repeat(100_000)), &[]),
            plan("plan: JSON nested 100,000 deep", "p.json", &"[".repeat(100_000), &[]),
            plan("plan: a list", "p.json", "[1]", &[]),
            plan("plan: no text", "p.toml", "\u{0}\u{1}", &[]),
            run("run.toml: empty", "", &["no photos are named"]),
            run("run.toml: no TOML", "seed = [", &["run/run.toml", "TOML parse error"]),
            run("run.toml: an unknown key", "colour = 3\n", &["run/run.toml", "colour"]),
            run("run.toml: wrong types", "seed = \"seven\"\n", &["run/run.toml", "invalid type"]),
            run("run.toml: nested 100,000 deep", &format!("a = {}", "{a=".repeat(100_000)), &["run/run.toml"]),
            calibration("calibration.json: cut short", "{\"temperature\": 1.", &["restore the file"]),
            calibration(
                "calibration.json: a negative temperature",
                r#"{"temperature": -1, "fitted_on": "validation", "samples": 3, "error_before": 0, "error_after": 0}"#,
                &["temperature of -1"],
            ),
            calibration(
                "calibration.json: a temperature of nearly nothing",
                r#"{"temperature": 1e-300, "fitted_on": "validation", "samples": 3, "error_before": 0, "error_after": 0}"#,
                &["temperature of 1e-300"],
            ),
            calibration(
                "calibration.json: a negative number of samples",
                r#"{"temperature": 1, "fitted_on": "validation", "samples": -3, "error_before": 0, "error_after": 0}"#,
                &[],
            ),
        ],
    );
}
