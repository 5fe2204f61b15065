//! What this host has to give, as far as its cgroup allows.

use std::path::Path;

use bistro_common::protocol::heartbeat::Capacity;

pub fn read() -> Capacity {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").unwrap_or_default();
    Capacity {
        cpu_cores: cores(),
        ram_mb: ram_mb(&meminfo, &limit),
        gpus: gpus(Path::new("/proc/driver/nvidia/gpus")),
        // The guard knows.
        isolation: None,
        limits: Vec::new(),
    }
}

/// By affinity, by the cgroup's quota, and by its set of CPUs.
fn cores() -> u32 {
    let allowed = std::thread::available_parallelism().map_or(0, |n| n.get() as u32);
    let set = std::fs::read_to_string("/sys/fs/cgroup/cpuset.cpus.effective");
    match set.ok().and_then(|text| cpu_set(&text)) {
        Some(in_set) => in_set.min(allowed),
        None => allowed,
    }
}

/// How many CPUs a list like `0-1,4` has. `None`: it is no such list, or an empty one.
pub fn cpu_set(text: &str) -> Option<u32> {
    let count = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    text.trim().split(',').try_fold(0u32, |sum, part| sum.checked_add(count(part)?))
}

/// The driver has a directory per card, with its model among other things.
fn gpus(directory: &Path) -> Vec<String> {
    let Ok(cards) = std::fs::read_dir(directory) else {
        // No driver, no cards.
        return Vec::new();
    };
    let files = cards.flatten().map(|card| card.path().join("information"));
    let texts = files.filter_map(|file| std::fs::read_to_string(file).ok());
    let mut models: Vec<String> =
        texts.filter_map(|text| model(&text).map(str::to_owned)).collect();
    models.sort_unstable();
    models
}

fn model(information: &str) -> Option<&str> {
    information.lines().find_map(|line| line.strip_prefix("Model:")).map(str::trim)
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

    #[test]
    fn sets_of_cpus_are_counted() {
        assert_eq!(cpu_set("0-1,2,4,6-8\n"), Some(7));
        assert_eq!(cpu_set("3"), Some(1));
        for wrong in ["", "0-12;17", "3-1", "a", "1,,2", "-1"] {
            assert_eq!(cpu_set(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn each_card_of_the_driver_is_a_gpu() {
        let directory = tempfile::tempdir().unwrap();
        for (card, text) in
            [("0000:01:00.0", "Model: \t A100\nIRQ: 3\n"), ("0000:02:00.0", "Model: T4\n")]
        {
            let card = directory.path().join(card);
            std::fs::create_dir(&card).unwrap();
            std::fs::write(card.join("information"), text).unwrap();
        }
        assert_eq!(gpus(directory.path()), ["A100", "T4"]);
        assert_eq!(gpus(&directory.path().join("nothing")), [""; 0]);
    }
}
