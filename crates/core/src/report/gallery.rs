//! Wrong answers to look at: what is shown of each sample, and below it what is wrong.

use crate::data::{Excerpt, Mark};
use crate::draw::{self, escape};
use crate::outputs::{Mistake, Slip, Word};

/// Words of a text that are named.
const MOST_WORDS: usize = 6;
/// Characters of an answer that are repeated below its text.
const LONGEST: usize = 80;

/// What the section is called that shows them.
pub(super) fn heading(mistakes: &[Mistake]) -> &'static str {
    match mistakes.first().map(|mistake| &mistake.slip) {
        Some(Slip::Value { .. }) => "Largest errors",
        Some(Slip::Passage { .. }) => "Worst answers",
        _ => "Surest mistakes",
    }
}

/// Wrong answers, each with what is shown of the sample. `classes` are the names of those that samples are taken for.
pub fn gallery(mistakes: &[Mistake], classes: &[&str]) -> String {
    if mistakes.is_empty() {
        return String::new();
    }
    let figure = |mistake: &Mistake| {
        let is_text = !matches!(mistake.excerpt, Excerpt::Picture { .. });
        format!(
            "<figure{}>{}<figcaption>{}<br><small>{}</small></figcaption></figure>",
            if is_text { " class=\"text\"" } else { "" },
            draw::excerpt(&mistake.excerpt),
            told(&mistake.slip, classes),
            escape(&mistake.name)
        )
    };
    let figures: String = mistakes.iter().map(figure).collect();
    format!("{}<div class=\"gallery\">{figures}</div>", key(mistakes))
}

/// What marks in texts mean, where there are some.
fn key(mistakes: &[Mistake]) -> String {
    let has = |wanted: Mark| {
        mistakes.iter().any(|mistake| match &mistake.excerpt {
            Excerpt::Marked { marks, .. } => marks.iter().any(|(_, mark)| *mark == wanted),
            Excerpt::Text(_) | Excerpt::Picture { .. } => false,
        })
    };
    let of_passages = matches!(mistakes.first().map(|mistake| &mistake.slip), Some(Slip::Passage { .. }));
    match (has(Mark::Right), has(Mark::Wrong)) {
        _ if of_passages => "<p>Marked are <mark class=\"right\">the right answer</mark>, \
            <mark class=\"wrong\">the one that is given</mark>, and <mark class=\"right wrong\">what they share</mark>.</p>"
            .into(),
        (_, true) => "<p>Marked are <mark class=\"wrong\">words with another label than theirs</mark>.</p>".into(),
        _ if has(Mark::Telling) => "<p>Marked is <mark class=\"telling\">what the wrong answer rests on most</mark>: without it, \
            the model would be less sure.</p>"
            .into(),
        _ => String::new(),
    }
}

/// With as many digits as tell it.
fn number(value: f32) -> String {
    if value != 0.0 && !(1e-2..1e6).contains(&value.abs()) {
        return format!("{value:.2e}");
    }
    format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').to_string()
}

/// What is wrong, in words.
fn told(slip: &Slip, classes: &[&str]) -> String {
    let name = |class: usize| escape(classes.get(class).copied().unwrap_or_default());
    let percent = |probability: f32| format!("{:.1} %", 100.0 * probability);
    match slip {
        Slip::Class { truth, said, probability } => {
            format!("<b>{}</b> taken for <b>{}</b>, {}", name(*truth), name(*said), percent(*probability))
        }
        Slip::Label { label, has, probability, others } => {
            let wrong = if *has { "is missed" } else { "is not there" };
            let others = match others {
                0 => String::new(),
                1 => "; another label is wrong, too".into(),
                n => format!("; {n} other labels are wrong, too"),
            };
            format!("<b>{}</b> {wrong}, {}{others}", escape(label), percent(*probability))
        }
        Slip::Value { name, truth, said } => {
            let sign = if said > truth { "+" } else { "" };
            let off = format!("{sign}{}", number(said - truth));
            format!("<b>{}</b>: {} taken for {}, off by {off}", escape(name), number(*truth), number(*said))
        }
        Slip::Words(words) => {
            let each = |Word { text, truth, said, probability }: &Word| {
                let [text, truth, said] = [text, truth, said].map(|text| escape(text));
                format!("<b>{text}</b>: {truth} taken for {said}, {}", percent(*probability))
            };
            let mut lines: Vec<String> = words.iter().take(MOST_WORDS).map(each).collect();
            if words.len() > MOST_WORDS {
                lines.push(format!("and {} more", words.len() - MOST_WORDS));
            }
            lines.join("<br>")
        }
        Slip::Passage { right, said, probability } => {
            let quoted = |answer: &Option<String>| match answer {
                Some(answer) => format!("<b>{}</b>", escape(&draw::shortened(answer.trim(), LONGEST))),
                None => "no answer".into(),
            };
            format!("right is {}, given is {}, {}", quoted(right), quoted(said), percent(*probability))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistake(slip: Slip, excerpt: Excerpt) -> Mistake {
        Mistake { sample: 0, name: "</small>".into(), slip, excerpt }
    }

    #[test]
    fn what_is_wrong_is_told_by_its_kind_and_escaped() {
        let label = Slip::Label { label: "<i>".into(), has: true, probability: 0.875, others: 2 };
        let expected = "<b>&lt;i&gt;</b> is missed, 87.5 %; 2 other labels are wrong, too";
        assert_eq!(told(&label, &[]), expected);
        let label = Slip::Label { label: "a".into(), has: false, probability: 0.5, others: 0 };
        assert_eq!(told(&label, &[]), "<b>a</b> is not there, 50.0 %");
        let value = Slip::Value { name: "<v>".into(), truth: 2.0, said: 1.5 };
        assert_eq!(told(&value, &[]), "<b>&lt;v&gt;</b>: 2 taken for 1.5, off by -0.5");
        let passage = Slip::Passage { right: Some("<b>".into()), said: None, probability: 0.25 };
        assert_eq!(told(&passage, &[]), "right is <b>&lt;b&gt;</b>, given is no answer, 25.0 %");
    }

    #[test]
    fn numbers_have_as_many_digits_as_tell_them() {
        let found = [0.0, 124.0, 32.50512, -0.000012, 2.5e7, f32::NAN].map(number);
        assert_eq!(found, ["0", "124", "32.505", "-1.20e-5", "2.50e7", "NaN"]);
    }

    #[test]
    fn of_many_words_some_are_named_and_the_others_counted() {
        let word = |i: usize| Word { text: format!("w{i}<"), truth: "O".into(), said: "B".into(), probability: 0.5 };
        let told = told(&Slip::Words((0..9).map(word).collect()), &[]);
        assert!(
            told.starts_with("<b>w0&lt;</b>: O taken for B, 50.0 %<br>") && told.ends_with("<br>and 3 more"),
            "{told}"
        );
    }

    #[test]
    fn marks_are_explained_where_there_are_some() {
        let marked = |mark| Excerpt::Marked { text: "a b".into(), marks: vec![(0..1, mark)] };
        let words = gallery(&[mistake(Slip::Words(vec![]), marked(Mark::Wrong))], &[]);
        assert!(words.contains("words with another label") && words.contains("<mark class=\"wrong\">a</mark> b"));
        assert!(words.contains("<figure class=\"text\">") && words.contains("&lt;/small&gt;"), "{words}");
        let passage = Slip::Passage { right: Some("a".into()), said: None, probability: 0.5 };
        let passages = [mistake(passage, marked(Mark::Right))];
        assert!(gallery(&passages, &[]).contains("the right answer"));
        assert_eq!(heading(&passages), "Worst answers");
        let class = Slip::Class { truth: 0, said: 1, probability: 0.5 };
        let told = gallery(&[mistake(class.clone(), marked(Mark::Telling))], &["x", "y"]);
        assert!(told.contains("rests on most") && told.contains("<mark class=\"telling\">a</mark> b"), "{told}");
        let plain = gallery(&[mistake(class, Excerpt::Text("t".into()))], &["<x>", "y"]);
        assert!(!plain.contains("<mark") && plain.contains("<b>&lt;x&gt;</b> taken for <b>y</b>, 50.0 %"), "{plain}");
    }
}
