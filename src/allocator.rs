//! The allocator of the binary: mimalloc, asked the cheap way.

use libmimalloc_sys as mi;
use std::alloc::{GlobalAlloc, Layout};

/// What every block of mimalloc is aligned to if it is at least as large (its `MI_MAX_ALIGN_SIZE`, that of C's `malloc`).
const NATURAL: usize = 16;

/// mimalloc, by its plain calls where these align well enough, which is nearly always.
///
/// The crate `mimalloc` always takes the calls with an alignment. Those give blocks of more than 1 KiB some bytes too
/// many and look for an aligned place in them, and each `free` in such a page has to look for the block's beginning.
pub struct Mimalloc;

const fn is_natural(size: usize, align: usize) -> bool {
    align <= NATURAL && align <= size
}

// SAFETY: mimalloc keeps the contract of `malloc` and its kin, from any thread; a block of any of its calls may be given
// to any other. The alignment holds by `is_natural`, or is passed on.
unsafe impl GlobalAlloc for Mimalloc {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: any size is allowed, and an alignment of a layout is a power of two
        unsafe {
            match is_natural(size, align) {
                true => mi::mi_malloc(size),
                false => mi::mi_malloc_aligned(size, align),
            }
            .cast()
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as in `alloc`
        unsafe {
            match is_natural(size, align) {
                true => mi::mi_zalloc(size),
                false => mi::mi_zalloc_aligned(size, align),
            }
            .cast()
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller says that it is a block of this allocator
        unsafe { mi::mi_free(block.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let align = layout.align();
        // SAFETY: as in `dealloc` and `alloc`
        unsafe {
            match is_natural(size, align) {
                true => mi::mi_realloc(block.cast(), size),
                false => mi::mi_realloc_aligned(block.cast(), size, align),
            }
            .cast()
        }
    }
}

/// Has the kernel give the process memory in pages of 4 KiB (prctl(2), `PR_SET_THP_DISABLE`).
///
/// Buffers of idle connections are written at their beginning alone, and in pages of 2 MiB, which mimalloc asks for, all of
/// them counts: an idle HTTP/2 connection takes half as much memory without, and requests cost the same (`load-tests/`,
/// 2026-11).
pub fn take_small_pages() {
    // where the kernel does not know it, memory is as it was
    let _ = nix::sys::prctl::set_thp_disable(true);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every block is aligned as asked, keeps its bytes when it grows or shrinks, and is zeroed when that was asked.
    #[test]
    fn blocks_of_all_sizes_and_alignments_are_aligned_and_keep_their_bytes() {
        for align in (0..=12).map(|power| 1_usize << power) {
            for size in (1..200).chain([1000, 1024, 1025, 4096, 13_400, 100_000, 2 << 20]) {
                let Ok(layout) = Layout::from_size_align(size, align) else {
                    continue;
                };
                // SAFETY: the blocks are used within their sizes and freed once
                unsafe {
                    let block = Mimalloc.alloc_zeroed(layout);
                    assert_eq!(block.align_offset(align), 0, "{layout:?}");
                    let bytes = std::slice::from_raw_parts_mut(block, size);
                    assert!(bytes.iter().all(|byte| *byte == 0), "{layout:?}");
                    bytes.fill(7);
                    for new in [size * 3, size.div_ceil(2)] {
                        let held = size.min(new);
                        let block = Mimalloc.alloc(layout);
                        assert_eq!(block.align_offset(align), 0, "{layout:?}");
                        std::slice::from_raw_parts_mut(block, size).fill(9);
                        let moved = Mimalloc.realloc(block, layout, new);
                        assert_eq!(moved.align_offset(align), 0, "{layout:?} to {new}");
                        let bytes = std::slice::from_raw_parts(moved, held);
                        assert!(bytes.iter().all(|byte| *byte == 9), "{layout:?} to {new}");
                        Mimalloc.dealloc(moved, Layout::from_size_align_unchecked(new, align));
                    }
                    Mimalloc.dealloc(block, layout);
                }
            }
        }
    }
}
