//! The small operations: normalization of rows, activations, sums, pooling, look-up.

use crate::act::{self, Act};
use crate::cpu::{for_rows, for_rows_by};
use crate::norm::layer_norm_rows;
use crate::pool::{Pool, average, max_rows};
use crate::simd::simd;

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

simd! {
    fn add_rows(x: &mut [f32], y: &[f32]) {
        for (x, &y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}

/// x ← x + y.
pub fn add(x: &mut [f32], y: &[f32]) {
    assert!(y.len() >= x.len());
    for_rows(x, 1, |i, x| add_rows(x, &y[i..i + x.len()]));
}

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

/// Mean over the pixels of images `[b, pixels, c]`: `out` is `[b, c]`.
pub fn global_avg_pool(x: &[f32], b: usize, pixels: usize, channels: usize, out: &mut [f32]) {
    let image = pixels * channels;
    for_rows_by(&mut out[..b * channels], channels, 1, |first, out| {
        for (n, out) in (first..).zip(out.chunks_exact_mut(channels)) {
            average(&x[n * image..][..image], out);
        }
    });
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
                add_rows(out, &table[id as usize * width..][..width]);
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
