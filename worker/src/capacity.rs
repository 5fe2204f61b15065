//! What this host has to give, as far as its cgroup allows.

use bistro_common::protocol::heartbeat::Capacity;

pub fn read() -> Capacity {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").unwrap_or_default();
    Capacity {
        // Knows affinity and cgroup quotas.
        cpu_cores: std::thread::available_parallelism().map_or(0, |n| n.get() as u32),
        ram_mb: ram_mb(&meminfo, &limit),
    }
}

/// From `/proc/meminfo` and the cgroup's `memory.max` (bytes, or `max`). 0: unknown.
fn ram_mb(meminfo: &str, limit: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let total_kb = total.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
    let total_mb: u64 = total_kb.unwrap_or(0u64) / 1_024;
    match limit.trim().parse::<u64>() {
        Ok(bytes) => total_mb.min(bytes >> 20),
        Err(_) => total_mb,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_host_and_cgroup_counts() {
        let meminfo = "MemTotal:       16384000 kB\nMemFree: 1 kB\n";
        assert_eq!(ram_mb(meminfo, "max\n"), 16_000);
        assert_eq!(ram_mb(meminfo, "1073741824\n"), 1_024);
        assert_eq!(ram_mb(meminfo, ""), 16_000);
        assert_eq!(ram_mb("", ""), 0);
    }
}
