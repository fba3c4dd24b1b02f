//! Pixels against Pillow's and torchvision's, stored by xtask/parity/preprocess.py.

use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;
use topwork_core::data::{Values, View};
use topwork_core::seed::Seed;
use topwork_cv::pipeline::augment::ops::Op;
use topwork_cv::pipeline::decode::{decode, decode_upper};
use topwork_cv::pipeline::{Interpolation, Pipeline};

fn fixtures(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder)
}

fn open(path: &Path) -> RgbImage {
    decode(&path.display().to_string(), &fs::read(path).unwrap()).unwrap()
}

/// Mean and largest difference, in levels of 255.
fn difference(a: &[u8], b: &[u8]) -> (f64, u8) {
    assert_eq!(a.len(), b.len());
    let each = || a.iter().zip(b).map(|(x, y)| x.abs_diff(*y));
    (each().map(f64::from).sum::<f64>() / a.len() as f64, each().max().unwrap())
}

#[test]
fn every_format_gives_pillows_upright_pixels() {
    let mut count = 0;
    for entry in fs::read_dir(fixtures("formats")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let (found, expected) = (open(&path), open(&fixtures("formats/expected").join(format!("{name}.png"))));
        assert_eq!(found.dimensions(), expected.dimensions(), "{name}");
        let (mean, most) = difference(&found, &expected);
        let lossy = name.ends_with(".jpg") || name == "lossy.webp";
        // Decoders of lossy formats may round, and smooth colour, a little differently.
        assert!(if lossy { mean < 1.0 } else { most == 0 }, "{name}: mean {mean:.3}, most {most}");
        count += 1;
    }
    assert!(count >= 34, "only {count} files");
}

#[test]
fn plain_views_are_torchvisions_resize_and_centre_crop() {
    let mut count = 0;
    for entry in fs::read_dir(fixtures("preprocess")).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let (source, filter) = match stem.split_once('.') {
            Some((source, "bilinear")) => (source, Interpolation::Bilinear),
            Some((source, _)) => (source, Interpolation::Bicubic),
            None => continue,
        };
        let pipeline = Pipeline { resize: 40, crop: 32, interpolation: filter, ..Pipeline::imagenet() };
        let found = pipeline.centre(&open(&fixtures("preprocess").join(format!("{source}.png")))).unwrap();
        let (mean, most) = difference(&found, &open(&path));
        // Where the sum of a filter lies halfway between two levels, either neighbour is right.
        assert!(mean < 0.4 && most <= 1, "{stem}: mean {mean:.4}, most {most}");
        count += 1;
    }
    assert_eq!(count, 40, "20 photos, two filters");
}

#[test]
fn changes_of_pixels_are_torchvisions() {
    let open = |name: &str| open(&fixtures("augment").join(format!("{name}.png")));
    let changes = [
        ("shear-x", Op::ShearX(0.3)),
        ("shear-y", Op::ShearY(-0.3)),
        ("translate-x", Op::TranslateX(5.0)),
        ("translate-y", Op::TranslateY(-4.0)),
        ("rotate", Op::Rotate(27.0)),
        ("brightness", Op::Brightness(1.7)),
        ("colour", Op::Colour(0.3)),
        ("contrast", Op::Contrast(1.5)),
        ("sharpness", Op::Sharpness(1.9)),
        ("posterize", Op::Posterize(3)),
        ("solarize", Op::Solarize(102.0)),
        ("auto-contrast", Op::AutoContrast),
        ("equalize", Op::Equalize),
        ("invert", Op::Invert),
    ];
    for (name, op) in changes {
        let photo = open(if name == "auto-contrast" { "dull" } else { "photo" });
        let side = photo.width() as usize;
        let mut pixels = photo.into_raw();
        op.apply(&mut pixels, side);
        let (_, most) = difference(&pixels, &open(name));
        assert_eq!(most, 0, "{name}");
    }
}

#[test]
fn views_are_normalized_per_channel() {
    let pipeline = Pipeline { resize: 4, crop: 2, ..Pipeline::imagenet() };
    let photo = RgbImage::from_pixel(8, 8, image::Rgb([255, 0, 51]));
    let sample = pipeline.render(&photo, View::Plain).unwrap();
    assert_eq!((sample.rows, sample.shape.as_slice()), (1, [2, 2, 3].as_slice()));
    let Values::F32(values) = sample.values else { panic!("not measurements") };
    let expected = [(1.0 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225];
    for (i, value) in values.iter().enumerate() {
        assert!((value - expected[i % 3]).abs() < 1e-6, "{i}: {value}");
    }
}

#[test]
fn random_views_follow_their_seed() {
    let pipeline = Pipeline { resize: 40, crop: 32, ..Pipeline::imagenet() };
    let photo = open(&fixtures("preprocess/57x43.png"));
    let view = |seed| pipeline.render(&photo, View::Augmented(Seed(seed))).unwrap();
    assert_eq!(view(1), view(1));
    assert_ne!(view(1), view(2));
}

#[test]
fn upper_rows_of_a_photo_are_those_of_the_whole() {
    for name in ["half_colour.jpg", "across.jpg", "full_colour.jpg", "restarts.jpg", "grey.jpg"] {
        let bytes = fs::read(fixtures("tall").join(name)).unwrap();
        let whole = decode(name, &bytes).unwrap();
        let row = 3 * whole.width() as usize;
        for needed in 0..=whole.height() {
            let upper = decode_upper(name, &bytes, &|_, _| needed).unwrap();
            assert_eq!(upper.height, whole.height());
            assert!(upper.rows.height() >= needed, "{name}: {needed}");
            assert!(needed > 120 || upper.rows.height() < whole.height(), "{name}: {needed} rows are not all of it");
            let until = needed as usize * row;
            assert!(upper.rows.as_raw()[..until] == whole.as_raw()[..until], "{name}: {needed}");
        }
    }
    // In several scans every row is in each of them; a rotated photo's rows are its columns.
    for name in ["progressive.jpg", "orientation_6.jpg", "rgb.png"] {
        let bytes = fs::read(fixtures("formats").join(name)).unwrap();
        assert_eq!(decode_upper(name, &bytes, &|_, _| 1).unwrap().rows, decode(name, &bytes).unwrap());
    }
}

#[test]
fn whether_a_photo_can_be_read_does_not_depend_on_the_rows() {
    let mut bytes = fs::read(fixtures("tall/half_colour.jpg")).unwrap();
    let at = bytes.windows(2).rposition(|pair| pair == [0xff, 0x00]).unwrap();
    for marker in [0xc0, 0xc4, 0xda, 0xd8] {
        bytes[at + 1] = marker;
        let (whole, upper) = (decode("a", &bytes), decode_upper("a", &bytes, &|_, _| 1));
        assert_eq!(whole.is_ok(), upper.is_ok(), "{marker:x}");
    }
}

#[test]
fn a_view_is_the_same_from_the_rows_that_it_needs() {
    for name in ["half_colour.jpg", "across.jpg", "restarts.jpg"] {
        let bytes = fs::read(fixtures("tall").join(name)).unwrap();
        let whole = decode(name, &bytes).unwrap();
        for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic] {
            for crop in [16, 64] {
                let pipeline = Pipeline { resize: crop + 8, crop, interpolation, ..Pipeline::imagenet() };
                let views = (0..200).map(|seed| View::Augmented(Seed(seed)));
                for view in views.chain([View::Plain]) {
                    let found = pipeline.load(name, &bytes, view).unwrap();
                    assert_eq!(found, pipeline.render(&whole, view).unwrap(), "{name}, {interpolation:?}, {crop}");
                }
            }
        }
    }
}

#[test]
fn an_extremely_long_photo_is_cropped_without_resizing_the_whole() {
    let pipeline = Pipeline::imagenet();
    let sample = pipeline.render(&RgbImage::new(20_000, 1), View::Plain).unwrap();
    assert_eq!(sample.shape, [224, 224, 3]);
    let sample = pipeline.render(&RgbImage::new(3, 20_000), View::Augmented(Seed(1))).unwrap();
    assert_eq!(sample.shape, [224, 224, 3]);
}

#[test]
fn damaged_files_are_refused_by_name() {
    for name in ["baseline.jpg", "progressive.jpg", "rgb.png", "lossy.webp", "still.gif", "plain.bmp", "plain.tiff"] {
        let whole = fs::read(fixtures("formats").join(name)).unwrap();
        // Some formats keep their directory at the end: cut well before it.
        let message = decode(name, &whole[..whole.len() / 2]).unwrap_err().to_string();
        assert!(message.starts_with(name), "{message}");
    }
    for (name, bytes) in [("empty.jpg", &b""[..]), ("text.jpg", b"not an image at all"), ("cut.jpg", b"\xff\xd8\xff")] {
        let message = decode(name, bytes).unwrap_err().to_string();
        assert!(message.starts_with(name), "{message}");
    }
}

#[test]
fn every_prefix_of_a_file_is_refused_or_read_but_never_panics() {
    for name in ["baseline.jpg", "palette_transparent.png", "still.gif", "deflated.tiff", "lossy.webp", "palette.bmp"] {
        let whole = fs::read(fixtures("formats").join(name)).unwrap();
        for end in 0..whole.len() {
            let result = decode(name, &whole[..end]);
            let panicked = result.is_err_and(|e| e.to_string().contains("gave up"));
            assert!(!panicked, "{name} cut to {end} bytes");
        }
    }
}

#[test]
fn too_many_pixels_are_refused_before_memory_is_taken() {
    // A PNG header that promises 20,000 × 20,000 pixels.
    let mut header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    header.extend(20_000u32.to_be_bytes());
    header.extend(20_000u32.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let crc = crc32(&header[12..]);
    header.extend(crc.to_be_bytes());
    header.extend(b"\0\0\0\x01IDAT\x78");
    header.extend(crc32(b"IDAT\x78").to_be_bytes());
    let message = decode("huge.png", &header).unwrap_err().to_string();
    assert!(message.contains("20000 × 20000 pixels"), "{message}");
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}
