//! Folders and lists of photos: what is found, how it is split, and what wrong data are told.

use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};
use tempfile::TempDir;
use topwork_core::data::{Splits, View};
use topwork_core::seed::Seed;
use topwork_core::task::Task;
use topwork_cv::dataset::inputs::{InputArgs, stream};
use topwork_cv::dataset::{DataArgs, splits};
use topwork_cv::pipeline::Pipeline;

/// A folder with a small PNG photo at each path.
fn photos(paths: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (i, path) in paths.iter().enumerate() {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let photo = RgbImage::from_pixel(5, 4, Rgb([i as u8, 0, 0]));
        photo.save_with_format(&path, image::ImageFormat::Png).unwrap();
    }
    folder
}

fn data(path: &Path) -> DataArgs {
    DataArgs { data: Some(path.to_path_buf()), ..DataArgs::default() }
}

fn read(args: &DataArgs) -> topwork_core::Result<Splits> {
    splits(args, &Pipeline { resize: 8, crop: 8, ..Pipeline::imagenet() }, None, Seed(1))
}

/// The message for wrong data.
fn refused(args: &DataArgs) -> String {
    match read(args) {
        Ok(_) => panic!("these data were accepted"),
        Err(e) => {
            assert_eq!(e.exit_code(), 2);
            e.to_string()
        }
    }
}

fn names(data: &dyn topwork_core::data::Dataset) -> Vec<String> {
    let name = |i| Path::new(&data.name(i)).file_name().unwrap().to_str().unwrap().to_string();
    (0..data.len()).map(name).collect()
}

#[test]
fn folders_are_classes_in_the_order_of_their_names() {
    let root = photos(&["train/b/2.png", "train/b/1.PNG", "train/a/odd näme.jpg", "val/a/x.png", "val/b/y.webp"]);
    let found = read(&data(root.path())).unwrap();
    assert_eq!(found.task.outputs, ["a", "b"]);
    assert_eq!(names(&*found.train), ["odd näme.jpg", "1.PNG", "2.png"]);
    assert_eq!((0..3).map(|i| found.train.target(i)).collect::<Vec<_>>(), [0, 1, 1]);
    assert_eq!(found.validation.len(), 2);
    assert_eq!(found.train.load(0, View::Plain).unwrap().shape, [8, 8, 3]);
}

#[test]
fn the_other_names_of_the_validation_folder_are_known() {
    for name in ["valid", "validation", "test"] {
        let root = photos(&["train/a/1.png", "train/b/1.png", &format!("{name}/a/2.png"), &format!("{name}/b/2.png")]);
        assert_eq!(names(&*read(&data(root.path())).unwrap().validation), ["2.png", "2.png"]);
    }
}

#[test]
fn hidden_and_other_files_are_passed_over() {
    let root =
        photos(&["a/1.png", "a/.2.png", "b/deep/er/3.png", "b/4.txt", ".git/5.png", "__MACOSX/a/6.png", "7.png"]);
    let found = read(&DataArgs { validation_share: Some(0.5), ..data(root.path()) });
    // One photo a class is left: too few to split.
    assert!(found.err().unwrap().to_string().contains("2 photos are too few"));
}

#[cfg(unix)]
#[test]
fn links_that_lead_out_of_the_folder_are_passed_over() {
    let root = photos(&["in/a/1.png", "in/a/2.png", "in/b/1.png", "in/b/2.png", "out/secret.png"]);
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(root.path().join(to), root.path().join(at)).unwrap();
    link("out/secret.png", "in/a/link.png");
    link("out", "in/a/folder");
    link("in/b/1.png", "in/b/inner.png");
    let found = read(&data(&root.path().join("in"))).unwrap();
    let mut all = names(&*found.train);
    all.extend(names(&*found.validation));
    all.sort();
    assert_eq!(all, ["1.png", "1.png", "2.png", "2.png", "inner.png"].map(String::from).to_vec());
}

#[test]
fn a_split_follows_its_seed_and_covers_everything_once() {
    let paths: Vec<String> = (0..20).map(|i| format!("{}/{i}.png", ["a", "b"][i % 2])).collect();
    let root = photos(&paths.iter().map(String::as_str).collect::<Vec<_>>());
    let split = |seed| {
        let found = splits(&data(root.path()), &Pipeline::imagenet(), None, Seed(seed)).unwrap();
        (names(&*found.train), names(&*found.validation))
    };
    assert_eq!(split(1), split(1));
    assert_ne!(split(1), split(2));
    let (mut all, held) = split(1);
    assert_eq!(held.len(), 4);
    all.extend(held);
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 20);
}

#[test]
fn equal_bytes_have_equal_digests() {
    let root = photos(&["train/a/1.png", "train/b/1.png", "val/a/1.png"]);
    fs::copy(root.path().join("train/a/1.png"), root.path().join("val/a/1.png")).unwrap();
    let found = read(&data(root.path())).unwrap();
    assert_eq!(found.train.digest(0).unwrap(), found.validation.digest(0).unwrap());
    assert_ne!(found.train.digest(0).unwrap(), found.train.digest(1).unwrap());
}

#[test]
fn lists_name_paths_relative_to_themselves() {
    let root = photos(&["p/1.png", "p/2.png", "p/3.png", "p/4.png"]);
    let csv = root.path().join("list.csv");
    fs::write(&csv, "note,Path,label\n\"a, b\",p/2.png,zebra\n,p/1.png,ape\n,p/3.png,ape\n,p/4.png,zebra\n").unwrap();
    let args = DataArgs { train: Some(csv.clone()), validation: Some(csv), ..DataArgs::default() };
    let found = read(&args).unwrap();
    assert_eq!(found.task.outputs, ["ape", "zebra"]);
    assert_eq!(names(&*found.train), ["2.png", "1.png", "3.png", "4.png"]);
    assert_eq!(found.train.target(0), 1);
}

#[test]
fn tab_separated_lists_with_columns_of_any_name_are_read() {
    let root = photos(&["1.png", "2.png"]);
    let tsv = root.path().join("list.txt");
    fs::write(&tsv, "where\twhat\n1.png\ta\n2.png\tb\n").unwrap();
    let args = DataArgs {
        train: Some(tsv.clone()),
        validation: Some(tsv),
        path_column: Some("where".into()),
        label_column: Some(vec!["what".into()]),
        ..DataArgs::default()
    };
    assert_eq!(read(&args).unwrap().task.outputs, ["a", "b"]);
}

#[test]
fn wrong_folders_are_refused_with_their_name_and_the_reason() {
    let root = photos(&["one/a/1.png", "one/a/2.png", "loose/1.png", "hole/a/1.png", "hole/b/no.txt"]);
    fs::create_dir(root.path().join("empty")).unwrap();
    for (folder, reason) in [
        ("empty", "no images are in it"),
        ("one", "are of one class"),
        ("loose", "1 images lie in it"),
        ("absent", "no such file or folder"),
    ] {
        let message = refused(&data(&root.path().join(folder)));
        assert!(message.contains(folder) && message.contains(reason), "{message}");
    }
    let message = refused(&data(&root.path().join("hole")));
    assert!(message.contains("b: the class folder holds no images"), "{message}");
    assert!(refused(&DataArgs::default()).contains("--data"));
}

#[test]
fn a_validation_class_unseen_in_training_is_refused_with_its_folder() {
    let root = photos(&["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/wasp/1.png"]);
    let message = refused(&data(root.path()));
    assert!(message.contains("val/wasp") && message.contains("unseen in training"), "{message}");
}

#[test]
fn wrong_lists_are_refused_with_the_row() {
    let root = photos(&["1.png", "2.png"]);
    let cases: [(&[u8], &str); 7] = [
        (b"file,sort\n1.png,a\n", "no column \"label\"; its first row names \"file\", \"sort\""),
        (b"path,label\n1.png,a\nlost.png,b\n", "row 3: "),
        (b"path,label\n1.png,a\n2.png\n", "row 3: has 1 columns"),
        (b"path,label\n1.png,a\n2.png,\n", "row 3: column \"label\" is empty"),
        (b"path,label\n1.png,a\n2.png,\xff\n", "row 3: is not valid UTF-8"),
        (b"path,label\n", "no images are listed"),
        (b"path,label\n1.png,a\n2.png,a\n", "are of one class"),
    ];
    for (text, reason) in cases {
        let list = root.path().join("list.csv");
        fs::write(&list, text).unwrap();
        let message = refused(&data(&list));
        assert!(message.contains("list.csv") && message.contains(reason), "{message}");
    }
}

#[test]
fn flags_that_do_not_fit_together_are_refused() {
    let root = photos(&["a/1.png", "a/2.png", "b/1.png", "b/2.png"]);
    let both = DataArgs { train: Some(root.path().into()), ..data(root.path()) };
    assert!(refused(&both).contains("cannot be combined"));
    let only_validation = DataArgs { validation: Some(root.path().into()), ..DataArgs::default() };
    assert!(refused(&only_validation).contains("--train"));
    let share = DataArgs { validation_share: Some(1.5), ..data(root.path()) };
    assert!(refused(&share).contains("--validation-share 1.5"));
}

#[test]
fn known_classes_keep_their_indices() {
    let root = photos(&["a/1.png", "c/1.png"]);
    let known = Task::classes(["z", "c", "a"].map(String::from).to_vec());
    let args = DataArgs { validation: Some(root.path().into()), ..DataArgs::default() };
    let found = splits(&args, &Pipeline::imagenet(), Some(&known), Seed(0)).unwrap();
    assert_eq!((found.validation.target(0), found.validation.target(1)), (2, 1));
    assert!(found.train.is_empty());
    let known = Task::classes(["a", "b"].map(String::from).to_vec());
    let message = splits(&args, &Pipeline::imagenet(), Some(&known), Seed(0)).err().unwrap().to_string();
    assert!(message.contains("\"c\" was unseen in training"), "{message}");
}

#[test]
fn inputs_stream_in_order_and_report_bad_files_in_place() {
    let root = photos(&["in/b.png", "in/a/c.png", "single.jpg", "listed.png"]);
    fs::write(root.path().join("in/broken.jpg"), "nothing").unwrap();
    fs::write(root.path().join("list.csv"), "photo\nlisted.png\nlost.png\n").unwrap();
    let inputs = ["single.jpg", "in", "list.csv"].map(|name| root.path().join(name)).to_vec();
    let args = InputArgs { inputs, path_column: None };
    let all: Vec<(String, bool)> = stream(&args, &Pipeline::imagenet())
        .unwrap()
        .map(|(name, sample)| (name[root.path().to_str().unwrap().len() + 1..].to_string(), sample.is_ok()))
        .collect();
    let expected = [
        ("single.jpg", true),
        ("in/a/c.png", true),
        ("in/b.png", true),
        ("in/broken.jpg", false),
        ("listed.png", true),
        ("lost.png", false),
    ];
    assert_eq!(all, expected.map(|(name, ok)| (name.to_string(), ok)).to_vec());
}

#[test]
fn inputs_that_do_not_exist_are_refused_at_once() {
    let args = InputArgs { inputs: vec!["no/such/photo.jpg".into()], path_column: None };
    assert!(stream(&args, &Pipeline::imagenet()).err().unwrap().to_string().contains("no/such/photo.jpg"));
    assert!(stream(&InputArgs::default(), &Pipeline::imagenet()).is_err());
}

#[test]
fn a_size_changes_the_crop_and_keeps_its_share_of_the_photo() {
    let small = Pipeline::imagenet().sized(96).unwrap();
    assert_eq!((small.crop, small.resize), (96, 110));
    for side in [0, 32, 100, 2048] {
        let message = Pipeline::imagenet().sized(side).unwrap_err().to_string();
        assert!(message.contains(&format!("--size {side}")), "{message}");
    }
}
