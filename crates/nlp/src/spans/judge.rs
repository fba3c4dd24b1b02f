//! What a model's outputs say to the questions of a data set, over all windows of each, and how right that is.

use std::ops::Range;

use topwork_core::data::Dataset;
use topwork_core::metrics::{Metrics, OfSpans, Scores};

use super::search::{self, Said};
use super::{Context, Nothing, Question, SpanData, Window, scores};

/// What is said to a question in its windows.
pub(super) struct Reply<'a> {
    /// The first of its windows.
    pub sample: usize,
    pub question: &'a Question,
    /// The best passage, by its bytes.
    pub place: Option<Range<usize>>,
    /// How probable that passage and, where there may be none, no answer are against each other and the next best ones.
    pub shares: [f32; 2],
    /// The passage's exact match and F1, and by how much no answer is more probable.
    exact: f64,
    judged: scores::Judged,
    /// Summed over the windows.
    loss: f64,
}

impl Reply<'_> {
    /// Whether it is said that there is no answer.
    pub fn is_none(&self, threshold: Option<f64>) -> bool {
        threshold.is_some_and(|threshold| self.judged.margin > threshold)
    }

    /// Whether there is an answer; exact match and F1 of what is said.
    pub fn scores(&self, threshold: Option<f64>) -> (bool, f64, f64) {
        let answerable = self.judged.answerable;
        match self.is_none(threshold) {
            true => {
                let right = f64::from(u8::from(!answerable));
                (answerable, right, right)
            }
            false => (answerable, self.exact, self.judged.f1),
        }
    }
}

/// What is said to the questions whose windows are `samples`, by the outputs of their rows.
pub(super) fn replies<'a>(data: &'a SpanData, samples: &[usize], outputs: &[f32]) -> Vec<Reply<'a>> {
    let mut rest = outputs;
    let same = |a: &usize, b: &usize| data.windows[*a].question == data.windows[*b].question;
    let of_question = |windows: &[usize]| {
        let question = &data.questions[data.windows[windows[0]].question];
        let (mut said, mut loss) = (Vec::with_capacity(windows.len()), 0.0);
        for &i in windows {
            let (logits, behind) = rest.split_at(2 * data.rows(i));
            rest = behind;
            let Window { tokens, ends, .. } = &data.windows[i];
            loss += 0.5 * (0..2).map(|side| cross_entropy(logits, side, ends[side] as usize)).sum::<f64>();
            said.push(Said { tokens: tokens.clone(), row: data.reading.row(&question.ids), logits });
        }
        let (found, none) = search::passages(&said);
        let Context { text, pieces } = &data.contexts[question.context];
        let place = found.first().map(|best| pieces[best.first].start..pieces[best.last].end);
        let (exact, f1) = scores::best(&question.answers, place.clone().map_or("", |place| &text[place]));
        // Without a passage there is nothing to prefer.
        let margin = found.first().map_or(f64::MAX, |best| f64::from(none) - f64::from(best.score));
        let none_counts = (data.nothing != Nothing::Never).then_some(none);
        let all = search::shares(found.iter().map(|passage| passage.score).chain(none_counts));
        let share = |at: usize, there: bool| if there { all[at] } else { 0.0 };
        let shares = [share(0, place.is_some()), share(found.len(), none_counts.is_some())];
        let judged = scores::Judged { answerable: !question.answers.is_empty(), f1, margin };
        Reply { sample: windows[0], question, place, shares, exact, judged, loss }
    };
    samples.chunk_by(same).map(of_question).collect()
}

/// The margin above which no answer is given, where questions may have none.
pub(super) fn threshold(data: &SpanData, replies: &[Reply<'_>]) -> Option<f64> {
    match data.nothing {
        Nothing::Never => None,
        Nothing::Above(threshold) => Some(threshold),
        Nothing::Chosen => Some(scores::threshold(&replies.iter().map(|reply| reply.judged).collect::<Vec<_>>())),
    }
}

/// The scores of what is said to them.
pub(super) fn metrics(data: &SpanData, samples: &[usize], outputs: &[f32]) -> Metrics {
    let replies = replies(data, samples, outputs);
    let threshold = threshold(data, &replies);
    let said: Vec<(bool, f64, f64)> = replies.iter().map(|reply| reply.scores(threshold)).collect();
    let mean = |keep: &dyn Fn(bool) -> bool, score: &dyn Fn(&(bool, f64, f64)) -> f64| {
        let kept: Vec<f64> = said.iter().filter(|(answerable, ..)| keep(*answerable)).map(score).collect();
        (!kept.is_empty()).then(|| kept.iter().sum::<f64>() / kept.len() as f64)
    };
    let mixed = said.iter().any(|(answerable, ..)| !answerable);
    let of_spans = OfSpans {
        f1: mean(&|_| true, &|s| s.2).unwrap_or(0.0),
        exact_match: mean(&|_| true, &|s| s.1).unwrap_or(0.0),
        answerable_f1: mean(&|answerable| answerable && mixed, &|s| s.2),
        answerable_exact_match: mean(&|answerable| answerable && mixed, &|s| s.1),
        unanswerable_accuracy: mean(&|answerable| !answerable, &|s| s.1),
        no_answer_threshold: threshold,
    };
    let loss: f64 = replies.iter().map(|reply| reply.loss).sum();
    let loss = if f64::is_finite(loss) { loss / samples.len().max(1) as f64 } else { f64::MAX };
    Metrics { samples: said.len() as u64, loss, scores: Scores::Spans(of_spans) }
}

/// -ln of the share of row `target` in column `side` of two.
fn cross_entropy(logits: &[f32], side: usize, target: usize) -> f64 {
    let column = || logits.iter().skip(side).step_by(2).map(|&x| f64::from(x));
    let largest = column().fold(f64::NEG_INFINITY, f64::max);
    largest + column().map(|x| (x - largest).exp()).sum::<f64>().ln() - f64::from(logits[2 * target + side])
}
