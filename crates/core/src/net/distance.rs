//! Learned terms of attention scores that depend on how far key and query are apart (Raffel et al. 2020, §2.1).

use super::params::{Init, Role};
use super::{Distances, ParamSpec};

impl Distances {
    /// The parameter, `[buckets, heads]`; of several attentions with the same one, the first has it.
    pub(super) fn param(&self, heads: usize) -> Option<ParamSpec> {
        let (name, shape) = (format!("{}.weight", self.name), vec![self.buckets, heads]);
        (!self.shared).then_some(ParamSpec { name, shape, role: Role::Table, init: Init::Normal(0.02) })
    }

    /// The bucket of a key `offset` rows behind the query: half of the buckets are for each direction, and half of those
    /// for a single distance each; the others grow with the logarithm up to `farthest`.
    pub fn bucket(&self, offset: isize) -> usize {
        let half = self.buckets / 2;
        let direction = if offset > 0 { half } else { 0 };
        let (apart, exact) = (offset.unsigned_abs(), half / 2);
        if apart < exact {
            return direction + apart;
        }
        // In single precision and this order, as the originals compute it: a rounding decides about the last distance.
        let share = (apart as f32 / exact as f32).ln() / (self.farthest as f32 / exact as f32).ln();
        direction + (exact + (share * (half - exact) as f32) as usize).min(half - 1)
    }

    /// The buckets of the offsets from `1 - longest` to `longest - 1`.
    pub(super) fn buckets(&self, longest: usize) -> Vec<u32> {
        let reach = longest.max(1) as isize;
        (1 - reach..reach).map(|offset| self.bucket(offset) as u32).collect()
    }

    /// Of the parameter's values, the terms for samples of up to `longest` rows: `[heads, 2 · longest - 1]`.
    pub(super) fn terms(&self, values: &[f32], longest: usize) -> Vec<f32> {
        let (heads, buckets) = (values.len() / self.buckets, self.buckets(longest));
        (0..heads).flat_map(|head| buckets.iter().map(move |&b| values[b as usize * heads + head])).collect()
    }

    /// The parameter's gradient from that of its terms.
    pub(super) fn gradient(&self, terms: &[f32], longest: usize) -> Vec<f32> {
        let buckets = self.buckets(longest);
        let heads = terms.len() / buckets.len();
        let mut sums = vec![0f32; self.buckets * heads];
        for (head, terms) in terms.chunks_exact(buckets.len()).enumerate() {
            for (&bucket, term) in buckets.iter().zip(terms) {
                sums[bucket as usize * heads + head] += term;
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_those_of_transformers() {
        let distances = Distances { name: "bias".into(), buckets: 32, farthest: 128, shared: false };
        // MPNetEncoder.relative_position_bucket, at the edges of buckets.
        let stored = [
            (-600, 15),
            (-128, 15),
            (-91, 15),
            (-90, 14),
            (-64, 14),
            (-63, 13),
            (-46, 13),
            (-45, 12),
            (-32, 12),
            (-31, 11),
            (-23, 11),
            (-22, 10),
            (-16, 10),
            (-15, 9),
            (-12, 9),
            (-11, 8),
            (-8, 8),
            (-7, 7),
            (-1, 1),
            (0, 0),
            (1, 17),
            (7, 23),
            (8, 24),
            (11, 24),
            (12, 25),
            (15, 25),
            (16, 26),
            (22, 26),
            (23, 27),
            (31, 27),
            (32, 28),
            (45, 28),
            (46, 29),
            (63, 29),
            (64, 30),
            (90, 30),
            (91, 31),
            (128, 31),
            (600, 31),
        ];
        for (offset, bucket) in stored {
            assert_eq!(distances.bucket(offset), bucket, "{offset}");
        }
    }

    #[test]
    fn the_gradient_of_a_bucket_is_the_sum_of_its_terms() {
        let distances = Distances { name: "bias".into(), buckets: 8, farthest: 16, shared: false };
        let longest = 9;
        let values: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let terms = distances.terms(&values, longest);
        assert_eq!(terms.len(), 2 * (2 * longest - 1));
        // A row and the key right behind it: the first bucket but one of the second half.
        assert_eq!((terms[longest], terms[2 * longest - 1 + longest]), (10.0, 11.0));
        let ones = vec![1.0; terms.len()];
        let gradient = distances.gradient(&ones, longest);
        assert_eq!(gradient.iter().sum::<f32>(), terms.len() as f32);
        assert_eq!(gradient[10], 1.0);
    }
}
