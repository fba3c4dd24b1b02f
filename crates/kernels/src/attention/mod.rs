//! Multi-head attention within each sample's rows (Vaswani et al. 2017).
//!
//! The forward pass keeps one number for each row and head, the logarithm of the softmax's denominator; the backward
//! pass computes the weights again from it (Dao et al. 2022).

mod softmax;

use crate::cpu::{self, Shared, Values, output, with_scratch};
use crate::dropout::Mask;
use crate::matmul::{Mat, product};
use crate::rows::{check, starts};
use crate::simd::{dot, exp, simd};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
pub use softmax::softmax;
use softmax::softmax_composed;
pub(crate) use softmax::softmax_rows;
use std::sync::OnceLock;

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

simd! {
    /// Adds to the scores of each row's own keys, those behind the first `before`, the term of their distance; the
    /// softmax is yet to multiply them by `scale`.
    pub(crate) fn add_terms(scores: &mut [f32], keys: usize, before: usize, terms: &[f32], scale: f32) {
        let zero = terms.len() / 2;
        for (i, scores) in scores.chunks_exact_mut(keys).enumerate() {
            for (score, term) in scores[before..].iter_mut().zip(&terms[zero - i..]) {
                *score += term / scale;
            }
        }
    }
}

/// Gradient of the terms of one head, from that of the scores before they were scaled.
fn terms_gradient(scores: &[f32], keys: usize, before: usize, scale: f32, terms: &mut [f32]) {
    let zero = terms.len() / 2;
    for (i, scores) in scores.chunks_exact(keys).enumerate() {
        for (term, score) in terms[zero - i..].iter_mut().zip(&scores[before..]) {
            *term += score / scale;
        }
    }
}

/// Which rows ask.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Queries {
    /// Every row of every sample: as many queries as keys.
    #[default]
    Rows,
    /// One query for each sample, which stands at its first row.
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

/// What attention takes beside queries, keys and values; `T` are slices or tensors.
#[derive(Debug, Clone, Copy)]
pub struct Beside<T> {
    /// Keys and values `[length, width]` that belong to no row (Li & Liang 2021): every row of every sample sees them.
    pub prefix: Option<[T; 2]>,
    /// Terms of the scores by the distance of key and query (Raffel et al. 2020, §2.1): `[heads, 2 n - 1]`, n at least
    /// the rows of the longest sample; that of the key `j - i` rows behind the query stands at `n - 1 + j - i`. Keys of
    /// the prefix have none.
    pub terms: Option<T>,
    /// Which rows ask: the queries have a row for each, and so has what comes out.
    pub queries: Queries,
}

impl<T> Default for Beside<T> {
    fn default() -> Self {
        Self { prefix: None, terms: None, queries: Queries::Rows }
    }
}

/// Gradients of all that attention takes.
#[derive(Debug, Clone)]
pub struct AttentionGradients {
    /// Of queries, keys and values.
    pub own: [Vec<f32>; 3],
    /// Of the keys and values of the prefix.
    pub prefix: Option<[Vec<f32>; 2]>,
    /// Of the terms.
    pub terms: Option<Vec<f32>>,
}

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

    /// The pass, and its output. The arguments are those of [`attention_beside`], with rows of `width` values.
    ///
    /// # Errors
    /// When the probability of dropout is not one, or a sample that asks has no rows.
    pub fn forward(
        [q, k, v]: [&[f32]; 3],
        beside: Beside<&[f32]>,
        width: usize,
        lengths: &[usize],
        heads: usize,
        dropout: Option<(f32, u64)>,
    ) -> Result<(Self, Vec<f32>)> {
        let mut pass = Self::new(lengths, beside.queries, heads, dropout)?;
        pass.prefix = beside.prefix.map_or(0, |[key, _]| key.len() / width.max(1));
        let y = pass.run(q, k, v, beside, width);
        Ok((pass, y))
    }

    fn run(&mut self, q: &[f32], k: &[f32], v: &[f32], beside: Beside<&[f32]>, width: usize) -> Vec<f32> {
        let Beside { prefix, terms, .. } = beside;
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
                if let Some(terms) = terms {
                    add_terms(scores, keys, before, this.of_head(piece, terms), scale);
                }
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

    /// Gradients of what [`AttentionPass::forward`] took.
    pub fn gradients(
        &self,
        [q, k, v]: [&[f32]; 3],
        beside: Beside<&[f32]>,
        width: usize,
        dy: &[f32],
    ) -> AttentionGradients {
        let Beside { prefix, terms, .. } = beside;
        let d = width / self.heads;
        let scale = 1.0 / (d as f32).sqrt();
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| output(x.len()));
        let (out_q, out_k, out_v) = (Shared::new(&mut dq), Shared::new(&mut dk), Shared::new(&mut dv));
        let before = self.prefix;
        let of_pieces = self.pieces().into_par_iter().zip(&self.logs).map(|(piece, logs)| {
            let (asking, len, keys) = (piece.queries, piece.rows, piece.keys);
            let mut of_prefix = [vec![0f32; before * d], vec![0f32; before * d]];
            let mut of_terms = vec![0f32; terms.map_or(0, |terms| self.of_head(piece, terms).len())];
            if asking == 0 {
                return (of_prefix, of_terms);
            }
            with_scratch(3 * asking * keys + len * d, |scratch| {
                let (p, rest) = scratch.split_at_mut(asking * keys);
                let (dp, rest) = rest.split_at_mut(asking * keys);
                let (kept, part) = rest.split_at_mut(asking * keys);
                self.products(piece, q, k, prefix.map(|[k, _]| k), width, p);
                if let Some(terms) = terms {
                    add_terms(p, keys, before, self.of_head(piece, terms), scale);
                }
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
                if terms.is_some() {
                    terms_gradient(dp, keys, before, scale, &mut of_terms);
                }
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
            (of_prefix, of_terms)
        });
        let of_pieces: Vec<([Vec<f32>; 2], Vec<f32>)> = of_pieces.collect();
        // In the order of the pieces, so that the sums do not depend on who came first.
        let of_prefix = prefix.map(|_| {
            let mut sums = [vec![0f32; before * width], vec![0f32; before * width]];
            for (piece, (parts, _)) in self.pieces().iter().zip(&of_pieces) {
                for (sum, part) in sums.iter_mut().zip(parts) {
                    for (sum, part) in sum.chunks_exact_mut(width).zip(part.chunks_exact(d)) {
                        sum[piece.head * d..].iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                    }
                }
            }
            sums
        });
        let of_terms = terms.map(|terms| {
            let mut sums = vec![0f32; terms.len()];
            for (piece, (_, parts)) in self.pieces().iter().zip(&of_pieces) {
                let sums = &mut sums[piece.head * parts.len()..];
                sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
            }
            sums
        });
        AttentionGradients { own: [dq, dk, dv], prefix: of_prefix, terms: of_terms }
    }

    /// A piece's terms.
    fn of_head<'a>(&self, piece: Piece, terms: &'a [f32]) -> &'a [f32] {
        let line = terms.len() / self.heads;
        &terms[piece.head * line..][..line]
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
        let y = pass.run(q, k, v, Beside::default(), lq.shape().dims2()?.1);
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
        let [dq, dk, dv] = pass.gradients([&qs, &ks, &vs], Beside::default(), q.dim(1)?, &dy).own;
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
    attention_beside(q, k, v, Beside::default(), lengths, heads, dropout)
}

/// [`attention`] with what else the scores are made of.
pub fn attention_beside(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    beside: Beside<&Tensor>,
    lengths: &[usize],
    heads: usize,
    dropout: Option<(f32, u64)>,
) -> Result<Tensor> {
    let (rows, width) = k.dims2()?;
    if q.dims() != [beside.queries.count(lengths), width] || v.dims() != k.dims() {
        bail!("attention: queries {:?}, keys {:?} and values {:?} do not fit", q.dims(), k.dims(), v.dims());
    }
    if heads == 0 || width == 0 || width % heads != 0 {
        bail!("attention: a width of {width} cannot be split into {heads} heads");
    }
    check("attention", rows, lengths)?;
    let mut pass = AttentionPass::new(lengths, beside.queries, heads, dropout)?;
    if let Some([key, value]) = beside.prefix {
        if key.dims() != value.dims() || key.dim(1)? != width {
            bail!("attention: a prefix of {:?} keys and {:?} values", key.dims(), value.dims());
        }
        pass.prefix = key.dim(0)?;
    }
    if let Some(terms) = beside.terms {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let (rows, reach) = terms.dims2()?;
        if rows != heads || reach % 2 == 0 || reach / 2 + 1 < longest {
            bail!("attention: terms of shape {:?} for {heads} heads and {longest} rows", terms.dims());
        }
    }
    // An operation of candle's has three inputs at most: with more it takes the long way.
    if q.device().is_cpu() && beside.prefix.is_none() && beside.terms.is_none() {
        let op = Op { pass, done: OnceLock::new() };
        q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
    } else {
        composed(q, k, v, beside, &pass)
    }
}

fn composed(q: &Tensor, k: &Tensor, v: &Tensor, beside: Beside<&Tensor>, pass: &AttentionPass) -> Result<Tensor> {
    let Beside { prefix, terms, .. } = beside;
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
        let mut scores = (q.matmul(&k.t()?)? * (1.0 / (d as f64).sqrt()))?;
        if let Some(terms) = terms {
            let zero = terms.dim(1)? / 2;
            let rows = (0..asking).map(|i| terms.narrow(1, zero - i, len)).collect::<Result<Vec<_>>>()?;
            let of_prefix = Tensor::zeros((heads, asking, pass.prefix), q.dtype(), q.device())?;
            scores = (scores + Tensor::cat(&[of_prefix, Tensor::stack(&rows, 1)?], 2)?)?;
        }
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

#[cfg(test)]
mod tests;
