//! A text in parts that can be left out one by one: its words, as Unicode bounds them (UAX 29), or runs of them.

use std::ops::Range;

use topwork_core::Result;
use topwork_core::data::Omissions;
use unicode_segmentation::UnicodeSegmentation;

use crate::tokenizer::{TextTokenizer, Tokens};

/// What stands between the texts of a pair where they are shown.
pub(crate) const PARTNERS: &str = "\n\n";

/// `text` and its partner in at most `most` parts; `None` of a single word.
pub(crate) fn of(text: &str, pair: Option<&str>, tokenizer: &TextTokenizer, most: usize) -> Result<Option<Omissions>> {
    let second = pair.unwrap_or_default();
    let whole = [text, pair.map_or("", |_| PARTNERS), second].concat();
    let behind = whole.len() - second.len();
    let [own, others] = [words(text, 0), words(second, behind)];
    let count = own.len() + others.len();
    if count < 2 {
        return Ok(None);
    }
    // No run goes over from one text to the other: there may be one more.
    let longest = count.div_ceil(most.saturating_sub(usize::from(pair.is_some())).max(1));
    let runs = own.chunks(longest).chain(others.chunks(longest)).map(|run| run[0].start..run[run.len() - 1].end);
    let without = |run: Range<usize>| {
        let rest = |text: &str, start: usize| match run.start.checked_sub(start).filter(|&at| at < text.len()) {
            Some(at) => [&text[..at], &text[at + run.len()..]].concat(),
            None => text.to_string(),
        };
        let tokens = tokenizer.encode(&rest(text, 0), pair.map(|pair| rest(pair, behind)).as_deref())?;
        Ok((run, Tokens::sample(&tokens.ids, tokens.first)))
    };
    let parts = runs.map(without).collect::<Result<_>>()?;
    Ok(Some(Omissions { text: whole, parts }))
}

/// Where the words of `text` are, which itself begins at `start`.
fn words(text: &str, start: usize) -> Vec<Range<usize>> {
    let words = text.split_word_bound_indices().filter(|(_, word)| !word.trim().is_empty());
    words.map(|(at, word)| start + at..start + at + word.len()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::tests::pipeline;

    /// The parts, and the texts that the samples without them are made of.
    fn parts(text: &str, pair: Option<&str>, most: usize) -> Option<Vec<String>> {
        let tokenizer = pipeline().tokenizer;
        let Omissions { text: whole, parts } = of(text, pair, &tokenizer, most).unwrap()?;
        let separate = |text: &str| match pair {
            None => tokenizer.encode(text, None).unwrap(),
            Some(_) => {
                let (first, second) = text.split_once(PARTNERS).unwrap();
                tokenizer.encode(first, Some(second)).unwrap()
            }
        };
        for (place, sample) in &parts {
            let rest = [&whole[..place.start], &whole[place.end..]].concat();
            let tokens = separate(&rest);
            assert_eq!(*sample, Tokens::sample(&tokens.ids, tokens.first), "{rest:?}");
        }
        Some(parts.into_iter().map(|(place, _)| whole[place].to_string()).collect())
    }

    #[test]
    fn each_word_and_mark_is_left_out_once() {
        assert_eq!(parts("the film isn't good!", None, 24).unwrap(), ["the", "film", "isn't", "good", "!"]);
        assert_eq!(parts("好电影", None, 24).unwrap(), ["好", "电", "影"]);
    }

    #[test]
    fn of_a_pair_each_text_keeps_its_own() {
        assert_eq!(parts("good film", Some("bad"), 24).unwrap(), ["good", "film", "bad"]);
        assert_eq!(
            parts("the film is good", Some("the movie is"), 4).unwrap(),
            ["the film is", "good", "the movie is"]
        );
    }

    #[test]
    fn many_words_are_left_out_in_runs() {
        let text: Vec<String> = (0..50).map(|i| format!("w{i}")).collect();
        let found = parts(&text.join(" "), None, 24).unwrap();
        assert_eq!((found.len(), found[0].as_str(), found[16].as_str()), (17, "w0 w1 w2", "w48 w49"));
    }

    #[test]
    fn of_one_word_nothing_would_be_left() {
        assert_eq!(parts("good", None, 24), None);
        assert_eq!(parts(" ", Some(""), 24), None);
    }
}
