//! The trainable pass on the CPU: layers on slices, each leaving behind what takes a gradient back through it.
//!
//! What [`super::forward::Pass`] does on any device with tensors that autograd follows, this does with fewer passes over
//! memory: normalization, residual sum and activation are one operation, gradients are written over what they came from,
//! a gradient that nobody asked for is not computed, and an activation is dropped as soon as its last use is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};
use topwork_kernels::passes as k;

use super::forward::Mode;
use super::update::Weighted;
use super::{Act, Layer, Params, Residual, Stage};
use crate::data::{Activation, Rows};
use crate::{Error, Result};

/// Numbers that several may read and the last one may write over.
type Shared = Arc<Vec<f32>>;
/// From the gradient of a layer's output to that of its input; `None` where nobody wants that.
type Back<'a> = Box<dyn FnOnce(Shared, &mut Gradients) -> Result<Option<Shared>> + 'a>;
/// The same, told whether anybody wants that.
type Asked<'a> = Box<dyn FnOnce(Shared, &mut Gradients, bool) -> Result<Option<Shared>> + 'a>;
/// A gradient that comes to a step from elsewhere.
type Place = Arc<OnceLock<Shared>>;
/// Gradients of parameters, by name.
pub type Gradients = BTreeMap<String, Tensor>;

mod gate;
mod layers;
mod update;

/// One forward pass over one batch, and the way back.
pub struct Tape<'a> {
    params: &'a Params,
    mode: Mode,
    recompute: bool,
    draws: u64,
    statistics: Vec<(String, Tensor)>,
    steps: Vec<Back<'a>>,
    /// Whether something before here learns, so that a gradient is wanted.
    tracked: bool,
    /// Where observed outputs wait for gradients.
    places: BTreeMap<usize, Place>,
    /// Number of stages, and of values that came out of the last.
    last: (usize, usize),
}

/// A batch on its way.
#[derive(Clone)]
struct Flow {
    data: Shared,
    /// In place of the numbers, while they are still to be looked up.
    indices: Option<Tensor>,
    /// Shape, the first dimension being all rows.
    dims: Vec<usize>,
    rows: Rows,
}

/// The numbers alone, copied where somebody else still reads them.
fn owned(values: Shared) -> Vec<f32> {
    Arc::try_unwrap(values).unwrap_or_else(|shared| shared.to_vec())
}

/// Takes a gradient back through some steps.
fn back(steps: Vec<Back>, gradient: Shared, grads: &mut Gradients) -> Result<Option<Shared>> {
    let mut gradient = Some(gradient);
    for step in steps.into_iter().rev() {
        let Some(dy) = gradient else { break };
        gradient = step(dy, grads)?;
    }
    Ok(gradient)
}

impl<'a> Tape<'a> {
    /// A pass with these parameters. With `recompute`, only the stages' inputs are kept, and each stage is computed a
    /// second time on the way back (Chen et al. 2016, *Training deep nets with sublinear memory cost*).
    pub fn new(params: &'a Params, mode: Mode, recompute: bool) -> Self {
        Self {
            params,
            mode,
            recompute,
            draws: 0,
            statistics: Vec::new(),
            steps: Vec::new(),
            tracked: false,
            places: BTreeMap::new(),
            last: (0, 0),
        }
    }

    /// Runs stages, each with whether something in it learns, and gives what comes out of the `observed` ones: 0 is the
    /// input, i the output of stage i. All of them may be given a gradient on the way back.
    ///
    /// # Errors
    /// When a parameter is missing or of another shape.
    pub fn forward(
        &mut self,
        stages: &[(&'a Stage, bool)],
        input: &Activation,
        observed: &BTreeSet<usize>,
    ) -> Result<BTreeMap<usize, Activation>> {
        let mut flow = Flow::of(input)?;
        let mut found = BTreeMap::new();
        if observed.contains(&0) {
            found.insert(0, input.clone());
        }
        for (i, &(stage, learns)) in (1..).zip(stages) {
            flow = self.stage(stage, flow, learns)?;
            if observed.contains(&i) {
                let data = Tensor::from_vec(flow.data.to_vec(), flow.dims.as_slice(), &Device::Cpu)?;
                found.insert(i, Activation { data, rows: flow.rows.clone() });
                let place: Place = Arc::default();
                if self.tracked {
                    self.places.insert(i, place.clone());
                }
                self.push(move |dy, _| {
                    let Some(more) = place.get() else { return Ok(Some(dy)) };
                    let mut sum = owned(dy);
                    k::add(&mut sum, more);
                    Ok(Some(Arc::new(sum)))
                });
            }
        }
        self.last = (stages.len(), flow.data.len());
        Ok(found)
    }

    /// Takes the gradients of observed outputs back, by their numbers; gives those of the parameters that learn, and the
    /// running statistics that the pass moved.
    ///
    /// # Errors
    /// When a tensor is not what it was.
    pub fn backward(self, mut gradients: BTreeMap<usize, Tensor>) -> Result<(Gradients, Vec<(String, Tensor)>)> {
        let values = |gradient: Tensor| -> Result<Shared> { Ok(Arc::new(gradient.flatten_all()?.to_vec1()?)) };
        let (last, len) = self.last;
        let first = gradients.remove(&last).map(values).transpose()?;
        for (i, gradient) in gradients {
            if let Some(place) = self.places.get(&i) {
                let _ = place.set(values(gradient)?);
            }
        }
        let mut grads = Gradients::new();
        back(self.steps, first.unwrap_or_else(|| Arc::new(vec![0.0; len])), &mut grads)?;
        Ok((grads, self.statistics))
    }

    fn stage(&mut self, stage: &'a Stage, flow: Flow, learns: bool) -> Result<Flow> {
        let mode = if learns { self.mode } else { Mode::Eval };
        if !self.recompute || !(learns || self.tracked) {
            return self.layers(&stage.layers, flow, mode);
        }
        let (params, draws, tracked, input) = (self.params, self.draws, self.tracked, flow.clone());
        let steps = std::mem::take(&mut self.steps);
        let flow = self.layers(&stage.layers, flow, mode)?;
        let passed = !std::mem::replace(&mut self.steps, steps).is_empty();
        if passed {
            self.steps.push(Box::new(move |dy, grads| {
                let mut again = Tape { draws, tracked, ..Tape::new(params, mode, false) };
                again.layers(&stage.layers, input, mode)?;
                back(again.steps, dy, grads)
            }));
        }
        Ok(flow)
    }

    fn layers(&mut self, layers: &'a [Layer], mut flow: Flow, mode: Mode) -> Result<Flow> {
        let mut rest = layers;
        while let Some((layer, after)) = rest.split_first() {
            rest = after;
            flow = match layer {
                Layer::Conv(c) => self.weighted(Weighted::Conv(c), flow, mode)?,
                Layer::Linear(l) => self.weighted(Weighted::Linear(l), flow, mode)?,
                Layer::BatchNorm(n) => {
                    let act = following(&mut rest);
                    self.batch_norm(n, flow, None, act, mode)?
                }
                Layer::LayerNorm(n) => self.layer_norm(n, flow)?,
                Layer::Act(act) => self.act(*act, flow),
                Layer::MaxPool(window) => {
                    let [b, h, w, c] = flow.image()?;
                    let (pass, y, [oh, ow]) = k::MaxPoolPass::forward(
                        &flow.data,
                        [b, h, w, c],
                        window.kernel,
                        window.stride,
                        window.pads(h, w),
                    );
                    self.push(move |dy, _| Ok(Some(Arc::new(pass.input_gradient(&dy)))));
                    flow.with(y, vec![b, oh, ow, c])
                }
                Layer::AdaptiveAvgPool(size) => {
                    let [b, h, w, c] = flow.image()?;
                    let pass = k::AveragePass::adaptive([h, w, c], *size);
                    let y = pass.forward(&flow.data);
                    self.push(move |dy, _| Ok(Some(Arc::new(pass.input_gradient(&dy)))));
                    flow.with(y, vec![b, size[0], size[1], c])
                }
                Layer::Flatten => self.flatten(flow)?,
                Layer::Gate(layers) => self.gate(layers, flow, mode)?,
                Layer::Embed(e) => self.embed(e, flow)?,
                Layer::Attention(a) => self.attention(a, flow, mode)?,
                Layer::PoolRows(pool) => self.pool_rows(*pool, flow),
                Layer::Dropout(p) => self.dropout(*p, flow, mode)?,
                Layer::Residual(r) | Layer::Adapter(r) => self.residual(r, flow, mode)?,
                Layer::Repeat(r) => (0..r.times).try_fold(flow, |flow, _| self.layers(&r.layers, flow, mode))?,
            };
        }
        Ok(flow)
    }

    /// Remembers a step, if a gradient comes through here.
    fn push(&mut self, step: impl FnOnce(Shared, &mut Gradients) -> Result<Option<Shared>> + 'a) {
        if self.tracked {
            self.steps.push(Box::new(step));
        }
    }

    /// A parameter and its name if it learns.
    fn param(&self, prefix: &str, name: &str) -> Result<(Tensor, Option<String>)> {
        let name = format!("{prefix}.{name}");
        let value = self.params.get(&name)?;
        let learns = self.params.learning().contains_key(&name);
        Ok((value.detach(), learns.then_some(name)))
    }

    /// Whether a gradient of what came before is wanted; from here on one is, if `learns`.
    fn track(&mut self, learns: bool) -> bool {
        let wanted = self.tracked;
        self.tracked |= learns;
        wanted
    }

    /// A layer with a weight and its update.
    fn weighted(&mut self, layer: Weighted<'_>, flow: Flow, mode: Mode) -> Result<Flow> {
        let wanted = self.tracked;
        let (flow, step) = self.updated(layer, &flow, mode)?;
        self.push(move |dy, grads| step(dy, grads, wanted));
        Ok(flow)
    }

    fn residual(&mut self, r: &'a Residual, flow: Flow, mode: Mode) -> Result<Flow> {
        let before = self.tracked;
        let outer = std::mem::take(&mut self.steps);
        let shortcut = self.layers(&r.shortcut, flow.clone(), mode)?;
        let shortcut_steps = std::mem::take(&mut self.steps);
        let shortcut_tracked = std::mem::replace(&mut self.tracked, before);
        // Where the body ends in batch normalization, the sum and the activation behind it happen there.
        let mut then = r.then.as_slice();
        let fused = match r.body.split_last() {
            Some((Layer::BatchNorm(n), rest)) => Some((n, rest, following(&mut then))),
            _ => None,
        };
        let place = Place::default();
        let mut body = match fused {
            Some((n, rest, act)) => {
                let body = self.layers(rest, flow, mode)?;
                expect(&n.name, &body.dims, &shortcut.dims)?;
                // The normalization is on the tape where either path is: the shortcut's gradient comes out of it.
                self.tracked |= shortcut_tracked;
                self.batch_norm(n, body, Some((&shortcut.data, place.clone())), act, mode)?
            }
            None => self.layers(&r.body, flow, mode)?,
        };
        let body_steps = std::mem::replace(&mut self.steps, outer);
        self.tracked |= shortcut_tracked;
        if fused.is_none() {
            expect("residual", &body.dims, &shortcut.dims)?;
            let mut sum = owned(body.data);
            k::add(&mut sum, &shortcut.data);
            body.data = Arc::new(sum);
        }
        let is_fused = fused.is_some();
        self.push(move |dy, grads| {
            let mut through_body = back(body_steps, dy.clone(), grads)?;
            let dy = if is_fused { place.get().cloned().unwrap_or(dy) } else { dy };
            drop(place);
            let through_shortcut = back(shortcut_steps, dy, grads)?;
            if !before {
                return Ok(None);
            }
            Ok(match (through_body.take(), through_shortcut) {
                (Some(a), Some(b)) => {
                    let (to, from) = if Arc::strong_count(&a) == 1 { (a, b) } else { (b, a) };
                    let mut sum = owned(to);
                    k::add(&mut sum, &from);
                    Some(Arc::new(sum))
                }
                (one, other) => one.or(other),
            })
        });
        self.layers(then, body, mode)
    }

    /// A number for the next random layer of this step.
    fn draw(&mut self, seed: crate::seed::Seed) -> u64 {
        self.draws += 1;
        seed.child(self.draws).0
    }
}

impl Flow {
    fn of(input: &Activation) -> Result<Self> {
        let (dims, rows) = (input.data.dims().to_vec(), input.rows.clone());
        if input.data.dtype() == DType::U32 {
            return Ok(Self { data: Arc::default(), indices: Some(input.data.clone()), dims, rows });
        }
        Ok(Self { data: Arc::new(input.data.flatten_all()?.to_vec1()?), indices: None, dims, rows })
    }

    fn image(&self) -> Result<[usize; 4]> {
        self.dims.as_slice().try_into().map_err(|_| misfit("image", format!("a batch of shape {:?}", self.dims)))
    }

    fn with(self, data: Vec<f32>, dims: Vec<usize>) -> Self {
        Self { data: Arc::new(data), dims, ..self }
    }
}

/// Takes the activation that comes next, where normalization can do it.
fn following(rest: &mut &[Layer]) -> Option<Act> {
    match rest.first() {
        Some(Layer::Act(act @ (Act::Relu | Act::Relu6))) => {
            *rest = &rest[1..];
            Some(*act)
        }
        _ => None,
    }
}

fn misfit(name: &str, what: String) -> Error {
    Error::Tensor(candle_core::Error::Msg(format!("{name}: {what}")))
}

fn expect(name: &str, found: &[usize], wanted: &[usize]) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(misfit(name, format!("a shape of {found:?} where {wanted:?} is wanted")))
}

/// Adds a gradient; a parameter that is used twice has the sum of both.
fn put(grads: &mut Gradients, name: String, values: Vec<f32>, shape: &[usize]) -> Result<()> {
    let gradient = Tensor::from_vec(values, shape, &Device::Cpu)?;
    let sum = match grads.get(&name) {
        Some(other) => topwork_kernels::add(other, &gradient)?,
        None => gradient,
    };
    grads.insert(name, sum);
    Ok(())
}
