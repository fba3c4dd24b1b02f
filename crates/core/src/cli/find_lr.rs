//! `find-lr`: the learning-rate range test from the command line.

use super::{Common, Console, print_line};
use crate::domain::Domain;
use crate::files::write_atomic_bytes;
use crate::find_lr::{RangeTest, Sweep, find_lr};
use crate::fit::Fit;
use crate::{Error, Result};

const PICTURE: &str = "find-lr.svg";
const NUMBERS: &str = "find-lr.json";

#[derive(clap::Args)]
#[command(mut_arg("out", |arg| arg.help("Folder for the picture and the numbers: a run, or one to make")))]
#[command(mut_arg("force", |arg| arg.hide(true)), mut_arg("folds", |arg| arg.hide(true)))]
#[command(mut_arg("checkpoint_every", |arg| arg.hide(true)))]
pub(super) struct FindLrArgs<D: Domain> {
    #[command(flatten)]
    fit: Fit<D>,
    #[command(flatten, next_help_heading = "Range test")]
    sweep: Sweep,
}

pub(super) fn run<D: Domain>(args: FindLrArgs<D>, common: &Common) -> Result<()> {
    let console = Console::new(common.quiet);
    let fit = Fit { machine: common.machine(args.fit.machine), ..args.fit };
    let given = [
        ("--folds", fit.folds.is_some()),
        ("--force", fit.force),
        ("--checkpoint-every", fit.checkpoint_every.is_some()),
    ];
    if let Some((flag, _)) = given.into_iter().find(|(_, given)| *given) {
        return Err(Error::input(flag, "it has no meaning for a range test", "leave it out"));
    }
    if let Some(out) = fit.out.as_deref().filter(|out| out.exists() && !out.is_dir()) {
        return Err(Error::input(out.display(), "it is a file, not a folder", "choose another --out"));
    }
    let test = find_lr(&fit, args.sweep, &console)?;
    if let Some(out) = &fit.out {
        let json = serde_json::to_string_pretty(&test).map_err(|e| Error::io(out)(e.into()))? + "\n";
        std::fs::create_dir_all(out).map_err(Error::io(out))?;
        write_atomic_bytes(&out.join(NUMBERS), json.as_bytes())?;
        write_atomic_bytes(&out.join(PICTURE), test.svg().as_bytes())?;
    }
    if common.json {
        return print_line(&super::json(&test)?);
    }
    show(&test)?;
    match &fit.out {
        Some(out) => print_line(&format!("{PICTURE} and {NUMBERS} are in {}", out.display())),
        None => Ok(()),
    }
}

fn show(test: &RangeTest) -> Result<()> {
    let RangeTest { strategy, phase, batch_size, points, .. } = test;
    print_line(&format!("{strategy}, phase {phase:?}: {} steps of {batch_size} samples", points.len()))?;
    print_line(&test.text())?;
    if test.diverged {
        let last = points.last().map_or(f64::NAN, |point| point.rate);
        print_line(&format!("the loss broke away after a rate of {last:.1e}; the test ended there"))?;
    }
    let Some(found) = test.suggestion else {
        return print_line("the loss never fell: try another --highest or more --steps, or look at the data");
    };
    print_line(&format!("▲ {:.1e}: where the loss falls fastest", found.steepest))?;
    print_line(&format!("△ {:.1e}: a tenth of {:.1e}, where it is lowest", found.tenth_of_minimum, found.minimum))?;
    print_line(&format!("either is a sound --learning-rate; without the flag it is {:.1e}", test.planned))
}
