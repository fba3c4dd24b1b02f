//! Accuracy of the k nearest neighbours by cosine similarity, each sample judged by all others (Cover & Hart 1967;
//! leave-one-out).

use faer::Mat;
use rayon::prelude::*;

use super::Labelled;
use super::spectrum::product;

/// Samples whose neighbours are sought together.
const BLOCK: usize = 64;

/// The share of samples whose class is the most frequent one among their `neighbours` nearest; of equally frequent
/// classes the first, of equally near samples the earlier.
pub fn knn(labelled: &Labelled, neighbours: usize) -> f64 {
    let x = &labelled.features;
    let length = |i: usize| x.row(i).iter().map(|v| v * v).sum::<f64>().sqrt();
    let lengths: Vec<f64> = (0..x.nrows()).map(length).collect();
    // A sample of zeros is as near to one as to the other.
    let unit = |i: usize, j: usize| if lengths[i] > 0.0 { x[(i, j)] / lengths[i] } else { 0.0 };
    let unit = Mat::from_fn(x.nrows(), x.ncols(), unit);
    let starts: Vec<usize> = (0..x.nrows()).step_by(BLOCK).collect();
    let right = |&start: &usize| {
        let rows = BLOCK.min(x.nrows() - start);
        let near = product(unit.as_ref(), unit.subrows(start, rows).transpose());
        let right = |&j: &usize| vote(labelled, &near, start + j, j, neighbours) == labelled.targets[start + j];
        (0..rows).filter(right).count()
    };
    starts.par_iter().map(right).sum::<usize>() as f64 / x.nrows() as f64
}

/// The class that the neighbours of `sample` vote for; column `j` of `near` holds its similarity to all samples.
fn vote(labelled: &Labelled, near: &Mat<f64>, sample: usize, j: usize, neighbours: usize) -> u32 {
    let mut nearest: Vec<(f64, usize)> = Vec::with_capacity(neighbours + 1);
    for (i, &similarity) in near.col(j).iter().enumerate().filter(|(i, _)| *i != sample) {
        if nearest.len() < neighbours || similarity > nearest[neighbours - 1].0 {
            let at = nearest.partition_point(|(other, _)| *other >= similarity);
            nearest.insert(at, (similarity, i));
            nearest.truncate(neighbours);
        }
    }
    let votes = |class: u32| nearest.iter().filter(|(_, i)| labelled.targets[*i] == class).count();
    let mut classes: Vec<u32> = nearest.iter().map(|(_, i)| labelled.targets[*i]).collect();
    classes.sort_unstable();
    classes.into_iter().rev().max_by_key(|&class| votes(class)).unwrap_or_default()
}
