//! What was fuzzed stays as it was mended: every seed, and every input that once was too much for a parser, is read again.

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

use std::path::Path;

#[test]
fn every_parser_comes_to_its_end_with_its_seeds_and_regressions() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (name, read) in fuzz::TARGETS {
        let mut places = vec![root.join("fuzz/seeds").join(name), root.join("fuzz/regressions").join(name)];
        if name == "photo" {
            places.push(root.join("crates/cv/tests/fixtures/formats"));
        }
        assert!(name != "photo" || places[1].is_dir(), "what was found is kept");
        let files = places.iter().filter_map(|place| std::fs::read_dir(place).ok()).flatten().flatten();
        let mut count = 0;
        for path in files.map(|file| file.path()).filter(|path| path.is_file()) {
            println!("{}", path.display());
            read(&std::fs::read(path).unwrap());
            count += 1;
        }
        assert!(count > 0, "nothing is read as {name}");
    }
}
