//! Networks of inverted residual blocks (Sandler et al. 2018, *MobileNetV2*): expand, filter each channel by itself,
//! project; with squeeze-and-excitation (Hu et al. 2018) in between where a row of the table says so.
//!
//! MobileNet and EfficientNet are tables of such blocks, in [`super::mobilenet`] and [`super::efficientnet`]; how libraries
//! call the parameters is in [`super::names`].

use topwork_core::net::{Act, Conv, Layer, Network, Residual, Stage, Window};

use super::names::{Names, Place};
use super::{act, batch_norm, conv, linear};

/// One network.
#[derive(Debug, Clone, Copy)]
pub struct Inverted {
    /// Channels of the first convolution.
    pub stem: usize,
    /// Rows of the blocks of each stage.
    pub stages: &'static [&'static [Row]],
    /// Channels of the last convolution.
    pub top: usize,
    /// Width of the linear layer between pooling and head, where there is one.
    pub hidden: Option<usize>,
    /// What follows the first and the last convolution, and the hidden layer.
    pub act: Act,
    /// How blocks gate their channels.
    pub squeeze: Option<Squeeze>,
    /// Compound scaling (Tan & Le 2019, eq. 3).
    pub scale: Scale,
    /// Whether windows are padded as in TensorFlow.
    pub same: bool,
    /// Epsilon and momentum of batch normalization.
    pub norm: (f64, f64),
    /// Dropout in front of the head.
    pub dropout: f32,
    /// The names of the parameters, the description's own first.
    pub names: &'static [&'static Names],
}

/// Blocks of one kind behind each other; the first has the stride, and the inputs of what came before.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// How many.
    pub count: usize,
    /// Height and width of the depthwise convolution.
    pub kernel: usize,
    /// Its stride.
    pub stride: usize,
    /// Channels inside, as a multiple of the inputs.
    pub expand: f64,
    /// Channels that come out.
    pub outputs: usize,
    /// Whether channels are gated.
    pub squeezes: bool,
    /// What follows the convolutions inside, unless it is what follows the first and the last one.
    pub act: Option<Act>,
}

/// Squeeze-and-excitation: mean, two 1 × 1 convolutions.
#[derive(Debug, Clone, Copy)]
pub struct Squeeze {
    /// Whether a quarter of the block's inputs lies between, or (rounded to eights) of the channels inside.
    pub of_inputs: bool,
    /// Between the two.
    pub act: Act,
    /// Of the factors.
    pub gate: Act,
}

/// Factors of a table's numbers.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Of channels, rounded to eights.
    pub width: f64,
    /// Of blocks in a row, rounded up.
    pub depth: f64,
    /// Whether the first and last convolution keep their channels, the first and last stage their blocks.
    pub fixed_ends: bool,
}

impl Scale {
    /// As the table has it.
    pub const NONE: Self = Self { width: 1.0, depth: 1.0, fixed_ends: false };

    fn ends(self, channels: usize) -> usize {
        if self.fixed_ends { channels } else { eights(channels as f64 * self.width) }
    }
}

/// To the nearest multiple of 8, but not below nine tenths (`_make_divisible` of the original MobileNet).
fn eights(channels: f64) -> usize {
    let near = ((channels as usize + 4) / 8 * 8).max(8);
    if (near as f64) < 0.9 * channels { near + 8 } else { near }
}

/// Writes the layers of one network under one scheme of names.
struct Writer<'a> {
    of: &'a Inverted,
    names: &'a Names,
}

impl Inverted {
    /// The description, called `name`, with a head of `classes` outputs, under its own names. Input
    /// `[samples, height, width, 3]`.
    pub fn network(&self, name: &str, classes: usize) -> Network {
        self.named(name, classes, self.names[0])
    }

    /// The same under other names.
    pub(super) fn named(&self, name: &str, classes: usize, names: &Names) -> Network {
        let writer = Writer { of: self, names };
        let mut place = Place::default();
        let mut inputs = self.scale.ends(self.stem);
        let stem = writer.unit(names.stem, place, (3, inputs, Window::square(3, 2), 1), Some(self.act));
        let mut stages = vec![Stage { name: "conv_stem".into(), layers: stem }];
        for (i, rows) in self.stages.iter().enumerate() {
            let mut layers = Vec::new();
            let fixed = self.scale.fixed_ends && (i == 0 || i + 1 == self.stages.len());
            place.block = 0;
            for row in *rows {
                let depth = if fixed { 1.0 } else { self.scale.depth };
                let count = (row.count as f64 * depth).ceil() as usize;
                for number in 0..count {
                    let stride = if number == 0 { row.stride } else { 1 };
                    let outputs = eights(row.outputs as f64 * self.scale.width);
                    layers.extend(writer.block(row, place, [inputs, outputs], stride));
                    inputs = outputs;
                    place.block += 1;
                    place.number += 1;
                }
            }
            stages.push(Stage { name: format!("blocks.{i}"), layers });
            place.stage += 1;
        }
        let mut features = self.scale.ends(self.top);
        let last = writer.unit(names.top, place, (inputs, features, Window::square(1, 1), 1), Some(self.act));
        stages.push(Stage { name: "conv_head".into(), layers: last });
        stages.push(Stage { name: "global_pool".into(), layers: vec![Layer::AdaptiveAvgPool([1, 1]), Layer::Flatten] });
        if let Some(hidden) = self.hidden {
            let layers = vec![linear(names.hidden, features, hidden), act(self.act)];
            stages.push(Stage { name: "hidden".into(), layers });
            features = hidden;
        }
        let head = vec![Layer::Dropout(self.dropout), linear(names.classifier, features, classes)];
        let head = Stage { name: "head".into(), layers: head };
        Network { name: name.into(), stages, head, input: vec![224, 224, 3] }
    }
}

impl Writer<'_> {
    /// Convolution (inputs, outputs, window, groups), batch normalization and activation.
    fn unit(
        &self,
        names: [&str; 2],
        place: Place,
        (inputs, outputs, window, groups): (usize, usize, Window, usize),
        then: Option<Act>,
    ) -> Vec<Layer> {
        let window = if self.of.same { window.same() } else { window };
        let [convolution, norm] = names.map(|name| place.fill(name));
        let (eps, momentum) = self.of.norm;
        let layers = [conv(convolution, inputs, outputs, window, groups), batch_norm(norm, outputs, eps, momentum)];
        layers.into_iter().chain(then.map(act)).collect()
    }

    fn block(&self, row: &Row, mut place: Place, [inputs, outputs]: [usize; 2], stride: usize) -> Vec<Layer> {
        let channels = eights(inputs as f64 * row.expand);
        let names = if channels == inputs { &self.names.plain } else { &self.names.expanding };
        let (one, then) = (Window::square(1, 1), row.act.unwrap_or(self.of.act));
        let mut body = Vec::new();
        if channels != inputs {
            body.extend(self.unit(names.expand, place, (inputs, channels, one, 1), Some(then)));
            place.part += 1;
        }
        let filter = Window::square(row.kernel, stride);
        body.extend(self.unit(names.filter, place, (channels, channels, filter, channels), Some(then)));
        place.part += 1;
        if let Some(squeeze) = self.of.squeeze.filter(|_| row.squeezes) {
            body.push(self.gate(squeeze, place, inputs, channels));
            place.part += 1;
        }
        body.extend(self.unit(names.project, place, (channels, outputs, one, 1), None));
        if stride == 1 && inputs == outputs {
            vec![Layer::Residual(Residual { body, shortcut: vec![], then: vec![] })]
        } else {
            body
        }
    }

    fn gate(&self, squeeze: Squeeze, place: Place, inputs: usize, channels: usize) -> Layer {
        let inner = if squeeze.of_inputs { (inputs / 4).max(1) } else { eights((channels / 4) as f64) };
        let [reduce, expand] = self.names.squeeze.map(|name| place.fill(name));
        let one = |name, inputs, outputs| {
            let window = Window::square(1, 1);
            Layer::Conv(Conv { name, inputs, outputs, window, groups: 1, bias: true, update: None })
        };
        Layer::Gate(vec![
            Layer::AdaptiveAvgPool([1, 1]),
            one(reduce, channels, inner),
            act(squeeze.act),
            one(expand, inner, channels),
            act(squeeze.gate),
        ])
    }
}
