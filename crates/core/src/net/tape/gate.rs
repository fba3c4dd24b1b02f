//! Gates on the tape: the images times factors that layers beside make of them.

use std::sync::Arc;

use topwork_kernels::passes as k;

use super::{Flow, Tape, back, expect, owned};
use crate::Result;
use crate::net::Layer;
use crate::net::forward::Mode;

impl<'a> Tape<'a> {
    /// `x ⊙ layers(x)`. The gradient comes to the input both ways.
    pub(super) fn gate(&mut self, layers: &'a [Layer], flow: Flow, mode: Mode) -> Result<Flow> {
        let before = self.tracked;
        let outer = std::mem::take(&mut self.steps);
        let factors = self.layers(layers, flow.clone(), mode)?;
        let inner = std::mem::replace(&mut self.steps, outer);
        let [b, h, w, c] = flow.image()?;
        let pixels = h * w;
        expect("gate", &factors.dims, &[b, 1, 1, c])?;
        let mut y = vec![0f32; flow.data.len()];
        k::gate(&flow.data, &factors.data, pixels, c, &mut y);
        let (x, factors) = (flow.data.clone(), factors.data);
        self.push(move |dy, grads| {
            let of_factors = k::gate_factor_gradient(&x, &dy, pixels, c);
            drop(x);
            let through = back(inner, Arc::new(of_factors), grads)?;
            if !before {
                return Ok(None);
            }
            let mut dx = owned(dy);
            k::gate_in_place(&mut dx, &factors, pixels, c);
            if let Some(through) = through {
                k::add(&mut dx, &through);
            }
            Ok(Some(Arc::new(dx)))
        });
        let dims = flow.dims.clone();
        Ok(flow.with(y, dims))
    }
}
