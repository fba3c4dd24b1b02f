//! The book: `mdbook build docs`. That its pages hang together is tested here.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Pages at the root; those of the book are all of `docs`.
const AT_THE_ROOT: [&str; 3] = ["README.md", "README.zh.md", "SECURITY.md"];

/// The targets of the links of a page, without what is in code.
fn links(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in page.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if fenced {
            continue;
        }
        let text: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        found.extend(text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_string())));
    }
    found
}

/// The names by which the headings of a page are linked to, as mdBook and code hosts make them.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page
        .lines()
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    let kept = |c: char| c.is_alphanumeric() || "-_ ".contains(c);
    let name = |heading: &str| {
        heading.to_lowercase().chars().filter(|&c| kept(c)).collect::<String>().trim().replace(' ', "-")
    };
    headings.map(name).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All pages of the book.
fn pages() -> Vec<PathBuf> {
    let entries = fs::read_dir(crate::root().join("docs")).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "md")).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let root = crate::root();
    let all = pages().into_iter().chain(AT_THE_ROOT.map(|name| root.join(name)));
    let mut broken = Vec::new();
    for page in all {
        let text = read(&page);
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { page.clone() } else { page.with_file_name(file) };
            let whole = target.exists() && anchor.is_none_or(|anchor| anchors(&read(&target)).contains(anchor));
            if !whole {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_book_has_every_page_and_does_not_leave_its_folder() {
    let docs = crate::root().join("docs");
    let listed: BTreeSet<String> = links(&read(&docs.join("SUMMARY.md"))).into_iter().collect();
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let there: BTreeSet<String> = pages().iter().map(name).filter(|name| name != "SUMMARY.md").collect();
    assert_eq!(listed, there);
    for page in pages() {
        let outside: Vec<String> = links(&read(&page)).into_iter().filter(|link| link.starts_with("..")).collect();
        assert!(outside.is_empty(), "{}: {outside:?} is not in the book", page.display());
    }
}

#[test]
fn links_are_those_outside_of_code() {
    let page = "see [a](a.md), `[b](b.md)` and [c](c.md#d)\n```text\n[e](e.md)\n```\n# What `x` is, here\n";
    assert_eq!(links(page), ["a.md", "c.md#d"]);
    assert_eq!(anchors(page), BTreeSet::from(["what-x-is-here".to_string()]));
}
