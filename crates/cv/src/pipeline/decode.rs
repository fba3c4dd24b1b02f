//! Decoding: JPEG, PNG, WebP, GIF, BMP and TIFF, told apart by content, into upright 8-bit RGB.
//!
//! As Pillow's `convert("RGB")` does: alpha is dropped (not composited), grey is repeated, a palette is looked up, of
//! an animation the first frame is taken. 16-bit values are scaled by 1/257 and rounded, floating-point ones are
//! clamped to 0 – 1. Unlike torchvision's folder reader, the EXIF orientation is applied.

use std::io::Cursor;
use std::sync::{Mutex, PoisonError};

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};
use topwork_core::guard::caught;
use topwork_core::{Error, Result};

/// Most pixels of a photo: Pillow's limit too. 8-bit RGB of that size is 0.5 GB.
pub const MOST_PIXELS: u64 = 178_956_970;

/// Most pixels that the scans of a progressive JPEG go over: a scan may be of thirty bytes, and looks at every pixel.
const MOST_SCANNED: u64 = 64 * MOST_PIXELS;

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
    // A file that makes a decoder panic is a damaged file, not a reason to stop.
    caught(|| decode_checked(name, bytes)).unwrap_or_else(|| {
        Err(Error::input(name, "damaged: the decoder gave up on it", "replace or remove it, or save it anew"))
    })
}

fn decode_checked(name: &str, bytes: &[u8]) -> Result<RgbImage> {
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
    let [before, pixels] = MOST_MEMORY.map(|most| {
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(most);
        limits
    });
    reader.limits(before);
    let mut decoder = reader.into_decoder().map_err(unreadable)?;
    decoder.set_limits(pixels).map_err(unreadable)?;
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
    let mut photo = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    if let Some(orientation) = orientation {
        photo.apply_orientation(orientation);
    }
    Ok(photo.into_rgb8())
}

/// How often a JPEG file begins to tell its pixels. Within a scan the byte FF is never followed by that of the marker.
fn scans(bytes: &[u8]) -> u64 {
    bytes.windows(2).filter(|pair| *pair == [0xff, 0xda]).count() as u64
}

/// Whether a JPEG file reaches its end marker. The decoder fills what is missing with grey, silently.
///
/// Within image data the byte FF is always followed by 00 or a restart marker, so that FF D9 behind the first scan's
/// header is the end; the thumbnail's own lies before it.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        match bytes.get(at..at + 4) {
            Some(&[0xff, 0xff, ..]) => at += 1,
            Some(&[0xff, marker, high, low]) => {
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
                if marker == 0xda {
                    break;
                }
            }
            // Not at a marker: let the decoder say what is wrong.
            Some(_) => return true,
            None => return false,
        }
    }
    bytes.get(at..).is_some_and(|data| data.windows(2).rev().any(|pair| pair == [0xff, 0xd9]))
}
