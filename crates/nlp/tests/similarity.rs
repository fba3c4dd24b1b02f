//! `similarity` end to end.

mod support;

use support::{home, model};

#[test]
fn the_same_text_is_nearest_and_scores_are_compared_with_cosines() {
    let home = home();
    let table = "sentence1\tsentence2\tscore\nthe film\tthe film\t5\nthe film\ta bad plot\t1\n";
    home.write("pairs.tsv", table);
    let told = home.run(&["similarity", model(), "pairs.tsv", "--pooling", "mean"]).well();
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines[0].starts_with("1.0000\tthe film\tthe film"), "{told}");
    assert!(lines[1].split('\t').next().unwrap().parse::<f64>().unwrap() < 0.9999, "{told}");
    assert_eq!(lines[2], "Spearman 1.0000, Pearson 1.0000 with the scores of 2 pairs");
    let both = ["similarity", model(), "--text", "the film", "--text", "a bad plot", "--pooling", "mean", "--json"];
    let found: serde_json::Value = serde_json::from_str(&home.run(&both).well()).unwrap();
    assert!((found["cosine"].as_f64().unwrap() - lines[1][..6].parse::<f64>().unwrap()).abs() < 1e-4, "{found}");
    assert!(found["score"].is_null());
}

#[test]
fn what_cannot_be_compared_is_refused_by_its_row_or_flag() {
    let home = home();
    home.write("single.tsv", "text\tscore\na\t1\n");
    home.write("words.tsv", "sentence1\tsentence2\tscore\na\tb\thigh\n");
    let refuses = |args: &[&str], parts: &[&str]| {
        home.refuses(&[&["similarity", model()], args].concat(), parts);
    };
    refuses(&["single.tsv"], &["single.tsv", "second text", "--pair-column"]);
    refuses(&["words.tsv", "--label-column", "score"], &["words.tsv", "line 2", "has the score \"high\""]);
    refuses(&["words.tsv", "--label-column", "none"], &["--label-column"]);
    refuses(&["--text", "a"], &["--text", "twice"]);
    refuses(&["absent.tsv"], &["absent.tsv"]);
}
