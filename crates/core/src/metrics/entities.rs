//! Entities in labelled words: stretches of words of one type, told by labels such as `B-PER` and `I-PER`.
//!
//! The reading is that of seqeval without a strict mode (Nakayama 2018), which is CoNLL-2000's `conlleval`: `B` and `S` begin an
//! entity, and so does any label of another type than the one before, or behind `O`; `E` and `S` end one.

use std::collections::BTreeMap;

/// What the labels of a task mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheme {
    /// Of each label, the part of an entity that it is and the entity's type; `None` for `O`.
    labels: Vec<Option<(Part, usize)>>,
    types: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Begin,
    Inside,
    End,
    Single,
}

/// An entity: its type, its first and its last word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entity {
    /// Number of the type.
    pub kind: usize,
    /// First word.
    pub first: usize,
    /// Last word.
    pub last: usize,
}

impl Scheme {
    /// Reads the names of labels; `None` where one of them names no part of an entity.
    pub fn of(names: &[String]) -> Option<Self> {
        let part = |name: &str| {
            let (part, kind) = name.split_once('-').unwrap_or((name, "_"));
            let part = match part {
                "B" => Part::Begin,
                "I" => Part::Inside,
                "E" => Part::End,
                "S" => Part::Single,
                _ => return None,
            };
            Some((part, kind.to_string()))
        };
        let mut read = Vec::with_capacity(names.len());
        for name in names {
            read.push(if name == "O" { None } else { Some(part(name)?) });
        }
        let mut types: BTreeMap<String, usize> = read.iter().flatten().map(|(_, kind)| (kind.clone(), 0)).collect();
        types.values_mut().zip(0..).for_each(|(number, i)| *number = i);
        let labels = read.into_iter().map(|label| label.map(|(part, kind)| (part, types[&kind]))).collect();
        let types: Vec<String> = types.into_keys().collect();
        (!types.is_empty()).then_some(Self { labels, types })
    }

    /// The names of the types, in order.
    pub fn types(&self) -> &[String] {
        &self.types
    }

    /// The entities in a text whose words have these labels, in order.
    pub fn entities(&self, labels: &[usize]) -> Vec<Entity> {
        let (mut found, mut open): (Vec<Entity>, Option<Entity>) = (Vec::new(), None);
        let mut before: Option<(Part, usize)> = None;
        for (word, &label) in labels.iter().enumerate() {
            let now = self.labels.get(label).copied().flatten();
            if ends(before, now) {
                found.extend(open.take());
            }
            match now {
                Some((_, kind)) if begins(before, now) || open.is_none() => {
                    open = Some(Entity { kind, first: word, last: word });
                }
                Some(_) => open.iter_mut().for_each(|open| open.last = word),
                None => {}
            }
            before = now;
        }
        found.extend(open);
        found
    }

    /// Of each type, the entities of `said` that are in `truth`, those in `truth`, those in `said`: lists of labels by text.
    pub(super) fn counts(&self, truth: &[Vec<usize>], said: &[Vec<usize>]) -> Vec<[u64; 3]> {
        let mut counts = vec![[0; 3]; self.types.len()];
        for (truth, said) in truth.iter().zip(said) {
            let (truth, said) = (self.entities(truth), self.entities(said));
            for entity in &said {
                counts[entity.kind][0] += u64::from(
                    truth.binary_search_by_key(&entity.first, |e| e.first).is_ok_and(|at| truth[at] == *entity),
                );
                counts[entity.kind][2] += 1;
            }
            truth.iter().for_each(|entity| counts[entity.kind][1] += 1);
        }
        counts
    }
}

/// Whether an entity ends between two labels.
fn ends(before: Option<(Part, usize)>, now: Option<(Part, usize)>) -> bool {
    let Some((part, kind)) = before else { return false };
    matches!(part, Part::End | Part::Single)
        || now.is_none_or(|(now, of)| matches!(now, Part::Begin | Part::Single) || of != kind)
}

/// Whether an entity begins with the second of two labels.
fn begins(before: Option<(Part, usize)>, now: Option<(Part, usize)>) -> bool {
    let Some((part, kind)) = now else { return false };
    matches!(part, Part::Begin | Part::Single)
        || before.is_none_or(|(before, of)| matches!(before, Part::End | Part::Single) || of != kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(labels: &[&str]) -> Vec<String> {
        labels.iter().map(|label| label.to_string()).collect()
    }

    /// (type, first, last) of the entities in these labels.
    fn found(labels: &str) -> Vec<(String, usize, usize)> {
        let labels = names(&labels.split(' ').collect::<Vec<_>>());
        let scheme = Scheme::of(&labels).unwrap();
        let numbers: Vec<usize> = (0..labels.len()).collect();
        let named = |e: Entity| (scheme.types()[e.kind].clone(), e.first, e.last);
        scheme.entities(&numbers).into_iter().map(named).collect()
    }

    #[test]
    fn entities_begin_and_end_as_conlleval_has_it() {
        let entity = |kind: &str, first, last| (kind.to_string(), first, last);
        assert_eq!(found("B-X I-X O I-X B-X"), [entity("X", 0, 1), entity("X", 3, 3), entity("X", 4, 4)]);
        // Another type begins another one, with B or without.
        assert_eq!(
            found("I-X I-Y B-Y I-X"),
            [entity("X", 0, 0), entity("Y", 1, 1), entity("Y", 2, 2), entity("X", 3, 3)]
        );
        assert_eq!(
            found("B-X I-X E-X E-X S-X I-X"),
            [entity("X", 0, 2), entity("X", 3, 3), entity("X", 4, 4), entity("X", 5, 5)]
        );
        assert_eq!(found("O B-New-York I-New-York"), [entity("New-York", 1, 2)]);
    }

    #[test]
    fn other_labels_name_no_entities() {
        assert_eq!(Scheme::of(&names(&["NOUN", "VERB"])), None);
        assert_eq!(Scheme::of(&names(&["O"])), None);
        assert_eq!(Scheme::of(&names(&["O", "B-X", "X"])), None);
    }
}
