//! Long texts in windows: stretches of words that a sequence holds, each sharing some words with the next. A word is judged
//! where it has most around it: in one window, and nothing is dropped.

use std::ops::Range;

/// A stretch of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Its words.
    pub words: Range<usize>,
    /// Its tokens; of a single word that is longer than a sequence, the first ones.
    pub tokens: Range<usize>,
    /// Those of its words that are judged here; the others are there to be seen.
    pub judged: Range<usize>,
}

/// Windows of at most `room` tokens over words of which the i-th begins at token `starts[i]` of `total`; about `shared` tokens
/// are in two neighbouring ones.
pub fn windows(starts: &[usize], total: usize, room: usize, shared: usize) -> Vec<Window> {
    let words = starts.len();
    let end = |word: usize| starts.get(word + 1).copied().unwrap_or(total);
    let (mut found, mut first, mut judged) = (Vec::new(), 0, 0);
    while first < words {
        let most = starts[first] + room.max(1);
        let mut last = first + 1;
        while last < words && end(last) <= most {
            last += 1;
        }
        let tokens = starts[first]..end(last - 1).min(most);
        if last == words {
            found.push(Window { words: first..last, tokens, judged: judged..last });
            break;
        }
        let mut next = last;
        while next > first + 1 && end(last - 1) - starts[next - 1] <= shared {
            next -= 1;
        }
        // The next one brings a word at least, however long that is.
        while next < last && end(last) > starts[next] + room {
            next += 1;
        }
        let until = (next + last).div_ceil(2);
        found.push(Window { words: first..last, tokens, judged: judged..until });
        (first, judged) = (next, until);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_judged_once_in_a_window_that_fits() {
        // Words of one to four tokens, and one that is longer than any window.
        let lengths: Vec<usize> = (0..60).map(|i| if i == 33 { 40 } else { 1 + (7 * i) % 4 }).collect();
        let starts: Vec<usize> = (0..60).map(|i| lengths[..i].iter().sum()).collect();
        let total: usize = lengths.iter().sum();
        for (room, shared) in [(10, 0), (10, 3), (16, 8), (500, 8)] {
            let found = windows(&starts, total, room, shared);
            let judged: Vec<usize> = found.iter().flat_map(|window| window.judged.clone()).collect();
            assert_eq!(judged, (0..60).collect::<Vec<_>>());
            for window in &found {
                assert!(window.tokens.len() <= room && window.tokens.start == starts[window.words.start]);
                assert!(window.words.start <= window.judged.start && window.judged.end <= window.words.end);
                assert!(!window.judged.is_empty());
            }
            assert_eq!(found.len() == 1, room == 500);
        }
    }

    #[test]
    fn words_that_two_windows_share_are_judged_where_they_have_most_around_them() {
        let starts: Vec<usize> = (0..14).collect();
        let found = windows(&starts, 14, 10, 4);
        let judged: Vec<Range<usize>> = found.iter().map(|window| window.judged.clone()).collect();
        assert_eq!((found[1].words.clone(), judged), (6..14, vec![0..8, 8..14]));
    }
}
