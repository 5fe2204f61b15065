//! The allocator of a program that may hold millions of tasks: the system's, with large pages for
//! large allocations.
//!
//! A result touches a dozen places in tables of many megabytes. In pages of 4 KiB each of them is
//! also a walk through the page tables, which on a virtual machine costs more than the access itself.
//! Small allocations stay as they are: large pages for the whole heap cost more than they bring.

#![expect(unsafe_code, reason = "an allocator is unsafe to implement")]

use std::alloc::{GlobalAlloc, Layout, System};

/// Allocations from this size on are tables.
const LARGE_BYTES: usize = 4 << 20;

const PAGE_BYTES: usize = 4 << 10;

pub struct LargePages;

/// Asks for large pages in what was just allocated, where the kernel has a choice.
fn advise(start: *mut u8, bytes: usize) {
    if bytes < LARGE_BYTES || start.is_null() {
        return;
    }
    let before = start.align_offset(PAGE_BYTES);
    let within = (bytes - before) / PAGE_BYTES * PAGE_BYTES;
    // SAFETY: the pages lie within the allocation, and the advice changes nothing of what is in them.
    // A kernel without them goes on with small ones.
    let _advised = unsafe {
        let start = start.add(before).cast();
        rustix::mm::madvise(start, within, rustix::mm::Advice::LinuxHugepage)
    };
}

// SAFETY: everything is the system allocator's, and is given back to it as it was.
unsafe impl GlobalAlloc for LargePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that `System` asks for; so below.
        let start = unsafe { System.alloc(layout) };
        advise(start, layout.size());
        start
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let start = unsafe { System.alloc_zeroed(layout) };
        advise(start, layout.size());
        start
    }

    unsafe fn realloc(&self, before: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        let start = unsafe { System.realloc(before, layout, size) };
        advise(start, size);
        start
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(start, layout) }
    }
}
