//! What a network takes, counted from its description: parameters, multiply-adds and values kept, stage by stage.

use super::update::Weighted;
use super::{Asks, Layer, Network, Role, Stage};

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
}

/// Runs through a description with shapes in place of values.
struct Shape {
    /// Rows of the sample; 1 for an image.
    rows: usize,
    /// Shape of one row.
    row: Vec<usize>,
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
        let multiply_adds = self.layers.iter().map(|layer| layer.multiply_adds(shape)).sum();
        let parameters = self.params().iter().filter(|p| p.role != Role::Buffer).map(super::ParamSpec::len).sum();
        let rows = (shape.rows > 1).then_some(shape.rows);
        let output = rows.into_iter().chain(shape.row.iter().copied()).collect();
        Cost { stage: self.name.clone(), output, parameters, multiply_adds }
    }
}

impl Layer {
    /// Multiply-adds of matrix products and convolutions; `shape` becomes that of the output.
    fn multiply_adds(&self, shape: &mut Shape) -> u64 {
        let linear = |l: &super::Linear, rows: usize| {
            (rows * l.inputs * l.outputs) as u64 + Weighted::Linear(l).update_multiply_adds(rows)
        };
        match self {
            Layer::Conv(c) => {
                let [height, width] = c.window.out_size(shape.row[0], shape.row[1]);
                shape.row = vec![height, width, c.outputs];
                let taps = c.window.kernel[0] * c.window.kernel[1] * (c.inputs / c.groups);
                let positions = shape.rows * height * width;
                (positions * c.outputs * taps) as u64 + Weighted::Conv(c).update_multiply_adds(positions)
            }
            Layer::Linear(l) => {
                if let Some(last) = shape.row.last_mut() {
                    *last = l.outputs;
                }
                let positions: usize = shape.row[..shape.row.len() - 1].iter().product();
                linear(l, shape.rows * positions)
            }
            Layer::MaxPool(window) => {
                let [height, width] = window.out_size(shape.row[0], shape.row[1]);
                shape.row = vec![height, width, shape.row[2]];
                0
            }
            Layer::AdaptiveAvgPool([height, width]) => {
                shape.row = vec![*height, *width, shape.row[2]];
                0
            }
            Layer::Flatten => {
                shape.row = vec![shape.row.iter().product()];
                0
            }
            Layer::Gate(layers) => {
                let mut other = Shape { rows: shape.rows, row: shape.row.clone() };
                layers.iter().map(|layer| layer.multiply_adds(&mut other)).sum()
            }
            Layer::Embed(e) => {
                shape.row = vec![e.width];
                0
            }
            Layer::Attention(a) => {
                let asking = if a.asks == Asks::First { 1 } else { shape.rows };
                let projections = linear(&a.query, asking)
                    + linear(&a.key, shape.rows)
                    + linear(&a.value, shape.rows)
                    + linear(&a.output, asking);
                let keys = a.window.map_or(shape.rows, |window| window.min(shape.rows))
                    + a.prefix.as_ref().map_or(0, |prefix| prefix.length);
                *shape = Shape { rows: asking, row: vec![a.output.outputs] };
                projections + 2 * (asking * keys * a.query.outputs) as u64
            }
            Layer::PoolRows(_) => {
                shape.rows = 1;
                0
            }
            Layer::Residual(r) | Layer::Adapter(r) => {
                let mut other = Shape { rows: shape.rows, row: shape.row.clone() };
                let shortcut: u64 = r.shortcut.iter().map(|layer| layer.multiply_adds(&mut other)).sum();
                let body: u64 = r.body.iter().map(|layer| layer.multiply_adds(shape)).sum();
                shortcut + body + r.then.iter().map(|layer| layer.multiply_adds(shape)).sum::<u64>()
            }
            Layer::Repeat(r) => (0..r.times).flat_map(|_| &r.layers).map(|layer| layer.multiply_adds(shape)).sum(),
            Layer::BatchNorm(_) | Layer::LayerNorm(_) | Layer::Act(_) | Layer::Dropout(_) => 0,
        }
    }
}
