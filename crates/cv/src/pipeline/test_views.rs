//! Several views of a photo at test time, whose answers are averaged (Krizhevsky et al. 2012, §4.1).

use serde::{Deserialize, Serialize};

use super::Pipeline;
use super::resize::Region;

/// Which views of a photo are predicted on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TestViews {
    /// The centre
    #[default]
    Centre,
    /// The centre, as it is and mirrored
    Flip,
    /// The four corners and the centre of the resized photo
    FiveCrop,
    /// The five crops, as they are and mirrored
    TenCrop,
}

/// Flags of `predict` and `evaluate`.
#[derive(Debug, Clone, Copy, Default, PartialEq, clap::Args)]
pub struct TestViewArgs {
    /// Average the probabilities over several views of each photo [default: centre]
    #[arg(long, value_enum, value_name = "VIEWS")]
    pub test_views: Option<TestViews>,
}

impl TestViews {
    /// Whether there is one view only.
    pub fn is_one(&self) -> bool {
        *self == Self::Centre
    }

    /// What to cut out of a photo of `width` × `height` pixels, and whether to mirror it.
    pub(super) fn regions(self, pipeline: &Pipeline, width: u32, height: u32) -> Vec<(Region, bool)> {
        let mut regions = Vec::new();
        if matches!(self, Self::FiveCrop | Self::TenCrop) {
            for down in [0.0, 1.0] {
                for across in [0.0, 1.0] {
                    let corner = pipeline.region(width, height, |[rows, columns]| [rows * down, columns * across]);
                    regions.push((corner, false));
                }
            }
        }
        regions.push((pipeline.centre_region(width, height), false));
        if matches!(self, Self::Flip | Self::TenCrop) {
            regions.extend(regions.clone().into_iter().map(|(region, _)| (region, true)));
        }
        regions
    }
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};
    use topwork_core::data::{Sample, Values, View};

    use super::*;
    use crate::pipeline::Interpolation;

    /// Seen as it is, 4 × 4 pixels of 6 × 8.
    fn rendered(test_views: TestViews) -> (RgbImage, Sample) {
        let photo = RgbImage::from_fn(8, 6, |x, y| Rgb([(x * 20) as u8, (y * 20) as u8, 0]));
        let pipeline = Pipeline {
            resize: 6,
            crop: 4,
            mean: [0.0; 3],
            std: [1.0 / 255.0; 3],
            interpolation: Interpolation::Bilinear,
            test_views,
            ..Pipeline::imagenet()
        };
        let sample = pipeline.render(&photo, View::Plain).unwrap();
        (photo, sample)
    }

    /// Column and row of the photo that the first pixel of each view shows, and the column of the next.
    fn firsts(test_views: TestViews) -> Vec<[u32; 3]> {
        let (_, sample) = rendered(test_views);
        let Values::F32(values) = sample.values else { panic!() };
        let view = |v: &[f32]| [v[0], v[1], v[3]].map(|x| (x / 20.0).round() as u32);
        assert_eq!(values.len(), sample.rows * 48);
        values.chunks_exact(48).map(view).collect()
    }

    #[test]
    fn crops_are_the_corners_and_the_centre_and_their_mirror_images() {
        let five = [[0, 0, 1], [4, 0, 5], [0, 2, 1], [4, 2, 5], [2, 1, 3]];
        assert_eq!(firsts(TestViews::FiveCrop), five);
        let mirrored = five.map(|[x, y, _]| [x + 3, y, x + 2]);
        assert_eq!(firsts(TestViews::TenCrop), [five, mirrored].concat());
        assert_eq!(firsts(TestViews::Flip), [[2, 1, 3], [5, 1, 4]]);
        assert_eq!(firsts(TestViews::Centre), [[2, 1, 3]]);
    }
}
