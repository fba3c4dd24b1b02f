//! Counts of operations and values.
