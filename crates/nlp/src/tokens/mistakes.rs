//! Sentences with words that a model labels wrongly, for people to look at.

use topwork_core::data::{Dataset, Excerpt, Mark};
use topwork_core::draw::{EXCERPT, around};
use topwork_core::outputs::{Mistake, Slip, Word, best};
use topwork_core::task::Task;

use super::TokenData;

/// At most `most` windows with wrong words, those with the surest one first; `outputs` are of all rows of `samples`.
pub(super) fn mistakes(data: &TokenData, task: &Task, samples: &[usize], outputs: &[f32], most: usize) -> Vec<Mistake> {
    // Labelled rows before each window, by which their words are found.
    let before: Vec<usize> = (0..data.len())
        .scan(0, |count, i| {
            let before = *count;
            *count += data.window(i).1.iter().filter(|label| **label >= 0.0).count();
            Some(before)
        })
        .collect();
    let (mut found, mut rest) = (Vec::new(), outputs);
    for &sample in samples {
        let (logits, behind) = rest.split_at(data.rows(sample) * task.len());
        rest = behind;
        let rows =
            data.window(sample).1.iter().zip(logits.chunks_exact(task.len())).filter(|(label, _)| **label >= 0.0);
        let wrong = rows.enumerate().filter_map(|(i, (&truth, logits))| {
            let (truth, said) = (truth as usize, best(logits));
            (said != truth).then(|| (before[sample] + i, truth, said, task.answer(logits)[said]))
        });
        let wrong: Vec<(usize, usize, usize, f32)> = wrong.collect();
        let surest = wrong.iter().map(|(.., probability)| *probability).fold(0.0, f32::max);
        if !wrong.is_empty() {
            found.push((sample, surest, wrong));
        }
    }
    found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    found.truncate(most);
    found.into_iter().map(|(sample, _, wrong)| shown(data, task, sample, &wrong)).collect()
}

/// A sentence with these words marked: each is a word, its label, the one that it is given, and how surely.
fn shown(data: &TokenData, task: &Task, sample: usize, wrong: &[(usize, usize, usize, f32)]) -> Mistake {
    let (sentence, words) = (data.sentences[sample] as usize, &data.words);
    let start = sentence.checked_sub(1).map_or(0, |before| words.ends[before]);
    let place = |word: usize| words.places[word].0 as usize..words.places[word].1 as usize;
    let text = |word: usize| words.texts.get(place(word)).unwrap_or_default().to_string();
    let of_word = |&(word, truth, said, probability): &(usize, usize, usize, f32)| Word {
        text: text(word),
        truth: task[truth].clone(),
        said: task[said].clone(),
        probability,
    };
    let mark = |(word, ..): &(usize, usize, usize, f32)| {
        (place(*word).start.saturating_sub(start)..place(*word).end.saturating_sub(start), Mark::Wrong)
    };
    let whole = words.texts.get(start..words.ends[sentence]).unwrap_or_default();
    let (text, marks) = around(whole, wrong.iter().map(mark).collect(), EXCERPT);
    Mistake {
        sample,
        name: data.name(sample),
        slip: Slip::Words(wrong.iter().map(of_word).collect()),
        excerpt: Excerpt::Marked { text, marks },
    }
}
