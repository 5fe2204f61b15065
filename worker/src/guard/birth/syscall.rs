//! The system calls of a child that has no `errno`, and the one that makes it.

use nix::libc::{self, c_int, c_long, c_ulonglong};

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("how a task is born is written for x86_64 and aarch64 only");

/// Of the kernel's sched.h, since 5.7.
pub const CLONE_INTO_CGROUP: c_ulonglong = 1 << 33;

/// The kernel's `struct clone_args`, up to the cgroup.
#[repr(C)]
#[derive(Default)]
pub struct CloneArgs {
    pub flags: c_ulonglong,
    pub pidfd: c_ulonglong,
    pub child_tid: c_ulonglong,
    pub parent_tid: c_ulonglong,
    pub exit_signal: c_ulonglong,
    pub stack: c_ulonglong,
    pub stack_size: c_ulonglong,
    pub tls: c_ulonglong,
    pub set_tid: c_ulonglong,
    pub set_tid_size: c_ulonglong,
    pub cgroup: c_ulonglong,
}

/// How a child is made: the number of a system call, and what it is given.
pub struct Clone {
    number: c_long,
    args: [usize; 5],
}

impl Clone {
    pub fn with_stack(flags: c_int, stack_end: usize, child_tid: usize) -> Self {
        // The last two are the place for the child's id and that of its thread-local variables, on
        // each processor in another order. The child has those of its parent, and the latter is not
        // looked at.
        let flags = flags as usize;
        Self { number: libc::SYS_clone, args: [flags, stack_end, 0, child_tid, child_tid] }
    }

    pub fn with_args(args: &CloneArgs) -> Self {
        let at = std::ptr::from_ref(args).addr();
        Self { number: libc::SYS_clone3, args: [at, size_of::<CloneArgs>(), 0, 0, 0] }
    }
}

/// Makes a child that calls `run` on a stack of its own. Returns its pid, or an error number less
/// than zero.
#[cfg(target_arch = "x86_64")]
pub unsafe fn clone_onto<T>(
    clone: &Clone,
    run: extern "C" fn(*const T) -> !,
    with: *const T,
) -> c_long {
    let result: c_long;
    // SAFETY: in the parent it is a system call and no more; the child never comes out of it.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") clone.number => result,
            in("rdi") clone.args[0],
            in("rsi") clone.args[1],
            in("rdx") clone.args[2],
            in("r10") clone.args[3],
            in("r8") clone.args[4],
            in("r12") run,
            in("r13") with,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
pub unsafe fn clone_onto<T>(
    clone: &Clone,
    run: extern "C" fn(*const T) -> !,
    with: *const T,
) -> c_long {
    let result: c_long;
    // SAFETY: in the parent it is a system call and no more; the child never comes out of it.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x21",
            "blr x20",
            "brk #1",
            "2:",
            inlateout("x0") clone.args[0] => result,
            in("x1") clone.args[1],
            in("x2") clone.args[2],
            in("x3") clone.args[3],
            in("x4") clone.args[4],
            in("x8") clone.number,
            in("x20") run,
            in("x21") with,
        );
    }
    result
}

/// A system call that leaves `errno` alone.
#[cfg(target_arch = "x86_64")]
pub unsafe fn call(number: c_long, args: [usize; 4]) -> Result<usize, c_int> {
    let result: isize;
    // SAFETY: the caller's; the kernel changes no other registers.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    if result < 0 { Err(-result as c_int) } else { Ok(result as usize) }
}

#[cfg(target_arch = "aarch64")]
pub unsafe fn call(number: c_long, args: [usize; 4]) -> Result<usize, c_int> {
    let result: isize;
    // SAFETY: the caller's; the kernel changes no other registers.
    unsafe {
        std::arch::asm!(
            "svc #0",
            inlateout("x0") args[0] as isize => result,
            in("x1") args[1],
            in("x2") args[2],
            in("x3") args[3],
            in("x8") number,
        );
    }
    if result < 0 { Err(-result as c_int) } else { Ok(result as usize) }
}
