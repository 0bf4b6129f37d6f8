//! Huge pages: good for a database, not for a process that touches a little of much.

/// Lets the kernel give this process, and those that it starts from now on, huge pages or not. What is allocated already
/// stays as it is.
pub(crate) fn allow_huge_pages(allowed: bool) {
    // A kernel that knows no such thing has nothing to spare.
    let _ = nix::sys::prctl::set_thp_disable(!allowed);
}

/// The allocator takes its first huge pages before `main`, and generator and service would keep them half empty: at 10,000
/// connections a fifth of all that the one takes, and a third of the other. So they are off from the start, and the commands
/// that start a database turn them on.
extern "C" fn before_main() {
    allow_huge_pages(false);
}

// SAFETY: the section is a list of such functions, which the C runtime calls once each, the lowest number first. This one
// makes a system call and needs nothing that is set up later.
#[used]
#[unsafe(link_section = ".init_array.00001")]
static BEFORE_MAIN: extern "C" fn() = before_main;
