//! From the text after `--model` to a [`Reference`], with suggestions for what was probably meant.

use std::path::PathBuf;

use super::{Card, Reference};
use crate::{Error, Result};

const HUB_PREFIX: &str = "hf-hub:";

/// Understands a card's name or alias in any case, `hf-hub:owner/name[@revision]`, or the path of an existing folder
/// or file, in this order; `./resnet18` is a path even where `resnet18` is a card.
///
/// # Errors
/// Anything else, with the names that look alike.
pub fn parse(text: &str, cards: &'static [Card]) -> Result<Reference> {
    if let Some(card) = cards.iter().find(|card| names(card).any(|name| name.eq_ignore_ascii_case(text))) {
        return Ok(Reference::Card(card));
    }
    if let Some(rest) = text.strip_prefix(HUB_PREFIX) {
        return hub(text, rest);
    }
    let path = PathBuf::from(text);
    if !text.is_empty() && path.exists() {
        return Ok(Reference::Path(path));
    }
    let near = near_names(text, cards);
    let reason = match near.as_slice() {
        [] => "no model of this name, and no such file or folder".to_string(),
        near => format!("no model of this name, and no such file or folder; did you mean {}?", near.join(" or ")),
    };
    let remedy = "`models list` shows the models; or give the path of a folder or weights file, or \
                  `hf-hub:owner/name` for one from the Hugging Face hub";
    Err(Error::input(format!("--model {text}"), reason, remedy))
}

fn hub(text: &str, rest: &str) -> Result<Reference> {
    let (repo, revision) = rest.split_once('@').unwrap_or((rest, "main"));
    // What the hub allows; and the text becomes part of paths and addresses, so nothing else may pass.
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && !part.contains("..")
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let parts = repo.split('/').count();
    if parts > 2 || !repo.split('/').all(part) || !revision.split('/').all(part) {
        let remedy = "write `hf-hub:owner/name` or `hf-hub:owner/name@revision`";
        return Err(Error::input(format!("--model {text}"), "not a repository of the Hugging Face hub", remedy));
    }
    Ok(Reference::Hub { repo: repo.into(), revision: revision.into() })
}

fn names(card: &Card) -> impl Iterator<Item = &'static str> {
    std::iter::once(card.name).chain(card.aliases.iter().copied())
}

/// At most three names within a third of the length, nearest first.
fn near_names(text: &str, cards: &[Card]) -> Vec<&'static str> {
    let text = text.to_ascii_lowercase();
    let mut near: Vec<_> = cards
        .iter()
        .filter_map(|card| {
            let nearest = names(card).map(|name| (edit_distance(&text, &name.to_ascii_lowercase()), name)).min()?;
            let close = nearest.0 <= nearest.1.len().max(3) / 3;
            // The beginning of a name is meant for it, however much is missing.
            let begun = text.len() >= 3 && nearest.1.starts_with(&text);
            (close || begun).then_some(nearest)
        })
        .collect();
    near.sort();
    near.into_iter().take(3).map(|(_, name)| name).collect()
}

/// Levenshtein's distance: insertions, deletions and substitutions of characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(256).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(256).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn card(name: &'static str, aliases: &'static [&'static str]) -> Card {
        Card { name, aliases, architecture: "", trained_on: "", licence: "", paper: "", accuracy: None, sources: &[] }
    }

    static CARDS: [Card; 3] =
        [card("efficientnet-lite0", &["lite0"]), card("resnet18", &["resnet-18"]), card("resnet34", &[])];

    fn message(text: &str) -> String {
        parse(text, &CARDS).unwrap_err().to_string()
    }

    #[test]
    fn names_and_aliases_are_found_in_any_case() {
        for text in ["resnet18", "ResNet18", "resnet-18"] {
            assert_eq!(parse(text, &CARDS).unwrap(), Reference::Card(&CARDS[1]), "{text}");
        }
    }

    #[test]
    fn a_hub_repository_may_carry_a_revision() {
        let hub = |repo: &str, revision: &str| Reference::Hub { repo: repo.into(), revision: revision.into() };
        assert_eq!(parse("hf-hub:timm/resnet18.a1_in1k", &CARDS).unwrap(), hub("timm/resnet18.a1_in1k", "main"));
        assert_eq!(parse("hf-hub:a/b@refs/pr/1", &CARDS).unwrap(), hub("a/b", "refs/pr/1"));
    }

    #[test]
    fn a_hub_name_that_could_leave_its_folder_is_refused() {
        for text in ["hf-hub:", "hf-hub:../x", "hf-hub:a/..", "hf-hub:a/b/c", "hf-hub:a/b@../../x", "hf-hub:a b/c"] {
            assert!(parse(text, &CARDS).is_err(), "{text}");
        }
    }

    #[test]
    fn an_existing_path_is_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().to_str().unwrap();
        assert_eq!(parse(text, &CARDS).unwrap(), Reference::Path(folder.path().into()));
    }

    #[test]
    fn a_misspelt_name_is_answered_with_those_alike() {
        let message = message("resnt18");
        assert!(message.contains("did you mean resnet18"), "{message}");
        assert!(!message.contains("lite0"), "{message}");
    }

    #[test]
    fn the_error_says_how_to_list_models() {
        for text in ["", "zzzzzzzzzzzz", "models/absent.pth"] {
            let message = message(text);
            assert!(message.contains("models list") && !message.contains("did you mean"), "{message}");
        }
    }

    #[test]
    fn distances_are_levenshteins() {
        for (a, b, distance) in [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("ab", "ba", 2)] {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        }
    }
}
