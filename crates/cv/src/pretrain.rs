//! The verb `pretrain`: supervised training from random weights on many labelled photos, to make a model that others start
//! from. It is `train` with one strategy and another recipe.

use topwork_core::plan::Decay;
use topwork_core::strategy::{OptimizerName, Options};

/// What is set where the flags say nothing: stochastic gradient descent in one cycle, as fast training of residual networks
/// on 100,000 photos and more does it (Smith & Topin 2018; He et al. 2019, *Bag of Tricks*).
pub fn recipe() -> Options {
    Options {
        epochs: Some(30),
        batch_size: Some(128),
        optimizer: Some(OptimizerName::Sgd),
        momentum: Some(0.95),
        nesterov: Some(true),
        weight_decay: Some(5e-4),
        learning_rate: Some(0.1),
        schedule: Some(Decay::OneCycle),
        warmup: Some(0.3),
        label_smoothing: Some(0.1),
        augment: Some(true),
        ..Options::default()
    }
}
