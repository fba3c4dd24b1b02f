//! What the samples say before any model has seen them: how many, how even, which of them occur twice.

use std::collections::HashMap;
use std::sync::Arc;

use super::measures::{Measures, Quantity};
use crate::data::{Dataset, Splits};

/// Counts samples and compares their bytes; what cannot be read is passed over here and told when it is loaded.
pub(super) fn facts(splits: &Splits, measures: &mut Measures) {
    let train = &splits.train;
    let mut counts = vec![0usize; splits.task.len()];
    (0..train.len()).for_each(|i| counts[train.target(i) as usize] += 1);
    let present: Vec<usize> = counts.into_iter().filter(|&count| count > 0).collect();
    let (least, most) = (present.iter().min().copied().unwrap_or(1), present.iter().max().copied().unwrap_or(1));
    measures.note(Quantity::Labels, train.len() as f64);
    measures.note(Quantity::LabelsPerClass, train.len() as f64 / present.len().max(1) as f64);
    measures.note(Quantity::Imbalance, most as f64 / least as f64);

    let mut seen: HashMap<[u8; 32], Vec<u32>> = HashMap::new();
    for (i, digest) in digests(train) {
        seen.entry(digest).or_default().push(train.target(i));
    }
    let among = |keep: &dyn Fn(&Vec<u32>) -> bool| {
        let count: usize = seen.values().filter(|labels| keep(labels)).map(Vec::len).sum();
        count as f64 / train.len().max(1) as f64
    };
    measures.note(Quantity::Repeated, among(&|labels| labels.len() > 1));
    measures.note(Quantity::Contradicted, among(&|labels| labels.iter().any(|label| *label != labels[0])));
    let validation = digests(&splits.validation);
    let shared = validation.iter().filter(|(_, digest)| seen.contains_key(digest)).count();
    if !validation.is_empty() {
        measures.note(Quantity::Shared, shared as f64 / validation.len() as f64);
    }
}

fn digests(data: &Arc<dyn Dataset>) -> Vec<(usize, [u8; 32])> {
    (0..data.len()).filter_map(|i| Some((i, data.digest(i).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Result;
    use crate::data::{Sample, View};
    use crate::task::Task;

    /// Samples by a letter each and their classes.
    struct Letters(&'static str, Vec<u32>);

    impl Dataset for Letters {
        fn len(&self) -> usize {
            self.1.len()
        }
        fn target(&self, i: usize) -> u32 {
            self.1[i]
        }
        fn name(&self, i: usize) -> String {
            self.0[i..=i].into()
        }
        fn digest(&self, i: usize) -> Result<[u8; 32]> {
            Ok([self.0.as_bytes()[i]; 32])
        }
        fn load(&self, i: usize, _: View) -> Result<Sample> {
            Err(crate::Error::input(self.name(i), "is not read here", "leave it"))
        }
    }

    #[test]
    fn classes_are_counted_and_samples_that_occur_again_are_found() {
        let splits = Splits {
            task: Task::classes(vec!["x".into(), "y".into(), "absent".into()]),
            train: Arc::new(Letters("abbcddef", vec![0, 0, 0, 0, 0, 1, 1, 0])),
            validation: Arc::new(Letters("azdz", vec![0, 0, 1, 1])),
            held_out: false,
        };
        let mut measures = Measures::default();
        facts(&splits, &mut measures);
        let expected = [
            (Quantity::Labels, 8.0),
            (Quantity::LabelsPerClass, 4.0),
            (Quantity::Imbalance, 3.0),
            (Quantity::Repeated, 0.5),
            (Quantity::Contradicted, 0.25),
            (Quantity::Shared, 0.5),
        ];
        assert_eq!(measures, Measures(expected.into_iter().collect()));
    }
}
