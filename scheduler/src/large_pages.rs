//! The allocator of a program that may hold millions of tasks: mimalloc, and for large allocations the
//! system's, with large pages.
//!
//! A task on its way allocates some hundred times, on one thread, and frees on another; that was a
//! sixth of what it cost with the system's allocator. But that one can make a large table larger
//! without a copy.
//!
//! A result touches a dozen places in tables of many megabytes. In pages of 4 KiB each of them is
//! also a walk through the page tables, which on a virtual machine costs more than the access itself.
//! Small allocations stay as they are: large pages for the whole heap cost more than they bring.

#![expect(unsafe_code, reason = "an allocator is unsafe to implement")]

use mimalloc::MiMalloc;
use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{c_int, c_long};

/// Allocations from this size on are tables.
const LARGE_BYTES: usize = 4 << 20;

const PAGE_BYTES: usize = 4 << 10;

pub struct LargePages;

/// From now on small allocations that are given back go to the kernel at once, where otherwise they
/// are kept for a second, and this process does without large pages: what a thousand tasks need is
/// small and scattered. Each takes a third or more off the memory of a worker that they print to.
pub fn keep_nothing() {
    // `mi_option_purge_delay`, milliseconds.
    const PURGE_DELAY: c_int = 15;
    unsafe extern "C" {
        fn mi_option_set(option: c_int, value: c_long);
    }
    // SAFETY: as `mimalloc.h` declares it. The option is looked at each time, and may change.
    unsafe { mi_option_set(PURGE_DELAY, 0) }
    // Where it may not say so, it takes more.
    let _ = nix::sys::prctl::set_thp_disable(true);
}

/// What was just allocated by the system's allocator, for which large pages are asked where the kernel
/// has a choice.
fn advised(start: *mut u8, bytes: usize) -> *mut u8 {
    if start.is_null() {
        return start;
    }
    let before = start.align_offset(PAGE_BYTES);
    let within = (bytes - before) / PAGE_BYTES * PAGE_BYTES;
    // SAFETY: the pages lie within the allocation, and the advice changes nothing of what is in them.
    // A kernel without them goes on with small ones.
    let _advised = unsafe {
        let start = start.add(before).cast();
        rustix::mm::madvise(start, within, rustix::mm::Advice::LinuxHugepage)
    };
    start
}

fn is_large(bytes: usize) -> bool {
    bytes >= LARGE_BYTES
}

// SAFETY: everything is one of two allocators', and is given back to the one that it is of: which one
// follows from the size alone.
unsafe impl GlobalAlloc for LargePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that both ask for; so below.
        unsafe {
            match is_large(layout.size()) {
                true => advised(System.alloc(layout), layout.size()),
                false => MiMalloc.alloc(layout),
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            match is_large(layout.size()) {
                true => advised(System.alloc_zeroed(layout), layout.size()),
                false => MiMalloc.alloc_zeroed(layout),
            }
        }
    }

    unsafe fn realloc(&self, before: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above; what goes from one to the other is copied before it is given back.
        unsafe {
            match (is_large(layout.size()), is_large(size)) {
                (false, false) => MiMalloc.realloc(before, layout, size),
                (true, true) => advised(System.realloc(before, layout, size), size),
                _ => {
                    let start = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
                    if !start.is_null() {
                        start.copy_from_nonoverlapping(before, layout.size().min(size));
                        self.dealloc(before, layout);
                    }
                    start
                }
            }
        }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe {
            match is_large(layout.size()) {
                true => System.dealloc(start, layout),
                false => MiMalloc.dealloc(start, layout),
            }
        }
    }
}
