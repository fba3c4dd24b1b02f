//! Random views for training, functions of the view's seed alone: a random resized crop (Szegedy et al. 2015) and a
//! horizontal flip; then, where asked for, colour jitter, a [`Policy`] of pixel changes ([`ops`]) and random erasing.

pub mod ops;
mod policy;

use serde::{Deserialize, Serialize};
use topwork_core::seed::Seed;

use self::ops::Op;
use super::resize::Region;

pub use self::policy::Policy;

/// How random views are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Least and greatest share of the photo's area that a crop takes.
    pub scale: [f64; 2],
    /// Least and greatest ratio of a crop's width to its height.
    pub ratio: [f64; 2],
    /// Probability of a mirrored view.
    pub flip: f64,
    /// Changes of pixels.
    pub policy: Option<Policy>,
    /// Brightness, contrast and saturation vary by up to this share, in any order.
    pub jitter: f64,
    /// Probability of a rectangle in which the mean colour takes the picture's place (Zhong et al. 2020).
    pub erase: f64,
}

/// Share of the area that is erased, and its ratio of width to height.
const ERASED: ([f64; 2], [f64; 2]) = ([0.02, 0.33], [0.3, 3.3]);

/// A rectangle of whole pixels: rows and columns.
pub type Rectangle = [std::ops::Range<usize>; 2];

impl Augment {
    /// For a pre-trained network and few photos: crops that still hold most of the subject.
    pub const fn fine_tuning() -> Self {
        Self { scale: [0.35, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0], flip: 0.5, policy: None, jitter: 0.0, erase: 0.0 }
    }

    /// What happens to the pixels of a view of `side` × `side` pixels, in order.
    pub fn changes(&self, side: usize, seed: Seed) -> Vec<Op> {
        let mut stream = seed.named("jitter").stream();
        let mut changes = Vec::new();
        if self.jitter > 0.0 {
            let mut factor = || stream.range((1.0 - self.jitter).max(0.0), 1.0 + self.jitter);
            changes = vec![Op::Brightness(factor()), Op::Contrast(factor()), Op::Colour(factor())];
            stream.shuffle(&mut changes);
        }
        changes.extend(self.policy.into_iter().flat_map(|policy| policy.draw(side, seed)));
        changes
    }

    /// The rectangle to erase from a view of `side` × `side` pixels, if any: ten attempts at one that fits.
    pub fn erased(&self, side: usize, seed: Seed) -> Option<Rectangle> {
        let mut stream = seed.named("erase").stream();
        if stream.uniform() >= self.erase {
            return None;
        }
        let (shares, ratios) = ERASED;
        (0..10).find_map(|_| {
            let area = (side * side) as f64 * stream.range(shares[0], shares[1]);
            let ratio = stream.range(ratios[0].ln(), ratios[1].ln()).exp();
            let (height, width) = ((area / ratio).sqrt().round() as usize, (area * ratio).sqrt().round() as usize);
            if height == 0 || width == 0 || height >= side || width >= side {
                return None;
            }
            let (top, left) = (stream.below(side - height + 1), stream.below(side - width + 1));
            Some([top..top + height, left..left + width])
        })
    }

    /// The region to cut out of a photo of `width` × `height` pixels, and whether to mirror it. Ten attempts at a crop
    /// that fits, then the largest centre of an allowed ratio, as torchvision does.
    pub fn draw(&self, width: u32, height: u32, seed: Seed) -> (Region, bool) {
        let mut stream = seed.named("crop").stream();
        let flip = seed.named("flip").stream().uniform() < self.flip;
        let area = f64::from(width) * f64::from(height);
        for _ in 0..10 {
            let share = area * stream.range(self.scale[0], self.scale[1]);
            let ratio = stream.range(self.ratio[0].ln(), self.ratio[1].ln()).exp();
            let (w, h) = ((share * ratio).sqrt().round() as u32, (share / ratio).sqrt().round() as u32);
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let left = stream.below((width - w + 1) as usize);
                let top = stream.below((height - h + 1) as usize);
                return (region(left as f64, top as f64, w, h), flip);
            }
        }
        let ratio = f64::from(width) / f64::from(height);
        let (w, h) = if ratio < self.ratio[0] {
            (width, ((f64::from(width) / self.ratio[0]).round() as u32).clamp(1, height))
        } else if ratio > self.ratio[1] {
            (((f64::from(height) * self.ratio[1]).round() as u32).clamp(1, width), height)
        } else {
            (width, height)
        };
        (region(f64::from((width - w) / 2), f64::from((height - h) / 2), w, h), flip)
    }
}

fn region(left: f64, top: f64, width: u32, height: u32) -> Region {
    Region { left, top, width: f64::from(width), height: f64::from(height) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crop_lies_within_the_photo() {
        let augment = Augment::fine_tuning();
        for (width, height) in [(1, 1), (1, 500), (500, 1), (640, 480), (3, 2)] {
            for i in 0..200 {
                let (r, _) = augment.draw(width, height, Seed(i));
                assert!(r.width >= 1.0 && r.left + r.width <= f64::from(width), "{width} × {height}: {r:?}");
                assert!(r.height >= 1.0 && r.top + r.height <= f64::from(height), "{width} × {height}: {r:?}");
            }
        }
    }

    #[test]
    fn crops_take_the_promised_share_of_the_area() {
        let shares: Vec<f64> = (0..500)
            .map(|i| Augment::fine_tuning().draw(1000, 900, Seed(i)).0)
            .map(|r| r.width * r.height / 900_000.0)
            .collect();
        assert!(shares.iter().all(|s| (0.349..=1.001).contains(s)));
        assert!(shares.iter().any(|s| *s < 0.45) && shares.iter().any(|s| *s > 0.85));
    }

    #[test]
    fn about_half_of_the_views_are_mirrored() {
        let flipped = (0..1000).filter(|&i| Augment::fine_tuning().draw(10, 10, Seed(i)).1).count();
        assert!((440..560).contains(&flipped), "{flipped}");
    }

    #[test]
    fn erased_rectangles_lie_within_the_view_and_are_as_frequent_as_asked() {
        let augment = Augment { erase: 0.25, ..Augment::fine_tuning() };
        let found: Vec<Rectangle> = (0..1000).filter_map(|i| augment.erased(64, Seed(i))).collect();
        assert!((200..300).contains(&found.len()), "{}", found.len());
        for [rows, columns] in found {
            assert!(rows.end <= 64 && columns.end <= 64);
            let share = (rows.len() * columns.len()) as f64 / 4096.0;
            assert!((0.015..0.35).contains(&share), "{share}");
        }
    }

    #[test]
    fn jitter_is_of_three_kinds_in_any_order() {
        let augment = Augment { jitter: 0.4, ..Augment::fine_tuning() };
        let first = |i| format!("{:?}", augment.changes(64, Seed(i))[0])[..3].to_string();
        let kinds: std::collections::BTreeSet<String> = (0..50).map(first).collect();
        assert_eq!(kinds.len(), 3, "{kinds:?}");
        assert!(Augment::fine_tuning().changes(64, Seed(1)).is_empty());
    }

    #[test]
    fn equal_seeds_draw_equal_views() {
        let augment = Augment::fine_tuning();
        assert_eq!(augment.draw(640, 480, Seed(5)), augment.draw(640, 480, Seed(5)));
        assert_ne!(augment.draw(640, 480, Seed(5)).0, augment.draw(640, 480, Seed(6)).0);
    }
}
