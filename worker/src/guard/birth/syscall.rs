//! The system calls of a child that has no `errno`, and the one that makes it.

use nix::libc::{self, c_int, c_long, c_ulonglong, c_void};

// Of the kernel's sched.h, since 5.5 and 5.7.
pub const CLONE_CLEAR_SIGHAND: c_ulonglong = 1 << 32;
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

/// Makes a child that calls `run` on a stack of its own. Returns its pid, or an error number less
/// than zero.
#[cfg(target_arch = "x86_64")]
pub unsafe fn clone_onto<T>(
    args: &CloneArgs,
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
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") std::ptr::from_ref(args).cast::<c_void>(),
            in("rsi") size_of::<CloneArgs>(),
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
    args: &CloneArgs,
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
            inlateout("x0") std::ptr::from_ref(args).cast::<c_void>() => result,
            in("x1") size_of::<CloneArgs>(),
            in("x8") libc::SYS_clone3,
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

/// Elsewhere there are no cgroups for tasks.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub unsafe fn clone_onto<T>(_: &CloneArgs, _: extern "C" fn(*const T) -> !, _: *const T) -> c_long {
    -c_long::from(libc::ENOSYS)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub unsafe fn call(_: c_long, _: [usize; 4]) -> Result<usize, c_int> {
    Err(libc::ENOSYS)
}
