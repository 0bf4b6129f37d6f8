//! Huge pages: good for a database, not for a process that touches a little of much.

/// Lets the kernel give this process, and those that it starts from now on, huge pages or not. What is allocated already
/// stays as it is.
pub(crate) fn allow_huge_pages(allowed: bool) {
    // A kernel that knows no such thing has nothing to spare.
    let _ = nix::sys::prctl::set_thp_disable(!allowed);
}

/// The allocator takes its first huge pages before `main`, and the generator would keep them half empty: a fifth of all that
/// it takes at 10,000 connections. So they are off from the start, and the commands that have a use for them turn them on.
extern "C" fn before_main() {
    allow_huge_pages(false);
}

// SAFETY: the section is a list of such functions, which the C runtime calls once each, the lowest number first. This one
// makes a system call and needs nothing that is set up later.
#[used]
#[unsafe(link_section = ".init_array.00001")]
static BEFORE_MAIN: extern "C" fn() = before_main;
