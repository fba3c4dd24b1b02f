//! From the bytes of a photo to the numbers that a network reads.
//!
//! [`decode`] turns any supported file into upright 8-bit RGB; [`Pipeline`] resizes, crops and normalizes it as the
//! weights' authors did for evaluation, or cuts a random view for training.

pub mod augment;
pub mod decode;
pub mod resize;
mod test_views;

use std::fmt;
use std::path::Path;

use image::RgbImage;
use serde::{Deserialize, Serialize};
use topwork_core::data::{Sample, Values, View};
use topwork_core::{Error, Result};

use self::augment::Augment;
use self::resize::{Region, resize};
pub use self::test_views::{TestViewArgs, TestViews};
use crate::dataset::photo::Photo;

/// Raised whenever equal files and settings begin to give other numbers, so that no cache mixes the two.
const VERSION: u32 = 2;

/// The preprocessing of one model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// The shorter side is resized to this many pixels, the other in proportion.
    pub resize: usize,
    /// Height and width of the centre that is cut out then: the network's input. At most `resize`.
    pub crop: usize,
    /// Subtracted from each channel (red, green, blue), in units of the full range.
    pub mean: [f32; 3],
    /// What each channel is divided by then.
    pub std: [f32; 3],
    /// How pixels are combined when resizing.
    pub interpolation: Interpolation,
    /// Random views for training.
    pub augment: Augment,
    /// Plain views.
    #[serde(default, skip_serializing_if = "TestViews::is_one")]
    pub test_views: TestViews,
}

/// Antialiased filters, as Pillow defines them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// Triangle.
    Bilinear,
    /// Keys' cubic with a = -0.5.
    Bicubic,
}

impl Interpolation {
    /// Pixels to each side that a filter looks at, in units of the coarser of the two grids.
    fn radius(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }
}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resize, crop, mean, std, .. } = self;
        let interpolation = match self.interpolation {
            Interpolation::Bilinear => "bilinear",
            Interpolation::Bicubic => "bicubic",
        };
        write!(
            f,
            "photos: shorter side to {resize} ({interpolation}), centre {crop} × {crop}, mean {mean:?}, deviation {std:?}"
        )
    }
}

impl Pipeline {
    /// The one that most ImageNet networks were evaluated with: 256, 224, bilinear, and ImageNet's mean and deviation.
    pub const fn imagenet() -> Self {
        Self {
            resize: 256,
            crop: 224,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            interpolation: Interpolation::Bilinear,
            augment: Augment::fine_tuning(),
            test_views: TestViews::Centre,
        }
    }

    /// The same for an input of `side` × `side` pixels, with as much of a photo around it as before.
    ///
    /// # Errors
    /// When `side` is no multiple of 32, by which the networks here reduce the resolution, or leaves them less than 2 × 2 to pool.
    pub fn sized(self, side: usize) -> Result<Self> {
        if side != self.crop && (!side.is_multiple_of(32) || !(64..=1024).contains(&side)) {
            return Err(Error::input(
                format!("--size {side}"),
                "it must be a multiple of 32 between 64 and 1024",
                format!("use for instance --size {}", (side.div_ceil(32) * 32).clamp(64, 1024)),
            ));
        }
        Ok(Self { resize: (self.resize * side).div_ceil(self.crop), crop: side, ..self })
    }

    /// The same for an input of `scale` times the side, in whole multiples of 4 pixels, whatever the network: views for
    /// progressive resizing.
    pub fn scaled(self, scale: f64) -> Self {
        let side = ((self.crop as f64 * scale / 4.0).round() as usize * 4).max(4);
        Self { resize: (self.resize * side).div_ceil(self.crop), crop: side, ..self }
    }

    /// Checks what a configuration file may have got wrong; `subject` is that file.
    ///
    /// # Errors
    /// When no photo could be prepared so.
    pub fn check(&self, subject: &Path) -> Result<()> {
        let wrong = |reason: String| Err(Error::input(subject.display(), reason, "correct the preprocessing in it"));
        if self.crop == 0 || self.crop > 8192 {
            return wrong(format!("an input size of {} pixels", self.crop));
        }
        if self.resize < self.crop || self.resize > 16384 {
            return wrong(format!("photos resized to {} pixels cannot be cropped to {}", self.resize, self.crop));
        }
        if self.std.iter().any(|s| !s.is_finite() || *s <= 0.0) || self.mean.iter().any(|m| !m.is_finite()) {
            return wrong(format!("a mean of {:?} and deviation of {:?}", self.mean, self.std));
        }
        Ok(())
    }

    /// Decodes the file `bytes`, called `name` in errors, and renders `view` of it: one row of shape
    /// `[crop, crop, 3]`, or one for each of several test views.
    ///
    /// # Errors
    /// When it is not a readable image.
    pub fn load(&self, name: &str, bytes: &[u8], view: View) -> Result<Sample> {
        let upper = decode::decode_upper(name, bytes, &|width, height| self.rows(width, height, view))?;
        self.view(&upper.rows, upper.height, view)
    }

    /// Upper rows of a photo that `view` depends on.
    fn rows(&self, width: u32, height: u32, view: View) -> u32 {
        let regions = match view {
            View::Plain => self.test_views.regions(self, width, height),
            View::Augmented(seed) => vec![self.augment.draw(width, height, seed)],
        };
        let below = |region: &Region| {
            let scale = (region.height / self.crop as f64).max(1.0);
            region.top + region.height + self.interpolation.radius() * scale
        };
        let last = regions.iter().map(|(region, _)| below(region)).fold(0.0, f64::max);
        (last.ceil() as u32).saturating_add(1).min(height)
    }

    /// Reads the file at `path`, once, and renders `view` of it.
    ///
    /// # Errors
    /// When it cannot be read, or is not a readable image.
    pub fn load_file(&self, path: &Path, view: View) -> Result<Sample> {
        let photo = Photo::File(path.to_path_buf());
        self.load(&photo.name(), &photo.read()?, view)
    }

    /// Renders `view` of a decoded photo.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn render(&self, photo: &RgbImage, view: View) -> Result<Sample> {
        self.view(photo, photo.height(), view)
    }

    /// Renders `view` of a photo of `height` rows, at least those of which are in `upper` that it depends on.
    fn view(&self, upper: &RgbImage, height: u32, view: View) -> Result<Sample> {
        let seed = match view {
            View::Plain => return self.plain(upper, height),
            View::Augmented(seed) => seed,
        };
        let (region, flip) = self.augment.draw(upper.width(), height, seed);
        let mut pixels = resize(upper, region, self.crop, self.interpolation)?;
        self.augment.changes(self.crop, seed).into_iter().for_each(|op| op.apply(&mut pixels, self.crop));
        let mut values = self.normalize(&pixels, flip);
        if let Some([rows, columns]) = self.augment.erased(self.crop, seed) {
            for row in rows {
                values[(row * self.crop + columns.start) * 3..(row * self.crop + columns.end) * 3].fill(0.0);
            }
        }
        Ok(self.sample(1, values))
    }

    fn plain(&self, upper: &RgbImage, height: u32) -> Result<Sample> {
        let regions = self.test_views.regions(self, upper.width(), height);
        let mut values = Vec::with_capacity(regions.len() * 3 * self.crop * self.crop);
        for &(region, flip) in &regions {
            values.extend(self.normalize(&resize(upper, region, self.crop, self.interpolation)?, flip));
        }
        Ok(self.sample(regions.len(), values))
    }

    fn sample(&self, rows: usize, values: Vec<f32>) -> Sample {
        Sample { rows, shape: vec![self.crop, self.crop, 3], values: Values::F32(values) }
    }

    /// The 8-bit pixels of the plain view, row by row: what torchvision's `Resize` and `CenterCrop` leave.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn centre(&self, photo: &RgbImage) -> Result<Vec<u8>> {
        resize(photo, self.centre_region(photo.width(), photo.height()), self.crop, self.interpolation)
    }

    /// Where in a photo the centre crop of its resized version lies. Only this part is ever resized: the filter reads
    /// the same source pixels as it would for the whole.
    pub fn centre_region(&self, width: u32, height: u32) -> Region {
        // Python rounds halves to the even neighbour.
        self.region(width, height, |room| room.map(|room| (room / 2.0).round_ties_even()))
    }

    /// Where a crop lies whose offset in the resized photo, down and across, is `offset` of the room that there is.
    fn region(&self, width: u32, height: u32, offset: impl Fn([f64; 2]) -> [f64; 2]) -> Region {
        let (short, long) = (width.min(height) as usize, width.max(height) as usize);
        // torchvision truncates the longer side.
        let other = self.resize * long / short;
        let (resized_width, resized_height) = if width <= height { (self.resize, other) } else { (other, self.resize) };
        let room = |size: usize| (size - self.crop) as f64;
        let [top, left] = offset([room(resized_height), room(resized_width)]);
        let (across, down) = (f64::from(width) / resized_width as f64, f64::from(height) / resized_height as f64);
        Region {
            left: left * across,
            top: top * down,
            width: self.crop as f64 * across,
            height: self.crop as f64 * down,
        }
    }

    /// All of a picture that has the network's input size.
    pub fn whole(&self) -> Region {
        Region { left: 0.0, top: 0.0, width: self.crop as f64, height: self.crop as f64 }
    }

    fn normalize(&self, pixels: &[u8], flip: bool) -> Vec<f32> {
        let mut table = [[0f32; 256]; 3];
        for (c, channel) in table.iter_mut().enumerate() {
            for (value, slot) in channel.iter_mut().enumerate() {
                *slot = (value as f32 / 255.0 - self.mean[c]) / self.std[c];
            }
        }
        let mut values = vec![0f32; pixels.len()];
        let width = 3 * self.crop;
        for (row, to) in pixels.chunks_exact(width).zip(values.chunks_exact_mut(width)) {
            for i in (0..width).step_by(3) {
                let from = if flip { width - 3 - i } else { i };
                for c in 0..3 {
                    to[i + c] = table[c][row[from + c] as usize];
                }
            }
        }
        values
    }

    /// A key of all settings that the views of a photo depend on.
    pub fn fingerprint(&self) -> String {
        let settings = serde_json::to_string(self).unwrap_or_else(|_| format!("{self:?}"));
        format!("photo {VERSION} {settings}")
    }
}
