//! Random views for training: a random resized crop (Szegedy et al. 2015) and a horizontal flip, functions of the
//! view's seed alone.

use serde::{Deserialize, Serialize};
use topwork_core::seed::Seed;

use super::resize::Region;

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
}

impl Augment {
    /// For a pre-trained network and few photos: crops that still hold most of the subject.
    pub const fn fine_tuning() -> Self {
        Self { scale: [0.35, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0], flip: 0.5 }
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
    fn equal_seeds_draw_equal_views() {
        let augment = Augment::fine_tuning();
        assert_eq!(augment.draw(640, 480, Seed(5)), augment.draw(640, 480, Seed(5)));
        assert_ne!(augment.draw(640, 480, Seed(5)).0, augment.draw(640, 480, Seed(6)).0);
    }
}
