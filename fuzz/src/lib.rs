//! What the targets share.

pub mod report;

use std::alloc::System;

use cap::Cap;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// Checks a claim, which dies when it holds more than `bytes` of heap at a time.
pub fn within<T>(bytes: usize, claim: impl FnOnce() -> T) -> T {
    HEAP.set_limit(HEAP.allocated() + bytes).expect("more than is allocated");
    let checked = claim();
    HEAP.set_limit(usize::MAX).expect("more than is allocated");
    checked
}

/// The size of the pieces in which an input is given again: its length says it, so that seeds are plain files.
pub fn piece_size(input: &[u8]) -> usize {
    1 + input.len() % 16
}
