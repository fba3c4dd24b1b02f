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
    let filter = match interpolation {
        Interpolation::Bilinear => FilterType::Bilinear,
        Interpolation::Bicubic => FilterType::CatmullRom,
    };
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(filter))
        .crop(left, top, region.width.min(width - left), region.height.min(height - top))
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
