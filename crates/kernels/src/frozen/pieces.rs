//! The small operations: normalization of rows, activations, sums, pooling, look-up.

use crate::act::{self, Act};
use crate::add::sum_in_place;
use crate::cpu::{for_rows, for_rows_by};
use crate::norm::layer_norm_rows;
use crate::pool::average::{Bins, averages};
use crate::pool::max::{Pool, max_rows};

/// Layer normalization of rows of `gamma.len()` values.
pub fn layer_norm(x: &[f32], gamma: &[f32], beta: &[f32], eps: f64, out: &mut [f32]) {
    let width = gamma.len();
    assert!(x.len() >= out.len() && beta.len() == width);
    for_rows(out, width, |row, out| layer_norm_rows(&x[row * width..][..out.len()], gamma, beta, eps as f32, out));
}

/// x ← act(x).
pub fn act_in_place(x: &mut [f32], act: Act) {
    for_rows(x, 1, |_, x| act::apply(act, x));
}

pub use crate::add::in_place as add;
pub use crate::gate::forward as gate;

/// Largest value of each window of images `[b, h, w, c]`; `pads` (top, bottom, left, right) count as -∞.
///
/// Returns the output's height and width; `out` is `[b, h', w', c]`.
pub fn max_pool(
    x: &[f32],
    [b, height, width, channels]: [usize; 4],
    kernel: [usize; 2],
    stride: [usize; 2],
    pads: [usize; 4],
    out: &mut [f32],
) -> (usize, usize) {
    let pool = Pool { kernel, stride, pads, height, width, channels };
    let (oh, ow) = pool.out_size();
    let image = height * width * channels;
    for_rows_by(&mut out[..b * oh * ow * channels], ow * channels, 1, |first, out| {
        for (row, out) in (first..).zip(out.chunks_exact_mut(ow * channels)) {
            max_rows(&pool, &x[row / oh * image..][..image], row % oh, out, None);
        }
    });
    (oh, ow)
}

/// Means of `size` windows that cover each image of `[b, h, w, c]`: `out` is `[b, size[0], size[1], c]`.
pub fn adaptive_avg_pool([b, h, w, c]: [usize; 4], size: [usize; 2], x: &[f32], out: &mut [f32]) {
    let (rows, columns) = (Bins::adaptive(h, size[0]), Bins::adaptive(w, size[1]));
    let (image, result) = (h * w * c, size[0] * size[1] * c);
    for_rows_by(&mut out[..b * result], result, 1, |first, out| {
        let mut part = vec![0f32; c];
        for (n, out) in (first..).zip(out.chunks_exact_mut(result)) {
            averages(&x[n * image..][..image], w, &rows, &columns, &mut part, out);
        }
    });
}

/// Images `[b, pixels, c]` as `[b, c, pixels]`.
pub fn channels_first(x: &[f32], pixels: usize, c: usize, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(pixels * c).zip(out.chunks_exact_mut(pixels * c)) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = x[i % pixels * c + i / pixels];
        }
    }
}

/// Sum of one row of every table: `ids` is `[rows, tables]`, `out` `[rows, width]`.
///
/// # Panics
/// When an index is outside of its table.
pub fn embed_sum(tables: &[&[f32]], ids: &[u32], width: usize, out: &mut [f32]) {
    for_rows(out, width, |first, out| {
        for (row, out) in (first..).zip(out.chunks_exact_mut(width)) {
            out.fill(0.0);
            for (table, &id) in tables.iter().zip(&ids[row * tables.len()..]) {
                sum_in_place(out, &table[id as usize * width..][..width]);
            }
        }
    });
}

/// Mean of each sample's rows: `out` is `[samples, width]`; 0 for a sample without rows.
pub fn pool_rows_mean(x: &[f32], width: usize, lengths: &[usize], out: &mut [f32]) {
    crate::rows::mean(x, width, lengths, out);
}

/// First row of each sample: `out` is `[samples, width]`.
pub fn pool_rows_first(x: &[f32], width: usize, lengths: &[usize], out: &mut [f32]) {
    for (start, out) in crate::rows::starts(lengths).zip(out.chunks_exact_mut(width.max(1))) {
        out.copy_from_slice(&x[start * width..][..width]);
    }
}

/// Largest value of each column over each sample's rows: `out` is `[samples, width]`; 0 for a sample without rows.
pub fn pool_rows_max(x: &[f32], width: usize, lengths: &[usize], out: &mut [f32]) {
    crate::rows::max(x, width, lengths, out);
}
