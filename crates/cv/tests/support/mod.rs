//! What the end-to-end tests share: a home folder with made-up photos, the binary run in it, and what it must leave.

#![allow(dead_code, unused_imports)] // No test file needs all of it.

#[path = "../../../core/tests/support/binary.rs"]
mod binary;
#[path = "../../../core/tests/support/malformed.rs"]
pub mod malformed;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candle_core::Device;
use image::{Rgb, RgbImage};
use topwork_core::domain::Opened;
use topwork_core::net::Params;
use topwork_core::seed::Seed;
use topwork_core::task::Task;
use topwork_cv::pipeline::{Interpolation, Pipeline};
use topwork_cv::{model_folder, models};

pub use binary::{Home, Ran, converse, empty, fake_pip, run};

pub const BINARY: &str = env!("CARGO_BIN_EXE_topwork-cv");

/// A folder with EfficientNet-Lite0 of random weights for photos of 32 × 32, without class names.
pub fn model() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| saved("efficientnet-lite0", 32, None))
}

/// Saves a network of random weights; gives its folder.
pub fn saved(architecture: &str, side: usize, classes: Option<Vec<String>>) -> String {
    // Kept from one run of the tests to the next: tests run at the same time, none may remove it.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{architecture}-{side}"));
    let network = models::network(architecture, 2, side).unwrap();
    let weights = Params::initial(&network.params(), Seed(1), &Device::Cpu).unwrap().snapshot();
    let pipeline =
        Pipeline { resize: side, crop: side, interpolation: Interpolation::Bilinear, ..Pipeline::imagenet() };
    let task = classes.map(Task::classes);
    model_folder::save(&folder, &Opened { network, weights, pipeline, task }).unwrap();
    folder.display().to_string()
}

/// A photo of one hue with some noise.
pub fn photo(width: u32, height: u32, hue: [u8; 3], seed: u64) -> RgbImage {
    let mut noise = Seed(seed).stream();
    RgbImage::from_fn(width, height, |_, _| Rgb(hue.map(|c| c.saturating_add(noise.below(60) as u8))))
}

/// A PNG file of these chunks, with their checksums.
pub fn png_of(parts: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in parts {
        let body = [&kind[..], data].concat();
        let mut sum = flate2::Crc::new();
        sum.update(&body);
        file.extend_from_slice(&(data.len() as u32).to_be_bytes());
        file.extend_from_slice(&body);
        file.extend_from_slice(&sum.sum().to_be_bytes());
    }
    file
}

/// A home whose `data/` holds ten red and ten blue photos.
pub fn home() -> Home {
    let home = empty();
    for i in 0..10 {
        home.photo(&format!("data/red/{i}.png"), [160, 30, 30], i);
        home.photo(&format!("data/blue/{i}.png"), [30, 30, 160], 100 + i);
    }
    home
}

impl Home {
    pub fn photo(&self, name: &str, hue: [u8; 3], seed: u64) -> PathBuf {
        let path = self.write(name, "");
        photo(40, 30, hue, seed).save(&path).unwrap();
        path
    }

    /// `train` on `data/`, with further flags.
    pub fn train(&self, out: &str, flags: &[&str]) -> Ran {
        self.run(&Self::training(out, flags))
    }

    pub fn training<'a>(out: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["train", "--data", "data", "--model", model(), "--out", out];
        args.extend(flags);
        args
    }
}
