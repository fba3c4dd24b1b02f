//! What a network takes, counted from its description: parameters, multiply-adds and values kept, stage by stage.

use super::update::{Side, Update, Weighted};
use super::{Act, Asks, Layer, Network, Role, Stage};

/// The cost of one stage for one sample.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Cost {
    /// The stage's name; `head` for the head.
    pub stage: String,
    /// Shape of what comes out for one sample (for a sequence: of `rows` rows).
    pub output: Vec<usize>,
    /// Learned values.
    pub parameters: usize,
    /// Multiply-adds for one sample.
    pub multiply_adds: u64,
    /// Numbers that a pass with a way back keeps of one sample, at most: what comes out of each layer.
    #[serde(skip)]
    pub kept: usize,
    /// Those of the layer that gives most.
    #[serde(skip)]
    pub widest: usize,
}

/// Runs through a description with shapes in place of values.
struct Shape {
    /// Rows of the sample; 1 for an image.
    rows: usize,
    /// Shape of one row.
    row: Vec<usize>,
}

impl Shape {
    /// Numbers in all.
    fn len(&self) -> usize {
        self.rows * self.row.iter().product::<usize>()
    }
}

/// What was counted of some layers, for one sample.
#[derive(Default)]
struct Tally {
    multiply_adds: u64,
    kept: usize,
    widest: usize,
}

impl Tally {
    /// So many numbers have come out of a layer.
    fn keep(&mut self, numbers: usize) {
        self.kept += numbers;
        self.widest = self.widest.max(numbers);
    }
}

impl Network {
    /// The costs of all stages and the head, for one sample of `rows` rows (1 for an image).
    pub fn costs(&self, rows: usize) -> Vec<Cost> {
        let mut shape = Shape { rows, row: self.input.clone() };
        self.stages.iter().chain([&self.head]).map(|stage| stage.cost(&mut shape)).collect()
    }

    /// Learned values in all.
    pub fn parameters(&self) -> usize {
        self.params().iter().filter(|p| p.role != Role::Buffer).map(super::ParamSpec::len).sum()
    }
}

impl Stage {
    fn cost(&self, shape: &mut Shape) -> Cost {
        let mut tally = Tally::default();
        count(&self.layers, shape, &mut tally);
        let parameters = self.params().iter().filter(|p| p.role != Role::Buffer).map(super::ParamSpec::len).sum();
        let rows = (shape.rows > 1).then_some(shape.rows);
        let output = rows.into_iter().chain(shape.row.iter().copied()).collect();
        let Tally { multiply_adds, kept, widest } = tally;
        Cost { stage: self.name.clone(), output, parameters, multiply_adds, kept, widest }
    }
}

fn count(layers: &[Layer], shape: &mut Shape, tally: &mut Tally) {
    layers.iter().for_each(|layer| layer.count(shape, tally));
}

/// A weight at so many positions, `multiply_adds` at each, and its update.
fn weighted(layer: Weighted<'_>, positions: usize, multiply_adds: usize, tally: &mut Tally) {
    tally.multiply_adds += (positions * multiply_adds) as u64 + layer.update_multiply_adds(positions);
    tally.keep(positions * layer.channels(Side::Outputs));
    match layer.update() {
        Some(Update::LowRank(low)) => {
            let dropped = if low.dropout > 0.0 { layer.channels(Side::Inputs) } else { 0 };
            tally.keep(positions * (low.rank + dropped));
        }
        Some(Update::Rescale(side)) => tally.keep(positions * layer.channels(side)),
        None => {}
    }
}

impl Layer {
    /// Adds its costs; `shape` becomes that of the output.
    fn count(&self, shape: &mut Shape, tally: &mut Tally) {
        let linear = |l: &super::Linear, rows, tally: &mut Tally| {
            weighted(Weighted::Linear(l), rows, l.inputs * l.outputs, tally)
        };
        match self {
            Layer::Conv(c) => {
                let [height, width] = c.window.out_size(shape.row[0], shape.row[1]);
                shape.row = vec![height, width, c.outputs];
                let taps = c.window.kernel[0] * c.window.kernel[1] * (c.inputs / c.groups);
                weighted(Weighted::Conv(c), shape.rows * height * width, c.outputs * taps, tally);
            }
            Layer::Linear(l) => {
                let positions: usize = shape.row[..shape.row.len() - 1].iter().product();
                if let Some(last) = shape.row.last_mut() {
                    *last = l.outputs;
                }
                linear(l, shape.rows * positions, tally);
            }
            Layer::MaxPool(window) => {
                let [height, width] = window.out_size(shape.row[0], shape.row[1]);
                shape.row = vec![height, width, shape.row[2]];
                // And where they came from.
                tally.keep(2 * shape.len());
            }
            Layer::AdaptiveAvgPool([height, width]) => {
                shape.row = vec![*height, *width, shape.row[2]];
                tally.keep(shape.len());
            }
            Layer::Flatten => {
                shape.row = vec![shape.row.iter().product()];
                tally.keep(shape.len());
            }
            Layer::Gate(layers) => {
                count(layers, &mut Shape { rows: shape.rows, row: shape.row.clone() }, tally);
                tally.keep(shape.len());
            }
            Layer::Embed(e) => {
                shape.row = vec![e.width];
                tally.keep(shape.len());
            }
            Layer::Attention(a) => {
                let asking = if a.asks == Asks::First { 1 } else { shape.rows };
                for (l, rows) in [(&a.query, asking), (&a.key, shape.rows), (&a.value, shape.rows), (&a.output, asking)]
                {
                    linear(l, rows, tally);
                }
                tally.keep(asking * a.query.outputs);
                let keys = a.window.map_or(shape.rows, |window| window.min(shape.rows))
                    + a.prefix.as_ref().map_or(0, |prefix| prefix.length);
                *shape = Shape { rows: asking, row: vec![a.output.outputs] };
                tally.multiply_adds += 2 * (asking * keys * a.query.outputs) as u64;
            }
            Layer::PoolRows(_) => {
                shape.rows = 1;
                tally.keep(shape.len());
            }
            Layer::Residual(r) | Layer::Adapter(r) => {
                count(&r.shortcut, &mut Shape { rows: shape.rows, row: shape.row.clone() }, tally);
                count(&r.body, shape, tally);
                count(&r.then, shape, tally);
            }
            Layer::Repeat(r) => (0..r.times).for_each(|_| count(&r.layers, shape, tally)),
            Layer::BatchNorm(_) | Layer::LayerNorm(_) => tally.keep(shape.len()),
            // What a limit leaves takes the place of what it came from, and so does what a dropout leaves.
            Layer::Act(Act::Relu | Act::Relu6) | Layer::Dropout(_) => {}
            Layer::Act(_) => tally.keep(shape.len()),
        }
    }
}
