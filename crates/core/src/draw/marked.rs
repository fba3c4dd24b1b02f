//! Texts with marked passages: cut to what is around them, and as markup.

use std::fmt::Write;
use std::ops::Range;

use super::escape;
use crate::data::Mark;

/// Passages by the bytes of a text, and what they are marked for.
pub type Marks = Vec<(Range<usize>, Mark)>;

/// Characters that a cut may go on to the end of a word.
const LONGEST_WORD: usize = 15;
/// Least characters around a mark.
const LEAST: usize = 12;
/// What stands where something is left out.
const LEFT_OUT: &str = " … ";

/// `text` cut to about `most` characters: those around the ends of the passages, or without any the first ones. Passages that are
/// no part of the text are dropped.
pub fn around(text: &str, mut marks: Marks, most: usize) -> (String, Marks) {
    marks.retain(|(range, _)| text.get(range.clone()).is_some_and(|passage| !passage.is_empty()));
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    if chars.len() <= most {
        return (text.to_string(), marks);
    }
    let kept = kept(&chars, &marks, most);
    let mut cut = String::new();
    // Where each character that is kept stands now.
    let mut places: Vec<(usize, usize)> = Vec::new();
    for (i, &(at, c)) in chars.iter().enumerate().filter(|(i, _)| kept[*i]) {
        if i > 0 && !kept[i - 1] {
            cut.push_str(LEFT_OUT);
        }
        places.push((at, cut.len()));
        cut.push(c);
    }
    if !kept[chars.len() - 1] {
        cut.push_str(LEFT_OUT);
    }
    let place = |(range, mark): (Range<usize>, Mark)| {
        let first = places.partition_point(|(at, _)| *at < range.start);
        let last = places.partition_point(|(at, _)| *at < range.end).checked_sub(1)?;
        let (start, end) = (places.get(first)?.1, places[last].1);
        let end = end + cut[end..].chars().next().map_or(0, char::len_utf8);
        Some((start..end, mark))
    };
    let marks = marks.into_iter().filter_map(place).collect();
    (cut, marks)
}

/// Which characters stay: to both sides of the ends of the passages, to the ends of words.
fn kept(chars: &[(usize, char)], marks: &Marks, most: usize) -> Vec<bool> {
    let mut kept = vec![false; chars.len()];
    if marks.is_empty() {
        kept[..most].fill(true);
    }
    let side = (most / (4 * marks.len()).max(1)).max(LEAST);
    for end in marks.iter().flat_map(|(range, _)| [range.start, range.end]) {
        let at = chars.partition_point(|(place, _)| *place < end);
        kept[at.saturating_sub(side)..(at + side).min(chars.len())].fill(true);
    }
    let inside = |i: usize| !chars[i].1.is_whitespace();
    let stretches: Vec<Range<usize>> = kept
        .chunk_by(|a, b| a == b)
        .scan(0, |at, stretch| {
            let range = *at..*at + stretch.len();
            *at = range.end;
            Some((range, stretch[0]))
        })
        .filter_map(|(range, kept)| kept.then_some(range))
        .collect();
    for stretch in stretches {
        let before = (stretch.start.saturating_sub(LONGEST_WORD)..stretch.start).rev().take_while(|&i| inside(i));
        before.for_each(|i| kept[i] = true);
        let behind = (stretch.end..chars.len()).take(LONGEST_WORD).take_while(|&i| inside(i));
        behind.for_each(|i| kept[i] = true);
    }
    kept
}

/// `text`, escaped, with its passages in `<mark>`s of the classes `right`, `wrong` and `telling`; of several where they overlap.
pub fn marked(text: &str, marks: &[(Range<usize>, Mark)]) -> String {
    let sound = |(range, _): &&(Range<usize>, Mark)| text.get(range.clone()).is_some();
    let marks: Vec<&(Range<usize>, Mark)> = marks.iter().filter(sound).collect();
    let mut ends: Vec<usize> = marks.iter().flat_map(|(range, _)| [range.start, range.end]).collect();
    ends.extend([0, text.len()]);
    ends.sort_unstable();
    ends.dedup();
    let mut markup = String::new();
    for (&start, &end) in ends.iter().zip(&ends[1..]) {
        let is = |wanted| marks.iter().any(|(range, mark)| *mark == wanted && range.start <= start && end <= range.end);
        let classes = [(Mark::Right, "right"), (Mark::Wrong, "wrong"), (Mark::Telling, "telling")];
        let classes: Vec<&str> = classes.into_iter().filter(|(mark, _)| is(*mark)).map(|(_, class)| class).collect();
        let part = escape(&text[start..end]);
        // Writing to a string cannot fail.
        let _ = match classes.as_slice() {
            [] => write!(markup, "{part}"),
            classes => write!(markup, "<mark class=\"{}\">{part}</mark>", classes.join(" ")),
        };
    }
    markup
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passages_are_marked_where_they_overlap_for_both_and_all_is_escaped() {
        let text = "<b> & Zoë ran";
        let zoe = 6..10;
        let found = marked(text, &[(zoe.clone(), Mark::Right), (9..14, Mark::Wrong), (8..90, Mark::Wrong)]);
        assert_eq!(&text[zoe], "Zoë");
        // The second begins inside a letter, the third ends behind the text: neither is a passage.
        assert_eq!(found, "&lt;b&gt; &amp; <mark class=\"right\">Zoë</mark> ran");
        let found = marked("a <b> c", &[(0..5, Mark::Right), (2..7, Mark::Wrong)]);
        let expected = "<mark class=\"right\">a </mark><mark class=\"right wrong\">&lt;b&gt;</mark><mark class=\"wrong\"> c</mark>";
        assert_eq!(found, expected);
        assert_eq!(marked("plain", &[]), "plain");
    }

    #[test]
    fn a_long_text_is_cut_to_what_is_around_its_passages() {
        let text = format!("{}HERE {}THERE {}", "été ".repeat(200), "mot ".repeat(200), "fin ".repeat(200));
        let [here, there] = ["HERE", "THERE"].map(|word| text.find(word).unwrap());
        let marks = vec![(here..here + 4, Mark::Right), (there..there + 5, Mark::Wrong), (9000..9001, Mark::Wrong)];
        let (cut, marks) = around(&text, marks, 200);
        let shown: Vec<&str> = marks.iter().map(|(range, _)| &cut[range.clone()]).collect();
        assert_eq!(shown, ["HERE", "THERE"]);
        assert!(cut.chars().count() < 300 && cut.matches(" … ").count() == 3, "{cut}");
        // Words stay whole.
        assert!(
            cut.split_whitespace().all(|word| ["été", "mot", "fin", "HERE", "THERE", "…"].contains(&word)),
            "{cut}"
        );
    }

    #[test]
    fn of_a_long_passage_the_ends_are_kept() {
        let text = format!("a {} z", "passage ".repeat(100));
        let (cut, marks) = around(&text, vec![(2..text.len() - 2, Mark::Right)], 100);
        assert!(cut.chars().count() < 150, "{cut}");
        assert!(cut[marks[0].0.clone()].starts_with("passage") && cut[marks[0].0.clone()].ends_with("passage "));
    }

    #[test]
    fn a_text_without_passages_keeps_its_beginning() {
        assert_eq!(around("short", vec![], 9), ("short".into(), vec![]));
        assert_eq!(around("one two three four", vec![], 5).0, "one two … ");
    }
}
