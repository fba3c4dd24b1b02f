//! Changes of a picture's pixels, each a function of one strength, equal to Pillow's.
//!
//! Pictures are square, 8-bit RGB row by row. What comes in from outside of a picture is black.

/// One change and its strength.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Op {
    /// None.
    Identity,
    /// x + strength · y, from the upper border.
    ShearX(f64),
    /// y + strength · x, from the left border.
    ShearY(f64),
    /// To the right, in pixels.
    TranslateX(f64),
    /// Down, in pixels.
    TranslateY(f64),
    /// Counter-clockwise about the centre, in degrees.
    Rotate(f64),
    /// Away from black by this factor.
    Brightness(f64),
    /// Away from grey by this factor.
    Colour(f64),
    /// Away from the mean grey by this factor.
    Contrast(f64),
    /// Away from the smoothed picture by this factor.
    Sharpness(f64),
    /// To this many bits.
    Posterize(u32),
    /// Levels from this one on are inverted.
    Solarize(f64),
    /// Each channel from its darkest to its brightest level over the whole range.
    AutoContrast,
    /// Each channel's levels as often as each other.
    Equalize,
    /// All levels.
    Invert,
}

impl Op {
    /// Changes a picture of `side` × `side` pixels.
    pub fn apply(self, pixels: &mut Vec<u8>, side: usize) {
        match self {
            Self::Identity => {}
            Self::ShearX(by) => warp(pixels, side, [1.0, by, 0.0, 0.0, 1.0, 0.0]),
            Self::ShearY(by) => warp(pixels, side, [1.0, 0.0, 0.0, by, 1.0, 0.0]),
            Self::TranslateX(by) => warp(pixels, side, [1.0, 0.0, -by.trunc(), 0.0, 1.0, 0.0]),
            Self::TranslateY(by) => warp(pixels, side, [1.0, 0.0, 0.0, 0.0, 1.0, -by.trunc()]),
            Self::Rotate(degrees) => rotate(pixels, side, degrees),
            Self::Brightness(factor) => blend(pixels, factor, |_| 0),
            Self::Colour(factor) => {
                let grey: Vec<u8> = pixels.chunks_exact(3).map(luma).collect();
                blend(pixels, factor, |i| grey[i / 3]);
            }
            Self::Contrast(factor) => {
                let sum: u64 = pixels.chunks_exact(3).map(|p| u64::from(luma(p))).sum();
                let mean = (sum as f64 / (side * side) as f64 + 0.5) as u8;
                blend(pixels, factor, |_| mean);
            }
            Self::Sharpness(factor) => {
                let smooth = smoothed(pixels, side);
                blend(pixels, factor, |i| smooth[i]);
            }
            Self::Posterize(bits) => {
                let mask = 0xffu8.checked_shl(8 - bits.min(8)).unwrap_or(0);
                pixels.iter_mut().for_each(|p| *p &= mask);
            }
            Self::Solarize(from) => {
                pixels.iter_mut().for_each(|p| *p = if f64::from(*p) < from { *p } else { 255 - *p });
            }
            Self::AutoContrast => by_channel(pixels, auto_contrast),
            Self::Equalize => by_channel(pixels, equalize),
            Self::Invert => pixels.iter_mut().for_each(|p| *p = 255 - *p),
        }
    }
}

/// ITU-R 601, in Pillow's whole numbers.
fn luma(p: &[u8]) -> u8 {
    ((u32::from(p[0]) * 19595 + u32::from(p[1]) * 38470 + u32::from(p[2]) * 7471 + 0x8000) >> 16) as u8
}

/// `other + factor (pixel - other)`, cut off to a level.
fn blend(pixels: &mut [u8], factor: f64, other: impl Fn(usize) -> u8) {
    let factor = factor as f32;
    for (i, pixel) in pixels.iter_mut().enumerate() {
        let other = f32::from(other(i));
        *pixel = (other + factor * (f32::from(*pixel) - other)).clamp(0.0, 255.0) as u8;
    }
}

/// The pixel at (x, y) becomes the nearest to (a x + b y + c, d x + e y + f), both at the middles of pixels.
fn warp(pixels: &mut Vec<u8>, side: usize, [a, b, c, d, e, f]: [f64; 6]) {
    let mut out = vec![0u8; pixels.len()];
    let inside = |v: f64| (v >= 0.0 && v < side as f64).then_some(v as usize);
    for (i, out) in out.chunks_exact_mut(3).enumerate() {
        let (x, y) = ((i % side) as f64 + 0.5, (i / side) as f64 + 0.5);
        if let (Some(x), Some(y)) = (inside(a * x + b * y + c), inside(d * x + e * y + f)) {
            out.copy_from_slice(&pixels[(y * side + x) * 3..][..3]);
        }
    }
    *pixels = out;
}

fn rotate(pixels: &mut Vec<u8>, side: usize, degrees: f64) {
    let (sin, cos) = (-degrees.to_radians()).sin_cos();
    let middle = side as f64 / 2.0;
    let [x, y] = [middle - cos * middle - sin * middle, middle + sin * middle - cos * middle];
    warp(pixels, side, [cos, sin, x, -sin, cos, y]);
}

/// A mean over 3 × 3 pixels in which the middle counts five times; the border stays.
fn smoothed(pixels: &[u8], side: usize) -> Vec<u8> {
    let mut out = pixels.to_vec();
    for y in 1..side.saturating_sub(1) {
        for x in 1..side - 1 {
            for c in 0..3 {
                let at = |dx: usize, dy: usize| f32::from(pixels[((y + dy - 1) * side + x + dx - 1) * 3 + c]);
                let around: f32 = (0..9).map(|i| at(i % 3, i / 3)).sum::<f32>() + 4.0 * at(1, 1);
                out[(y * side + x) * 3 + c] = (around / 13.0 + 0.5) as u8;
            }
        }
    }
    out
}

/// Replaces the levels of each channel by what `table` makes of how often they occur.
fn by_channel(pixels: &mut [u8], table: impl Fn(&[u32; 256]) -> Option<[u8; 256]>) {
    for c in 0..3 {
        let mut counts = [0u32; 256];
        pixels.iter().skip(c).step_by(3).for_each(|&p| counts[p as usize] += 1);
        if let Some(table) = table(&counts) {
            pixels.iter_mut().skip(c).step_by(3).for_each(|p| *p = table[*p as usize]);
        }
    }
}

fn auto_contrast(counts: &[u32; 256]) -> Option<[u8; 256]> {
    let (low, high) = (counts.iter().position(|&n| n > 0)?, counts.iter().rposition(|&n| n > 0)?);
    if high <= low {
        return None;
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    Some(std::array::from_fn(|level| (level as f64 * scale + offset).clamp(0.0, 255.0) as u8))
}

fn equalize(counts: &[u32; 256]) -> Option<[u8; 256]> {
    let present: Vec<u32> = counts.iter().copied().filter(|&n| n > 0).collect();
    let step = (present.iter().sum::<u32>() - present.last()?) / 255;
    if present.len() < 2 || step == 0 {
        return None;
    }
    let mut before = step / 2;
    Some(std::array::from_fn(|level| {
        let to = (before / step).min(255) as u8;
        before += counts[level];
        to
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4 × 4 pixels, all different.
    fn picture() -> Vec<u8> {
        (0..48).map(|i| (i * 5) as u8).collect()
    }

    fn applied(op: Op) -> Vec<u8> {
        let mut pixels = picture();
        op.apply(&mut pixels, 4);
        pixels
    }

    #[test]
    fn weakest_strengths_change_nothing() {
        let none = [
            Op::Identity,
            Op::ShearX(0.0),
            Op::ShearY(0.0),
            Op::TranslateX(0.0),
            Op::TranslateY(0.0),
            Op::Rotate(0.0),
            Op::Brightness(1.0),
            Op::Colour(1.0),
            Op::Contrast(1.0),
            Op::Sharpness(1.0),
            Op::Posterize(8),
            Op::Solarize(256.0),
        ];
        for op in none {
            assert_eq!(applied(op), picture(), "{op:?}");
        }
    }

    #[test]
    fn pixels_move_and_leave_black_behind() {
        let row = |pixels: &[u8], y: usize| pixels[y * 12..][..12].to_vec();
        let moved = applied(Op::TranslateX(1.0));
        assert_eq!(moved[..3], [0; 3]);
        assert_eq!(moved[3..12], picture()[..9]);
        let moved = applied(Op::TranslateY(-1.0));
        assert_eq!(row(&moved, 0), row(&picture(), 1));
        assert_eq!(row(&moved, 3), [0; 12]);
    }

    #[test]
    fn a_quarter_turn_is_counter_clockwise() {
        let turned = applied(Op::Rotate(90.0));
        assert_eq!(turned[..3], picture()[9..12], "the upper right corner comes to the upper left");
    }

    #[test]
    fn an_inverted_picture_is_inverted_back() {
        let mut pixels = applied(Op::Invert);
        Op::Invert.apply(&mut pixels, 4);
        assert_eq!(pixels, picture());
    }
}
