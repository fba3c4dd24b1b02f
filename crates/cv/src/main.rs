//! The command line of `topwork-cv`.

fn main() {
    topwork_core::cli::main::<topwork_cv::Photos>()
}
