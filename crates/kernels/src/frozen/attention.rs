//! Multi-head attention within each sample's rows, on slices.

use crate::attention::{Beside, add_terms, softmax_rows};
use crate::cpu::Shared;
use crate::matmul::{Mat, product, product_to};
use crate::rows::starts;
use rayon::prelude::*;

/// Rows of values, `stride` apart: columns of a wider matrix, perhaps.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// From the first value of the first row on.
    pub values: &'a [f32],
    /// From a row to the next.
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// `d` columns from `column` on of `rows` rows from `row` on.
    fn part(self, row: usize, rows: usize, column: usize, d: usize) -> Mat<'a> {
        Mat::new(&self.values[row * self.stride + column..], rows, d, self.stride)
    }
}

/// softmax(q kᵀ / √d) v in each of `heads` heads of `d` values, within the rows of each sample.
///
/// `k` and `v` have the rows of all samples behind each other; `q` has a row for each of the queries, and so has `out`,
/// `[…, heads · d]`: 0 where there is nothing to look at. `scratch` grows to what is needed.
///
/// # Panics
/// When the slices are too short.
#[allow(clippy::too_many_arguments)]
pub fn attention(
    q: Rows,
    k: Rows,
    v: Rows,
    beside: Beside<&[f32]>,
    lengths: &[usize],
    heads: usize,
    d: usize,
    out: &mut [f32],
    scratch: &mut Vec<f32>,
) {
    let Beside { prefix, terms, queries } = beside;
    let width = heads * d;
    let longest = lengths.iter().copied().max().unwrap_or(0);
    if longest == 0 || width == 0 {
        return;
    }
    let out = Shared::new(&mut out[..queries.count(lengths) * width]);
    let scale = 1.0 / (d as f32).sqrt();
    let starts: Vec<usize> = starts(lengths).collect();
    let asking: Vec<(usize, usize)> = queries.of_samples(lengths).collect();
    let most = asking.iter().map(|&(_, asking)| asking).max().unwrap_or(0);
    let tasks = lengths.len() * heads;
    let buffers = tasks.min(4 * rayon::current_num_threads().max(1));
    let before = prefix.map_or(0, |[key, _]| key.len() / width);
    let size = most * (before + longest + 1);
    if scratch.len() < buffers * size {
        scratch.resize(buffers * size, 0.0);
    }
    scratch[..buffers * size].par_chunks_exact_mut(size).enumerate().for_each(|(buffer, scratch)| {
        for task in (buffer..tasks).step_by(buffers) {
            let (start, len, head) = (starts[task / heads], lengths[task / heads], task % heads);
            let (query, asking) = asking[task / heads];
            if len == 0 {
                for query in query..query + asking {
                    // SAFETY: these columns of this row belong to this head of this sample.
                    unsafe { out.part(query * width + head * d, d) }.fill(0.0);
                }
                continue;
            }
            let at = head * d;
            let (q, k, v) = (q.part(query, asking, at, d), k.part(start, len, at, d), v.part(start, len, at, d));
            let keys = before + len;
            let (scores, logs) = scratch.split_at_mut(asking * keys);
            let of_prefix = prefix.map(|parts| parts.map(|x| Mat::new(&x[head * d..], before, d, width)));
            if let Some([k, _]) = of_prefix {
                product(q, k.t(), scores, keys, false);
            }
            product(q, k.t(), &mut scores[before..], keys, false);
            if let Some(terms) = terms {
                let line = terms.len() / heads;
                add_terms(scores, keys, before, &terms[head * line..][..line], scale);
            }
            softmax_rows(scores, keys, scale, &mut logs[..asking]);
            let to = out.at(query * width + head * d, (asking - 1) * width + d);
            // SAFETY: these columns of these rows exist and belong to this head of this sample.
            unsafe { product_to(Mat::new(&scores[before..], asking, len, keys), v, to, width, false) };
            if let Some([_, v]) = of_prefix {
                // SAFETY: as above.
                unsafe { product_to(Mat::new(scores, asking, before, keys), v, to, width, true) };
            }
        }
    });
}
