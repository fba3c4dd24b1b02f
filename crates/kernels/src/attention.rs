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

/// Which rows ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queries {
    /// Every row of every sample: as many queries as keys.
    Rows,
    /// One query for each sample, whatever its rows.
    Samples,
}

impl Queries {
    /// How many queries samples of these lengths have.
    pub(crate) fn count(self, lengths: &[usize]) -> usize {
        match self {
            Self::Rows => lengths.iter().sum(),
            Self::Samples => lengths.len(),
        }
    }

    /// First query and number of queries of each sample.
    pub(crate) fn of_samples(self, lengths: &[usize]) -> impl Iterator<Item = (usize, usize)> {
        starts(lengths).zip(lengths).enumerate().map(move |(sample, (start, &len))| match self {
            Self::Rows => (start, len),
            Self::Samples => (sample, 1),
        })
    }
}

/// One head of one sample.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// First row of its keys and values, and how many.
    row: usize,
    rows: usize,
    /// First row of its queries, and how many.
    query: usize,
    queries: usize,
    /// Keys that each of its queries sees: the prefix and the rows.
    keys: usize,
    head: usize,
    /// Index of its first weight among all weights.
    weight: usize,
}

/// Keys and values `[length, width]` that belong to no row (Li & Liang 2021): every row of every sample sees them.
pub type Prefix<'a> = Option<[&'a [f32]; 2]>;

/// Attention on slices: forward, which leaves what backward needs.
#[derive(Debug, Clone)]
pub struct AttentionPass {
    lengths: Vec<usize>,
    queries: Queries,
    heads: usize,
    mask: Option<Mask>,
    /// Keys and values in front of every sample's own.
    prefix: usize,
    /// Logarithms of the denominators, one vector for each piece.
    logs: Vec<Vec<f32>>,
}

impl AttentionPass {
    fn new(lengths: &[usize], queries: Queries, heads: usize, dropout: Option<(f32, u64)>) -> Result<Self> {
        if queries == Queries::Samples && lengths.contains(&0) {
            bail!("attention: a sample without rows has nothing to look at");
        }
        let mask = dropout.filter(|&(p, _)| p != 0.0).map(|(p, seed)| Mask::new(p, seed)).transpose()?;
        Ok(Self { lengths: lengths.to_vec(), queries, heads, mask, prefix: 0, logs: Vec::new() })
    }

    /// The pass, and its output. The arguments are those of [`attention`], with rows of `width` values.
    ///
    /// # Errors
    /// When the probability of dropout is not one, or a sample that asks has no rows.
    pub fn forward(
        [q, k, v]: [&[f32]; 3],
        prefix: Prefix,
        width: usize,
        lengths: &[usize],
        queries: Queries,
        heads: usize,
        dropout: Option<(f32, u64)>,
    ) -> Result<(Self, Vec<f32>)> {
        let mut pass = Self::new(lengths, queries, heads, dropout)?;
        pass.prefix = prefix.map_or(0, |[key, _]| key.len() / width.max(1));
        let y = pass.run(q, k, v, prefix, width);
        Ok((pass, y))
    }

    fn run(&mut self, q: &[f32], k: &[f32], v: &[f32], prefix: Prefix, width: usize) -> Vec<f32> {
        let d = width / self.heads;
        let scale = 1.0 / (d as f32).sqrt();
        let mut y = output(q.len());
        let out = Shared::new(&mut y);
        let this = &*self;
        let logs = self.pieces().into_par_iter().map(|piece| {
            let (asking, keys, before) = (piece.queries, piece.keys, this.prefix);
            with_scratch(asking * (keys + d), |scratch| {
                let (scores, y) = scratch.split_at_mut(asking * keys);
                let mut logs = vec![0f32; asking];
                if asking == 0 {
                    return logs;
                }
                this.products(piece, q, k, prefix.map(|[k, _]| k), width, scores);
                softmax_rows(scores, keys, scale, &mut logs);
                if let Some(mask) = this.mask {
                    drop(mask, piece.weight, scores);
                }
                let own = Mat::new(&scores[before..], asking, piece.rows, keys);
                product(own, this.part(piece, v, width), y, d, false);
                if let Some([_, v]) = prefix {
                    product(Mat::new(scores, asking, before, keys), this.of_prefix(piece, v, width), y, d, true);
                }
                this.put(piece.query, piece.head, y, &out, width);
                logs
            })
        });
        self.logs = logs.collect();
        y
    }

    /// Gradients of queries, keys and values, and of the prefix.
    #[allow(clippy::type_complexity)]
    pub fn gradients(
        &self,
        [q, k, v]: [&[f32]; 3],
        prefix: Prefix,
        width: usize,
        dy: &[f32],
    ) -> ([Vec<f32>; 3], Option<[Vec<f32>; 2]>) {
        let d = width / self.heads;
        let scale = 1.0 / (d as f32).sqrt();
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| output(x.len()));
        let (out_q, out_k, out_v) = (Shared::new(&mut dq), Shared::new(&mut dk), Shared::new(&mut dv));
        let before = self.prefix;
        let of_prefix = self.pieces().into_par_iter().zip(&self.logs).map(|(piece, logs)| {
            let (asking, len, keys) = (piece.queries, piece.rows, piece.keys);
            let mut of_prefix = [vec![0f32; before * d], vec![0f32; before * d]];
            if asking == 0 {
                return of_prefix;
            }
            with_scratch(3 * asking * keys + len * d, |scratch| {
                let (p, rest) = scratch.split_at_mut(asking * keys);
                let (dp, rest) = rest.split_at_mut(asking * keys);
                let (kept, part) = rest.split_at_mut(asking * keys);
                self.products(piece, q, k, prefix.map(|[k, _]| k), width, p);
                weights(p, keys, scale, logs);
                self.products(piece, dy, v, prefix.map(|[_, v]| v), width, dp);
                let (q, k) = (self.asking(piece, q, width), self.part(piece, k, width));
                let dy = self.asking(piece, dy, width);
                let kept = match self.mask {
                    Some(mask) => {
                        drop_both(mask, piece.weight, dp, p, kept);
                        &*kept
                    }
                    None => &*p,
                };
                product(Mat::new(&kept[before..], asking, len, keys).t(), dy, part, d, false);
                self.put(piece.row, piece.head, part, &out_v, width);
                if before > 0 {
                    product(Mat::new(kept, asking, before, keys).t(), dy, &mut of_prefix[1], d, false);
                }
                softmax_backward(p, dp, keys, scale);
                let ds = Mat::new(&dp[before..], asking, len, keys);
                product(ds.t(), q, part, d, false);
                self.put(piece.row, piece.head, part, &out_k, width);
                let part = &mut part[..asking * d];
                product(ds, k, part, d, false);
                if let Some([k, _]) = prefix {
                    let ds = Mat::new(dp, asking, before, keys);
                    product(ds, self.of_prefix(piece, k, width), part, d, true);
                    product(ds.t(), q, &mut of_prefix[0], d, false);
                }
                self.put(piece.query, piece.head, part, &out_q, width);
            });
            of_prefix
        });
        let of_prefix: Vec<[Vec<f32>; 2]> = of_prefix.collect();
        let of_prefix = prefix.map(|_| {
            let mut sums = [vec![0f32; before * width], vec![0f32; before * width]];
            // In the order of the pieces, so that the sums do not depend on who came first.
            for (piece, parts) in self.pieces().iter().zip(&of_prefix) {
                for (sum, part) in sums.iter_mut().zip(parts) {
                    for (sum, part) in sum.chunks_exact_mut(width).zip(part.chunks_exact(d)) {
                        sum[piece.head * d..].iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                    }
                }
            }
            sums
        });
        ([dq, dk, dv], of_prefix)
    }

    /// Products of a piece's queries in `x` with its rows of `y`, the prefix's first: `[queries, keys]`.
    fn products(&self, piece: Piece, x: &[f32], y: &[f32], prefix: Option<&[f32]>, width: usize, out: &mut [f32]) {
        let x = self.asking(piece, x, width);
        if let Some(prefix) = prefix {
            product(x, self.of_prefix(piece, prefix, width).t(), out, piece.keys, false);
        }
        product(x, self.part(piece, y, width).t(), &mut out[self.prefix..], piece.keys, false);
    }

    /// A piece's columns of the prefix's keys or values.
    fn of_prefix<'a>(&self, piece: Piece, x: &'a [f32], width: usize) -> Mat<'a> {
        let d = width / self.heads;
        Mat::new(&x[piece.head * d..], self.prefix, d, width)
    }

    fn pieces(&self) -> Vec<Piece> {
        let mut weight = 0;
        let mut pieces = Vec::with_capacity(self.lengths.len() * self.heads);
        let samples = starts(&self.lengths).zip(&self.lengths).zip(self.queries.of_samples(&self.lengths));
        for ((row, &rows), (query, queries)) in samples {
            for head in 0..self.heads {
                let keys = self.prefix + rows;
                pieces.push(Piece { row, rows, query, queries, keys, head, weight });
                weight += queries * keys;
            }
        }
        pieces
    }

    /// A piece's part of the keys or values, `[rows, width]`. The piece has rows.
    fn part<'a>(&self, piece: Piece, x: &'a [f32], width: usize) -> Mat<'a> {
        let d = width / self.heads;
        Mat::new(&x[piece.row * width + piece.head * d..], piece.rows, d, width)
    }

    /// A piece's part of the queries, `[queries, width]`. The piece asks.
    fn asking<'a>(&self, piece: Piece, x: &'a [f32], width: usize) -> Mat<'a> {
        let d = width / self.heads;
        Mat::new(&x[piece.query * width + piece.head * d..], piece.queries, d, width)
    }

    /// Copies rows of a head to where they belong: to `row` and those behind it.
    fn put(&self, row: usize, head: usize, from: &[f32], to: &Shared, width: usize) {
        let d = width / self.heads;
        for (i, from) in from.chunks_exact(d).enumerate() {
            // SAFETY: these columns of these rows belong to one piece alone.
            unsafe { to.part((row + i) * width + head * d, d) }.copy_from_slice(from);
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
        let [q, k, v] = [cpu::values(q, lq)?, cpu::values(k, lk)?, cpu::values(v, lv)?];
        let y = pass.run(q, k, v, None, lq.shape().dims2()?.1);
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
        let ([dq, dk, dv], _) = pass.gradients([&qs, &ks, &vs], None, q.dim(1)?, &dy);
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
    attention_with(q, k, v, None, lengths, Queries::Rows, heads, dropout)
}

/// [`attention`] with a `prefix` of keys and values, `[length, heads · d]`, in front of every sample's own, and with a
/// choice of who asks: `q` has a row for each of the queries, and so has the result.
#[allow(clippy::too_many_arguments)]
pub fn attention_with(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    prefix: Option<[&Tensor; 2]>,
    lengths: &[usize],
    queries: Queries,
    heads: usize,
    dropout: Option<(f32, u64)>,
) -> Result<Tensor> {
    let (rows, width) = k.dims2()?;
    if q.dims() != [queries.count(lengths), width] || v.dims() != k.dims() {
        bail!("attention: queries {:?}, keys {:?} and values {:?} do not fit", q.dims(), k.dims(), v.dims());
    }
    if heads == 0 || width == 0 || width % heads != 0 {
        bail!("attention: a width of {width} cannot be split into {heads} heads");
    }
    check("attention", rows, lengths)?;
    let mut pass = AttentionPass::new(lengths, queries, heads, dropout)?;
    if let Some([key, value]) = prefix {
        if key.dims() != value.dims() || key.dim(1)? != width {
            bail!("attention: a prefix of {:?} keys and {:?} values", key.dims(), value.dims());
        }
        pass.prefix = key.dim(0)?;
    }
    // An operation of candle's has three inputs at most: with a prefix it takes the long way.
    if q.device().is_cpu() && prefix.is_none() {
        let op = Op { pass, done: OnceLock::new() };
        q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
    } else {
        composed(q, k, v, prefix, &pass)
    }
}

fn composed(q: &Tensor, k: &Tensor, v: &Tensor, prefix: Option<[&Tensor; 2]>, pass: &AttentionPass) -> Result<Tensor> {
    let (_, width) = q.dims2()?;
    let (heads, d) = (pass.heads, width / pass.heads);
    let mut samples = Vec::new();
    for piece in pass.pieces().into_iter().step_by(heads).filter(|piece| piece.queries > 0) {
        let (asking, len, keys) = (piece.queries, piece.rows, piece.keys);
        let split = |x: &Tensor, rows: usize| x.reshape((rows, heads, d))?.transpose(0, 1)?.contiguous();
        let own = |x: &Tensor| x.narrow(0, piece.row, len);
        let with = |prefix: Option<&Tensor>, x: &Tensor| match prefix {
            Some(prefix) => split(&Tensor::cat(&[prefix, &own(x)?], 0)?, keys),
            None => split(&own(x)?, len),
        };
        let [k, v] = [with(prefix.map(|[k, _]| k), k)?, with(prefix.map(|[_, v]| v), v)?];
        let q = split(&q.narrow(0, piece.query, asking)?, asking)?;
        let scores = (q.matmul(&k.t()?)? * (1.0 / (d as f64).sqrt()))?;
        let mut weights = softmax_composed(&scores)?;
        if let Some(mask) = pass.mask {
            let factors: Vec<f32> =
                (0..heads * asking * keys).map(|i| mask.factor((piece.weight + i) as u64)).collect();
            weights = (weights * Tensor::from_vec(factors, (heads, asking, keys), q.device())?)?;
        }
        samples.push(weights.matmul(&v)?.transpose(0, 1)?.reshape((asking, width))?);
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
        AttentionPass::new(lengths, Queries::Rows, heads, dropout).expect("a probability")
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
            close(&y, &composed(&q, &k, &v, None, &op(&lengths, 4, dropout))?, 1e-5);
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
    fn a_prefix_is_seen_by_every_row_and_has_a_gradient() -> Result<()> {
        let (lengths, heads, width) = ([4usize, 0, 1, 5], 2, 12);
        let [q, k, v] = inputs(10, width);
        let prefix = [random(&[3, width], 4, 1.5), random(&[3, width], 5, 1.5)];
        let all = [q, k, v, prefix[0].clone(), prefix[1].clone()];
        for dropout in [None, Some((0.3, 7))] {
            let whole = |x: &[Tensor]| {
                let prefix = Some([&x[3], &x[4]]);
                attention_with(&x[0], &x[1], &x[2], prefix, &lengths, Queries::Rows, heads, dropout)
            };
            check_gradients(&all, 3e-3, whole);
            let vars: Vec<candle_core::Var> = all.iter().map(candle_core::Var::from_tensor).collect::<Result<_>>()?;
            let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
            let y = whole(&tensors)?;
            let dy = random(&[10, width], 6, 1.0);
            let grads = (&y * &dy)?.sum_all()?.backward()?;
            let x: Vec<Vec<f32>> = all.iter().map(flat).collect();
            let (three, two) = ([&x[0][..], &x[1], &x[2]], Some([&x[3][..], &x[4]]));
            let (pass, values) = AttentionPass::forward(three, two, width, &lengths, Queries::Rows, heads, dropout)?;
            close_values(&values, &flat(&y), 1e-5);
            let (own, of_prefix) = pass.gradients(three, two, width, &flat(&dy));
            for (gradient, var) in own.iter().chain(of_prefix.iter().flatten()).zip(&vars) {
                close_values(gradient, &flat(grads.get(var).expect("a gradient")), 1e-4);
            }
        }
        Ok(())
    }

    #[test]
    fn one_query_for_each_sample_gives_what_that_row_gives_among_all() -> Result<()> {
        let (lengths, heads, width) = ([4usize, 1, 20, 5], 3, 15);
        let [q, k, v] = inputs(30, width);
        let prefix = [random(&[3, width], 4, 1.5), random(&[3, width], 5, 1.5)];
        let first = Tensor::from_vec(vec![0u32, 4, 5, 25], 4, q.device())?;
        let asked = q.index_select(&first, 0)?;
        for prefix in [None, Some([&prefix[0], &prefix[1]])] {
            let all = attention_with(&q, &k, &v, prefix, &lengths, Queries::Rows, heads, None)?;
            let one = attention_with(&asked, &k, &v, prefix, &lengths, Queries::Samples, heads, None)?;
            close(&one, &all.index_select(&first, 0)?, 1e-6);
            for dropout in [None, Some((0.3, 7))] {
                let [q, k, v, dy] = [&asked, &k, &v, &random(&[4, width], 6, 1.0)].map(Tensor::clone);
                let vars: Vec<candle_core::Var> =
                    [&q, &k, &v].into_iter().map(candle_core::Var::from_tensor).collect::<Result<_>>()?;
                let pass = AttentionPass { prefix: prefix.map_or(0, |_| 3), ..op(&lengths, heads, dropout) };
                let pass = AttentionPass { queries: Queries::Samples, ..pass };
                let grads = (composed(&vars[0], &vars[1], &vars[2], prefix, &pass)? * &dy)?.sum_all()?.backward()?;
                let slices: Vec<Vec<f32>> = [q, k, v].iter().map(flat).collect();
                let three = [&slices[0][..], &slices[1], &slices[2]];
                let flats = prefix.map(|two| two.map(flat));
                let two = flats.as_ref().map(|[k, v]| [&k[..], v]);
                let (pass, _) = AttentionPass::forward(three, two, width, &lengths, Queries::Samples, heads, dropout)?;
                for (gradient, var) in pass.gradients(three, two, width, &flat(&dy)).0.iter().zip(&vars) {
                    close_values(gradient, &flat(grads.get(var).expect("a gradient")), 1e-4);
                }
            }
        }
        let none = attention_with(&asked, &k, &v, None, &[4, 0, 20, 6], Queries::Samples, heads, None);
        assert!(none.is_err());
        Ok(())
    }

    #[test]
    fn gradients_of_the_composition_are_the_kernels() {
        check_gradients(&inputs(10, 12), 3e-3, |x| {
            composed(&x[0], &x[1], &x[2], None, &op(&[4, 1, 5], 2, Some((0.3, 7))))
        });
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
