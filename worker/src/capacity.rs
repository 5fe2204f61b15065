//! What this host has to give, as far as its cgroup allows.

mod gpus;
mod limits;

use std::path::Path;

use bistro_common::protocol::heartbeat::Capacity;

pub use limits::cpu_set;

/// What is looked at once: asking a driver for its cards can take seconds.
#[derive(Default)]
pub struct Machine {
    gpus: Vec<String>,
    disk_mb: u64,
}

impl Machine {
    /// What is free on the disk now counts for good: it gets less with what tasks write, which they
    /// have slots for already.
    pub fn look(data_dir: &Path) -> Self {
        Self { gpus: gpus::models(), disk_mb: free_mb(data_dir) }
    }

    pub fn capacity(&self) -> Capacity {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let limits = limits::of_this_process();
        Capacity {
            cpu_cores: cores(limits.cpus),
            ram_mb: ram_mb(&meminfo, limits.memory),
            gpus: self.gpus.clone(),
            disk_mb: self.disk_mb,
            // The guard knows.
            isolation: None,
            limits: Vec::new(),
        }
    }
}

/// By affinity, by the cgroup's quota, and by its set of CPUs.
fn cores(in_set: Option<u32>) -> u32 {
    let allowed = std::thread::available_parallelism().map_or(0, |n| n.get() as u32);
    in_set.map_or(allowed, |in_set| in_set.min(allowed))
}

/// From `/proc/meminfo` and the limit in bytes. 0: unknown.
fn ram_mb(meminfo: &str, limit: Option<u64>) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let total_kb = total.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
    let total_mb: u64 = total_kb.unwrap_or(0u64) / 1_024;
    limit.map_or(total_mb, |bytes| total_mb.min(bytes >> 20))
}

/// What whoever is not root may still write there. 0: unknown.
fn free_mb(directory: &Path) -> u64 {
    let free = nix::sys::statvfs::statvfs(directory);
    free.map_or(0, |fs| fs.blocks_available().saturating_mul(fs.fragment_size()) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_host_and_cgroup_counts() {
        let meminfo = "MemTotal:       16384000 kB\nMemFree: 1 kB\n";
        assert_eq!(ram_mb(meminfo, None), 16_000);
        assert_eq!(ram_mb(meminfo, Some(1 << 30)), 1_024);
        assert_eq!(ram_mb(meminfo, Some(u64::MAX)), 16_000);
        assert_eq!(ram_mb("", None), 0);
    }

    #[test]
    fn what_is_free_is_known_where_there_is_a_file_system() {
        let directory = tempfile::tempdir().unwrap();
        assert!(free_mb(directory.path()) > 0);
        assert_eq!(free_mb(&directory.path().join("nothing")), 0);
    }
}
