//! Antialiased resizing of a part of a photo, equal to Pillow's up to rounding.

use std::cell::RefCell;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;
use topwork_core::{Error, Result};

use super::Interpolation;

/// A rectangle in a photo, in pixels; borders may lie between pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Region {
    /// From the left border.
    pub left: f64,
    /// From the upper border.
    pub top: f64,
    /// Extent across.
    pub width: f64,
    /// Extent down.
    pub height: f64,
}

thread_local! {
    /// Keeps its scratch buffers from one photo to the next.
    static RESIZER: RefCell<Resizer> = RefCell::new(Resizer::new());
}

/// Scratch memory above which a thread does not keep it: one huge photo must not stay resident.
const KEPT_SCRATCH: usize = 32 << 20;

/// Resizes `region` of `photo` to `side` × `side` pixels, 8-bit RGB row by row.
pub fn resize(photo: &RgbImage, region: Region, side: usize, interpolation: Interpolation) -> Result<Vec<u8>> {
    let (width, height) = (f64::from(photo.width()), f64::from(photo.height()));
    // Rounding may push the border of a full-size region out by an ulp.
    let left = region.left.clamp(0.0, width);
    let top = region.top.clamp(0.0, height);
    let (left, across) = off_pixels(left, region.width.min(width - left), side, interpolation);
    let filter = match interpolation {
        Interpolation::Bilinear => FilterType::Bilinear,
        Interpolation::Bicubic => FilterType::CatmullRom,
    };
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(filter))
        .crop(left, top, across, region.height.min(height - top))
        .use_alpha(false);
    let failed = |e: &dyn std::fmt::Display| Error::Tensor(candle_core::Error::Msg(format!("resizing a photo: {e}")));
    let source =
        ImageRef::new(photo.width(), photo.height(), photo.as_raw(), PixelType::U8x3).map_err(|e| failed(&e))?;
    let mut target = Image::new(side as u32, side as u32, PixelType::U8x3);
    RESIZER.with_borrow_mut(|resizer| {
        let done = resizer.resize(&source, &mut target, &options).map_err(|e| failed(&e));
        if resizer.size_of_internal_buffers() > KEPT_SCRATCH {
            resizer.reset_internal_buffers();
        }
        done
    })?;
    Ok(target.into_vec())
}

/// Where a cubic enlargement begins and how far it reaches, `side` pixels being made of it.
///
/// `fast_image_resize` takes for the columns that are read those of the first and the last new pixel, which are a single one
/// where the new pixel lies on an old one: the others would be read from outside of its memory. A millionth of a pixel
/// further inside, no weight is zero.
fn off_pixels(left: f64, across: f64, side: usize, interpolation: Interpolation) -> (f64, f64) {
    const INSIDE: f64 = 1e-6;
    let half = 0.5 * across / side as f64;
    let on_one = |at: f64| ((at - 0.5) - (at - 0.5).round()).abs() < INSIDE / 2.0;
    let meets = on_one(left + half) || on_one(left + across - half);
    if interpolation == Interpolation::Bicubic && half < 0.5 && meets {
        (left + INSIDE, across - 2.0 * INSIDE)
    } else {
        (left, across)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys' cubic with a = -0.5 along one line, weights as they are.
    fn cubic(line: &[f64], at: f64) -> f64 {
        let weight = |x: f64| match x.abs() {
            x if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            x if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            _ => 0.0,
        };
        let terms = line.iter().enumerate().map(|(i, value)| (weight(i as f64 - at), value));
        let (sum, all) = terms.fold((0.0, 0.0), |(sum, all), (w, value)| (sum + w * value, all + w));
        sum / all
    }

    #[test]
    fn an_enlargement_whose_first_pixel_lies_on_one_reads_its_neighbours() {
        let line: Vec<f64> = (0..40).map(|i| f64::from(i * 97 % 41) * 6.0).collect();
        let photo = RgbImage::from_fn(40, 8, |x, _| image::Rgb([line[x as usize] as u8; 3]));
        for (resize_to, side) in [(72, 64), (56, 36), (120, 40)] {
            let across = 40.0 / f64::from(resize_to);
            let left = f64::from((resize_to - side) / 2) * across;
            let region = Region { left, top: 0.0, width: f64::from(side) * across, height: 8.0 };
            let found = resize(&photo, region, side as usize, Interpolation::Bicubic).unwrap();
            for i in 0..side as usize {
                let expected = cubic(&line, left + (i as f64 + 0.5) * across - 0.5).clamp(0.0, 255.0);
                let pixel = f64::from(found[3 * i]);
                assert!((pixel - expected).abs() < 1.5, "{resize_to}, {side}, {i}: {pixel} for {expected:.2}");
            }
        }
    }
}
