//! Questions with a wrong answer, for people to look at.

use topwork_core::data::{Dataset, Excerpt, Mark};
use topwork_core::draw::{EXCERPT, Marks, around};
use topwork_core::outputs::{Mistake, Slip};

use super::judge::{Reply, replies, threshold};
use super::{Context, SpanData};

/// At most `most` questions whose answer is none of the right ones: first those with least in common with them, among equal ones
/// the surest; `outputs` are of all rows of `samples`.
pub(super) fn mistakes(data: &SpanData, samples: &[usize], outputs: &[f32], most: usize) -> Vec<Mistake> {
    let replies = replies(data, samples, outputs);
    let threshold = threshold(data, &replies);
    let mut wrong: Vec<(&Reply<'_>, f64, f32)> = replies
        .iter()
        .filter_map(|reply| {
            let (_, exact, f1) = reply.scores(threshold);
            let [passage, none] = reply.shares;
            (exact < 1.0).then_some((reply, f1, if reply.is_none(threshold) { none } else { passage }))
        })
        .collect();
    wrong.sort_by(|a, b| a.1.total_cmp(&b.1).then(b.2.total_cmp(&a.2)).then(a.0.sample.cmp(&b.0.sample)));
    wrong.truncate(most);
    wrong.into_iter().map(|(reply, _, share)| shown(data, reply, reply.is_none(threshold), share)).collect()
}

/// A question above what of its text is around the right passage and the one that is said.
fn shown(data: &SpanData, reply: &Reply<'_>, none: bool, probability: f32) -> Mistake {
    let question = reply.question;
    let Context { text, pieces } = &data.contexts[question.context];
    let right = question.span.map(|(first, last)| (pieces[first].start..pieces[last].end, Mark::Right));
    let said = reply.place.clone().filter(|_| !none);
    let marks: Marks = right.into_iter().chain(said.clone().map(|place| (place, Mark::Wrong))).collect();
    let (cut, marks) = around(text, marks, EXCERPT);
    let above = format!("{}\n\n", question.text.trim());
    let marks = marks.into_iter().map(|(range, mark)| (range.start + above.len()..range.end + above.len(), mark));
    let excerpt = Excerpt::Marked { marks: marks.collect(), text: above + &cut };
    let slip = Slip::Passage {
        right: question.answers.first().cloned(),
        said: said.map(|place| text[place].to_string()),
        probability,
    };
    Mistake { sample: reply.sample, name: data.name(reply.sample), slip, excerpt }
}
