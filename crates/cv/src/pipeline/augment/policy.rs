//! Which changes of pixels a view gets: the published policies, as tables.
//!
//! Strengths run over bins from the weakest to the strongest, as in torchvision.

use serde::{Deserialize, Serialize};
use topwork_core::seed::{Seed, Stream};

use super::ops::Op;

/// A published way to draw changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// RandAugment (Cubuk et al. 2020): two of all changes at magnitude 9 of 30.
    Rand,
    /// TrivialAugment (Müller & Hutter 2021), wide: one change at any strength.
    Trivial,
    /// AutoAugment (Cubuk et al. 2019), found on ImageNet: one of 25 pairs.
    Auto,
}

/// The changes by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Identity,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Colour,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
    Invert,
}
use Kind::*;

/// The strengths of a change from the first bin to the last, of the photo's side for translations of `Rand` and `Auto`;
/// those of a signed one are turned round half of the time.
type Range = (Kind, f64, f64, bool);

/// Those of RandAugment and AutoAugment.
const RANGES: [Range; 15] = [
    (Identity, 0.0, 0.0, false),
    (ShearX, 0.0, 0.3, true),
    (ShearY, 0.0, 0.3, true),
    (TranslateX, 0.0, 150.0 / 331.0, true),
    (TranslateY, 0.0, 150.0 / 331.0, true),
    (Rotate, 0.0, 30.0, true),
    (Brightness, 0.0, 0.9, true),
    (Colour, 0.0, 0.9, true),
    (Contrast, 0.0, 0.9, true),
    (Sharpness, 0.0, 0.9, true),
    (Posterize, 8.0, 4.0, false),
    (Solarize, 255.0, 0.0, false),
    (AutoContrast, 0.0, 0.0, false),
    (Equalize, 0.0, 0.0, false),
    (Invert, 0.0, 0.0, false),
];

/// Those of TrivialAugment, which moves by pixels.
const WIDE: [Range; 14] = [
    (Identity, 0.0, 0.0, false),
    (ShearX, 0.0, 0.99, true),
    (ShearY, 0.0, 0.99, true),
    (TranslateX, 0.0, 32.0, true),
    (TranslateY, 0.0, 32.0, true),
    (Rotate, 0.0, 135.0, true),
    (Brightness, 0.0, 0.99, true),
    (Colour, 0.0, 0.99, true),
    (Contrast, 0.0, 0.99, true),
    (Sharpness, 0.0, 0.99, true),
    (Posterize, 8.0, 2.0, false),
    (Solarize, 255.0, 0.0, false),
    (AutoContrast, 0.0, 0.0, false),
    (Equalize, 0.0, 0.0, false),
];

/// AutoAugment's pairs: change, probability, bin of ten.
const PAIRS: [[(Kind, f64, usize); 2]; 25] = [
    [(Posterize, 0.4, 8), (Rotate, 0.6, 9)],
    [(Solarize, 0.6, 5), (AutoContrast, 0.6, 0)],
    [(Equalize, 0.8, 0), (Equalize, 0.6, 0)],
    [(Posterize, 0.6, 7), (Posterize, 0.6, 6)],
    [(Equalize, 0.4, 0), (Solarize, 0.2, 4)],
    [(Equalize, 0.4, 0), (Rotate, 0.8, 8)],
    [(Solarize, 0.6, 3), (Equalize, 0.6, 0)],
    [(Posterize, 0.8, 5), (Equalize, 1.0, 0)],
    [(Rotate, 0.2, 3), (Solarize, 0.6, 8)],
    [(Equalize, 0.6, 0), (Posterize, 0.4, 6)],
    [(Rotate, 0.8, 8), (Colour, 0.4, 0)],
    [(Rotate, 0.4, 9), (Equalize, 0.6, 0)],
    [(Equalize, 0.0, 0), (Equalize, 0.8, 0)],
    [(Invert, 0.6, 0), (Equalize, 1.0, 0)],
    [(Colour, 0.6, 4), (Contrast, 1.0, 8)],
    [(Rotate, 0.8, 8), (Colour, 1.0, 2)],
    [(Colour, 0.8, 8), (Solarize, 0.8, 7)],
    [(Sharpness, 0.4, 7), (Invert, 0.6, 0)],
    [(ShearX, 0.6, 5), (Equalize, 1.0, 0)],
    [(Colour, 0.4, 0), (Equalize, 0.6, 0)],
    [(Equalize, 0.4, 0), (Solarize, 0.2, 4)],
    [(Solarize, 0.6, 5), (AutoContrast, 0.6, 0)],
    [(Invert, 0.6, 0), (Equalize, 1.0, 0)],
    [(Colour, 0.6, 4), (Contrast, 1.0, 8)],
    [(Equalize, 0.8, 0), (Equalize, 0.6, 0)],
];

/// Bins of RandAugment and TrivialAugment, and of AutoAugment.
const BINS: usize = 31;
const AUTO_BINS: usize = 10;
/// RandAugment's changes of a view, and their bin.
const COUNT: usize = 2;
const MAGNITUDE: usize = 9;

impl Policy {
    /// The changes of one view of `side` × `side` pixels, in order.
    pub fn draw(self, side: usize, seed: Seed) -> Vec<Op> {
        let mut stream = seed.named("policy").stream();
        let pixels = side as f64;
        match self {
            // All but the inversion.
            Self::Rand => (0..COUNT)
                .map(|_| {
                    let range = RANGES[stream.below(RANGES.len() - 1)];
                    change(range, (MAGNITUDE, BINS), pixels, &mut stream)
                })
                .collect(),
            Self::Trivial => {
                let range = WIDE[stream.below(WIDE.len())];
                let bin = stream.below(BINS);
                vec![change(range, (bin, BINS), 1.0, &mut stream)]
            }
            Self::Auto => {
                let pair = PAIRS[stream.below(PAIRS.len())];
                let mut drawn = Vec::new();
                for (kind, probability, bin) in pair {
                    if stream.uniform() >= probability {
                        continue;
                    }
                    let range = RANGES.into_iter().find(|(other, ..)| *other == kind);
                    drawn.extend(range.map(|range| change(range, (bin, AUTO_BINS), pixels, &mut stream)));
                }
                drawn
            }
        }
    }
}

/// A change at one of `bins` strengths; translations are multiples of `unit` pixels.
fn change((kind, first, last, signed): Range, (bin, bins): (usize, usize), unit: f64, stream: &mut Stream) -> Op {
    let strength = first + (last - first) * bin as f64 / (bins - 1) as f64;
    let strength = if signed && stream.uniform() < 0.5 { -strength } else { strength };
    match kind {
        Identity => Op::Identity,
        ShearX => Op::ShearX(strength),
        ShearY => Op::ShearY(strength),
        TranslateX => Op::TranslateX(unit * strength),
        TranslateY => Op::TranslateY(unit * strength),
        Rotate => Op::Rotate(strength),
        Brightness => Op::Brightness(1.0 + strength),
        Colour => Op::Colour(1.0 + strength),
        Contrast => Op::Contrast(1.0 + strength),
        Sharpness => Op::Sharpness(1.0 + strength),
        // Bits lost are rounded, to the even number between two.
        Posterize => Op::Posterize(8 - (8.0 - strength).round_ties_even() as u32),
        Solarize => Op::Solarize(strength),
        AutoContrast => Op::AutoContrast,
        Equalize => Op::Equalize,
        Invert => Op::Invert,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn equal_seeds_draw_equal_changes_and_others_others() {
        for policy in [Policy::Rand, Policy::Trivial, Policy::Auto] {
            assert_eq!(policy.draw(224, Seed(5)), policy.draw(224, Seed(5)));
            let all: BTreeSet<String> = (0..400).map(|i| format!("{:?}", policy.draw(224, Seed(i)))).collect();
            assert!(all.len() > 30, "{policy:?}: {}", all.len());
        }
    }

    #[test]
    fn strengths_stay_within_their_ranges() {
        for policy in [Policy::Rand, Policy::Trivial, Policy::Auto] {
            for op in (0..2000).flat_map(|i| policy.draw(100, Seed(i))) {
                let within = match op {
                    Op::Rotate(degrees) => degrees.abs() <= 135.0,
                    Op::TranslateX(by) | Op::TranslateY(by) => by.abs() <= 46.0,
                    Op::Brightness(f) | Op::Colour(f) | Op::Contrast(f) | Op::Sharpness(f) => (0.0..2.0).contains(&f),
                    Op::Posterize(bits) => (2..=8).contains(&bits),
                    Op::Solarize(from) => (0.0..=255.0).contains(&from),
                    _ => true,
                };
                assert!(within, "{policy:?}: {op:?}");
            }
        }
    }

    #[test]
    fn rand_augment_has_torchvisions_strengths_at_its_magnitude() {
        let drawn: BTreeSet<String> =
            (0..400).flat_map(|i| Policy::Rand.draw(331, Seed(i))).map(|op| format!("{op:?}")).collect();
        for expected in ["Rotate(9.0)", "Rotate(-9.0)", "TranslateX(45.0)", "Posterize(7)", "Solarize(178.5)"] {
            assert!(drawn.contains(expected), "{expected} in {drawn:?}");
        }
    }
}
