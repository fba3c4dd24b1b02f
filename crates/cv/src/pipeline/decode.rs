//! Decoding: JPEG, PNG, WebP, GIF, BMP and TIFF, told apart by content, into upright 8-bit RGB.
//!
//! As Pillow's `convert("RGB")` does: alpha is dropped (not composited), grey is repeated, a palette is looked up, of
//! an animation the first frame is taken. 16-bit values are scaled by 1/257 and rounded, floating-point ones are
//! clamped to 0 – 1. Unlike torchvision's folder reader, the EXIF orientation is applied.

use std::io::Cursor;
use std::sync::{Mutex, PoisonError};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};
use topwork_core::guard::caught;
use topwork_core::{Error, Result};

/// Most pixels of a photo: Pillow's limit too. 8-bit RGB of that size is 0.5 GB.
pub const MOST_PIXELS: u64 = 178_956_970;

/// Most pixels that the scans of a progressive JPEG go over: a scan may be of thirty bytes, and looks at every pixel.
const MOST_SCANNED: u64 = 64 * MOST_PIXELS;

/// Marker of the header of a scan.
const START_OF_SCAN: u8 = 0xda;

/// Bytes of the header of a scan.
const LEAST_OF_SCAN: u64 = 10;

/// Photos of more pixels than this are decoded one at a time, so that memory stays bounded on many threads.
const LARGE: u64 = 32_000_000;

/// Most memory that a decoder may ask for: before it has told the size of the photo, and for its pixels.
const MOST_MEMORY: [u64; 2] = [64 << 20, 2 << 30];

static ONE_LARGE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Decodes the file `bytes`, called `name` in errors.
///
/// # Errors
/// When it is not an image of a supported format, is damaged or cut short, or has more than [`MOST_PIXELS`].
pub fn decode(name: &str, bytes: &[u8]) -> Result<RgbImage> {
    Ok(decode_upper(name, bytes, &|_, height| height)?.rows)
}

/// The upper rows of a photo.
pub struct Upper {
    /// As many as were asked for, or more.
    pub rows: RgbImage,
    /// Rows of the whole photo.
    pub height: u32,
}

/// Decodes those rows of the file `bytes` that are `needed` for its width and height, or more: of a JPEG file in one scan the
/// pixels below them are not decoded. Whether a file can be read does not depend on the rows.
///
/// # Errors
/// As [`decode`].
pub fn decode_upper(name: &str, bytes: &[u8], needed: &dyn Fn(u32, u32) -> u32) -> Result<Upper> {
    // A file that makes a decoder panic is a damaged file, not a reason to stop.
    caught(|| decode_checked(name, bytes, needed)).unwrap_or_else(|| {
        Err(Error::input(name, "damaged: the decoder gave up on it", "replace or remove it, or save it anew"))
    })
}

fn decode_checked(name: &str, bytes: &[u8], needed: &dyn Fn(u32, u32) -> u32) -> Result<Upper> {
    if bytes.is_empty() {
        return Err(Error::input(name, "the file is empty", "replace or remove it"));
    }
    let unreadable = |error: ImageError| {
        let reason = match error {
            ImageError::Limits(_) => "decoding it takes more than 2 GB of memory".to_string(),
            ImageError::Unsupported(e) => format!("cannot be decoded: {e}"),
            other => format!("damaged or cut short: {other}"),
        };
        Error::input(name, reason, "replace or remove it, or save it anew as PNG or JPEG")
    };
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(Error::io(name))?;
    let Some(format) = reader.format() else {
        return Err(Error::input(
            name,
            "is no JPEG, PNG, WebP, GIF, BMP or TIFF image",
            "remove it, or convert it to one of these",
        ));
    };
    if format == ImageFormat::Jpeg && !jpeg_ends(bytes) {
        return Err(Error::input(name, "the JPEG image is cut short", "replace or remove it"));
    }
    let [before, rest] = MOST_MEMORY.map(|most| {
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(most);
        limits
    });
    reader.limits(before);
    let mut decoder = reader.into_decoder().map_err(unreadable)?;
    decoder.set_limits(rest.clone()).map_err(unreadable)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(Error::input(name, "the image has no pixels", "replace or remove it"));
    }
    if pixels > MOST_PIXELS {
        return Err(Error::input(
            name,
            format!("{width} × {height} pixels; at most {} million are read", MOST_PIXELS / 1_000_000),
            "scale it down, or remove it",
        ));
    }
    // Counting goes over all bytes: only where there is room for so many scans.
    let possible = (bytes.len() as u64 / LEAST_OF_SCAN).saturating_mul(pixels) > MOST_SCANNED;
    let scans = if format == ImageFormat::Jpeg && possible { scans(bytes) } else { 1 };
    if scans.saturating_mul(pixels) > MOST_SCANNED {
        let reason = format!("{scans} scans of {width} × {height} pixels, far more than a photo needs");
        return Err(Error::input(name, reason, "remove it, or save it anew"));
    }
    let _turn = (pixels > LARGE).then(|| ONE_LARGE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner));
    // Damaged metadata do not make the pixels unreadable.
    let orientation = decoder.orientation().ok();
    let upright = orientation.is_none_or(|orientation| orientation == Orientation::NoTransforms);
    if format == ImageFormat::Jpeg && upright {
        let needed = needed(width, height);
        if let Some(fewer) = shortened(bytes, needed) {
            let mut reader = ImageReader::with_format(Cursor::new(fewer), format);
            reader.limits(rest);
            let rows = reader.decode().map_err(unreadable)?.into_rgb8();
            if rows.width() == width && rows.height() >= needed {
                return Ok(Upper { rows, height });
            }
        }
    }
    let mut photo = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    if let Some(orientation) = orientation {
        photo.apply_orientation(orientation);
    }
    let rows = photo.into_rgb8();
    Ok(Upper { height: rows.height(), rows })
}

/// How often a JPEG file begins to tell its pixels. Within a scan the byte FF is never followed by that of the marker.
fn scans(bytes: &[u8]) -> u64 {
    bytes.windows(2).filter(|pair| *pair == [0xff, 0xda]).count() as u64
}

/// The segments of a JPEG file up to its first scan, with marker and place of their length. Behind the header of the scan
/// there are no more, but pixels.
struct Segments<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Iterator for Segments<'_> {
    type Item = (u8, usize);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.bytes.get(self.at..self.at + 4)? {
                [0xff, 0xff, ..] => self.at += 1,
                &[0xff, marker, high, low] => {
                    let start = self.at + 2;
                    self.at = start + usize::from(u16::from_be_bytes([high, low]));
                    return Some((marker, start));
                }
                _ => return None,
            }
        }
    }
}

/// Whether a JPEG file reaches its end marker. The decoder fills what is missing with grey, silently.
///
/// Within image data the byte FF is always followed by 00 or a restart marker, so that FF D9 behind the first scan's
/// header is the end; the thumbnail's own lies before it.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let mut segments = Segments { bytes, at: 2 };
    let scan = segments.any(|(marker, _)| marker == START_OF_SCAN);
    let rest = bytes.get(segments.at..);
    if !scan {
        // Not at a marker: let the decoder say what is wrong.
        return rest.is_some_and(|rest| rest.len() >= 4);
    }
    rest.is_some_and(|data| data.windows(2).rev().any(|pair| pair == [0xff, 0xd9]))
}

/// The JPEG file `bytes` as one that has at least `rows` rows, where its pixels come from above to below, all components in
/// one scan: another height in its header. Rows that the next ones would have a say in, colours being kept at less than
/// full resolution, are beyond these. Pixels with a marker among them are left to a decoder that reads them all.
fn shortened(bytes: &[u8], rows: u32) -> Option<Vec<u8>> {
    let mut frame = None;
    for (marker, at) in (Segments { bytes, at: 2 }) {
        match marker {
            // Baseline, or extended and sequential: length, precision, height, width, components.
            0xc0 | 0xc1 if frame.is_none() => frame = Some(at),
            START_OF_SCAN => {
                let frame = frame?;
                let components = *bytes.get(frame + 7)?;
                if components != *bytes.get(at + 2)? {
                    return None;
                }
                // Of each component three bytes, the second with its sampling across and down.
                let factors = (0..usize::from(components)).map(|c| bytes.get(frame + 9 + 3 * c).map(|f| f & 15));
                let block = 8 * u32::from(factors.collect::<Option<Vec<u8>>>()?.into_iter().max()?);
                let height = u32::from(u16::from_be_bytes([*bytes.get(frame + 3)?, *bytes.get(frame + 4)?]));
                let rows = (rows.div_ceil(block) + 1) * block;
                if rows >= height || !unmarked(bytes.get(at..)?) {
                    return None;
                }
                let mut fewer = bytes.to_vec();
                fewer[frame + 3..frame + 5].copy_from_slice(&u16::try_from(rows).ok()?.to_be_bytes());
                return Some(fewer);
            }
            _ => {}
        }
    }
    None
}

/// Whether no marker but those of restarts stands between the header of a scan, at which `scan` begins, and the end.
fn unmarked(scan: &[u8]) -> bool {
    let bytes = memchr::memchr_iter(0xff, scan).filter_map(|at| scan.get(at + 1));
    bytes.copied().find(|next| !matches!(next, 0x00 | 0xd0..=0xd7 | 0xff)) == Some(0xd9)
}
