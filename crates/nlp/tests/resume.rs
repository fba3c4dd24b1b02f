//! Same seed, same bits: runs that were killed and resumed, and runs on other numbers of threads, end in the same bytes.

mod support;

use support::{Home, home};

/// Fine-tuning with dropout, batches by length and an optimizer's moments: everything that a checkpoint must carry.
const FLAGS: [&str; 11] = [
    "--strategy",
    "fine-tuning",
    "--epochs",
    "12",
    "--batch-size",
    "4",
    "--checkpoint-every",
    "2",
    "--seed",
    "5",
    "--quiet",
];

fn trained(out: &str, more: &[&str]) -> Home {
    let home = home();
    home.train(out, &[&FLAGS, more].concat()).well();
    home
}

#[test]
fn a_run_that_is_killed_and_resumed_ends_in_the_same_bytes() {
    let expected = trained("run", &[]).result("run");
    let home = home();
    // Before the first checkpoint, within epochs and between them.
    home.kill_at(&Home::training("run", &FLAGS), "run", 0);
    for checkpoints in [1, 3, 10, 7, 20] {
        home.kill_at(&["train", "--resume", "--out", "run", "--quiet"], "run", checkpoints);
    }
    // The command of the run with --resume behind it does as well.
    home.train("run", &[&FLAGS[..], &["--resume"]].concat()).well();
    assert!(home.result("run") == expected);
}

#[test]
fn another_text_under_the_same_label_is_other_data() {
    let home = home();
    home.kill_at(&Home::training("run", &FLAGS), "run", 1);
    let path = home.path("train.tsv");
    let text = std::fs::read_to_string(&path).unwrap();
    let (header, rows) = text.split_once('\n').unwrap();
    std::fs::write(&path, format!("{header}\nx{rows}")).unwrap();
    let resumed = home.run(&["train", "--resume", "--out", "run", "--quiet"]);
    resumed.refused(&["run", "another plan, model, seed or data", "--out"]);
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let one = trained("run", &["--threads", "1"]).result("run");
    let three = trained("run", &["--threads", "3"]).result("run");
    assert!(one == three);
}

#[test]
fn two_runs_do_not_share_a_folder() {
    let home = home();
    let args = Home::training("run", &FLAGS);
    let mut first = home.start(&args);
    home.wait(&mut first, || home.path("run/run.toml").is_file());
    let owner = format!("process {}", first.id());
    home.run(&args).refused(&["run: another run is using the folder", &owner, "--out"]);
    first.kill().unwrap();
    first.wait().unwrap();
}
