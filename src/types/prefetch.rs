//! Asking the processor for memory before it is needed.
//!
//! With ten thousand partitions what belongs to one of them is in no cache when its turn comes, and a few
//! dozen loads that each wait for memory cost more than the work itself. Where it is known which come
//! next, as for the batches of a request, their lines are asked for some turns ahead, and arrive side by
//! side.

/// Unit: bytes.
const LINE_SIZE: usize = 64;

/// Asks for the lines of a value. A hint: nothing is read.
#[inline]
pub fn prefetch<T: ?Sized>(value: &T) {
    let start = std::ptr::from_ref(value).cast::<u8>();
    for at in (0..size_of_val(value)).step_by(LINE_SIZE) {
        prefetch_line(start.wrapping_add(at));
    }
}

/// Asks for `count` lines from an address on, of which nothing is read.
#[inline]
pub fn prefetch_lines(start: *const u8, count: usize) {
    for line in 0..count {
        prefetch_line(start.wrapping_add(line * LINE_SIZE));
    }
}

#[inline]
fn prefetch_line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address has no effect but on the caches.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
