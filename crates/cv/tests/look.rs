//! What there is to look at: `explain`, `show-batch`, the pictures of a report; and predictions that may be withheld or made
//! of several views.

mod support;

use std::fs;

use image::{Rgb, RgbImage};
use support::{Home, empty, home, model};
use topwork_core::data::{Activation, Rows};
use topwork_core::device::Place;
use topwork_core::net::grad_cam::GradCam;
use topwork_core::net::{Act, Conv, Layer, Linear, Network, Params, Stage, Window};

/// A grey photo with a red block.
fn block(x: u32, y: u32) -> RgbImage {
    let mut photo = RgbImage::from_pixel(32, 32, Rgb([60; 3]));
    for (dx, dy) in (0..8).flat_map(|dx| (0..8).map(move |dy| (dx, dy))) {
        photo.put_pixel(x + dx, y + dy, Rgb([250, 40, 40]));
    }
    photo
}

#[test]
fn heat_lies_where_a_blob_decides_the_class() {
    // A channel that sees red where it outweighs green, and a head that wants it.
    let conv = Conv {
        name: "conv".into(),
        inputs: 3,
        outputs: 1,
        window: Window::square(3, 2),
        groups: 1,
        bias: false,
        update: None,
    };
    let head = Linear { name: "fc".into(), inputs: 1, outputs: 2, bias: false, update: None };
    let network = Network {
        name: "red".into(),
        stages: vec![
            Stage { name: "maps".into(), layers: vec![Layer::Conv(conv), Layer::Act(Act::Relu)] },
            Stage { name: "pool".into(), layers: vec![Layer::AdaptiveAvgPool([1, 1]), Layer::Flatten] },
        ],
        head: Stage { name: "head".into(), layers: vec![Layer::Linear(head)] },
        input: vec![32, 32, 3],
    };
    let device = candle_core::Device::Cpu;
    let kernel: Vec<f32> = [1.0, -1.0, 0.0].iter().flat_map(|&w| [w; 9]).collect();
    let params = Params::new(
        [
            ("conv.weight".to_string(), candle_core::Tensor::from_vec(kernel, (1, 3, 3, 3), &device).unwrap()),
            ("fc.weight".to_string(), candle_core::Tensor::new(&[[1f32], [-1.0]], &device).unwrap()),
        ]
        .into(),
    );
    let cam = GradCam::new(&network, params, &Place::default(), None).unwrap();
    for (x, y) in [(2, 3), (20, 5), (11, 22)] {
        let pixels: Vec<f32> = block(x, y).into_raw().into_iter().map(f32::from).collect();
        let data = candle_core::Tensor::from_vec(pixels, (1, 32, 32, 3), &device).unwrap();
        let found = cam.explain(&Activation { data, rows: Rows::One }, |_| 0).unwrap().remove(0);
        let [height, width] = found.heat.size;
        let hottest = (0..height * width).max_by(|&a, &b| found.heat.values[a].total_cmp(&found.heat.values[b]));
        let (row, column) = (2 * (hottest.unwrap() / width) as u32, 2 * (hottest.unwrap() % width) as u32);
        assert!((x..x + 8).contains(&column) && (y..y + 8).contains(&row), "{column}, {row} for a block at {x}, {y}");
        let inside: f32 = (0..height * width)
            .filter(|i| {
                let (row, column) = (2 * (i / width) as u32 + 1, 2 * (i % width) as u32 + 1);
                (x..x + 10).contains(&column) && (y..y + 10).contains(&row)
            })
            .map(|i| found.heat.values[i])
            .sum();
        assert!(inside > 0.99 * found.heat.values.iter().sum::<f32>(), "{:?}", found.heat);
    }
}

#[test]
fn explain_makes_a_picture_for_each_photo_and_pages_of_labelled_ones() {
    let home = home();
    home.train("run", &[]).well();
    home.write("also/1.png", fs::read(home.path("data/red/1.png")).unwrap());
    let args = ["explain", "run", "data/red/1.png", "also", "--out", "seen", "--data", "data", "--seed", "0"];
    let out = home.run(&args).well();
    for name in ["1.png", "1-2.png"] {
        assert!(out.contains(&format!("seen/{name}")), "{out}");
        let picture = image::open(home.path("seen").join(name)).unwrap();
        assert_eq!((picture.width(), picture.height()), (40, 30));
    }
    for name in ["mistakes.html", "confusion.svg", "features.svg"] {
        let text = fs::read_to_string(home.path("seen").join(name)).unwrap();
        assert!(text.contains("red") && text.contains("blue"), "{name}");
    }
    let map = fs::read_to_string(home.path("seen/features.svg")).unwrap();
    assert_eq!(map.matches("data:image/jpeg;base64,").count(), 4, "one for each validation photo");
    let json = home.run(&["explain", "run", "also", "--out", "blue", "--class", "blue", "--json"]).well();
    let told: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((told["class"].as_str(), told["stage"].as_str()), (Some("blue"), Some("conv_head")));
}

#[test]
fn what_cannot_be_explained_is_refused() {
    let home = home();
    home.train("run", &[]).well();
    home.refuses(&["explain", "run", "--out", "seen"], &["nothing to look at"]);
    home.refuses(
        &["explain", "run", "data", "--out", "seen", "--class", "green"],
        &["--class green", "\"blue\", \"red\""],
    );
    home.refuses(&["explain", "run", "data", "--out", "seen", "--stage", "top"], &["--stage top", "conv_head"]);
    home.refuses(&["show-batch", "--data", "data", "--photos", "0"], &["--photos 0"]);
}

#[test]
fn nothing_that_is_there_is_written_over() {
    let home = home();
    home.train("run", &[]).well();
    home.photo("cat.png", [160, 30, 30], 1);
    home.photo("more/dog.png", [30, 30, 160], 2);
    // The photo itself, also where another one comes before it.
    home.refuses(&["explain", "run", "cat.png", "--out", "."], &["cat.png: it exists already", "--out"]);
    home.refuses(&["explain", "run", "cat.png", "more", "--out", "more"], &["more/dog.png: it exists already"]);
    home.run(&["explain", "run", "cat.png", "--data", "data", "--out", "seen"]).well();
    home.refuses(&["explain", "run", "cat.png", "--out", "seen"], &["seen/cat.png: it exists already"]);
    home.refuses(&["explain", "run", "--data", "data", "--out", "seen"], &["seen/mistakes.html: it exists already"]);
    let mut streamed = home.command(&["explain", "run", "-", "--out", "."]);
    let lines = home.write("lines", "cat.png\n");
    let ran = streamed.stdin(fs::File::open(lines).unwrap()).output().unwrap();
    assert!(String::from_utf8_lossy(&ran.stderr).contains("cat.png: it exists already"), "{ran:?}");

    let sheet = ["show-batch", "--data", "data", "--model", model(), "--photos", "2", "--views", "1"];
    home.refuses(&[&sheet[..], &["--out", "cat.png"]].concat(), &["cat.png: it exists already", "--force"]);
    home.run(&sheet).well();
    home.refuses(&sheet, &["batch.png: it exists already"]);
    home.run(&[&sheet[..], &["--force"]].concat()).well();
}

#[test]
fn a_sheet_shows_photos_plain_in_random_views_and_mixed() {
    let home = home();
    let show = |name: &str, flags: &[&str]| {
        let mut args = vec!["show-batch", "--data", "data", "--model", model(), "--photos", "3", "--out", name];
        args.extend(flags);
        home.run(&args).well();
        image::open(home.path(name)).unwrap().into_rgb8()
    };
    let random = show("random.png", &["--views", "2"]);
    // Pictures of 32 pixels are shown five times as large, with a line of words below.
    assert_eq!(random.dimensions(), (3 * 166 + 6, 3 * 188 + 6));
    assert!(random == show("again.png", &["--views", "2"]));
    assert!(random != show("other.png", &["--views", "2", "--seed", "1"]));
    let plain = show("plain.png", &["--views", "1", "--no-augment"]);
    let tile =
        |sheet: &RgbImage, column: u32| image::imageops::crop_imm(sheet, 6 + column * 166, 6, 160, 160).to_image();
    assert!(tile(&plain, 0) == tile(&plain, 1));
    let mixed = show("mixed.png", &["--views", "1", "--no-augment", "--mixup", "5"]);
    assert!((0..3).any(|row| {
        let at = |column: u32| image::imageops::crop_imm(&mixed, 6 + column * 166, 6 + row * 188, 160, 160).to_image();
        at(0) != at(1)
    }));
}

/// A run whose validation photos are mistaken: their names say the wrong class.
fn mistaken(home: &Home) {
    for i in 0..10 {
        home.photo(&format!("part/train/red/{i}.png"), [160, 30, 30], i);
        home.photo(&format!("part/train/<b>blue/{i}.png"), [30, 30, 160], 100 + i);
    }
    for i in 0..4 {
        home.photo(&format!("part/val/red/{i}.png"), [160, 30, 30], 200 + i);
        home.photo(&format!("part/val/<b>blue/{i}.png"), [30, 30, 160], 300 + i);
    }
    home.photo("part/val/red/<i>wrong.png", [30, 30, 160], 400);
    home.run(&["train", "--data", "part", "--model", model(), "--out", "run"]).well();
}

#[test]
fn a_report_shows_its_mistakes_and_cannot_be_broken_out_of() {
    let home = empty();
    mistaken(&home);
    let page = fs::read_to_string(home.path("run/report.html")).unwrap();
    assert!(page.contains("<b>red</b> taken for <b>&lt;b&gt;blue</b>"), "{page}");
    assert!(page.contains("&lt;i&gt;wrong.png") && page.contains("data:image/jpeg;base64,"));
    assert!(!page.contains("<b>blue") && !page.contains("<i>") && !page.contains("http://www.w3.org/1999"));
    assert!(page.contains("red said to be &lt;b&gt;blue: 1 of 5"));
    // Nothing is looked for elsewhere.
    assert!(!page.contains("src=\"http") && !page.contains("<script") && !page.contains("<link"));
}

/// Does what a report says repeats its run, from elsewhere, and makes `again` of it.
fn repeat(home: &Home, run: &str, again: &str) {
    let page = fs::read_to_string(home.path(run).join("report.html")).unwrap();
    let (_, section) = page.split_once("<h2>To repeat it</h2>").unwrap();
    let command = section.split_once("<pre>").unwrap().1.split_once("</pre>").unwrap().0;
    let command = command.replace("&#39;", "'").replace("topwork-cv", support::BINARY);
    assert!(command.starts_with("cd /") && command.ends_with(" train --config RUN/run.toml --out NEW"), "{command}");
    let command = command.replace("RUN", run).replace("NEW", again);
    let mut shell = home.of_program("sh", &["-c", &command]);
    support::run(shell.current_dir(std::env::temp_dir())).well();
    assert!(home.result(run) == home.result(again), "{command}");
}

#[test]
fn a_report_tells_the_command_that_repeats_its_run() {
    let home = home();
    let often = ["--batch-size", "4", "--checkpoint-every", "2"];
    let flags = [&["--strategy", "fine-tuning", "--epochs", "4", "--seed", "3"], &often[..]].concat();
    // Gone on with, it was not begun by the command that ended it.
    home.kill_at(&Home::training("run", &flags), "run", 1);
    home.run(&["train", "--resume", "--out", "run"]).well();
    repeat(&home, "run", "again");
    // So is a plan that no strategy made.
    let plan = home.train("unused", &["--strategy", "fine-tuning", "--epochs", "2", "--dry-run", "--json"]).well();
    let mut plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    plan["phases"][0]["epochs"] = 1.into();
    home.write("plan.json", plan.to_string());
    home.train("planned", &["--plan", "plan.json"]).well();
    repeat(&home, "planned", "planned-again");
}

#[test]
fn a_report_tells_memory_by_part_and_where_it_was_made() {
    let home = home();
    home.train("run", &["--folds", "2"]).well();
    let page = fs::read_to_string(home.path("run/report.html")).unwrap();
    assert!(page.contains("<th>device</th><td class=\"words\">cpu</td>") && page.contains("<th>TOPWORK_CACHE</th>"));
    let memory = home.json("run/summary.json")["memory"].clone();
    if cfg!(target_os = "linux") {
        assert!(page.contains("<th>peak MB</th><th>raised MB</th>"), "{page}");
        let of = |part: &str| memory[part]["peak"].as_u64().unwrap();
        assert!(of("folds") > 1 << 20 && of("solve") >= of("folds") && memory.get("prepare").is_none(), "{memory}");
    }
}

#[test]
fn answers_that_are_not_sure_enough_are_withheld() {
    let home = empty();
    mistaken(&home);
    let folder = home.json("run/model/calibration.json");
    let summary = home.json("run/summary.json");
    assert_eq!((&folder, folder["samples"].as_u64()), (&summary["calibration"], Some(9)));
    assert!(folder["temperature"].as_f64().unwrap() > 0.0 && folder["fitted_on"] == "validation");

    let measured = |least: &str| -> serde_json::Value {
        let args = ["evaluate", "run", "--data", "part", "--reject-below", least, "--json"];
        serde_json::from_str(&home.run(&args).well()).unwrap()
    };
    let all = measured("0");
    assert_eq!((all["selected"]["coverage"].as_f64(), &all["selected"]["accuracy"]), (Some(1.0), &all["accuracy"]));
    assert_eq!(measured("1")["selected"]["answered"], 0);

    let said = home.run(&["predict", "run", "part/val/red/1.png", "--reject-below", "1"]).well();
    assert!(said.starts_with("part/val/red/1.png\tunknown\t0."), "{said}");
    let json = home.run(&["predict", "run", "part/val/red/1.png", "--reject-below", "1", "--json"]).well();
    let told: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((told["rejected"].as_bool(), told["predictions"][0]["label"].as_str()), (Some(true), Some("red")));
    let said = home.run(&["predict", "run", "part/val/red/1.png", "--reject-below", "0.1"]).well();
    assert!(said.contains("\tred\t"), "{said}");
    home.refuses(&["predict", "run", "part/val", "--reject-below", "80"], &["--reject-below 80", "from 0 to 1"]);

    // The model without its temperature says the same classes.
    let classes = |home: &Home| -> Vec<String> {
        let said = home.run(&["predict", "run", "part"]).well();
        said.lines().map(|line| line.split('\t').nth(1).unwrap().to_string()).collect()
    };
    let calibrated = classes(&home);
    fs::remove_file(home.path("run/model/calibration.json")).unwrap();
    assert_eq!(classes(&home), calibrated);
}

#[test]
fn folds_give_a_temperature_where_nothing_is_held_back() {
    let home = home();
    home.train("run", &["--folds", "2"]).well();
    let found = home.json("run/model/calibration.json");
    assert_eq!((found["fitted_on"].as_str(), found["samples"].as_u64()), (Some("out-of-fold"), Some(20)));
}

#[test]
fn several_views_of_a_photo_give_one_answer_between_theirs() {
    let home = home();
    home.train("run", &[]).well();
    fs::remove_file(home.path("run/model/calibration.json")).unwrap();
    let photo = block(20, 5);
    photo.save(home.write("photo.png", "")).unwrap();
    image::imageops::flip_horizontal(&photo).save(home.write("mirrored.png", "")).unwrap();
    let probability = |args: &[&str]| -> f64 {
        let json = home.run(&[&["predict", "run", "--top-k", "2", "--json"], args].concat()).well();
        assert_eq!(json.lines().count(), 1);
        let told: serde_json::Value = serde_json::from_str(&json).unwrap();
        let all = told["predictions"].as_array().unwrap();
        all.iter().find(|guess| guess["label"] == "red").unwrap()["probability"].as_f64().unwrap()
    };
    let [one, other] = ["photo.png", "mirrored.png"].map(|name| probability(&[name]));
    assert!((one - other).abs() > 1e-6, "the photo and its mirror image say the same");
    let both = probability(&["photo.png", "--test-views", "flip"]);
    assert!((both - (one + other) / 2.0).abs() < 1e-6, "{both} is not between {one} and {other}");
    let measured = home.run(&["evaluate", "run", "--data", "data", "--test-views", "ten-crop", "--json"]).well();
    let measured: serde_json::Value = serde_json::from_str(&measured).unwrap();
    assert_eq!((measured["samples"].as_u64(), measured["accuracy"].as_f64()), (Some(4), Some(1.0)));
}
