#!/bin/sh
# fuzz/run.sh [SECONDS [TARGET…]]: each target for so long, one after the other; photos, of which there are six formats, twice.
# Needs a nightly compiler and cargo-fuzz. Fails where a target does, and leaves the input in fuzz/artifacts.
set -u
cd "$(dirname "$0")"
seconds=${1:-60}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- $(sed -n 's/^path = "fuzz_targets\/\(.*\)\.rs"/\1/p' Cargo.toml)
failed=0
for target; do
    time=$seconds
    seeds=seeds/$target
    case $target in
    photo) time=$((2 * seconds)) seeds="../crates/cv/tests/fixtures/formats ../crates/cv/tests/fixtures/tall regressions/photo" ;;
    pickle) seeds="$seeds ../crates/core/tests/fixtures" ;;
    esac
    mkdir -p "corpus/$target"
    # A photo may be of 2 GB by the pipeline's own bounds; what is fuzzed here is small.
    cargo +nightly fuzz run --sanitizer none "$target" "corpus/$target" $seeds -- \
        -max_total_time=$time -timeout=20 -rss_limit_mb=3000 -print_final_stats=1 || failed=1
done
exit $failed
