//! The fused operations of the frozen path, and how samples flow through them.

use topwork_kernels::frozen as k;
use topwork_kernels::{Act, Beside, Queries};

use crate::net::{Distances, Index, PoolRows, Window, windows};

/// One fused operation.
pub(super) enum Step {
    Conv {
        conv: k::PackedConv,
        window: Window,
        act: Option<Act>,
    },
    Linear {
        linear: k::PackedLinear,
        act: Option<Act>,
    },
    LayerNorm {
        scale: Vec<f32>,
        shift: Vec<f32>,
        eps: f64,
    },
    Act(Act),
    MaxPool(Window),
    AdaptiveAvgPool([usize; 2]),
    Flatten,
    /// Times the factors that these steps make of the same images.
    Gate(Vec<Step>),
    Embed {
        tables: Vec<(Vec<f32>, Index)>,
        width: usize,
        window: Option<usize>,
    },
    Attention {
        /// Queries of each sample's first row, where only that asks.
        first: Option<k::PackedLinear>,
        /// Keys and values of every row, behind its query where every row asks.
        joined: k::PackedLinear,
        output: k::PackedLinear,
        heads: usize,
        window: Option<usize>,
        prefix: Option<[Vec<f32>; 2]>,
        distances: Option<(Distances, Vec<f32>)>,
    },
    PoolRows(PoolRows),
    /// `act(body(x) + shortcut(x))`; the sum happens in the last step of the body where that can do it.
    Residual {
        body: Vec<Step>,
        shortcut: Vec<Step>,
        act: Option<Act>,
    },
    Repeat {
        steps: Vec<Step>,
        times: usize,
    },
}

/// Some samples on their way through the steps.
pub(super) struct Flow {
    /// The numbers, or nothing while `indices` are still to be looked up.
    pub(super) data: Vec<f32>,
    pub(super) indices: Vec<u32>,
    /// Shape of one row.
    pub(super) row: Vec<usize>,
    /// Rows of each sample.
    pub(super) lengths: Vec<usize>,
}

impl Flow {
    /// Cuts it into parts of whole samples: one, or as many as have no more than `values` numbers.
    pub(super) fn split(self, values: usize) -> Vec<Self> {
        let width: usize = self.row.iter().product();
        // Indices stand for rows of an encoder's width.
        let limit = if self.indices.is_empty() { values / width.max(1) } else { values / 384 };
        if self.lengths.iter().sum::<usize>() <= limit {
            return vec![self];
        }
        let mut parts = Vec::new();
        let (mut sample, mut start) = (0, 0);
        while sample < self.lengths.len() {
            let (first, mut rows) = (sample, self.lengths[sample]);
            sample += 1;
            while sample < self.lengths.len() && rows + self.lengths[sample] <= limit {
                rows += self.lengths[sample];
                sample += 1;
            }
            let range = start * width..(start + rows) * width;
            parts.push(Self {
                data: self.data.get(range.clone()).map(<[f32]>::to_vec).unwrap_or_default(),
                indices: self.indices.get(range).map(<[u32]>::to_vec).unwrap_or_default(),
                row: self.row.clone(),
                lengths: self.lengths[first..sample].to_vec(),
            });
            start += rows;
        }
        parts
    }

    /// Puts parts behind each other.
    pub(super) fn join(mut parts: Vec<Self>) -> Self {
        if parts.len() == 1 {
            return parts.remove(0);
        }
        let row = parts.first().map(|part| part.row.clone()).unwrap_or_default();
        let mut whole = Self { data: Vec::new(), indices: Vec::new(), row, lengths: Vec::new() };
        whole.data.reserve_exact(parts.iter().map(|part| part.data.len()).sum());
        for part in parts {
            whole.data.extend(part.data);
            whole.lengths.extend(part.lengths);
        }
        whole
    }
}

/// Buffers to use again: a step's input becomes a later step's output.
#[derive(Default)]
pub(super) struct Buffers {
    free: Vec<Vec<f32>>,
    /// What a kernel needs while it runs.
    scratch: Vec<f32>,
}

impl Buffers {
    /// `len` numbers of any value.
    fn take(&mut self, len: usize) -> Vec<f32> {
        let mut buffer = self.free.pop().unwrap_or_default();
        buffer.resize(len, 0.0);
        buffer
    }

    fn give(&mut self, buffer: Vec<f32>) {
        if buffer.capacity() > 0 {
            self.free.push(buffer);
        }
    }
}

/// What the last of some steps adds to its result, and the activation after the sum.
type Last<'a> = Option<(&'a [f32], Option<Act>)>;

/// Runs steps in order.
pub(super) fn run(steps: &[Step], flow: Flow, last: Last, buffers: &mut Buffers) -> Flow {
    match follow(steps, &flow, last, buffers) {
        Some(result) => {
            buffers.give(flow.data);
            result
        }
        None => flow,
    }
}

/// [`run`] on what is still needed elsewhere; `None` where there are no steps.
fn follow(steps: &[Step], flow: &Flow, last: Last, buffers: &mut Buffers) -> Option<Flow> {
    let mut result: Option<Flow> = None;
    for (i, step) in steps.iter().enumerate() {
        let last = if i + 1 == steps.len() { last } else { None };
        let next = step.run(result.as_ref().unwrap_or(flow), last, buffers);
        if let Some(old) = result.replace(next) {
            buffers.give(old.data);
        }
    }
    result
}

impl Step {
    /// Whether it can add a residual to its result.
    fn adds(&self) -> bool {
        match self {
            Self::Conv { act, .. } | Self::Linear { act, .. } => act.is_none(),
            Self::Attention { .. } => true,
            _ => false,
        }
    }

    /// How often one sample of `rows` rows of this shape uses each weight; `None` without weights to speak of.
    pub(super) fn uses(&self, rows: usize, row: &[usize]) -> Option<usize> {
        match self {
            Self::Conv { conv, window, .. } => conv.uses([row[0], row[1]], window.pads(row[0], row[1])),
            Self::Attention { .. } => Some(self.rows_after(rows)),
            Self::Linear { .. } => Some(rows),
            Self::Residual { body, shortcut, .. } => {
                least_uses(body, rows, row).into_iter().chain(least_uses(shortcut, rows, row)).min()
            }
            Self::Repeat { steps, .. } => least_uses(steps, rows, row),
            _ => None,
        }
    }

    /// Whether one row of each sample comes out.
    pub(super) fn pools(&self) -> bool {
        match self {
            Self::PoolRows(_) => true,
            Self::Attention { first, .. } => first.is_some(),
            Self::Residual { body, .. } => body.iter().any(Self::pools),
            _ => false,
        }
    }

    /// Rows of a sample after this step.
    pub(super) fn rows_after(&self, rows: usize) -> usize {
        if self.pools() { 1 } else { rows }
    }

    /// Shape of a row after this step.
    pub(super) fn row_after(&self, row: &[usize]) -> Vec<usize> {
        match self {
            Self::Conv { conv, window, .. } => {
                let [h, w] = window.out_size(row[0], row[1]);
                vec![h, w, conv.outputs()]
            }
            Self::Linear { linear, .. } => {
                let before = &row[..row.len().saturating_sub(1)];
                before.iter().copied().chain([linear.outputs()]).collect()
            }
            Self::MaxPool(window) => {
                let [h, w] = window.out_size(row[0], row[1]);
                vec![h, w, row[2]]
            }
            Self::AdaptiveAvgPool([h, w]) => vec![*h, *w, row[2]],
            Self::Flatten => vec![row.iter().product()],
            Self::Embed { width, .. } => vec![*width],
            Self::Attention { output, .. } => vec![output.outputs()],
            Self::LayerNorm { .. } | Self::Act(_) | Self::Gate(_) | Self::PoolRows(_) => row.to_vec(),
            Self::Residual { body: steps, .. } | Self::Repeat { steps, .. } => {
                steps.iter().fold(row.to_vec(), |row, step| step.row_after(&row))
            }
        }
    }

    fn run(&self, flow: &Flow, last: Last, buffers: &mut Buffers) -> Flow {
        let residual = last.map(|(values, _)| values);
        let after = last.and_then(|(_, act)| act);
        let total: usize = flow.lengths.iter().sum();
        let row = self.row_after(&flow.row);
        let mut lengths = flow.lengths.clone();
        if self.pools() {
            lengths.fill(1);
        }
        let x = &flow.data;
        if let Self::Residual { body, shortcut, act } = self {
            let other = follow(shortcut, flow, None, buffers);
            let sum = other.as_ref().map_or(x, |other| &other.data);
            let fused = body.last().is_some_and(Self::adds);
            let mut result = follow(body, flow, fused.then_some((sum.as_slice(), *act)), buffers)
                .unwrap_or_else(|| Flow { data: x.clone(), indices: Vec::new(), row, lengths });
            if !fused {
                k::add(&mut result.data, sum);
                act.iter().for_each(|&act| k::act_in_place(&mut result.data, act));
            }
            if let Some(other) = other {
                buffers.give(other.data);
            }
            return result;
        }
        if let Self::Repeat { steps, times } = self {
            let mut result: Option<Flow> = None;
            for _ in 0..*times {
                let Some(next) = follow(steps, result.as_ref().unwrap_or(flow), None, buffers) else { break };
                if let Some(old) = result.replace(next) {
                    buffers.give(old.data);
                }
            }
            return result.unwrap_or_else(|| Flow { data: x.clone(), indices: Vec::new(), row, lengths });
        }
        let mut out = buffers.take(lengths.iter().sum::<usize>() * row.iter().product::<usize>());
        match self {
            Self::Conv { conv, window, act } => {
                let (h, w) = (flow.row[0], flow.row[1]);
                let (pads, scratch) = (window.pads(h, w), &mut buffers.scratch);
                conv.run_padded(x, [total, h, w], pads, act.or(after), residual, &mut out, scratch);
            }
            Self::Linear { linear, act } => {
                let positions = total * flow.row.iter().rev().skip(1).product::<usize>();
                linear.run(x, positions, act.or(after), residual, &mut out);
            }
            Self::LayerNorm { scale, shift, eps } => k::layer_norm(x, scale, shift, *eps, &mut out),
            Self::Act(act) => {
                out.copy_from_slice(x);
                k::act_in_place(&mut out, *act);
            }
            Self::MaxPool(window) => {
                let (h, w, c) = (flow.row[0], flow.row[1], flow.row[2]);
                k::max_pool(x, [total, h, w, c], window.kernel, window.stride, window.pads(h, w), &mut out);
            }
            Self::AdaptiveAvgPool(size) => {
                k::adaptive_avg_pool([total, flow.row[0], flow.row[1], flow.row[2]], *size, x, &mut out);
            }
            Self::Flatten => k::channels_first(x, flow.row[0] * flow.row[1], flow.row[2], &mut out),
            Self::Gate(steps) => {
                let factors = follow(steps, flow, None, buffers);
                let (pixels, c) = (flow.row[0] * flow.row[1], flow.row[2]);
                k::gate(x, factors.as_ref().map_or(x, |factors| &factors.data), pixels, c, &mut out);
                factors.into_iter().for_each(|factors| buffers.give(factors.data));
            }
            Self::Embed { tables, width, window } => {
                let columns = flow.row[0];
                let mut ids = Vec::with_capacity(total * tables.len());
                let positions = windows::of(flow.lengths.clone(), *window).into_iter().flat_map(|length| 0..length);
                for (row, position) in flow.indices.chunks_exact(columns).zip(positions) {
                    ids.extend(tables.iter().map(|(_, index)| match index {
                        Index::Column(column) => row[*column],
                        Index::Position(offset) => (position + offset) as u32,
                    }));
                }
                let slices: Vec<&[f32]> = tables.iter().map(|(table, _)| table.as_slice()).collect();
                k::embed_sum(&slices, &ids, *width, &mut out);
            }
            Self::Attention { first, joined, output, heads, window, prefix, distances } => {
                let seen = windows::of(flow.lengths.clone(), *window);
                let (parts, asking) = if first.is_some() { (2, lengths.len()) } else { (3, total) };
                let (stride, width) = (joined.outputs(), joined.outputs() / parts);
                let mut all = buffers.take(total * stride);
                joined.run(x, total, None, None, &mut all);
                let mut asked = Vec::new();
                if let Some(first) = first {
                    let mut rows = buffers.take(asking * flow.row[0]);
                    k::pool_rows_first(x, flow.row[0], &flow.lengths, &mut rows);
                    asked = buffers.take(asking * width);
                    first.run(&rows, asking, None, None, &mut asked);
                    buffers.give(rows);
                }
                let part = |at: usize| k::Rows { values: &all[(at * width).min(all.len())..], stride };
                let (q, queries) = match first {
                    Some(_) => (k::Rows { values: &asked, stride: width }, Queries::Samples),
                    None => (part(0), Queries::Rows),
                };
                let prefix = prefix.as_ref().map(|[key, value]| [key.as_slice(), value.as_slice()]);
                let longest = seen.iter().copied().max().unwrap_or(0);
                let terms = distances.as_ref().map(|(distances, values)| distances.terms(values, longest));
                let beside = Beside { prefix, terms: terms.as_deref(), queries };
                let mut heard = buffers.take(asking * width);
                let (k, v, d) = (part(parts - 2), part(parts - 1), width / heads);
                k::attention(q, k, v, beside, &seen, *heads, d, &mut heard, &mut buffers.scratch);
                output.run(&heard, asking, after, residual, &mut out);
                [all, asked, heard].into_iter().for_each(|buffer| buffers.give(buffer));
            }
            Self::PoolRows(PoolRows::Mean) => k::pool_rows_mean(x, row[0], &flow.lengths, &mut out),
            Self::PoolRows(PoolRows::First) => k::pool_rows_first(x, row[0], &flow.lengths, &mut out),
            Self::PoolRows(PoolRows::Max) => k::pool_rows_max(x, row[0], &flow.lengths, &mut out),
            Self::Residual { .. } | Self::Repeat { .. } => {}
        }
        Flow { data: out, indices: Vec::new(), row, lengths }
    }
}

/// How often one sample uses each weight of `steps` at least.
fn least_uses(steps: &[Step], rows: usize, row: &[usize]) -> Option<usize> {
    let (mut rows, mut row) = (rows, row.to_vec());
    let uses = steps.iter().filter_map(|step| {
        let uses = step.uses(rows, &row);
        (rows, row) = (step.rows_after(rows), step.row_after(&row));
        uses
    });
    uses.min()
}
