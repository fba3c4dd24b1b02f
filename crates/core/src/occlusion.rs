//! What wrong answers about texts rest on: the parts without which they would be less sure. Each is left out in turn (Zeiler &
//! Fergus 2014, *Visualizing and Understanding Convolutional Networks*, of photos; Li et al. 2016, *Understanding Neural
//! Networks through Representation Erasure*, of words).

use std::ops::Range;

use crate::Result;
use crate::classifier::BATCH;
use crate::data::{Activation, Dataset, Excerpt, Mark, Omissions, Sample, View};
use crate::device::Place;
use crate::draw::{EXCERPT, around};
use crate::net::frozen::Frozen;
use crate::net::{Network, Params, Stage};
use crate::outputs::{Mistake, Slip};
use crate::task::Task;

/// Parts that a text is taken apart into, at most: as many passes, and one.
const MOST_PARTS: usize = 24;
/// Parts that are marked, at most, and what they weigh at least against the weightiest.
const MOST_MARKS: usize = 5;
const LEAST_WEIGHT: f32 = 1.0 / 3.0;

/// Marks in each of `mistakes`, samples of `data`, what the wrong answer of `network` rests on most; those of samples without
/// parts stay as they are.
///
/// # Errors
/// When a sample cannot be read, or the device is out of memory.
pub(crate) fn mark(
    mistakes: &mut [Mistake],
    data: &dyn Dataset,
    task: &Task,
    (network, params, place): (&Network, &Params, &Place),
) -> Result<()> {
    let mut compiled: Option<Frozen> = None;
    for mistake in mistakes {
        let Some(leaning) = Leaning::of(&mistake.slip, task) else { continue };
        let Some(Omissions { text, parts }) = data.omissions(mistake.sample, MOST_PARTS)? else { continue };
        if compiled.is_none() {
            let stages: Vec<&Stage> = network.stages.iter().chain([&network.head]).collect();
            compiled = Some(Frozen::compile(&stages, params, place)?);
        }
        let Some(whole) = &compiled else { continue };
        let (places, mut samples): (Vec<Range<usize>>, Vec<Sample>) = parts.into_iter().unzip();
        samples.push(data.load(mistake.sample, View::Plain)?);
        let mut sure = Vec::with_capacity(samples.len());
        for batch in samples.chunks(BATCH) {
            let outputs =
                whole.run(&Activation::collate(batch, &place.device)?)?.data.flatten_all()?.to_vec1::<f32>()?;
            sure.extend(outputs.chunks_exact(task.len().max(1)).map(|outputs| leaning.sure(outputs)));
        }
        let Some((with, without)) = sure.split_last() else { continue };
        let weights: Vec<f32> = without.iter().map(|without| with - without).collect();
        let marks = weightiest(&weights).into_iter().map(|i| (places[i].clone(), Mark::Telling)).collect();
        let (text, marks) = around(&text, marks, EXCERPT);
        mistake.excerpt = Excerpt::Marked { text, marks };
    }
    Ok(())
}

/// The parts that weigh most, in their order; none where nothing speaks for the answer.
fn weightiest(weights: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..weights.len()).filter(|&i| weights[i] > 0.0).collect();
    order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
    let least = order.first().map_or(0.0, |&first| weights[first] * LEAST_WEIGHT);
    order.retain(|&i| weights[i] >= least);
    order.truncate(MOST_MARKS);
    order.sort_unstable();
    order
}

/// What a wrong answer leans to.
enum Leaning {
    /// This class, against the others.
    Class(usize),
    /// This output, upwards (1) or downwards (-1).
    Output(usize, f32),
}

impl Leaning {
    /// That of what is wrong with a whole sample.
    fn of(slip: &Slip, task: &Task) -> Option<Self> {
        let output = |name: &str, up: bool| {
            let at = task.iter().position(|own| own == name)?;
            Some(Self::Output(at, if up { 1.0 } else { -1.0 }))
        };
        match slip {
            Slip::Class { said, .. } => Some(Self::Class(*said)),
            Slip::Label { label, has, .. } => output(label, !has),
            Slip::Value { name, truth, said } => output(name, said > truth),
            Slip::Words(_) | Slip::Passage { .. } => None,
        }
    }

    /// How sure it is: the logarithm of the class's probability, or the output itself in the direction of the error.
    fn sure(&self, outputs: &[f32]) -> f32 {
        match *self {
            Self::Class(class) => {
                let top = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                outputs[class] - top - outputs.iter().map(|z| (z - top).exp()).sum::<f32>().ln()
            }
            Self::Output(at, sign) => sign * outputs[at],
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::data::Values;
    use crate::net::{Layer, Linear};
    use crate::task::Kind;

    /// One text, whose words are numbers: a sample is their sum.
    struct Numbers(&'static str);

    impl Numbers {
        fn sample(words: impl Iterator<Item = &'static str>) -> Sample {
            let sum = words.map(|word| word.parse::<f32>().unwrap()).sum();
            Sample { rows: 1, shape: vec![1], values: Values::F32(vec![sum]) }
        }
    }

    impl Dataset for Numbers {
        fn len(&self) -> usize {
            1
        }
        fn target(&self, _: usize) -> u32 {
            0
        }
        fn name(&self, _: usize) -> String {
            "numbers".into()
        }
        fn digest(&self, _: usize) -> Result<[u8; 32]> {
            Ok([0; 32])
        }
        fn load(&self, _: usize, _: View) -> Result<Sample> {
            Ok(Self::sample(self.0.split(' ')))
        }
        fn omissions(&self, _: usize, _: usize) -> Result<Option<Omissions>> {
            let words: Vec<&'static str> = self.0.split(' ').collect();
            let without = |left: usize| {
                let place = words[..left].iter().map(|word| word.len() + 1).sum::<usize>();
                let rest = words.iter().enumerate().filter(move |(i, _)| *i != left).map(|(_, word)| *word);
                (place..place + words[left].len(), Self::sample(rest))
            };
            Ok(Some(Omissions { text: self.0.into(), parts: (0..words.len()).map(without).collect() }))
        }
    }

    /// What is marked of a text whose sum is both outputs' input, by 1 and by -1.
    fn marked(text: &'static str, kind: Kind, slip: Slip) -> Vec<&'static str> {
        let linear = Linear { name: "head".into(), inputs: 1, outputs: 2, bias: false, update: None };
        let head = Stage { name: "head".into(), layers: vec![Layer::Linear(linear)] };
        let network = Network { name: "sums".into(), stages: vec![], head, input: vec![1] };
        let weight = Tensor::from_slice(&[1f32, -1.0], (2, 1), &Device::Cpu).unwrap();
        let params = Params::new([("head.weight".to_string(), weight)].into());
        let task = Task { kind, outputs: vec!["up".into(), "down".into()] };
        let excerpt = Excerpt::Text(text.into());
        let mut mistakes = [Mistake { sample: 0, name: "numbers".into(), slip, excerpt }];
        mark(&mut mistakes, &Numbers(text), &task, (&network, &params, &Place::default())).unwrap();
        let Excerpt::Marked { text: shown, marks } = &mistakes[0].excerpt else { return vec![] };
        assert_eq!(shown, text);
        assert!(marks.iter().all(|(_, mark)| *mark == Mark::Telling));
        marks.iter().map(|(place, _)| &text[place.clone()]).collect()
    }

    #[test]
    fn words_without_which_the_answer_is_less_sure_are_marked_and_slight_ones_not() {
        let said = |said| Slip::Class { truth: 1 - said, said, probability: 0.9 };
        assert_eq!(marked("0.5 0.01 -0.4 0.3", Kind::Classes, said(0)), ["0.5", "0.3"]);
        assert_eq!(marked("0.5 0.01 -0.4 0.3", Kind::Classes, said(1)), ["-0.4"]);
    }

    #[test]
    fn of_labels_and_values_the_direction_of_the_error_counts() {
        let label = |has| Slip::Label { label: "down".into(), has, probability: 0.9, others: 0 };
        assert_eq!(marked("2 -1", Kind::Labels, label(true)), ["2"]);
        assert_eq!(marked("2 -1", Kind::Labels, label(false)), ["-1"]);
        let value = |truth, said| Slip::Value { name: "up".into(), truth, said };
        assert_eq!(marked("2 -1", Kind::Values, value(0.0, 1.0)), ["2"]);
        assert_eq!(marked("2 -1", Kind::Values, value(3.0, 1.0)), ["-1"]);
    }

    #[test]
    fn where_nothing_speaks_for_the_answer_nothing_is_marked() {
        assert_eq!(weightiest(&[-1.0, 0.0, f32::NAN]), [0; 0]);
        assert_eq!(weightiest(&[1.0; 9]), [0, 1, 2, 3, 4]);
    }
}
