//! Photos in tar shards and Parquet files: what is found in them, and what damaged ones are told.

use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::write::GzEncoder;
use image::{Rgb, RgbImage};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tempfile::TempDir;
use topwork_core::data::{Dataset, Splits, Values, View};
use topwork_core::seed::Seed;
use topwork_core::task::Kind;
use topwork_cv::dataset::inputs::{InputArgs, stream};
use topwork_cv::dataset::{DataArgs, splits};
use topwork_cv::pipeline::Pipeline;

fn pipeline() -> Pipeline {
    Pipeline { resize: 8, crop: 8, mean: [0.0; 3], std: [1.0; 3], ..Pipeline::imagenet() }
}

fn read(args: &DataArgs) -> topwork_core::Result<Splits> {
    splits(args, &pipeline(), None, Seed(1))
}

fn data(path: &Path) -> DataArgs {
    DataArgs { data: Some(path.to_path_buf()), ..DataArgs::default() }
}

fn refused(args: &DataArgs) -> String {
    let error = read(args).err().expect("these data were accepted");
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

/// An encoded photo that is all of this red.
fn red(value: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(6, 5, Rgb([value, 0, 0])).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// The red of each photo, by class.
fn reds(data: &dyn Dataset) -> Vec<(u32, u8)> {
    let red = |i| match data.load(i, View::Plain).unwrap().values {
        Values::F32(values) => (values[0] * 255.0).round() as u8,
        Values::U32(_) => unreachable!(),
    };
    (0..data.len()).map(|i| (data.target(i), red(i))).collect()
}

fn tar(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn text(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

#[test]
fn shards_in_a_folder_are_parts_by_their_names() {
    let first = tar(&[("a/0001.png", red(10)), ("a/0001.cls", text("wasp\n")), ("a/0002.cls", text("bee"))]);
    let second = tar(&[("0003.cls", text("bee")), ("0003.PNG", red(30)), ("0003.txt", text("a caption"))]);
    let test = tar(&[("x.jpeg.cls", text("never a photo")), ("9.png", red(90)), ("9.cls", text("wasp"))]);
    let mut zipped = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zipped.write_all(&second).unwrap();
    let folder = folder(&[
        ("train-0.tar", first),
        ("train-1.tar.gz", zipped.finish().unwrap()),
        ("test-0.tar", test),
        ("README.md", text("no shard")),
    ]);
    let found = read(&data(folder.path())).unwrap();
    assert_eq!(found.task.outputs, ["bee", "wasp"]);
    assert_eq!(reds(&*found.train), [(1, 10), (0, 30)]);
    assert_eq!(reds(&*found.validation), [(1, 90)]);
    assert!(found.train.name(1).ends_with("train-1.tar.gz/0003.PNG"), "{}", found.train.name(1));
}

#[test]
fn labels_and_values_stand_in_the_json_beside_a_photo() {
    let shard = tar(&[
        ("1.png", red(1)),
        ("1.json", text(r#"{"tags": ["sea", "sand"], "age": 3}"#)),
        ("2.png", red(2)),
        ("2.json", text(r#"{"tags": [], "age": 4.5}"#)),
        ("3.png", red(3)),
        ("3.json", text(r#"{"tags": "sea", "age": -1}"#)),
    ]);
    let folder = folder(&[("all.tar", shard)]);
    let args = |task, column: &str| DataArgs {
        train: Some(folder.path().join("all.tar")),
        validation: Some(folder.path().join("all.tar")),
        task: Some(task),
        label_column: Some(vec![column.into()]),
        ..DataArgs::default()
    };
    let found = read(&args(Kind::Labels, "tags")).unwrap();
    assert_eq!(found.task.outputs, ["sand", "sea"]);
    assert_eq!((0..3).map(|i| found.train.numbers(i).to_vec()).collect::<Vec<_>>(), [[1., 1.], [0., 0.], [0., 1.]]);
    let found = read(&args(Kind::Values, "age")).unwrap();
    assert_eq!((0..3).map(|i| found.train.numbers(i)[0]).collect::<Vec<_>>(), [3.0, 4.5, -1.0]);
}

#[test]
fn a_photo_without_a_target_is_named() {
    let folder = folder(&[("a.tar", tar(&[("1.png", red(1)), ("1.cls", text("x")), ("d/2.png", red(2))]))]);
    let message = refused(&data(&folder.path().join("a.tar")));
    assert!(message.contains("a.tar/d/2.png") && message.contains(".cls"), "{message}");
    let args = DataArgs { label_column: Some(vec!["kind".into()]), ..data(&folder.path().join("b.tar")) };
    fs::write(folder.path().join("b.tar"), tar(&[("1.png", red(1)), ("1.json", text(r#"{"label": 1}"#))])).unwrap();
    let message = refused(&args);
    assert!(
        message.contains("b.tar/1.png") && message.contains("\"kind\"") && message.contains("\"label\""),
        "{message}"
    );
    fs::write(folder.path().join("b.tar"), tar(&[("1.json", text("{")), ("1.png", red(1))])).unwrap();
    assert!(refused(&args).contains("b.tar/1.json"));
}

#[test]
fn damaged_archives_are_told_apart_from_empty_ones() {
    let whole = tar(&[("1.png", red(1)), ("1.cls", text("x"))]);
    let mut damaged = whole.clone();
    damaged[150] ^= 1;
    let folder = folder(&[
        ("empty.tar", tar(&[])),
        ("damaged.tar", damaged),
        ("short.tar", whole[..540].to_vec()),
        ("short.tgz", vec![0x1f, 0x8b, 8, 0, 0]),
    ]);
    let told = |name: &str| refused(&data(&folder.path().join(name)));
    assert!(told("empty.tar").contains("no images"));
    assert!(told("damaged.tar").contains("damaged"), "{}", told("damaged.tar"));
    assert!(told("short.tar").contains("damaged or cut short"), "{}", told("short.tar"));
    assert!(told("short.tgz").contains("short.tgz"), "{}", told("short.tgz"));
}

#[test]
fn an_archive_that_grows_beyond_measure_is_refused() {
    let mut zipped = GzEncoder::new(Vec::new(), flate2::Compression::best());
    (0..64).for_each(|_| zipped.write_all(&vec![0; 1 << 18]).unwrap());
    let folder = folder(&[("bomb.tar.gz", zipped.finish().unwrap())]);
    let message = refused(&data(&folder.path().join("bomb.tar.gz")));
    assert!(message.contains("bomb.tar.gz") && message.contains("more than"), "{message}");
}

/// A Parquet file with a group `image {bytes, path}` and classes as numbers, two row groups of these rows.
fn parquet(path: &Path, rows: &[(u8, i64)], names: Option<&str>) {
    let schema = "message schema {
        optional group image { optional binary bytes; optional binary path (UTF8); }
        optional int64 label;
    }";
    let noted = names.map(|names| {
        let value = format!(r#"{{"info": {{"features": {{"label": {{"names": {names}, "_type": "ClassLabel"}}}}}}}}"#);
        vec![KeyValue::new("huggingface".to_string(), value)]
    });
    let properties = WriterProperties::builder()
        .set_compression(parquet::basic::Compression::SNAPPY)
        .set_key_value_metadata(noted)
        .build();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties.into()).unwrap();
    for rows in rows.chunks(rows.len().div_ceil(2)) {
        let mut group = writer.next_row_group().unwrap();
        let mut column = 0;
        while let Some(mut next) = group.next_column().unwrap() {
            match next.untyped() {
                ColumnWriter::ByteArrayColumnWriter(writer) => {
                    let of = |value: u8| if column == 0 { red(value) } else { text("photo.png") };
                    let values: Vec<ByteArray> = rows.iter().map(|row| of(row.0).into()).collect();
                    writer.write_batch(&values, Some(&vec![2; rows.len()]), None).unwrap();
                }
                ColumnWriter::Int64ColumnWriter(writer) => {
                    let values: Vec<i64> = rows.iter().map(|row| row.1).collect();
                    writer.write_batch(&values, Some(&vec![1; rows.len()]), None).unwrap();
                }
                _ => unreachable!(),
            }
            column += 1;
            next.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn parquet_files_hold_photos_and_the_names_of_their_classes() {
    let folder = tempfile::tempdir().unwrap();
    let names = Some(r#"["zebra", "ant"]"#);
    parquet(&folder.path().join("train-00000-of-00002.parquet"), &[(10, 0), (20, 1), (30, 0)], names);
    parquet(&folder.path().join("train-00001-of-00002.parquet"), &[(40, 1), (50, 1)], names);
    parquet(&folder.path().join("validation-00000-of-00001.parquet"), &[(60, 0), (70, 1)], names);
    let found = read(&data(folder.path())).unwrap();
    assert_eq!(found.task.outputs, ["ant", "zebra"]);
    assert_eq!(reds(&*found.train), [(1, 10), (0, 20), (1, 30), (0, 40), (0, 50)]);
    assert_eq!(reds(&*found.validation), [(1, 60), (0, 70)]);
    assert!(found.train.name(2).ends_with("train-00000-of-00002.parquet, row 3"));
}

#[test]
fn what_is_wrong_with_a_parquet_file_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    parquet(&path("unlabelled.parquet"), &[(10, 0), (20, -1)], Some(r#"["a", "b"]"#));
    let message = refused(&data(&path("unlabelled.parquet")));
    assert!(message.contains("row 2") && message.contains("\"label\""), "{message}");

    let args = DataArgs { path_column: Some("picture".into()), ..data(&path("unlabelled.parquet")) };
    assert!(refused(&args).contains("\"image\", \"label\""));
    let args = DataArgs { path_column: Some("label".into()), ..data(&path("unlabelled.parquet")) };
    assert!(refused(&args).contains("no bytes of a photo"));

    let whole = fs::read(path("unlabelled.parquet")).unwrap();
    fs::write(path("short.parquet"), &whole[..whole.len() - 9]).unwrap();
    assert!(refused(&data(&path("short.parquet"))).contains("short.parquet"));
    for at in (4..whole.len()).step_by(13) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        fs::write(path("damaged.parquet"), damaged).unwrap();
        // Whether it is seen depends on where it is; a panic would fail here.
        let _ = read(&data(&path("damaged.parquet")));
    }
}

#[test]
fn prediction_streams_what_is_in_shards() {
    let folder = folder(&[("a.tar", tar(&[("1.png", red(1)), ("2.png", text("no photo")), ("2.cls", text("x"))]))]);
    parquet(&folder.path().join("b.parquet"), &[(10, 0), (20, 1)], None);
    let inputs: Vec<PathBuf> = ["a.tar", "b.parquet"].map(|name| folder.path().join(name)).to_vec();
    let found: Vec<_> = stream(&InputArgs { inputs, path_column: None }, &pipeline()).unwrap().collect();
    let good: Vec<bool> = found.iter().map(|(_, sample)| sample.is_ok()).collect();
    assert_eq!(good, [true, false, true, true]);
    assert!(found[1].0.ends_with("a.tar/2.png") && found[3].0.ends_with("b.parquet, row 2"));
}
