//! Updated weights on the tape: the layer as it is, and its low-rank term or factors beside it.

use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;
use topwork_kernels::Values;
use topwork_kernels::passes as k;

use super::{Asked, Flow, Gradients, Shared, Tape, expect, owned, put};
use crate::Result;
use crate::net::forward::Mode;
use crate::net::update::{LowRank, Side, Update, Weighted};

/// Rows that one task scales.
const ROWS: usize = 256;

impl<'a> Tape<'a> {
    /// A layer with its update: what comes out, and the step back.
    pub(super) fn updated(&mut self, layer: Weighted<'_>, flow: &Flow, mode: Mode) -> Result<(Flow, Asked<'a>)> {
        match layer.update() {
            None => self.plain(layer, flow),
            Some(Update::LowRank(low)) => self.low_rank(layer, low, flow, mode),
            Some(Update::Rescale(side)) => self.rescaled(layer, side, flow),
        }
    }

    fn plain(&mut self, layer: Weighted<'_>, flow: &Flow) -> Result<(Flow, Asked<'a>)> {
        match layer {
            Weighted::Linear(l) => self.linear(l, flow),
            Weighted::Conv(c) => self.conv(c, flow),
        }
    }

    /// `y = W x + b + scale · B A dropout(x)`.
    fn low_rank(&mut self, layer: Weighted<'_>, low: LowRank, flow: &Flow, mode: Mode) -> Result<(Flow, Asked<'a>)> {
        let (mut sum, back) = self.plain(layer, flow)?;
        let dropout = match mode {
            Mode::Train { seed, .. } if low.dropout > 0.0 => Some((low.dropout, self.draw(seed))),
            _ => None,
        };
        let mut dropped = flow.clone();
        if let Some((p, seed)) = dropout {
            let mut data = dropped.data.to_vec();
            k::dropout(&mut data, p, seed)?;
            dropped.data = Arc::new(data);
        }
        let (down, (change, up)) = match layer {
            Weighted::Linear(l) => {
                let [a, b] = low.beside_linear(l);
                let (inner, down) = self.linear(&a, &dropped)?;
                (down, self.linear(&b, &inner)?)
            }
            Weighted::Conv(c) => {
                let [a, b] = low.beside_conv(c);
                let (inner, down) = self.conv(&a, &dropped)?;
                (down, self.conv(&b, &inner)?)
            }
        };
        expect(layer.name(), &change.dims, &sum.dims)?;
        let scale = low.scale() as f32;
        let mut y = owned(std::mem::take(&mut sum.data));
        y.par_iter_mut().zip(change.data.par_iter()).for_each(|(y, change)| *y += scale * change);
        let step = move |dy: Shared, grads: &mut Gradients, wanted: bool| {
            let scaled: Vec<f32> = dy.par_iter().map(|dy| scale * dy).collect();
            let dx = back(dy, grads, wanted)?;
            let Some(inner) = up(Arc::new(scaled), grads, true)? else { return Ok(dx) };
            let Some(through) = down(inner, grads, wanted)? else { return Ok(dx) };
            let mut through = owned(through);
            if let Some((p, seed)) = dropout {
                k::dropout(&mut through, p, seed)?;
            }
            if let Some(dx) = dx {
                k::add(&mut through, &dx);
            }
            Ok(Some(Arc::new(through)))
        };
        let dims = sum.dims.clone();
        Ok((sum.with(y, dims), Box::new(step)))
    }

    /// `W (l ⊙ x) + b` or `l ⊙ (W x + b)`.
    fn rescaled(&mut self, layer: Weighted<'_>, side: Side, flow: &Flow) -> Result<(Flow, Asked<'a>)> {
        let (factors, name) = self.param(layer.name(), "ia3_l")?;
        let channels = layer.channels(side);
        expect(layer.name(), &[factors.elem_count()], &[channels])?;
        match side {
            Side::Inputs => {
                let x = flow.data.clone();
                let scaled = flow.clone().with(times(&x, &factors)?, flow.dims.clone());
                let (y, back) = self.plain(layer, &scaled)?;
                self.tracked |= name.is_some();
                let step = move |dy: Shared, grads: &mut Gradients, wanted: bool| {
                    let Some(dx) = back(dy, grads, wanted || name.is_some())? else { return Ok(None) };
                    if let Some(name) = name {
                        put(grads, name, gradient(&dx, &x, channels), factors.dims())?;
                    }
                    Ok(if wanted { Some(Arc::new(times(&dx, &factors)?)) } else { None })
                };
                Ok((y, Box::new(step)))
            }
            Side::Outputs => {
                let (y, back) = self.plain(layer, flow)?;
                self.tracked |= name.is_some();
                let (plain, dims) = (y.data.clone(), y.dims.clone());
                let scaled = times(&plain, &factors)?;
                let kept = name.is_some().then_some(plain);
                let step = move |dy: Shared, grads: &mut Gradients, wanted: bool| {
                    if let (Some(name), Some(y)) = (name, kept) {
                        put(grads, name, gradient(&dy, &y, channels), factors.dims())?;
                    }
                    back(Arc::new(times(&dy, &factors)?), grads, wanted)
                };
                Ok((y.with(scaled, dims), Box::new(step)))
            }
        }
    }
}

/// Each row times the factors.
fn times(x: &[f32], factors: &Tensor) -> Result<Vec<f32>> {
    let factors = Values::of(factors)?;
    let (factors, mut y) = (&*factors, x.to_vec());
    y.par_chunks_mut(ROWS * factors.len()).for_each(|rows| {
        for row in rows.chunks_exact_mut(factors.len()) {
            row.iter_mut().zip(factors).for_each(|(y, factor)| *y *= factor);
        }
    });
    Ok(y)
}

/// Sums over the rows of `dy ⊙ x`: the gradient of factors.
fn gradient(dy: &[f32], x: &[f32], channels: usize) -> Vec<f32> {
    let products: Vec<f32> = dy.par_iter().zip(x).map(|(dy, x)| dy * x).collect();
    k::column_sums(&products, channels)
}
