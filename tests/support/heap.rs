//! Runs a fuzz target and counts the memory that it takes: bytes from outside must not say how much that is.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use larder::fuzz::target;

thread_local! {
    /// Bytes that this thread has in use, and the most since it was last set back.
    static USED: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Counts without failing: while a thread ends its counters are gone.
fn count(bytes: isize) {
    let _ = USED.try_with(|used| {
        used.set(used.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(used.get())));
    });
}

#[expect(unsafe_code, reason = "an allocator cannot be counted otherwise")]
// SAFETY: each call is passed on as it is to the system's allocator, which keeps the contract; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promised us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller promised us.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promised us.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are there while it moves.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: as the caller promised us.
        unsafe { System.realloc(place, layout, size) }
    }
}

/// Does with the bytes what the target asks, and panics where that does not hold or takes more memory than the target says.
pub fn run(name: &str, data: &[u8]) {
    let (_, work, limit) = target(name).expect("a target of src/fuzz");
    let before = USED.get();
    MOST.set(before);
    work(data);
    let most = (MOST.get() - before) as usize;
    assert!(most <= limit, "{name}: {most} bytes of memory for {} bytes, {limit} are allowed", data.len());
}
