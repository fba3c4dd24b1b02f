//! Pictures of pixels: heat over a photo, thumbnails, labelled tiles.

use std::io::Cursor;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, resize, thumbnail};
use image::{ExtendedColorType, ImageEncoder, ImageFormat, Rgb, RgbImage};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use topwork_core::data::Excerpt;
use topwork_core::draw::shortened;
use topwork_core::files::write_atomic_bytes;
use topwork_core::net::grad_cam::Heat;
use topwork_core::{Error, Result};

use crate::pipeline::Pipeline;
use crate::pipeline::resize::Region;

/// Longer side of a thumbnail, in pixels.
pub const THUMBNAIL: u32 = 96;
/// Of a JPEG file, of 100.
const QUALITY: u8 = 82;
/// Longer side of a photo with heat over it.
const LARGEST: u32 = 1024;

/// matplotlib's inferno at nine even places: lightness rises evenly, so that heat is not read into hues.
const INFERNO: [[f32; 3]; 9] = [
    [0.0, 0.0, 4.0],
    [31.0, 12.0, 72.0],
    [85.0, 15.0, 109.0],
    [136.0, 34.0, 106.0],
    [186.0, 54.0, 85.0],
    [227.0, 89.0, 51.0],
    [249.0, 140.0, 10.0],
    [249.0, 201.0, 50.0],
    [252.0, 255.0, 164.0],
];

/// The colour of a heat from 0 to 1.
fn colour(heat: f64) -> [f32; 3] {
    let place = heat.clamp(0.0, 1.0) * (INFERNO.len() - 1) as f64;
    let first = (place as usize).min(INFERNO.len() - 2);
    let share = (place - first as f64) as f32;
    std::array::from_fn(|c| INFERNO[first][c] * (1.0 - share) + INFERNO[first + 1][c] * share)
}

/// `photo` at most [`LARGEST`] wide and high, with `heat` over the `region` of it that the network saw; what lies outside is
/// dark. Cold places are the photo with less colour, the hottest one is nearly the colour alone.
pub fn overlay(photo: &RgbImage, region: Region, heat: &Heat) -> RgbImage {
    let (width, height) = photo.dimensions();
    let shrink = f64::from(LARGEST) / f64::from(width.max(height));
    let shrunk = |size: u32| ((f64::from(size) * shrink).round() as u32).max(1);
    let mut picture = if shrink < 1.0 { thumbnail(photo, shrunk(width), shrunk(height)) } else { photo.clone() };
    let (across, down) =
        (f64::from(width) / f64::from(picture.width()), f64::from(height) / f64::from(picture.height()));
    let largest = heat.largest();
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        let share = |at: u32, scale: f64, from: f64, extent: f64| ((f64::from(at) + 0.5) * scale - from) / extent;
        let column = share(x, across, region.left, region.width);
        let row = share(y, down, region.top, region.height);
        let seen = (0.0..=1.0).contains(&column) && (0.0..=1.0).contains(&row);
        let grey = pixel.0.iter().zip([0.299, 0.587, 0.114]).map(|(&p, w)| f32::from(p) * w).sum::<f32>();
        let hot = if seen { heat.at([row, column], largest) } else { 0.0 };
        let (share, light) = (0.75 * hot as f32, if seen { 1.0 } else { 0.35 });
        let over = colour(hot);
        pixel.0 = std::array::from_fn(|c| {
            let base = (0.5 * f32::from(pixel.0[c]) + 0.5 * grey) * light;
            (base * (1.0 - share) + over[c] * share).round() as u8
        });
    }
    picture
}

/// The 8-bit picture that a sample's numbers, as `pipeline` makes them, are of: rows of `side` pixels.
pub fn picture(pipeline: &Pipeline, values: &[f32], side: usize) -> RgbImage {
    let (mean, std) = (pipeline.mean, pipeline.std);
    let bytes = values.iter().enumerate().map(|(i, v)| ((v * std[i % 3] + mean[i % 3]) * 255.0).round() as u8);
    let side = side as u32;
    RgbImage::from_fn(side, (values.len() as u32 / 3).checked_div(side).unwrap_or(0), {
        let bytes: Vec<u8> = bytes.collect();
        move |x, y| {
            let at = 3 * (y * side + x) as usize;
            Rgb([bytes[at], bytes[at + 1], bytes[at + 2]])
        }
    })
}

/// Two pictures of one height beside each other.
pub fn beside(left: &RgbImage, right: &RgbImage) -> RgbImage {
    let width = left.width();
    RgbImage::from_fn(width + right.width(), left.height(), |x, y| {
        *if x < width { left.get_pixel(x, y) } else { right.get_pixel(x - width, y.min(right.height() - 1)) }
    })
}

/// `photo` as a small JPEG file, no side longer than `longest`.
pub fn excerpt(photo: &RgbImage, longest: u32) -> Result<Excerpt> {
    let (width, height) = photo.dimensions();
    let most = width.max(height);
    let shrunk = |size: u32| (u64::from(size) * u64::from(longest)).div_ceil(u64::from(most)).max(1) as u32;
    let small = if most > longest { thumbnail(photo, shrunk(width), shrunk(height)) } else { photo.clone() };
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, QUALITY);
    encoder
        .write_image(small.as_raw(), small.width(), small.height(), ExtendedColorType::Rgb8)
        .map_err(|e| Error::Tensor(candle_core::Error::Msg(format!("a thumbnail: {e}"))))?;
    Ok(Excerpt::Picture { media: "image/jpeg", bytes, size: [small.width(), small.height()] })
}

/// Writes a PNG file, whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, picture: &RgbImage) -> Result<()> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).map_err(|e| Error::io(path)(std::io::Error::other(e)))?;
    write_atomic_bytes(path, bytes.get_ref())
}

const LETTERS: RasterHeight = RasterHeight::Size16;
/// Height of the line below a tile.
const LINE: u32 = 22;
const GAP: u32 = 6;
const GROUND: Rgb<u8> = Rgb([250, 250, 250]);

/// Side of a tile for pictures of `side` pixels: small ones are enlarged by whole factors.
fn tile(side: u32) -> u32 {
    if side >= 160 { side.min(224) } else { side * 160u32.div_ceil(side.max(1)) }
}

/// A sheet of tiles in rows, each a picture and what is written below it. All pictures are squares of one size.
pub fn sheet(rows: &[Vec<(RgbImage, String)>]) -> RgbImage {
    let first = rows.iter().flatten().next();
    let side = tile(first.map_or(1, |(picture, _)| picture.width()));
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let (width, height) = (columns * (side + GAP) + GAP, rows.len() as u32 * (side + LINE + GAP) + GAP);
    let mut sheet = RgbImage::from_pixel(width, height, GROUND);
    for (row, tiles) in rows.iter().enumerate() {
        for (column, (picture, text)) in tiles.iter().enumerate() {
            let left = GAP + column as u32 * (side + GAP);
            let top = GAP + row as u32 * (side + LINE + GAP);
            let filter = if picture.width() < side { FilterType::Nearest } else { FilterType::Triangle };
            let picture = resize(picture, side, side, filter);
            image::imageops::replace(&mut sheet, &picture, i64::from(left), i64::from(top));
            write_text(&mut sheet, [left, top + side + 3], side, text);
        }
    }
    sheet
}

/// Writes `text` in black, as much of it as is `width` pixels wide.
fn write_text(picture: &mut RgbImage, [left, top]: [u32; 2], width: u32, text: &str) {
    let advance = get_raster_width(FontWeight::Regular, LETTERS) as u32;
    for (i, letter) in shortened(text, (width / advance) as usize).chars().enumerate() {
        let Some(glyph) = get_raster(letter, FontWeight::Regular, LETTERS)
            .or_else(|| get_raster(if letter == '…' { '~' } else { '?' }, FontWeight::Regular, LETTERS))
        else {
            continue;
        };
        for (y, line) in glyph.rows().enumerate() {
            for (x, &ink) in line.iter().enumerate() {
                let at = (left + i as u32 * advance + x as u32, top + y as u32);
                if ink > 0 && at.0 < picture.width() && at.1 < picture.height() {
                    let shade = |ground: u8| (u32::from(ground) * u32::from(255 - ink) / 255) as u8;
                    picture.put_pixel(at.0, at.1, Rgb(GROUND.0.map(shade)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(left: f64, width: f64) -> Region {
        Region { left, top: 0.0, width, height: 40.0 }
    }

    #[test]
    fn heat_lies_over_the_part_that_was_seen_and_the_rest_is_dark() {
        let photo = RgbImage::from_pixel(80, 40, Rgb([100; 3]));
        let heat = Heat { size: [2, 2], values: vec![0.0, 0.0, 0.0, 3.0] };
        let over = overlay(&photo, region(20.0, 40.0), &heat);
        assert_eq!(over.dimensions(), (80, 40));
        assert_eq!((over.get_pixel(5, 20).0, over.get_pixel(75, 20).0), ([35; 3], [35; 3]));
        assert_eq!(over.get_pixel(22, 2).0, [100; 3]);
        // The lower right of what was seen is hottest.
        let hot = over.get_pixel(57, 37).0;
        assert!(hot[0] > 200 && hot[1] > 200, "{hot:?}");
    }

    #[test]
    fn large_photos_are_shown_smaller() {
        let photo = RgbImage::new(3000, 1500);
        let heat = Heat { size: [1, 1], values: vec![0.0] };
        let whole = Region { left: 0.0, top: 0.0, width: 3000.0, height: 1500.0 };
        assert_eq!(overlay(&photo, whole, &heat).dimensions(), (1024, 512));
    }

    #[test]
    fn thumbnails_are_bounded_whatever_the_photo() {
        for (width, height) in [(3000, 17), (17, 3000), (1, 5000), (64, 64)] {
            let Excerpt::Picture { bytes, size, media } = excerpt(&RgbImage::new(width, height), THUMBNAIL).unwrap()
            else {
                panic!()
            };
            assert!(size.iter().all(|side| (1..=THUMBNAIL).contains(side)), "{size:?}");
            let back = image::load_from_memory(&bytes).unwrap();
            assert_eq!((media, [back.width(), back.height()]), ("image/jpeg", size));
        }
    }

    #[test]
    fn numbers_become_the_picture_they_came_from() {
        let pipeline = Pipeline { resize: 8, crop: 8, ..Pipeline::imagenet() };
        let photo = RgbImage::from_fn(8, 8, |x, y| Rgb([(x * 30) as u8, (y * 30) as u8, 200]));
        let sample = pipeline.render(&photo, topwork_core::data::View::Plain).unwrap();
        let topwork_core::data::Values::F32(values) = sample.values else { panic!() };
        assert_eq!(picture(&pipeline, &values, 8), photo);
    }

    #[test]
    fn a_sheet_has_its_tiles_in_rows_with_words_below() {
        let tile = |shade| (RgbImage::from_pixel(32, 32, Rgb([shade; 3])), "words".to_string());
        let sheet = sheet(&[vec![tile(10), tile(20)], vec![tile(30), tile(40)]]);
        assert_eq!(sheet.dimensions(), (2 * 166 + 6, 2 * 188 + 6));
        assert_eq!(sheet.get_pixel(166 + 80, 188 + 80).0, [40; 3]);
        let below = (6..166).flat_map(|x| (166..188).map(move |y| (x, y)));
        assert!(below.filter(|&(x, y)| sheet.get_pixel(x, y).0[0] < 128).count() > 20);
    }
}
