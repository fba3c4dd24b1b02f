//! The frozen forward pass: consecutive stages compiled once into steps with batch normalization folded into the
//! convolution before it, activations and residual sums fused, weights laid out in advance.
//!
//! What a sample gives does not depend on which others are computed with it, nor on the number of threads: kept
//! features have the same bits however they were come by.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use topwork_kernels::frozen as k;
use topwork_kernels::{Act, ConvSpec};

use super::forward::{Mode, Pass};
use super::{Conv, Index, Layer, Linear, Params, PoolRows, Stage, Window};
use crate::data::{Activation, Rows};
use crate::{Error, Result};

/// Consecutive stages, ready to run. On a device without kernels of ours it runs the layers one by one.
pub struct Frozen(Kind);

enum Kind {
    Compiled(Vec<Step>),
    Layers(Vec<Stage>, Params),
}

/// One fused operation.
enum Step {
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
    Embed {
        tables: Vec<(Vec<f32>, Index)>,
        width: usize,
    },
    Attention {
        query_key_value: k::PackedLinear,
        output: k::PackedLinear,
        heads: usize,
    },
    PoolRows(PoolRows),
    /// `act(body(x) + shortcut(x))`; the sum happens in the last step of the body where that can do it.
    Residual {
        body: Vec<Step>,
        shortcut: Vec<Step>,
        act: Option<Act>,
    },
}

/// Some samples on their way through the steps.
struct Flow {
    /// The numbers, or nothing while `indices` are still to be looked up.
    data: Vec<f32>,
    indices: Vec<u32>,
    /// Shape of one row.
    row: Vec<usize>,
    /// Rows of each sample.
    lengths: Vec<usize>,
}

/// Buffers to use again: a step's input becomes a later step's output.
#[derive(Default)]
struct Buffers {
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

/// Numbers that go through the network together: few enough for the second-level cache, enough to fill a tile.
const VALUES_TOGETHER: usize = 128 * 384;

impl Frozen {
    /// Compiles `stages`, which follow each other.
    ///
    /// # Errors
    /// When a parameter is missing or of another shape.
    pub fn compile(stages: &[&Stage], params: &Params, device: &Device) -> Result<Self> {
        if !device.is_cpu() {
            let stages = stages.iter().map(|&stage| stage.clone()).collect();
            return Ok(Self(Kind::Layers(stages, Params::new(params.snapshot()))));
        }
        let layers: Vec<Layer> = stages.iter().flat_map(|stage| stage.layers.clone()).collect();
        Ok(Self(Kind::Compiled(Compiler { params }.sequence(&layers)?)))
    }

    /// Runs a batch.
    ///
    /// # Errors
    /// When its shape is not what the first stage takes, or the device is out of memory.
    pub fn run(&self, input: &Activation) -> Result<Activation> {
        match &self.0 {
            Kind::Layers(stages, params) => {
                let pass = Pass::new(params, Mode::Eval);
                stages.iter().try_fold(input.clone(), |x, stage| pass.stage(stage, x, false))
            }
            Kind::Compiled(steps) => run_compiled(steps, input),
        }
    }
}

fn run_compiled(steps: &[Step], input: &Activation) -> Result<Activation> {
    if steps.is_empty() {
        return Ok(input.clone());
    }
    check_indices(steps, input)?;
    let parts = split(input)?;
    let results: Vec<Flow> =
        parts.into_par_iter().map_init(Buffers::default, |buffers, flow| run(steps, flow, None, buffers)).collect();
    let row = results.first().map(|flow| flow.row.clone()).unwrap_or_default();
    let lengths: Vec<usize> = results.iter().flat_map(|flow| flow.lengths.iter().copied()).collect();
    let data: Vec<f32> = results.into_iter().flat_map(|flow| flow.data).collect();
    let mut dims = vec![lengths.iter().sum::<usize>()];
    dims.extend(&row);
    let rows = match &input.rows {
        Rows::Each(_) if !pools(steps) => Rows::Each(Arc::new(lengths)),
        _ => Rows::One,
    };
    Ok(Activation { data: Tensor::from_vec(data, dims, &Device::Cpu)?, rows })
}

/// An index outside of its table is an error here, so that kernels need not look.
fn check_indices(steps: &[Step], input: &Activation) -> Result<()> {
    let Some(Step::Embed { tables, width }) = steps.first() else { return Ok(()) };
    let total = input.data.dims()[0];
    let longest = super::forward::lengths(&input.rows, total).into_iter().max().unwrap_or(0);
    for (table, index) in tables {
        let rows = table.len() / width;
        let largest = match index {
            _ if total == 0 => continue,
            Index::Column(column) => input.data.narrow(1, *column, 1)?.max_all()?.to_scalar::<u32>()? as usize,
            Index::Position(offset) => longest + offset - 1,
        };
        if largest >= rows {
            let reason = format!("index {largest} into a table of {rows} rows");
            return Err(Error::Tensor(candle_core::Error::Msg(reason)));
        }
    }
    Ok(())
}

fn pools(steps: &[Step]) -> bool {
    steps.iter().any(|step| matches!(step, Step::PoolRows(_)))
}

/// Cuts a batch into parts that go through the network together.
fn split(input: &Activation) -> Result<Vec<Flow>> {
    let dims = input.data.dims().to_vec();
    let row: Vec<usize> = dims[1..].to_vec();
    let width: usize = row.iter().product();
    let lengths = super::forward::lengths(&input.rows, dims[0]);
    let (mut data, mut indices) = (Vec::new(), Vec::new());
    match input.data.dtype() {
        candle_core::DType::U32 => indices = input.data.flatten_all()?.to_vec1::<u32>()?,
        _ => data = input.data.flatten_all()?.to_vec1::<f32>()?,
    }
    let together = if indices.is_empty() { (VALUES_TOGETHER / width.max(1)).max(1) } else { 128 };
    let mut parts = Vec::new();
    let (mut sample, mut start) = (0, 0);
    while sample < lengths.len() {
        let (first, mut rows) = (sample, lengths[sample]);
        sample += 1;
        while sample < lengths.len() && rows + lengths[sample] <= together {
            rows += lengths[sample];
            sample += 1;
        }
        let range = start * width..(start + rows) * width;
        parts.push(Flow {
            data: data.get(range.clone()).map(<[f32]>::to_vec).unwrap_or_default(),
            indices: indices.get(range).map(<[u32]>::to_vec).unwrap_or_default(),
            row: row.clone(),
            lengths: lengths[first..sample].to_vec(),
        });
        start += rows;
    }
    Ok(parts)
}

/// Runs steps in order; `last` is what the last of them adds to its result, and the activation after the sum.
fn run(steps: &[Step], mut flow: Flow, last: Option<(&[f32], Option<Act>)>, buffers: &mut Buffers) -> Flow {
    for (i, step) in steps.iter().enumerate() {
        let residual = if i + 1 == steps.len() { last } else { None };
        flow = step.run(flow, residual, buffers);
    }
    flow
}

impl Step {
    /// Whether it can add a residual to its result.
    fn adds(&self) -> bool {
        match self {
            Step::Conv { act, .. } | Step::Linear { act, .. } => act.is_none(),
            Step::Attention { .. } => true,
            _ => false,
        }
    }

    fn run(&self, mut flow: Flow, last: Option<(&[f32], Option<Act>)>, buffers: &mut Buffers) -> Flow {
        let residual = last.map(|(values, _)| values);
        let after = last.and_then(|(_, act)| act);
        let total: usize = flow.lengths.iter().sum();
        match self {
            Step::Conv { conv, window, act } => {
                let (h, w) = (flow.row[0], flow.row[1]);
                let pads = window.pads(h, w);
                let [oh, ow] = window.out_size(h, w);
                let mut out = buffers.take(total * oh * ow * conv.outputs());
                conv.run_padded(
                    &flow.data,
                    [total, h, w],
                    pads,
                    act.or(after),
                    residual,
                    &mut out,
                    &mut buffers.scratch,
                );
                flow.row = vec![oh, ow, conv.outputs()];
                buffers.give(std::mem::replace(&mut flow.data, out));
            }
            Step::Linear { linear, act } => {
                let mut out = buffers.take(total * linear.outputs());
                linear.run(&flow.data, total, act.or(after), residual, &mut out);
                flow.row = vec![linear.outputs()];
                buffers.give(std::mem::replace(&mut flow.data, out));
            }
            Step::LayerNorm { scale, shift, eps } => {
                let mut out = buffers.take(flow.data.len());
                k::layer_norm(&flow.data, scale, shift, *eps, &mut out);
                buffers.give(std::mem::replace(&mut flow.data, out));
            }
            Step::Act(act) => k::act_in_place(&mut flow.data, *act),
            Step::MaxPool(window) => {
                let (h, w, c) = (flow.row[0], flow.row[1], flow.row[2]);
                let [oh, ow] = window.out_size(h, w);
                let mut out = buffers.take(total * oh * ow * c);
                k::max_pool(&flow.data, [total, h, w, c], window.kernel, window.stride, window.pads(h, w), &mut out);
                flow.row = vec![oh, ow, c];
                buffers.give(std::mem::replace(&mut flow.data, out));
            }
            Step::AdaptiveAvgPool(size) => {
                let [h, w, c] = [flow.row[0], flow.row[1], flow.row[2]];
                let mut out = buffers.take(total * size[0] * size[1] * c);
                k::adaptive_avg_pool([total, h, w, c], *size, &flow.data, &mut out);
                flow.row = vec![size[0], size[1], c];
                buffers.give(std::mem::replace(&mut flow.data, out));
            }
            Step::Flatten => {
                let [h, w, c] = [flow.row[0], flow.row[1], flow.row[2]];
                if h * w > 1 {
                    let mut out = buffers.take(flow.data.len());
                    k::channels_first(&flow.data, h * w, c, &mut out);
                    buffers.give(std::mem::replace(&mut flow.data, out));
                }
                flow.row = vec![h * w * c];
            }
            Step::Embed { tables, width } => {
                let columns = flow.row[0];
                let mut ids = Vec::with_capacity(total * tables.len());
                let positions = flow.lengths.iter().flat_map(|&length| 0..length);
                for (row, position) in flow.indices.chunks_exact(columns).zip(positions) {
                    ids.extend(tables.iter().map(|(_, index)| match index {
                        Index::Column(column) => row[*column],
                        Index::Position(offset) => (position + offset) as u32,
                    }));
                }
                let slices: Vec<&[f32]> = tables.iter().map(|(table, _)| table.as_slice()).collect();
                flow.data = buffers.take(total * width);
                k::embed_sum(&slices, &ids, *width, &mut flow.data);
                flow.row = vec![*width];
            }
            Step::Attention { query_key_value, output, heads } => {
                let width = query_key_value.outputs() / 3;
                let mut all = buffers.take(total * 3 * width);
                query_key_value.run(&flow.data, total, None, None, &mut all);
                let mut joined = buffers.take(total * width);
                let (q, k, v) = (&all[..], &all[width.min(all.len())..], &all[(2 * width).min(all.len())..]);
                let (lengths, scratch) = (&flow.lengths, &mut buffers.scratch);
                k::attention(q, k, v, 3 * width, lengths, *heads, width / heads, &mut joined, scratch);
                let mut out = buffers.take(total * output.outputs());
                output.run(&joined, total, after, residual, &mut out);
                flow.row = vec![output.outputs()];
                buffers.give(all);
                buffers.give(joined);
                buffers.give(std::mem::replace(&mut flow.data, out));
            }
            Step::PoolRows(pool) => {
                let width = flow.row[0];
                let mut out = buffers.take(flow.lengths.len() * width);
                match pool {
                    PoolRows::Mean => k::pool_rows_mean(&flow.data, width, &flow.lengths, &mut out),
                    PoolRows::First => k::pool_rows_first(&flow.data, width, &flow.lengths, &mut out),
                }
                flow.lengths.fill(1);
                buffers.give(std::mem::replace(&mut flow.data, out));
            }
            Step::Residual { body, shortcut, act } => {
                let copy = Flow {
                    data: {
                        let mut copy = buffers.take(flow.data.len());
                        copy.copy_from_slice(&flow.data);
                        copy
                    },
                    indices: Vec::new(),
                    row: flow.row.clone(),
                    lengths: flow.lengths.clone(),
                };
                let other = run(shortcut, copy, None, buffers);
                if body.last().is_some_and(Step::adds) {
                    flow = run(body, flow, Some((&other.data, *act)), buffers);
                } else {
                    flow = run(body, flow, None, buffers);
                    k::add(&mut flow.data, &other.data);
                    act.iter().for_each(|&act| k::act_in_place(&mut flow.data, act));
                }
                buffers.give(other.data);
            }
        }
        flow
    }
}

struct Compiler<'a> {
    params: &'a Params,
}

impl Compiler<'_> {
    fn values(&self, prefix: &str, name: &str) -> Result<Vec<f32>> {
        Ok(self.params.get(&format!("{prefix}.{name}"))?.flatten_all()?.to_vec1::<f32>()?)
    }

    fn bias(&self, prefix: &str, present: bool) -> Result<Option<Vec<f32>>> {
        present.then(|| self.values(prefix, "bias")).transpose()
    }

    fn sequence(&self, layers: &[Layer]) -> Result<Vec<Step>> {
        let layers: Vec<&Layer> = layers.iter().filter(|layer| !matches!(layer, Layer::Dropout(_))).collect();
        let mut steps = Vec::new();
        let mut rest = layers.as_slice();
        while let Some((&layer, after)) = rest.split_first() {
            rest = after;
            steps.push(match layer {
                Layer::Conv(conv) => {
                    let norm = match rest.first() {
                        Some(Layer::BatchNorm(norm)) => {
                            rest = &rest[1..];
                            Some(self.scale_shift(norm)?)
                        }
                        _ => None,
                    };
                    let act = following_act(&mut rest);
                    self.conv(conv, norm, act)?
                }
                Layer::Linear(linear) => {
                    Step::Linear { linear: self.linear(&[linear])?, act: following_act(&mut rest) }
                }
                // By itself it is a depthwise convolution of one tap.
                Layer::BatchNorm(norm) => {
                    let (scale, shift) = self.scale_shift(norm)?;
                    let window = Window::square(1, 1);
                    let spec = ConvSpec { stride: [1; 2], pads: [0; 4], dilation: [1; 2], groups: norm.width };
                    let conv = k::PackedConv::new(&scale, Some(&shift), norm.width, norm.width, [1; 2], &spec);
                    Step::Conv { conv, window, act: following_act(&mut rest) }
                }
                Layer::LayerNorm(norm) => Step::LayerNorm {
                    scale: self.values(&norm.name, "weight")?,
                    shift: self.values(&norm.name, "bias")?,
                    eps: norm.eps,
                },
                Layer::Act(act) => Step::Act(*act),
                Layer::MaxPool(window) => Step::MaxPool(*window),
                Layer::AdaptiveAvgPool(size) => Step::AdaptiveAvgPool(*size),
                Layer::Flatten => Step::Flatten,
                Layer::Embed(embed) => {
                    let tables = embed.tables.iter().map(|t| Ok((self.values(&t.name, "weight")?, t.index)));
                    Step::Embed { tables: tables.collect::<Result<_>>()?, width: embed.width }
                }
                Layer::Attention(a) => Step::Attention {
                    query_key_value: self.linear(&[&a.query, &a.key, &a.value])?,
                    output: self.linear(&[&a.output])?,
                    heads: a.heads,
                },
                Layer::PoolRows(pool) => Step::PoolRows(*pool),
                Layer::Residual(residual) => {
                    let then: Vec<&Layer> = residual.then.iter().collect();
                    let mut then = then.as_slice();
                    let act = following_act(&mut then);
                    let body = self.sequence(&residual.body)?;
                    steps.push(Step::Residual { body, shortcut: self.sequence(&residual.shortcut)?, act });
                    let others: Vec<Layer> = then.iter().map(|&layer| layer.clone()).collect();
                    steps.extend(self.sequence(&others)?);
                    continue;
                }
                Layer::Dropout(_) => continue,
            });
        }
        Ok(steps)
    }

    /// Batch normalization with running statistics, as a factor and a term.
    fn scale_shift(&self, norm: &super::BatchNorm) -> Result<(Vec<f32>, Vec<f32>)> {
        let (scale, shift) = (self.values(&norm.name, "weight")?, self.values(&norm.name, "bias")?);
        let (mean, variance) = (self.values(&norm.name, "running_mean")?, self.values(&norm.name, "running_var")?);
        let factors: Vec<f32> = scale
            .iter()
            .zip(&variance)
            .map(|(&s, &v)| (f64::from(s) / (f64::from(v) + norm.eps).sqrt()) as f32)
            .collect();
        let terms = shift.iter().zip(&mean).zip(&factors).map(|((b, m), f)| b - m * f).collect();
        Ok((factors, terms))
    }

    fn conv(&self, conv: &Conv, norm: Option<(Vec<f32>, Vec<f32>)>, act: Option<Act>) -> Result<Step> {
        let mut weight = self.values(&conv.name, "weight")?;
        let mut bias = self.bias(&conv.name, conv.bias)?;
        if let Some((scale, shift)) = norm {
            let taps = weight.len() / conv.outputs;
            weight.chunks_exact_mut(taps).zip(&scale).for_each(|(w, s)| w.iter_mut().for_each(|w| *w *= s));
            let old = bias.unwrap_or_else(|| vec![0.0; conv.outputs]);
            bias = Some(old.iter().zip(&scale).zip(&shift).map(|((b, s), t)| b * s + t).collect());
        }
        let spec =
            ConvSpec { stride: conv.window.stride, pads: [0; 4], dilation: conv.window.dilation, groups: conv.groups };
        let packed = k::PackedConv::new(&weight, bias.as_deref(), conv.inputs, conv.outputs, conv.window.kernel, &spec);
        Ok(Step::Conv { conv: packed, window: conv.window, act })
    }

    /// Linear layers with the same input as one, their outputs side by side.
    fn linear(&self, parts: &[&Linear]) -> Result<k::PackedLinear> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for part in parts {
            weight.extend(self.values(&part.name, "weight")?);
            bias.extend(self.bias(&part.name, part.bias)?.unwrap_or_else(|| vec![0.0; part.outputs]));
        }
        let inputs = parts[0].inputs;
        if weight.len() != bias.len() * inputs {
            return Err(Error::Tensor(candle_core::Error::Msg(format!("{} has another shape", parts[0].name))));
        }
        Ok(k::PackedLinear::new(&weight, Some(&bias), inputs, bias.len()))
    }
}

fn following_act(rest: &mut &[&Layer]) -> Option<Act> {
    match rest.first() {
        Some(Layer::Act(act)) => {
            *rest = &rest[1..];
            Some(*act)
        }
        _ => None,
    }
}
