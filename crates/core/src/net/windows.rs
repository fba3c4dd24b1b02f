//! Samples of many rows in windows: a long text, of which a network sees a stretch at a time.

use super::{Layer, Network};

/// The lengths of the windows of samples that are `lengths` rows long; these themselves without a `window`.
pub(super) fn of(lengths: Vec<usize>, window: Option<usize>) -> Vec<usize> {
    let Some(window) = window else { return lengths };
    let split = |length: usize| {
        let whole = length / window;
        std::iter::repeat_n(window, whole).chain(Some(length % window).filter(|&rest| rest > 0 || whole == 0))
    };
    lengths.into_iter().flat_map(split).collect()
}

impl Network {
    /// The same network on windows of so many rows, or on whole samples. What pools rows pools those of all windows.
    pub fn windowed(mut self, window: Option<usize>) -> Self {
        for stage in self.stages.iter_mut().chain([&mut self.head]) {
            set(&mut stage.layers, window);
        }
        self
    }
}

fn set(layers: &mut [Layer], rows: Option<usize>) {
    for layer in layers {
        match layer {
            Layer::Embed(embed) => embed.window = rows,
            Layer::Attention(attention) => attention.window = rows,
            Layer::Residual(residual) | Layer::Adapter(residual) => {
                for part in [&mut residual.body, &mut residual.shortcut, &mut residual.then] {
                    set(part, rows);
                }
            }
            Layer::Repeat(repeat) => set(&mut repeat.layers, rows),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use candle_core::Tensor;

    use super::of;
    use crate::data::{Activation, Rows};
    use crate::device::Place;
    use crate::net::forward::{Mode, Pass};
    use crate::net::frozen::Frozen;
    use crate::net::{Network, Params, Stage};
    use crate::seed::Seed;
    use crate::train::gradient::Objective;
    use crate::train::toys::{text_network, without_dropout};
    use crate::train::{RowLabels, Term};

    /// Ten rows of an embedding's indices, as samples of these lengths.
    fn input(lengths: &[usize]) -> Activation {
        let values: Vec<u32> = (0..10).flat_map(|i| [(7 * i + 3) % 12, 0]).collect();
        let data = Tensor::from_vec(values, (10, 2), &Place::default()).unwrap();
        Activation { data, rows: Rows::Each(Arc::new(lengths.to_vec())) }
    }

    /// The rows behind the layers by each way of computing them, and the gradient of a loss of the rows.
    fn results(network: &Network, lengths: &[usize]) -> Vec<Vec<f32>> {
        let mut params = Params::initial(&network.params(), Seed(5), &Place::default()).unwrap();
        params.set_learning(&network.params().into_iter().map(|spec| spec.name).collect::<BTreeSet<_>>()).unwrap();
        let (stages, input) = (network.stages[..3].iter().collect::<Vec<&Stage>>(), input(lengths));
        let pass = Pass::new(&params, Mode::Eval);
        let by_pass = stages.iter().fold(input.clone(), |x, stage| pass.stage(stage, x, true).unwrap());
        let by_frozen = Frozen::compile(&stages, &params, &Place::default()).unwrap().run(&input).unwrap();
        let labels: Vec<f32> = (0..10).map(|i| (i % 8) as f32).collect();
        let terms: Vec<Box<dyn Term>> = vec![Box::new(RowLabels::of(3, &labels, None, 0.0))];
        let stages = stages.into_iter().map(|stage| (stage, true)).collect();
        let objective = Objective { stages, terms, reference: None, recompute: false };
        let found = objective.gradient(&params, Mode::Eval, &input, &vec![0; lengths.len()]).unwrap();
        let gradients = found.grads.unwrap().into_values();
        let all = [by_pass.data, by_frozen.data].into_iter().chain(gradients);
        all.map(|x| x.flatten_all().unwrap().to_vec1().unwrap()).collect()
    }

    #[test]
    fn windows_are_computed_as_samples_of_their_own() {
        let network = without_dropout(text_network());
        let windowed = results(&network.clone().windowed(Some(3)), &[8, 2]);
        assert!(windowed == results(&network, &[3, 3, 2, 2]));
        assert!(windowed != results(&network, &[8, 2]));
        assert_eq!(network.clone().windowed(Some(3)).windowed(None), network);
    }

    #[test]
    fn all_windows_of_a_sample_but_the_last_are_full() {
        assert_eq!(of(vec![3, 8, 0, 9], Some(4)), [3, 4, 4, 0, 4, 4, 1]);
        assert_eq!(of(vec![3, 8], None), [3, 8]);
    }
}
