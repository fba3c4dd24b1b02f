//! The command line of `topwork-cv`.

/// Training allocates and frees the same large blocks at every step; this one keeps them instead of asking the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    topwork_core::cli::main::<topwork_cv::Photos>()
}
