//! How right an answer is, as the script of SQuAD 2.0 says it (Rajpurkar et al. 2018, `evaluate-v2.0.py`).

use std::collections::HashMap;

/// An answer as it is compared: in small letters, without ASCII punctuation and the articles a, an, the, one space between
/// words.
pub fn normalized(answer: &str) -> String {
    let lower = answer.to_lowercase();
    let plain: String = lower.chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let mut without = String::with_capacity(plain.len());
    let mut rest = plain.as_str();
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        without += if matches!(word, "a" | "an" | "the") { " " } else { word };
        let between = behind.find(|c: char| c.is_alphanumeric()).unwrap_or(behind.len());
        without += &behind[..between];
        rest = &behind[between..];
    }
    without.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether two answers are the same.
pub fn exact(right: &str, said: &str) -> bool {
    normalized(right) == normalized(said)
}

/// Harmonic mean of the shares of words that two answers have in common; of answers without words, whether both are.
pub fn f1(right: &str, said: &str) -> f64 {
    let (right, said) = (normalized(right), normalized(said));
    let words = |answer: &str| answer.split_whitespace().map(String::from).collect::<Vec<_>>();
    let (right, said) = (words(&right), words(&said));
    if right.is_empty() || said.is_empty() {
        return f64::from(u8::from(right == said));
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    right.iter().for_each(|word| *left.entry(word).or_default() += 1);
    let mut common = 0;
    for word in &said {
        if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    if common == 0 {
        return 0.0;
    }
    let (precision, recall) = (f64::from(common) / said.len() as f64, f64::from(common) / right.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

/// The best exact match and F1 over the right answers; without any, that of no answer.
pub fn best(right: &[String], said: &str) -> (f64, f64) {
    let mut right: Vec<&str> =
        right.iter().map(String::as_str).filter(|answer| !normalized(answer).is_empty()).collect();
    if right.is_empty() {
        right.push("");
    }
    right.into_iter().fold((0.0, 0.0), |(em, of_words), right| {
        (f64::max(em, f64::from(u8::from(exact(right, said)))), f64::max(of_words, f1(right, said)))
    })
}

/// A question that was answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// Whether it has an answer.
    pub answerable: bool,
    /// F1 of the best passage.
    pub f1: f64,
    /// By how much no answer is more probable than that passage.
    pub margin: f64,
}

/// The margin above which no answer is given that makes the mean F1 largest: in the middle between two questions, so that others
/// have room.
pub fn threshold(questions: &[Judged]) -> f64 {
    let mut order: Vec<&Judged> = questions.iter().collect();
    order.sort_by(|a, b| a.margin.total_cmp(&b.margin));
    let mut score = order.iter().filter(|question| !question.answerable).count() as f64;
    let (mut best, mut found) = (score, order.first().map_or(0.0, |question| question.margin - 1.0));
    for (i, question) in order.iter().enumerate() {
        score += if question.answerable { question.f1 } else { -1.0 };
        if score > best {
            let next = order.get(i + 1).map_or(question.margin + 2.0, |next| next.margin);
            (best, found) = (score, 0.5 * (question.margin + next));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_leaves_questions_without_an_answer_to_none() {
        let judged = |answerable, f1, margin| Judged { answerable, f1, margin };
        let questions =
            [judged(true, 1.0, -3.0), judged(true, 0.5, -1.0), judged(false, 0.0, 1.0), judged(true, 0.1, 2.0)];
        assert_eq!(threshold(&questions), 0.0);
        // Where no passage is right, none is given.
        assert!(threshold(&[judged(true, 0.0, 1.0), judged(false, 0.0, -2.0)]) < -2.0);
        assert_eq!(threshold(&[]), 0.0);
    }
}
