//! Inputs that come one after the other, run through a model in batches.

use std::collections::VecDeque;
use std::time::Duration;

use crate::classifier::BATCH;
use crate::prefetch::{Next, Prefetch};
use crate::{Error, Result};

/// How long a batch that is not full waits for a further input.
const PATIENCE: Duration = Duration::from_millis(200);

/// Inputs as they come: the name of each, and what was made of it or why not.
pub type Named<P> = Prefetch<(String, Result<P>)>;

/// The results of `compute` for `inputs`, in their order, each with its input's name. An input that could not be read has its
/// error there, and the others still get their results; an error of `compute` itself ends all.
///
/// A batch is not held back for inputs that do not come: who writes to our standard input may wait for the answer.
pub fn batched<'a, P: Send + 'static, T: 'a>(
    inputs: Named<P>,
    compute: impl FnMut(&[P]) -> Result<Vec<T>> + 'a,
) -> impl Iterator<Item = Result<(String, Result<T>)>> + 'a {
    Batched { inputs, compute, read: 0, done: VecDeque::new(), ended: false }
}

struct Batched<P, T, C> {
    inputs: Named<P>,
    compute: C,
    /// Inputs so far.
    read: usize,
    done: VecDeque<(String, Result<T>)>,
    ended: bool,
}

impl<P: Send + 'static, T, C: FnMut(&[P]) -> Result<Vec<T>>> Batched<P, T, C> {
    /// The next batch, and an unreadable input that ended it.
    fn fill(&mut self) -> Result<()> {
        let (mut names, mut batch, mut unreadable) = (Vec::new(), Vec::new(), None);
        // The first answer comes at once; then the batches grow to their full size.
        while batch.is_empty() || batch.len() < BATCH.min(self.read) {
            let next = match batch.is_empty() {
                true => self.inputs.next_or_broken(),
                false => self.inputs.next_within(PATIENCE),
            };
            match next {
                Next::Ready((name, input)) => {
                    self.read += 1;
                    match input {
                        Ok(input) => {
                            names.push(name);
                            batch.push(input);
                        }
                        Err(error) => {
                            unreadable = Some((name, Err(error)));
                            break;
                        }
                    }
                }
                Next::Late => break,
                Next::End => {
                    self.ended = true;
                    break;
                }
                Next::Broken => {
                    return Err(Error::Tensor(candle_core::Error::Msg("reading the inputs ended early".into())));
                }
            }
        }
        if !batch.is_empty() {
            let results = (self.compute)(&batch)?;
            self.done.extend(names.into_iter().zip(results.into_iter().map(Ok)));
        }
        self.done.extend(unreadable);
        Ok(())
    }
}

impl<P: Send + 'static, T, C: FnMut(&[P]) -> Result<Vec<T>>> Iterator for Batched<P, T, C> {
    type Item = Result<(String, Result<T>)>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.done.is_empty() && !self.ended {
            if let Err(error) = self.fill() {
                self.ended = true;
                return Some(Err(error));
            }
        }
        self.done.pop_front().map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn inputs(source: impl Iterator<Item = i32> + Send + 'static) -> Named<i32> {
        let wrong = |i: i32| Error::input(format!("input {i}"), "is below zero", "leave it out");
        Prefetch::new(source, 2, 64, move |i| (i.to_string(), if i < 0 { Err(wrong(i)) } else { Ok(i) }))
    }

    fn doubled(batch: &[i32]) -> Result<Vec<i32>> {
        Ok(batch.iter().map(|i| 2 * i).collect())
    }

    #[test]
    fn batches_grow_after_the_first_and_results_keep_their_names() {
        let mut sizes = Vec::new();
        let compute = |batch: &[i32]| {
            sizes.push(batch.len());
            doubled(batch)
        };
        let found: Vec<(String, i32)> = batched(inputs(0..40), compute)
            .map(|item| {
                let (name, result) = item.unwrap();
                (name, result.unwrap())
            })
            .collect();
        assert_eq!(found, (0..40).map(|i| (i.to_string(), 2 * i)).collect::<Vec<_>>());
        // On a busy machine a batch may not wait for all that it has room for.
        assert!(sizes[0] == 1 && sizes.len() < 40 && sizes.iter().all(|&size| size <= BATCH), "{sizes:?}");
    }

    #[test]
    fn an_unreadable_input_is_told_in_its_place() {
        let found: Vec<Option<i32>> =
            batched(inputs([1, 2, -3, 4].into_iter()), doubled).map(|item| item.unwrap().1.ok()).collect();
        assert_eq!(found, [Some(2), Some(4), None, Some(8)]);
    }

    #[test]
    fn a_model_that_fails_ends_it_once() {
        let fails = |_: &[i32]| -> Result<Vec<i32>> { Err(Error::input("the model", "is tired", "wait")) };
        assert_eq!(batched(inputs(0..40), fails).map(|item| item.is_err()).collect::<Vec<_>>(), [true]);
    }

    #[test]
    fn answers_do_not_wait_for_inputs_that_do_not_come() {
        let (sender, receiver) = channel();
        let mut answers = batched(inputs(receiver.into_iter()), doubled);
        for i in [1, 2, 3] {
            sender.send(i).unwrap();
            assert_eq!(answers.next().unwrap().unwrap().1.unwrap(), 2 * i);
        }
        drop(sender);
        assert!(answers.next().is_none());
    }
}
