//! Softmax, and multi-head attention within each sample's rows (Vaswani et al. 2017).
//!
//! The forward pass keeps one number for each row and head, the logarithm of the softmax's denominator; the backward
//! pass computes the weights again from it (Dao et al. 2022).

use crate::cpu::{self, Shared, Values, for_rows, output, with_scratch};
use crate::dropout::Mask;
use crate::matmul::{Mat, product};
use crate::rows::{check, starts};
use crate::simd::{dot, exp, max, simd, sum};
use candle_core::{CpuStorage, CustomOp1, CustomOp3, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::sync::OnceLock;

simd! {
    /// Softmax of `scale` x in rows of `width`; `logs` gets the logarithms of the denominators.
    pub(crate) fn softmax_rows(x: &mut [f32], width: usize, scale: f32, logs: &mut [f32]) {
        for (x, log) in x.chunks_exact_mut(width).zip(logs) {
            let top = max(x) * scale;
            for x in x.iter_mut() {
                *x = exp(x.mul_add(scale, -top));
            }
            let total = sum(x);
            let factor = 1.0 / total;
            for x in x.iter_mut() {
                *x *= factor;
            }
            *log = top + total.ln();
        }
    }
}

simd! {
    /// The weights again: exp(scale x - log).
    fn weights(x: &mut [f32], width: usize, scale: f32, logs: &[f32]) {
        for (x, &log) in x.chunks_exact_mut(width).zip(logs) {
            for x in x.iter_mut() {
                *x = exp(x.mul_add(scale, -log));
            }
        }
    }
}

simd! {
    /// Gradient of the scores from that of the weights, in its place.
    fn softmax_backward(p: &[f32], dp: &mut [f32], width: usize, scale: f32) {
        for (p, dp) in p.chunks_exact(width).zip(dp.chunks_exact_mut(width)) {
            let mean = dot(p, dp);
            for (dp, &p) in dp.iter_mut().zip(p) {
                *dp = p * (*dp - mean) * scale;
            }
        }
    }
}

simd! {
    fn drop(mask: Mask, first: usize, x: &mut [f32]) {
        for (i, x) in x.iter_mut().enumerate() {
            *x *= mask.factor((first + i) as u64);
        }
    }
}

simd! {
    /// Drops from `a` in place, and from `b` into `kept`.
    fn drop_both(mask: Mask, first: usize, a: &mut [f32], b: &[f32], kept: &mut [f32]) {
        for (i, ((a, &b), kept)) in a.iter_mut().zip(b).zip(kept.iter_mut()).enumerate() {
            let factor = mask.factor((first + i) as u64);
            *a *= factor;
            *kept = b * factor;
        }
    }
}

/// One head of one sample.
#[derive(Debug, Clone, Copy)]
struct Piece {
    row: usize,
    rows: usize,
    head: usize,
    /// Index of its first weight among all weights.
    weight: usize,
}

/// Attention on slices: forward, which leaves what backward needs.
#[derive(Debug, Clone)]
pub struct AttentionPass {
    lengths: Vec<usize>,
    heads: usize,
    mask: Option<Mask>,
    /// Logarithms of the denominators, one vector for each piece.
    logs: Vec<Vec<f32>>,
}

impl AttentionPass {
    fn new(lengths: &[usize], heads: usize, dropout: Option<(f32, u64)>) -> Result<Self> {
        let mask = dropout.filter(|&(p, _)| p != 0.0).map(|(p, seed)| Mask::new(p, seed)).transpose()?;
        Ok(Self { lengths: lengths.to_vec(), heads, mask, logs: Vec::new() })
    }

    /// The pass, and its output. The arguments are those of [`attention`], with rows of `width` values.
    ///
    /// # Errors
    /// When the probability of dropout is not one.
    pub fn forward(
        [q, k, v]: [&[f32]; 3],
        width: usize,
        lengths: &[usize],
        heads: usize,
        dropout: Option<(f32, u64)>,
    ) -> Result<(Self, Vec<f32>)> {
        let mut pass = Self::new(lengths, heads, dropout)?;
        let y = pass.run(q, k, v, width);
        Ok((pass, y))
    }

    fn run(&mut self, q: &[f32], k: &[f32], v: &[f32], width: usize) -> Vec<f32> {
        let d = width / self.heads;
        let scale = 1.0 / (d as f32).sqrt();
        let mut y = output(q.len());
        let out = Shared::new(&mut y);
        let this = &*self;
        let logs = self.pieces().into_par_iter().map(|piece| {
            let len = piece.rows;
            with_scratch(len * (len + d), |scratch| {
                let (scores, y) = scratch.split_at_mut(len * len);
                let mut logs = vec![0f32; len];
                product(this.part(piece, q, width), this.part(piece, k, width).t(), scores, len, false);
                if len > 0 {
                    softmax_rows(scores, len, scale, &mut logs);
                }
                if let Some(mask) = this.mask {
                    drop(mask, piece.weight, scores);
                }
                product(Mat::new(scores, len, len, len), this.part(piece, v, width), y, d, false);
                this.put(piece, y, &out, width);
                logs
            })
        });
        self.logs = logs.collect();
        y
    }

    /// Gradients of queries, keys and values.
    pub fn gradients(&self, [q, k, v]: [&[f32]; 3], width: usize, dy: &[f32]) -> [Vec<f32>; 3] {
        let d = width / self.heads;
        let scale = 1.0 / (d as f32).sqrt();
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| output(x.len()));
        let (out_q, out_k, out_v) = (Shared::new(&mut dq), Shared::new(&mut dk), Shared::new(&mut dv));
        self.pieces().into_par_iter().zip(&self.logs).for_each(|(piece, logs)| {
            let len = piece.rows;
            if len == 0 {
                return;
            }
            with_scratch(3 * len * len + len * d, |scratch| {
                let (p, rest) = scratch.split_at_mut(len * len);
                let (dp, rest) = rest.split_at_mut(len * len);
                let (kept, part) = rest.split_at_mut(len * len);
                let (q, k) = (self.part(piece, q, width), self.part(piece, k, width));
                let dy = self.part(piece, dy, width);
                product(q, k.t(), p, len, false);
                weights(p, len, scale, logs);
                product(dy, self.part(piece, v, width).t(), dp, len, false);
                match self.mask {
                    Some(mask) => {
                        drop_both(mask, piece.weight, dp, p, kept);
                        product(Mat::new(kept, len, len, len).t(), dy, part, d, false);
                    }
                    None => product(Mat::new(p, len, len, len).t(), dy, part, d, false),
                }
                self.put(piece, part, &out_v, width);
                softmax_backward(p, dp, len, scale);
                let ds = Mat::new(dp, len, len, len);
                product(ds, k, part, d, false);
                self.put(piece, part, &out_q, width);
                product(ds.t(), q, part, d, false);
                self.put(piece, part, &out_k, width);
            });
        });
        [dq, dk, dv]
    }

    fn pieces(&self) -> Vec<Piece> {
        let mut weight = 0;
        let mut pieces = Vec::with_capacity(self.lengths.len() * self.heads);
        for (row, &rows) in starts(&self.lengths).zip(&self.lengths) {
            for head in 0..self.heads {
                pieces.push(Piece { row, rows, head, weight });
                weight += rows * rows;
            }
        }
        pieces
    }

    /// A piece's part of a `[rows, width]` matrix.
    fn part<'a>(&self, piece: Piece, x: &'a [f32], width: usize) -> Mat<'a> {
        let d = width / self.heads;
        if piece.rows == 0 {
            return Mat::new(&[], 0, d, width);
        }
        Mat::new(&x[piece.row * width + piece.head * d..], piece.rows, d, width)
    }

    /// Copies a piece's rows to where they belong.
    fn put(&self, piece: Piece, from: &[f32], to: &Shared, width: usize) {
        let d = width / self.heads;
        for (i, from) in from.chunks_exact(d).enumerate() {
            // SAFETY: these columns of these rows belong to this piece alone.
            unsafe { to.part((piece.row + i) * width + piece.head * d, d) }.copy_from_slice(from);
        }
    }
}

struct Op {
    pass: AttentionPass,
    done: OnceLock<AttentionPass>,
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let mut pass = self.pass.clone();
        let y = pass.run(cpu::values(q, lq)?, cpu::values(k, lk)?, cpu::values(v, lv)?, lq.shape().dims2()?.1);
        let _ = self.done.set(pass);
        Ok((CpuStorage::F32(y), lq.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (qs, ks, vs, dy) = (Values::of(q)?, Values::of(k)?, Values::of(v)?, Values::of(&dy)?);
        let Some(pass) = self.done.get() else { bail!("attention: backward before forward") };
        let [dq, dk, dv] = pass.gradients([&qs, &ks, &vs], q.dim(1)?, &dy);
        let keep = |t: &Tensor, grad| if t.track_op() { cpu::like(grad, t).map(Some) } else { Ok(None) };
        Ok((keep(q, dq)?, keep(k, dk)?, keep(v, dv)?))
    }
}

/// softmax(q kᵀ / √d) v in each head, within the rows of each sample: all `[rows, heads · d]`.
///
/// `dropout` is a probability and a seed, and applies to the weights. Errors when shapes, heads or lengths do not fit.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    lengths: &[usize],
    heads: usize,
    dropout: Option<(f32, u64)>,
) -> Result<Tensor> {
    let (rows, width) = q.dims2()?;
    if k.dims() != q.dims() || v.dims() != q.dims() {
        bail!("attention: queries {:?}, keys {:?} and values {:?} differ in shape", q.dims(), k.dims(), v.dims());
    }
    if heads == 0 || width == 0 || width % heads != 0 {
        bail!("attention: a width of {width} cannot be split into {heads} heads");
    }
    check("attention", rows, lengths)?;
    let pass = AttentionPass::new(lengths, heads, dropout)?;
    if q.device().is_cpu() {
        let op = Op { pass, done: OnceLock::new() };
        q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
    } else {
        composed(q, k, v, &pass)
    }
}

fn composed(q: &Tensor, k: &Tensor, v: &Tensor, pass: &AttentionPass) -> Result<Tensor> {
    let (_, width) = q.dims2()?;
    let (heads, d) = (pass.heads, width / pass.heads);
    let mut samples = Vec::new();
    for piece in pass.pieces().into_iter().step_by(heads).filter(|piece| piece.rows > 0) {
        let len = piece.rows;
        let split = |x: &Tensor| x.narrow(0, piece.row, len)?.reshape((len, heads, d))?.transpose(0, 1)?.contiguous();
        let scores = (split(q)?.matmul(&split(k)?.t()?)? * (1.0 / (d as f64).sqrt()))?;
        let mut weights = softmax_composed(&scores)?;
        if let Some(mask) = pass.mask {
            let factors: Vec<f32> = (0..heads * len * len).map(|i| mask.factor((piece.weight + i) as u64)).collect();
            weights = (weights * Tensor::from_vec(factors, (heads, len, len), q.device())?)?;
        }
        samples.push(weights.matmul(&split(v)?)?.transpose(0, 1)?.reshape((len, width))?);
    }
    if samples.is_empty() { q.zeros_like() } else { Tensor::cat(&samples, 0) }
}

fn softmax_composed(x: &Tensor) -> Result<Tensor> {
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

struct Softmax;

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = cpu::values(storage, layout)?.to_vec();
        let width = layout.dims().last().copied().unwrap_or(1).max(1);
        for_rows(&mut y, width, |_, y| {
            let mut logs = vec![0f32; y.len() / width];
            softmax_rows(y, width, 1.0, &mut logs);
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let (y, gradient) = (Values::of(y)?, Values::of(&dy)?);
        let width = dy.dims().last().copied().unwrap_or(1).max(1);
        let mut dx = output(y.len());
        for_rows(&mut dx, width, |row, dx| softmax_gradient(&y[row * width..], &gradient[row * width..], width, dx));
        cpu::like(dx, &dy).map(Some)
    }
}

simd! {
    fn softmax_gradient(y: &[f32], dy: &[f32], width: usize, dx: &mut [f32]) {
        for ((dx, y), dy) in dx.chunks_exact_mut(width).zip(y.chunks_exact(width)).zip(dy.chunks_exact(width)) {
            let mean = dot(y, dy);
            for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = y * (dy - mean);
            }
        }
    }
}

/// Softmax over the last dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { x.contiguous()?.apply_op1(Softmax) } else { softmax_composed(x) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, close, close_values, flat, random};

    fn inputs(rows: usize, width: usize) -> [Tensor; 3] {
        [1, 2, 3].map(|seed| random(&[rows, width], seed, 1.5))
    }

    fn op(lengths: &[usize], heads: usize, dropout: Option<(f32, u64)>) -> AttentionPass {
        AttentionPass::new(lengths, heads, dropout).expect("a probability")
    }

    #[test]
    fn agrees_with_plain_loops() -> Result<()> {
        let (lengths, heads, d) = ([3usize, 0, 20, 1], 3, 5);
        let width = heads * d;
        let [q, k, v] = inputs(24, width);
        let (qs, ks, vs) = (flat(&q), flat(&k), flat(&v));
        let mut want = vec![0f32; 24 * width];
        for (start, len) in starts(&lengths).zip(lengths) {
            for (i, h) in (0..len * heads).map(|i| (start + i / heads, i % heads)) {
                let score = |j: usize| -> f64 {
                    (0..d).map(|c| f64::from(qs[i * width + h * d + c]) * f64::from(ks[j * width + h * d + c])).sum()
                };
                let e: Vec<f64> = (start..start + len).map(|j| (score(j) / (d as f64).sqrt()).exp()).collect();
                let total: f64 = e.iter().sum();
                for c in 0..d {
                    let y: f64 = (0..len).map(|j| e[j] / total * f64::from(vs[(start + j) * width + h * d + c])).sum();
                    want[i * width + h * d + c] = y as f32;
                }
            }
        }
        close_values(&flat(&attention(&q, &k, &v, &lengths, heads, None)?), &want, 1e-6);
        Ok(())
    }

    #[test]
    fn composition_gives_the_same_values() -> Result<()> {
        let [q, k, v] = inputs(24, 32);
        for dropout in [None, Some((0.3, 7))] {
            let lengths = [3, 20, 0, 1];
            let y = attention(&q, &k, &v, &lengths, 4, dropout)?;
            close(&y, &composed(&q, &k, &v, &op(&lengths, 4, dropout))?, 1e-5);
        }
        Ok(())
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        for dropout in [None, Some((0.3, 7))] {
            check_gradients(&inputs(10, 12), 3e-3, |x| attention(&x[0], &x[1], &x[2], &[4, 1, 5], 2, dropout));
        }
    }

    #[test]
    fn gradients_of_the_composition_are_the_kernels() {
        check_gradients(&inputs(10, 12), 3e-3, |x| composed(&x[0], &x[1], &x[2], &op(&[4, 1, 5], 2, Some((0.3, 7)))));
    }

    #[test]
    fn softmax_sums_to_one_and_survives_large_values() -> Result<()> {
        let x = (random(&[5, 19], 1, 50.0) + 500.0)?;
        close(&softmax(&x)?, &softmax_composed(&x)?, 1e-5);
        close_values(&flat(&softmax(&x)?.sum(1)?), &[1.0; 5], 1e-5);
        Ok(())
    }

    #[test]
    fn heads_must_divide_the_width() {
        let [q, k, v] = inputs(4, 10);
        assert!(attention(&q, &k, &v, &[4], 3, None).is_err());
        assert!(attention(&q, &k, &v, &[3], 2, None).is_err());
    }
}
