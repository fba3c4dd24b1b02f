//! The bundled digits: checks that `datasets/digits/digits.csv` is what its manifest says, and lays it out as folders.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::manifest::Manifest;

/// One 8 × 8 image with its digit.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Row by row, 0 (paper) to 16 (ink).
    pub pixels: [u8; 64],
    /// 0 to 9.
    pub digit: u8,
}

/// SHA-256 of some bytes in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads the file of the bundled set after checking it against its manifest.
pub fn read(datasets: &Path) -> Result<Vec<Image>> {
    let manifest = Manifest::read(&datasets.join("digits.toml"))?;
    let path = datasets.join("digits/digits.csv");
    let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let expected = manifest.files.first().and_then(|f| f.sha256.as_deref()).context("digits.toml: no sha256")?;
    let found = sha256(&bytes);
    ensure!(found == expected, "{}: its SHA-256 is {found}, not {expected}: restore the file", path.display());
    parse(&String::from_utf8(bytes).with_context(|| path.display().to_string())?)
        .with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Result<Vec<Image>> {
    let mut images = Vec::new();
    for (i, line) in text.lines().enumerate().skip(1) {
        let numbers: Vec<u8> =
            line.split(',').map(str::parse).collect::<Result<_, _>>().with_context(|| format!("line {}", i + 1))?;
        let [pixels @ .., digit] = &numbers[..] else { bail!("line {}: empty", i + 1) };
        let fine = pixels.iter().all(|&p| p <= 16) && *digit <= 9;
        ensure!(fine, "line {}: pixels are 0 to 16, digits 0 to 9", i + 1);
        let pixels = pixels.try_into().with_context(|| format!("line {}: {} pixels, not 64", i + 1, pixels.len()))?;
        images.push(Image { pixels, digit: *digit });
    }
    Ok(images)
}

/// How many images, the last ones, are for testing. The file goes from writer to writer, so that most of the test's
/// writers are unknown in training.
const TEST: usize = 600;

/// Writes the set as image folders, `train/<digit>/<row>.png` and `test/<digit>/<row>.png`, 8 × 8 grey, ink black.
/// Returns the number of images in each.
pub fn write_folders(images: &[Image], folder: &Path) -> Result<(usize, usize)> {
    let train = images.len().saturating_sub(TEST);
    for (row, image) in images.iter().enumerate() {
        let split = if row < train { "train" } else { "test" };
        let class = folder.join(split).join(image.digit.to_string());
        std::fs::create_dir_all(&class).with_context(|| class.display().to_string())?;
        let path = class.join(format!("{row:04}.png"));
        let grey = image.pixels.map(|ink| 255 - (u16::from(ink) * 255 / 16) as u8);
        image::save_buffer(&path, &grey, 8, 8, image::ExtendedColorType::L8)
            .with_context(|| path.display().to_string())?;
    }
    Ok((train, images.len() - train))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_file_is_the_published_set() {
        let images = read(&crate::root().join("datasets")).unwrap();
        let count = |digit| images.iter().filter(|i| i.digit == digit).count();
        let counts: Vec<usize> = (0..10).map(count).collect();
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
    }

    #[test]
    fn folders_hold_every_image_once_and_can_be_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let images: Vec<Image> =
            (0..TEST + 2).map(|i| Image { pixels: [(i % 17) as u8; 64], digit: (i % 10) as u8 }).collect();
        assert_eq!(write_folders(&images, folder.path()).unwrap(), (2, TEST));
        let pixel = |path: &str| image::open(folder.path().join(path)).unwrap().to_luma8()[(3, 3)].0[0];
        assert_eq!((pixel("train/0/0000.png"), pixel("test/6/0016.png")), (255, 0));
        assert_eq!(std::fs::read_dir(folder.path().join("test/3")).unwrap().count(), TEST / 10);
    }

    #[test]
    fn a_bad_line_is_named() {
        let row = |n: usize, last: &str| format!("header\n{}{last}\n", "3,".repeat(n));
        assert_eq!(parse(&row(64, "7")).unwrap()[0].digit, 7);
        for text in [row(63, "7"), row(64, "10"), row(64, "x"), row(63, "17,3")] {
            let message = parse(&text).unwrap_err().to_string();
            assert!(message.contains("line 2"), "{message}");
        }
    }
}
