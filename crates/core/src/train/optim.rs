//! One step of an update rule over all learning parameters, and its state: keyed by the parameters' names, so that it
//! survives a new phase or process.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use topwork_kernels::{AdamWHyper, AdamWState, SgdHyper, SgdState, adamw_step, pull_step, sgd_step, sum_of_squares};

use crate::net::tape::Gradients;
use crate::net::{Params, Role};
use crate::plan::Optimizer as Rule;
use crate::{Error, Result};

enum State {
    AdamW(AdamWState),
    Sgd(SgdState),
}

/// A parameter's share in the update.
struct Member {
    rate: f64,
    decays: bool,
    /// Where it is pulled to, and how strongly, in place of decaying.
    anchor: Option<(Tensor, f64)>,
}

/// An update rule with its state.
pub struct Optimizer {
    rule: Rule,
    members: BTreeMap<String, Member>,
    states: BTreeMap<String, State>,
    steps: u64,
    /// Factor on the momentum.
    momentum: f64,
}

impl Optimizer {
    /// For the parameters (name, role, factor on the learning rate) of a phase; no step taken yet.
    pub fn new(rule: Rule, members: impl IntoIterator<Item = (String, Role, f64)>) -> Self {
        let decays = |role| matches!(role, Role::Weight | Role::Table);
        let member = |(name, role, rate)| (name, Member { rate, decays: decays(role), anchor: None });
        let members = members.into_iter().map(member).collect();
        Self { rule, members, states: BTreeMap::new(), steps: 0, momentum: 1.0 }
    }

    /// From now on pulls the member called `name` towards `anchor` after each step, in place of letting it decay: at rate
    /// η, w ← w⁰ + (w - w⁰) / (1 + η strength), the implicit step of ½ strength ‖w - w⁰‖², which no strength overshoots.
    pub fn pull(&mut self, name: &str, anchor: Tensor, strength: f64) {
        if let Some(member) = self.members.get_mut(name) {
            member.anchor = Some((anchor, strength));
            member.decays = false;
        }
    }

    /// Euclidean norm of the gradients of all members together.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn norm(&self, grads: &Gradients) -> Result<f64> {
        let mut sum = 0.0;
        for (_, grad) in grads.iter().filter(|(name, _)| self.members.contains_key(*name)) {
            sum += sum_of_squares(grad)?;
        }
        Ok(sum.sqrt())
    }

    /// From now on the momentum, or the decay of the first moment, is `factor` times that of the rule.
    pub fn set_momentum(&mut self, factor: f64) {
        self.momentum = factor;
    }

    /// Moves every member that has a gradient: at `rate` times its own factor, the gradient multiplied by `scale`.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn step(&mut self, params: &Params, grads: &Gradients, rate: f64, scale: f64) -> Result<()> {
        self.steps += 1;
        let scale = scale as f32;
        for (name, var) in params.learning() {
            let (Some(member), Some(grad)) = (self.members.get(name), grads.get(name)) else { continue };
            let decay = |weight_decay: f64| if member.decays { weight_decay } else { 0.0 };
            let lr = rate * member.rate;
            if !self.states.contains_key(name) {
                let fresh = match self.rule {
                    Rule::AdamW { .. } => State::AdamW(AdamWState::new(var)?),
                    Rule::Sgd { .. } => State::Sgd(SgdState::new(var)?),
                };
                self.states.insert(name.clone(), fresh);
            }
            match (self.rule, self.states.get_mut(name)) {
                (Rule::AdamW { beta1, beta2, eps, weight_decay }, Some(State::AdamW(state))) => {
                    let (beta1, weight_decay) = (beta1 * self.momentum, decay(weight_decay));
                    let hyper = AdamWHyper { lr, beta1, beta2, eps, weight_decay, step: self.steps, scale };
                    adamw_step(var, grad, state, &hyper)?;
                }
                (Rule::Sgd { momentum, nesterov, weight_decay }, Some(State::Sgd(state))) => {
                    let momentum = momentum * self.momentum;
                    let hyper = SgdHyper { lr, momentum, nesterov, weight_decay: decay(weight_decay), scale };
                    sgd_step(var, grad, state, &hyper)?;
                }
                _ => return Err(Error::Tensor(candle_core::Error::Msg(format!("optimizer state of {name:?}")))),
            }
            if let Some((anchor, strength)) = &member.anchor {
                pull_step(var, anchor, 1.0 / (1.0 + lr * strength))?;
            }
        }
        Ok(())
    }

    /// The state, as `parameter name/part`, and the number of steps taken.
    pub fn state(&self) -> (BTreeMap<String, Tensor>, u64) {
        let mut tensors = BTreeMap::new();
        for (name, state) in &self.states {
            let parts = match state {
                State::AdamW(state) => state.tensors(),
                State::Sgd(state) => state.tensors(),
            };
            tensors.extend(parts.into_iter().map(|(part, tensor)| (format!("{name}/{part}"), tensor)));
        }
        (tensors, self.steps)
    }

    /// Continues from what [`Optimizer::state`] gave.
    ///
    /// # Errors
    /// When the tensors are not of this rule.
    pub fn restore(&mut self, tensors: &BTreeMap<String, Tensor>, steps: u64, device: &Device) -> Result<()> {
        let mut parts: BTreeMap<&str, Vec<(&str, Tensor)>> = BTreeMap::new();
        for (key, tensor) in tensors {
            if let Some((name, part)) = key.rsplit_once('/') {
                parts.entry(name).or_default().push((part, tensor.to_device(device)?));
            }
        }
        for (name, parts) in parts {
            let find = |part: &str| {
                let missing = || candle_core::Error::Msg(format!("the checkpoint has no {part} of {name:?}"));
                parts.iter().find(|(found, _)| *found == part).map(|(_, tensor)| tensor).ok_or_else(missing)
            };
            let state = match self.rule {
                Rule::AdamW { .. } => State::AdamW(AdamWState::from_tensors(find("exp_avg")?, find("exp_avg_sq")?)?),
                Rule::Sgd { .. } => State::Sgd(SgdState::from_tensors(find("momentum_buffer")?)?),
            };
            self.states.insert(name.to_string(), state);
        }
        self.steps = steps;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_factor_on_the_momentum_is_that_of_a_rule_with_less() {
        let value = |x: f32| Tensor::new(&[x], &Device::Cpu).unwrap();
        let sgd = |momentum| Rule::Sgd { momentum, nesterov: true, weight_decay: 0.0 };
        let adamw = |beta1| Rule::AdamW { beta1, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
        let after = |rule: Rule, factor: f64| {
            let mut params = Params::new(BTreeMap::from([("w".to_string(), value(1.0))]));
            params.set_learning(&BTreeSet::from(["w".to_string()])).unwrap();
            let mut optimizer = Optimizer::new(rule, [("w".to_string(), Role::Weight, 1.0)]);
            optimizer.set_momentum(factor);
            for grad in [1.0, -0.5, 2.0] {
                let grads = [("w".to_string(), value(grad))].into_iter().collect();
                optimizer.step(&params, &grads, 0.1, 1.0).unwrap();
            }
            params.get("w").unwrap().to_vec1::<f32>().unwrap()[0]
        };
        assert_eq!(after(sgd(0.8), 0.5), after(sgd(0.4), 1.0));
        assert_eq!(after(adamw(0.8), 0.5), after(adamw(0.4), 1.0));
        assert_ne!(after(sgd(0.8), 1.0), after(sgd(0.4), 1.0));
    }

    #[test]
    fn what_is_pulled_goes_to_its_anchor_and_the_rest_decays() {
        let value = |x: f32| Tensor::new(&[x], &Device::Cpu).unwrap();
        let names = ["backbone", "head"].map(String::from);
        for rule in [
            Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.5 },
            Rule::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.5 },
        ] {
            let mut params = Params::new(names.iter().map(|name| (name.clone(), value(3.0))).collect());
            params.set_learning(&BTreeSet::from(names.clone())).unwrap();
            let mut optimizer = Optimizer::new(rule, names.iter().map(|name| (name.clone(), Role::Weight, 1.0)));
            optimizer.pull("backbone", value(1.0), 4.0);
            let none = names.iter().map(|name| (name.clone(), value(0.0))).collect();
            optimizer.step(&params, &none, 0.25, 1.0).unwrap();
            let now = |name: &str| params.get(name).unwrap().to_vec1::<f32>().unwrap()[0];
            assert_eq!(now("backbone"), 1.0 + 2.0 / (1.0 + 0.25 * 4.0), "{rule:?}");
            assert!((now("head") - 3.0 * (1.0 - 0.25 * 0.5)).abs() < 1e-6, "{rule:?}");
        }
    }
}
