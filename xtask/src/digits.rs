//! The bundled digits: checks that `datasets/digits/digits.csv` is what its manifest says.

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
    fn a_bad_line_is_named() {
        let row = |n: usize, last: &str| format!("header\n{}{last}\n", "3,".repeat(n));
        assert_eq!(parse(&row(64, "7")).unwrap()[0].digit, 7);
        for text in [row(63, "7"), row(64, "10"), row(64, "x"), row(63, "17,3")] {
            let message = parse(&text).unwrap_err().to_string();
            assert!(message.contains("line 2"), "{message}");
        }
    }
}
