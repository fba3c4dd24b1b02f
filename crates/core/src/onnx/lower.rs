//! What each kind of layer is in operators.

use candle_core::Tensor;

use super::Inputs;
use super::build::Builder;
use super::proto::{Attribute, FLOAT, INT64};
use crate::cache::host_values;
use crate::net::{
    Act, Asks, Attention, BatchNorm, Conv, Distances, Embed, Index, Layer, Linear, Network, Params, PoolRows, Residual,
    Window,
};
use crate::{Error, Result};

/// What a masked score is: far below any other, and finite.
const MASKED: f32 = -1e9;

/// A value between two layers.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Its name.
    pub value: String,
    /// Its shape, without samples.
    shape: Shape,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    /// `[channels, height, width]`.
    Image(usize, [usize; 2]),
    /// `[rows, width]`.
    Rows(usize),
    /// `[width]`.
    One(usize),
    /// Indices, which the inputs hold.
    Indices,
}

impl Flow {
    /// Declares what goes into `network`.
    pub fn input(network: &Network, inputs: Inputs, builder: &mut Builder) -> Self {
        match (inputs, &network.input[..]) {
            (Inputs::Channels(name), &[height, width, channels]) => {
                let [c, h, w] = [channels, height, width].map(|size| size.to_string());
                builder.input(name, FLOAT, &["samples", &c, &h, &w]);
                Self { value: name.into(), shape: Shape::Image(channels, [height, width]) }
            }
            (Inputs::Channels(name), other) => {
                let width: usize = other.iter().product();
                builder.input(name, FLOAT, &["samples", &width.to_string()]);
                Self { value: name.into(), shape: Shape::One(width) }
            }
            (Inputs::Rows { columns, mask }, _) => {
                let looked_at = network.stages.iter().flat_map(|stage| &stage.layers).filter_map(|layer| match layer {
                    Layer::Embed(embed) => Some(&embed.tables),
                    _ => None,
                });
                let tables: Vec<Index> = looked_at.flatten().map(|table| table.index).collect();
                let used = columns.iter().enumerate().filter(|(i, _)| tables.contains(&Index::Column(*i)));
                for name in used.map(|(_, name)| name).chain([&mask]) {
                    builder.input(name, INT64, &["samples", "rows"]);
                }
                Self { value: columns[0].into(), shape: Shape::Indices }
            }
        }
    }

    /// Width of the last dimension.
    pub fn width(&self) -> usize {
        match self.shape {
            Shape::Image(channels, _) => channels,
            Shape::Rows(width) | Shape::One(width) => width,
            Shape::Indices => 0,
        }
    }

    /// Its shape, samples included.
    pub fn dims(&self) -> Vec<String> {
        let rows = matches!(self.shape, Shape::Rows(_)).then(|| "rows".to_string());
        ["samples".to_string()].into_iter().chain(rows).chain([self.width().to_string()]).collect()
    }

    fn new(value: String, shape: Shape) -> Self {
        Self { value, shape }
    }

    /// Another value of the same shape.
    fn same(&self, value: String) -> Self {
        Self { value, shape: self.shape }
    }

    /// Another value of the same shape but for the width.
    fn wide(&self, value: String, width: usize) -> Self {
        let shape = match self.shape {
            Shape::Rows(_) => Shape::Rows(width),
            Shape::Image(_, size) => Shape::Image(width, size),
            Shape::One(_) | Shape::Indices => Shape::One(width),
        };
        Self { value, shape }
    }
}

/// Turns layers into nodes.
pub struct Lowering<'a> {
    pub builder: &'a mut Builder,
    pub params: &'a Params,
    pub inputs: Inputs,
}

impl Lowering<'_> {
    /// Consecutive layers.
    ///
    /// # Errors
    /// When a parameter is missing, or a layer is where it cannot be.
    pub fn layers(&mut self, layers: &[Layer], input: Flow) -> Result<Flow> {
        layers.iter().try_fold(input, |flow, layer| self.layer(layer, flow))
    }

    fn layer(&mut self, layer: &Layer, x: Flow) -> Result<Flow> {
        Ok(match layer {
            Layer::Conv(conv) => self.conv(conv, &x)?,
            Layer::Linear(linear) => self.linear(linear, &x)?,
            Layer::BatchNorm(norm) => self.batch_norm(norm, &x)?,
            Layer::LayerNorm(norm) => {
                let [scale, shift] = ["weight", "bias"].map(|part| self.param(&norm.name, part));
                let attributes = vec![Attribute::int("axis", -1), Attribute::float("epsilon", norm.eps)];
                x.same(self.builder.node("LayerNormalization", [&x.value, &scale?, &shift?], attributes))
            }
            Layer::Act(act) => x.same(self.act(*act, &x.value)),
            Layer::MaxPool(window) => {
                let Shape::Image(channels, size) = x.shape else { return Err(misplaced("a pool", &x)) };
                let value = self.builder.node("MaxPool", [&x.value], windowed(window, size));
                Flow::new(value, Shape::Image(channels, window.out_size(size[0], size[1])))
            }
            Layer::AdaptiveAvgPool(size) => self.average(*size, &x)?,
            Layer::Flatten => {
                let Shape::Image(channels, [height, width]) = x.shape else { return Err(misplaced("flatten", &x)) };
                let value = self.builder.node("Flatten", [&x.value], vec![Attribute::int("axis", 1)]);
                Flow::new(value, Shape::One(channels * height * width))
            }
            Layer::Embed(embed) => self.embed(embed, &x)?,
            Layer::Attention(attention) => self.attention(attention, &x)?,
            Layer::PoolRows(pool) => self.pool_rows(*pool, &x)?,
            Layer::Gate(layers) => {
                let factors = self.layers(layers, x.clone())?;
                x.same(self.builder.node("Mul", [&x.value, &factors.value], vec![]))
            }
            Layer::Dropout(_) => x,
            Layer::Residual(Residual { body, shortcut, then }) | Layer::Adapter(Residual { body, shortcut, then }) => {
                let other = self.layers(shortcut, x.clone())?;
                let main = self.layers(body, x)?;
                let sum = main.same(self.builder.node("Add", [&main.value, &other.value], vec![]));
                self.layers(then, sum)?
            }
            Layer::Repeat(repeat) => (0..repeat.times).try_fold(x, |x, _| self.layers(&repeat.layers, x))?,
        })
    }

    /// The parameter `part` of the layer called `prefix`, as it is.
    fn param(&mut self, prefix: &str, part: &str) -> Result<String> {
        let name = format!("{prefix}.{part}");
        let value = self.params.get(&name)?;
        Ok(self.builder.floats(&name, value.dims(), &host_values(&value)?))
    }

    fn conv(&mut self, conv: &Conv, x: &Flow) -> Result<Flow> {
        let Shape::Image(_, size) = x.shape else { return Err(misplaced(&conv.name, x)) };
        plain(&conv.name, conv.update.is_none())?;
        let mut attributes = windowed(&conv.window, size);
        attributes.push(Attribute::int("group", conv.groups as i64));
        let weight = self.param(&conv.name, "weight")?;
        let value = match conv.bias {
            true => {
                let bias = self.param(&conv.name, "bias")?;
                self.builder.node("Conv", [&x.value, &weight, &bias], attributes)
            }
            false => self.builder.node("Conv", [&x.value, &weight], attributes),
        };
        Ok(Flow::new(value, Shape::Image(conv.outputs, conv.window.out_size(size[0], size[1]))))
    }

    /// x Wᵀ + b, the weight turned beforehand.
    fn linear(&mut self, linear: &Linear, x: &Flow) -> Result<Flow> {
        if matches!(x.shape, Shape::Image(..) | Shape::Indices) {
            return Err(misplaced(&linear.name, x));
        }
        plain(&linear.name, linear.update.is_none())?;
        let turned = self.params.get(&format!("{}.weight", linear.name))?.t()?.contiguous()?;
        let name = format!("{}.weight.turned", linear.name);
        let weight = self.builder.floats(&name, turned.dims(), &host_values(&turned)?);
        let mut value = self.builder.node("MatMul", [&x.value, &weight], vec![]);
        if linear.bias {
            let bias = self.param(&linear.name, "bias")?;
            value = self.builder.node("Add", [&value, &bias], vec![]);
        }
        Ok(x.wide(value, linear.outputs))
    }

    fn batch_norm(&mut self, norm: &BatchNorm, x: &Flow) -> Result<Flow> {
        let parts = ["weight", "bias", "running_mean", "running_var"].map(|part| self.param(&norm.name, part));
        let [scale, shift, mean, variance] = parts;
        let inputs = [x.value.as_str(), &scale?, &shift?, &mean?, &variance?];
        Ok(x.same(self.builder.node("BatchNormalization", inputs, vec![Attribute::float("epsilon", norm.eps)])))
    }

    fn act(&mut self, act: Act, x: &str) -> String {
        let gelu = |approximate| vec![Attribute::text("approximate", approximate)];
        match act {
            Act::Relu => self.builder.node("Relu", [x], vec![]),
            Act::Relu6 => {
                let [low, high] = [0.0, 6.0].map(|bound| self.builder.float(bound));
                self.builder.node("Clip", [x, &low, &high], vec![])
            }
            Act::Gelu => self.builder.node("Gelu", [x], gelu("none")),
            Act::GeluTanh => self.builder.node("Gelu", [x], gelu("tanh")),
            Act::Tanh => self.builder.node("Tanh", [x], vec![]),
            Act::Silu => {
                let gate = self.builder.node("Sigmoid", [x], vec![]);
                self.builder.node("Mul", [x, &gate], vec![])
            }
            Act::Sigmoid => self.builder.node("Sigmoid", [x], vec![]),
            Act::HardSwish => self.builder.node("HardSwish", [x], vec![]),
            Act::HardSigmoid => {
                let line = vec![Attribute::float("alpha", 1.0 / 6.0), Attribute::float("beta", 0.5)];
                self.builder.node("HardSigmoid", [x], line)
            }
        }
    }

    /// Means of windows that cover the image: from both sides by a matrix of shares, where there are several.
    fn average(&mut self, [rows, columns]: [usize; 2], x: &Flow) -> Result<Flow> {
        let Shape::Image(channels, size) = x.shape else { return Err(misplaced("a pool", x)) };
        let shape = Shape::Image(channels, [rows, columns]);
        if [rows, columns] == size {
            return Ok(x.clone());
        }
        if [rows, columns] == [1, 1] {
            return Ok(Flow::new(self.builder.node("GlobalAveragePool", [&x.value], vec![]), shape));
        }
        let [height, width] = size;
        let down = self.builder.floats(&format!("average_{rows}_of_{height}"), &[rows, height], &shares(height, rows));
        let turned = Tensor::from_vec(shares(width, columns), (columns, width), &candle_core::Device::Cpu)?.t()?;
        let across = format!("average_{width}_to_{columns}");
        let across = self.builder.floats(&across, &[width, columns], &host_values(&turned.contiguous()?)?);
        let value = self.builder.node("MatMul", [&down, &x.value], vec![]);
        Ok(Flow::new(self.builder.node("MatMul", [&value, &across], vec![]), shape))
    }

    fn columns(&self) -> Result<(&'static [&'static str], &'static str)> {
        match self.inputs {
            Inputs::Rows { columns, mask } => Ok((columns, mask)),
            Inputs::Channels(name) => Err(misplaced(name, &Flow::new(name.into(), Shape::Indices))),
        }
    }

    fn embed(&mut self, embed: &Embed, x: &Flow) -> Result<Flow> {
        if embed.window.is_some() {
            let reason = "the model reads long texts in windows, for which a graph has no form";
            return Err(Error::input(
                "--format onnx",
                reason,
                "export it in another format, or train it without --windows",
            ));
        }
        let (columns, _) = self.columns()?;
        if x.shape != Shape::Indices {
            return Err(misplaced("an embedding", x));
        }
        let mut sum: Option<String> = None;
        for table in &embed.tables {
            let weight = self.param(&table.name, "weight")?;
            let index = match table.index {
                Index::Column(column) => columns[column].to_string(),
                Index::Position(offset) => {
                    let positions = self.positions();
                    let offset = self.builder.ints(&[offset as i64], true);
                    self.builder.node("Add", [&positions, &offset], vec![])
                }
            };
            let found = self.builder.node("Gather", [&weight, &index], vec![Attribute::int("axis", 0)]);
            sum = Some(match sum {
                Some(sum) => self.builder.node("Add", [&sum, &found], vec![]),
                None => found,
            });
        }
        let sum = sum.ok_or_else(|| misplaced("an embedding without tables", x))?;
        Ok(Flow::new(sum, Shape::Rows(embed.width)))
    }

    /// 0, 1, … for each row.
    fn positions(&mut self) -> String {
        let (start, step) = (self.builder.ints(&[0], true), self.builder.ints(&[1], true));
        let input = match self.inputs {
            Inputs::Rows { mask, .. } => mask,
            Inputs::Channels(name) => name,
        };
        let shape = self.builder.node("Shape", [input], vec![]);
        let length = self.builder.node("Gather", [&shape, &step], vec![Attribute::int("axis", 0)]);
        self.builder.node("Range", [&start, &length, &step], vec![])
    }

    /// The mask in floats, with an axis put in at each of `axes`.
    fn mask(&mut self, axes: &[i64]) -> Result<String> {
        let (_, mask) = self.columns()?;
        let mask = self.builder.node("Cast", [mask], vec![Attribute::int("to", i64::from(FLOAT))]);
        let axes = self.builder.ints(axes, false);
        Ok(self.builder.node("Unsqueeze", [&mask, &axes], vec![]))
    }

    /// What is added where the mask is 0.
    fn masked(&mut self, axes: &[i64]) -> Result<String> {
        let (mask, one, low) = (self.mask(axes)?, self.builder.float(1.0), self.builder.float(MASKED));
        let absent = self.builder.node("Sub", [&one, &mask], vec![]);
        Ok(self.builder.node("Mul", [&absent, &low], vec![]))
    }

    /// softmax(Q Kᵀ / √d + terms + mask) V over each head's columns, and the output projection.
    fn attention(&mut self, attention: &Attention, x: &Flow) -> Result<Flow> {
        let Shape::Rows(_) = x.shape else { return Err(misplaced(&attention.output.name, x)) };
        let asking = match attention.asks {
            Asks::Every => x.clone(),
            Asks::First => x.same(self.first(&x.value)),
        };
        let heads = attention.heads;
        let query = self.linear(&attention.query, &asking)?;
        let width = query.width();
        let query = self.heads(&query.value, heads, width);
        let [mut key, mut value] = [self.linear(&attention.key, x)?.value, self.linear(&attention.value, x)?.value];
        let mut mask = self.masked(&[1, 2])?;
        if let Some(prefix) = &attention.prefix {
            key = self.behind(&prefix.name, "key", &key)?;
            value = self.behind(&prefix.name, "value", &value)?;
            // Before every row's own keys there are as many that are never masked.
            mask = self.in_front(&mask, 4, prefix.length);
        }
        let [key, value] = [key, value].map(|part| self.heads(&part, heads, width));
        let turned = self.builder.node("Transpose", [&key], vec![Attribute::ints("perm", [0, 1, 3, 2])]);
        let mut scores = self.builder.node("MatMul", [&query, &turned], vec![]);
        let scale = self.builder.float(((width / heads) as f32).sqrt().recip());
        scores = self.builder.node("Mul", [&scores, &scale], vec![]);
        if let Some(distances) = &attention.distances {
            let mut terms = self.terms(distances)?;
            if attention.asks == Asks::First {
                terms = self.first(&terms);
            }
            if let Some(prefix) = &attention.prefix {
                // Keys of a prefix are at no distance.
                terms = self.in_front(&terms, 3, prefix.length);
            }
            scores = self.builder.node("Add", [&scores, &terms], vec![]);
        }
        scores = self.builder.node("Add", [&scores, &mask], vec![]);
        let shares = self.builder.node("Softmax", [&scores], vec![Attribute::int("axis", -1)]);
        let joined = self.builder.node("MatMul", [&shares, &value], vec![]);
        let joined = self.builder.node("Transpose", [&joined], vec![Attribute::ints("perm", [0, 2, 1, 3])]);
        let (shape, flow) = match attention.asks {
            Asks::Every => (vec![0, 0, width as i64], Shape::Rows(width)),
            Asks::First => (vec![0, width as i64], Shape::One(width)),
        };
        let shape = self.builder.ints(&shape, false);
        let joined = self.builder.node("Reshape", [&joined, &shape], vec![]);
        self.linear(&attention.output, &Flow::new(joined, flow))
    }

    /// So many zeros in front along the last of `rank` axes.
    fn in_front(&mut self, x: &str, rank: usize, count: usize) -> String {
        let mut pads = vec![0; 2 * rank];
        pads[rank - 1] = count as i64;
        let pads = self.builder.ints(&pads, false);
        self.builder.node("Pad", [x, &pads], vec![])
    }

    /// The first of the second axis, which stays.
    fn first(&mut self, x: &str) -> String {
        let [from, to, axis] = [0, 1, 1].map(|int| self.builder.ints(&[int], false));
        self.builder.node("Slice", [x, &from, &to, &axis], vec![])
    }

    /// `[samples, rows, width]` to `[samples, heads, rows, width / heads]`.
    fn heads(&mut self, x: &str, heads: usize, width: usize) -> String {
        let shape = self.builder.ints(&[0, 0, heads as i64, (width / heads) as i64], false);
        let split = self.builder.node("Reshape", [x, &shape], vec![]);
        self.builder.node("Transpose", [&split], vec![Attribute::ints("perm", [0, 2, 1, 3])])
    }

    /// The rows `part` of a prefix in front of every sample's own.
    fn behind(&mut self, prefix: &str, part: &str, rows: &str) -> Result<String> {
        let own = self.param(prefix, part)?;
        let (from, to) = (self.builder.ints(&[0], false), self.builder.ints(&[1], false));
        let shape = self.builder.node("Shape", [rows], vec![]);
        let samples = self.builder.node("Slice", [&shape, &from, &to], vec![]);
        let dims = self.params.get(&format!("{prefix}.{part}"))?.dims().to_vec();
        let dims = self.builder.ints(&[dims[0] as i64, dims[1] as i64], false);
        let shape = self.builder.node("Concat", [&samples, &dims], vec![Attribute::int("axis", 0)]);
        let own = self.builder.node("Expand", [&own, &shape], vec![]);
        Ok(self.builder.node("Concat", [&own, rows], vec![Attribute::int("axis", 1)]))
    }

    /// Terms of the scores by distance, `[heads, rows, rows]`: looked up among those up to the farthest distance that has a
    /// bucket of its own.
    fn terms(&mut self, distances: &Distances) -> Result<String> {
        let reach = distances.farthest as isize;
        let values = self.params.get(&format!("{}.weight", distances.name))?;
        let heads = values.dims()[1];
        let values = host_values(&values)?;
        let rows = (-reach..=reach).flat_map(|offset| {
            let bucket = distances.bucket(offset);
            values[bucket * heads..(bucket + 1) * heads].to_vec()
        });
        let rows: Vec<f32> = rows.collect();
        let name = format!("{}.terms", distances.name);
        let table = self.builder.floats(&name, &[2 * distances.farthest + 1, heads], &rows);
        let positions = self.positions();
        let (first, second) = (self.builder.ints(&[0], false), self.builder.ints(&[1], false));
        let keys = self.builder.node("Unsqueeze", [&positions, &first], vec![]);
        let queries = self.builder.node("Unsqueeze", [&positions, &second], vec![]);
        let apart = self.builder.node("Sub", [&keys, &queries], vec![]);
        let [low, high] = [-reach as i64, reach as i64].map(|bound| self.builder.ints(&[bound], true));
        let apart = self.builder.node("Clip", [&apart, &low, &high], vec![]);
        let index = self.builder.node("Add", [&apart, &high], vec![]);
        let found = self.builder.node("Gather", [&table, &index], vec![Attribute::int("axis", 0)]);
        Ok(self.builder.node("Transpose", [&found], vec![Attribute::ints("perm", [2, 0, 1])]))
    }

    fn pool_rows(&mut self, pool: PoolRows, x: &Flow) -> Result<Flow> {
        let Shape::Rows(width) = x.shape else { return Ok(x.clone()) };
        let axis = self.builder.ints(&[1], false);
        let drop_axis = || vec![Attribute::int("keepdims", 0)];
        let value = match pool {
            PoolRows::First => {
                let first = self.builder.ints(&[0], true);
                self.builder.node("Gather", [&x.value, &first], vec![Attribute::int("axis", 1)])
            }
            PoolRows::Mean => {
                let mask = self.mask(&[2])?;
                let kept = self.builder.node("Mul", [&x.value, &mask], vec![]);
                let sum = self.builder.node("ReduceSum", [&kept, &axis], drop_axis());
                let count = self.builder.node("ReduceSum", [&mask, &axis], drop_axis());
                self.builder.node("Div", [&sum, &count], vec![])
            }
            PoolRows::Max => {
                let absent = self.masked(&[2])?;
                let kept = self.builder.node("Add", [&x.value, &absent], vec![]);
                self.builder.node("ReduceMax", [&kept, &axis], drop_axis())
            }
        };
        Ok(Flow::new(value, Shape::One(width)))
    }

    /// Scaled to length 1.
    pub fn normalized(&mut self, x: &Flow) -> Flow {
        let axis = self.builder.ints(&[-1], false);
        let length = self.builder.node("ReduceL2", [&x.value, &axis], vec![Attribute::int("keepdims", 1)]);
        let least = self.builder.float(1e-12);
        let length = self.builder.node("Max", [&length, &least], vec![]);
        x.same(self.builder.node("Div", [&x.value, &length], vec![]))
    }
}

/// A window over an image of a size.
fn windowed(window: &Window, [height, width]: [usize; 2]) -> Vec<Attribute> {
    let [top, bottom, left, right] = window.pads(height, width);
    vec![
        Attribute::ints("kernel_shape", window.kernel),
        Attribute::ints("strides", window.stride),
        Attribute::ints("pads", [top, left, bottom, right]),
        Attribute::ints("dilations", window.dilation),
    ]
}

/// `outputs` rows of shares: the windows of an adaptive mean over `size`, `[⌊i size / outputs⌋, ⌈(i + 1) size / outputs⌉)`.
fn shares(size: usize, outputs: usize) -> Vec<f32> {
    let mut rows = vec![0f32; outputs * size];
    for i in 0..outputs {
        let window = i * size / outputs..((i + 1) * size).div_ceil(outputs);
        let share = 1.0 / window.len() as f32;
        rows[i * size..][window].fill(share);
    }
    rows
}

/// Updates beside a weight are merged before a graph is made.
fn plain(name: &str, is: bool) -> Result<()> {
    match is {
        true => Ok(()),
        false => Err(Error::input(name, "it has an adapter that is not merged", "merge it first")),
    }
}

fn misplaced(what: &str, x: &Flow) -> Error {
    let reason = format!("a layer that cannot follow {}", x.value);
    Error::input(what, reason, "report this description as a defect")
}
