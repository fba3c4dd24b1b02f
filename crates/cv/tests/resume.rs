//! Same seed, same bits: runs that were killed and resumed, and runs on other numbers of threads, end in the same bytes.

mod support;

use std::process::{Command, Stdio};

use support::{Home, home};

/// Fine-tuning with batch norm that learns, random views and dropout: everything that a checkpoint must carry.
const FLAGS: [&str; 12] = [
    "--strategy",
    "fine-tuning",
    "--epochs",
    "6",
    "--batch-size",
    "4",
    "--checkpoint-every",
    "2",
    "--augment",
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
    for checkpoints in [1, 3, 2, 4] {
        home.kill_at(&["train", "--resume", "--out", "run", "--quiet"], "run", checkpoints);
    }
    // The command of the run with --resume behind it does as well.
    home.train("run", &[&FLAGS[..], &["--resume"]].concat()).well();
    assert!(home.result("run") == expected);
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
    for more in [&[][..], &["--force"], &["--resume"]] {
        home.run(&[&args, more].concat()).refused(&["run: another run is using the folder", &owner, "--out"]);
    }
    assert!(first.try_wait().unwrap().is_none(), "the first run goes on");
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn a_resumed_run_keeps_its_settings() {
    let home = home();
    home.kill_at(&Home::training("run", &FLAGS), "run", 1);
    let resume = |more: &[&str]| home.run(&[&["train", "--resume", "--out", "run"], more].concat());
    resume(&["--epochs", "9"]).refused(&["--epochs: the run to resume was started with 6", "another --out"]);
    resume(&["--seed", "6"]).refused(&["--seed", "started with 5"]);
    home.photo("data/red/more.png", [200, 0, 0], 7);
    resume(&[]).refused(&["run", "another plan, model, seed or data", "--out"]);
}

#[test]
fn another_photo_under_the_same_name_is_other_data() {
    let home = home();
    home.photo("data/red/changes.png", [200, 0, 0], 7);
    home.kill_at(&Home::training("run", &FLAGS), "run", 1);
    home.photo("data/red/changes.png", [190, 0, 0], 7);
    let resumed = home.run(&["train", "--resume", "--out", "run"]);
    resumed.refused(&["run", "another plan, model, seed or data", "--out"]);
}

#[test]
fn an_interrupted_run_keeps_its_last_step_and_says_how_to_go_on() {
    let expected = trained("run", &[]).result("run");
    let home = home();
    let mut child = home.command(&Home::training("run", &FLAGS)).stderr(Stdio::piped()).spawn().unwrap();
    home.wait(&mut child, || home.path("run/checkpoints/000001.json").is_file());
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert!(told.contains("stopping after this step") && told.contains("--resume --out run"), "{told}");
    home.run(&["train", "--resume", "--out", "run", "--quiet"]).well();
    assert!(home.result("run") == expected);
}

#[test]
fn data_that_changed_before_the_first_checkpoint_are_noticed() {
    let home = home();
    home.kill_at(&Home::training("run", &FLAGS), "run", 0);
    home.photo("data/red/more.png", [200, 0, 0], 7);
    let resumed = home.run(&["train", "--resume", "--out", "run"]);
    resumed.refused(&["run", "another plan, model, seed or data", "--out"]);
}
