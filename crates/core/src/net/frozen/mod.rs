//! The frozen forward pass: consecutive stages compiled once into steps with batch normalization folded into the
//! convolution before it, activations and residual sums fused, weights laid out in advance.
//!
//! What a sample gives does not depend on which others are computed with it, nor on the number of threads: kept
//! features have the same bits however they were come by.

mod compiler;
mod step;

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use self::compiler::Compiler;
use self::step::{Buffers, Flow, Step};
use super::forward::{self, Mode, Pass};
use super::{Index, Layer, Params, Stage, windows};
use crate::data::{Activation, Rows};
use crate::device::Place;
use crate::{Error, Result};

/// Consecutive stages, ready to run. On a device without kernels of ours it runs the layers one by one.
pub struct Frozen(Kind);

enum Kind {
    Compiled(Vec<Step>),
    Layers(Vec<Stage>, Params),
}

impl Frozen {
    /// Compiles `stages`, which follow each other, for one place.
    ///
    /// # Errors
    /// When a parameter is missing or of another shape.
    pub fn compile(stages: &[&Stage], params: &Params, place: &Place) -> Result<Self> {
        if !place.is_cpu() {
            let stages = stages.iter().map(|&stage| stage.clone()).collect();
            return Ok(Self(Kind::Layers(stages, Params::new(params.snapshot()))));
        }
        let layers: Vec<Layer> = stages.iter().flat_map(|stage| stage.layers.clone()).collect();
        Ok(Self(Kind::Compiled(Compiler { params, precision: place.precision }.sequence(&layers)?)))
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
    let mut flow = flow(input)?;
    for segment in segments(steps, &flow) {
        let parts = flow.split(segment.values);
        let run = |buffers: &mut Buffers, part: Flow| step::run(&steps[segment.steps.clone()], part, None, buffers);
        flow = Flow::join(parts.into_par_iter().map_init(Buffers::default, run).collect());
    }
    let mut dims = vec![flow.lengths.iter().sum::<usize>()];
    dims.extend(&flow.row);
    let rows = match &input.rows {
        Rows::Each(_) if !steps.iter().any(Step::pools) => Rows::Each(Arc::new(flow.lengths)),
        _ => Rows::One,
    };
    Ok(Activation { data: Tensor::from_vec(flow.data, dims, &Device::Cpu)?, rows })
}

/// An index outside of its table is an error here, so that kernels need not look.
fn check_indices(steps: &[Step], input: &Activation) -> Result<()> {
    let Some(Step::Embed { tables, width, window }) = steps.first() else { return Ok(()) };
    let total = input.data.dims()[0];
    let longest = windows::of(forward::lengths(&input.rows, total), *window).into_iter().max().unwrap_or(0);
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

/// A batch, before the first step.
fn flow(input: &Activation) -> Result<Flow> {
    let dims = input.data.dims();
    let (mut data, mut indices) = (Vec::new(), Vec::new());
    match input.data.dtype() {
        candle_core::DType::U32 => indices = input.data.flatten_all()?.to_vec1::<u32>()?,
        _ => data = input.data.flatten_all()?.to_vec1::<f32>()?,
    }
    Ok(Flow { data, indices, row: dims[1..].to_vec(), lengths: forward::lengths(&input.rows, dims[0]) })
}

/// Steps that the same parts of a batch go through.
struct Segment {
    steps: Range<usize>,
    /// Input values that a part has at most, where that is more than one sample.
    values: usize,
}

/// Input values of a part where the images are what is large: few enough for a core's own cache, enough to fill a tile.
const APART: usize = 128 * 384;
/// Input values of a part where the weights are: each read of them serves many samples.
const TOGETHER: usize = 4 << 20;
/// Uses of a weight that are worth reading it for.
const ENOUGH: usize = 48;

/// Early layers use each weight many times for one sample: samples pass through them one by one, within a core's own
/// cache. Late ones use it a few times: there the batch stays together. Steps without weights follow their neighbours.
fn segments(steps: &[Step], input: &Flow) -> Vec<Segment> {
    let mut rows = input.lengths.iter().sum::<usize>().div_ceil(input.lengths.len().max(1));
    let mut row = input.row.clone();
    let mut segments: Vec<Segment> = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        let values = step.uses(rows, &row).map(|uses| if uses < ENOUGH { TOGETHER } else { APART });
        (rows, row) = (step.rows_after(rows), step.row_after(&row));
        match segments.last_mut() {
            Some(last) if values.is_none_or(|values| last.values == values) => last.steps.end = i + 1,
            _ => segments.push(Segment { steps: i..i + 1, values: values.unwrap_or(APART) }),
        }
    }
    segments
}
