//! Multi-head attention within each sample's rows, on slices.

use crate::attention::{Beside, add_terms, softmax_rows};
use crate::cpu::Shared;
use crate::matmul::{Mat, product, product_to};
use crate::rows::starts;
use rayon::prelude::*;

/// softmax(q kᵀ / √d) v in each of `heads` heads of `d` values, within the rows of each sample.
///
/// Rows of `q`, `k` and `v` are `stride` values apart, so that they may be parts of one `[rows, 3 · heads · d]` matrix;
/// `out` is `[rows, heads · d]`. `scratch` grows to what is needed.
///
/// # Panics
/// When the slices are too short.
#[allow(clippy::too_many_arguments)]
pub fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    stride: usize,
    lengths: &[usize],
    heads: usize,
    d: usize,
    out: &mut [f32],
    scratch: &mut Vec<f32>,
) {
    attention_beside(q, k, v, Beside::default(), stride, lengths, heads, d, out, scratch);
}

/// [`attention`] with what else the scores are made of.
///
/// # Panics
/// When the slices are too short.
#[allow(clippy::too_many_arguments)]
pub fn attention_beside(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    beside: Beside<&[f32]>,
    stride: usize,
    lengths: &[usize],
    heads: usize,
    d: usize,
    out: &mut [f32],
    scratch: &mut Vec<f32>,
) {
    let Beside { prefix, terms } = beside;
    let width = heads * d;
    let longest = lengths.iter().copied().max().unwrap_or(0);
    if longest == 0 || width == 0 {
        return;
    }
    let rows: usize = lengths.iter().sum();
    let out = Shared::new(&mut out[..rows * width]);
    let scale = 1.0 / (d as f32).sqrt();
    let starts: Vec<usize> = starts(lengths).collect();
    let tasks = lengths.len() * heads;
    let buffers = tasks.min(4 * rayon::current_num_threads().max(1));
    let before = prefix.map_or(0, |[key, _]| key.len() / width);
    let size = longest * (before + longest + 1);
    if scratch.len() < buffers * size {
        scratch.resize(buffers * size, 0.0);
    }
    scratch[..buffers * size].par_chunks_exact_mut(size).enumerate().for_each(|(buffer, scratch)| {
        for task in (buffer..tasks).step_by(buffers) {
            let (start, len, head) = (starts[task / heads], lengths[task / heads], task % heads);
            if len == 0 {
                continue;
            }
            let [q, k, v] = [q, k, v].map(|x| Mat::new(&x[start * stride + head * d..], len, d, stride));
            let keys = before + len;
            let (scores, logs) = scratch.split_at_mut(len * keys);
            let of_prefix = prefix.map(|parts| parts.map(|x| Mat::new(&x[head * d..], before, d, width)));
            if let Some([k, _]) = of_prefix {
                product(q, k.t(), scores, keys, false);
            }
            product(q, k.t(), &mut scores[before..], keys, false);
            if let Some(terms) = terms {
                let line = terms.len() / heads;
                add_terms(&mut scores[..len * keys], keys, before, &terms[head * line..][..line], scale);
            }
            softmax_rows(scores, keys, scale, &mut logs[..len]);
            let to = out.at(start * width + head * d, (len - 1) * width + d);
            // SAFETY: these columns of these rows exist and belong to this head of this sample.
            unsafe { product_to(Mat::new(&scores[before..], len, len, keys), v, to, width, false) };
            if let Some([_, v]) = of_prefix {
                // SAFETY: as above.
                unsafe { product_to(Mat::new(scores, len, before, keys), v, to, width, true) };
            }
        }
    });
}
