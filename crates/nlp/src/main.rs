//! The command line of `topwork-nlp`.

fn main() {
    topwork_core::cli::main::<topwork_nlp::Sentences>()
}
