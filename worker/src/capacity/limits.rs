//! What the cgroups of this process leave it: its own and all above it count, in the unified
//! hierarchy (v2) and in those of single controllers (v1), which a host may have side by side.

use std::path::{Path, PathBuf};

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    pub cpus: Option<u32>,
}

pub fn of_this_process() -> Limits {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    limits(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
}

fn limits(mountinfo: &str, cgroup: &str) -> Limits {
    let all = |controller, file: &'static str| {
        let above = own_and_above(mountinfo, cgroup, controller);
        above.into_iter().filter_map(move |at| std::fs::read_to_string(at.join(file)).ok())
    };
    // A limit that is no number is "max".
    let bytes = |text: String| text.trim().parse().ok();
    let memory = all(None, "memory.max").filter_map(bytes);
    let memory = memory.chain(all(Some("memory"), "memory.limit_in_bytes").filter_map(bytes));
    let sets = all(None, "cpuset.cpus.effective").chain(all(Some("cpuset"), "cpuset.cpus"));
    Limits { memory: memory.min(), cpus: sets.filter_map(|text| cpu_set(&text)).min() }
}

/// The directories of the process's cgroup and of those above it, as far as they can be seen, in the
/// hierarchy of this controller (v1), or in the unified one.
fn own_and_above(mountinfo: &str, cgroup: &str, controller: Option<&str>) -> Vec<PathBuf> {
    let Some((root, mount)) = mountinfo.lines().find_map(|line| mount_of(line, controller)) else {
        return Vec::new();
    };
    let Some(own) = cgroup.lines().find_map(|line| path_of(line, controller)) else {
        return Vec::new();
    };
    // A mount shows what is below its root. What lies elsewhere is not seen, but the mount's own
    // limit counts in any case.
    let below = Path::new(own).strip_prefix(&root).unwrap_or(Path::new(""));
    let below =
        if below.components().any(|part| part.as_os_str() == "..") { Path::new("") } else { below };
    below.ancestors().map(|at| mount.join(at)).collect()
}

/// Root and place of the mount in a line like `31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup rw`,
/// if it is of this hierarchy.
fn mount_of(line: &str, controller: Option<&str>) -> Option<(PathBuf, PathBuf)> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let mut kind = kind.split(' ');
    let (fs, options) = (kind.next()?, kind.nth(1)?);
    let wanted = match controller {
        None => fs == "cgroup2",
        Some(controller) => fs == "cgroup" && options.split(',').any(|option| option == controller),
    };
    wanted.then(|| Some((unescaped(place.next()?), unescaped(place.next()?))))?
}

/// A space is written in octal there.
fn unescaped(text: &str) -> PathBuf {
    text.replace("\\040", " ").into()
}

/// The path in a line like `4:memory:/a/b` or `0::/a/b`, if it is of this hierarchy.
fn path_of<'a>(line: &'a str, controller: Option<&str>) -> Option<&'a str> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let wanted = match controller {
        None => controllers.is_empty(),
        Some(controller) => controllers.split(',').any(|one| one == controller),
    };
    wanted.then_some(path)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Files below a directory that stands for `/sys/fs/cgroup`.
    fn hierarchy(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn line(root: &str, mount: &Path, kind: &str) -> String {
        format!("31 23 0:28 {root} {} rw,relatime shared:9 - {kind}\n", mount.display())
    }

    #[test]
    fn the_tightest_of_all_cgroups_above_counts() {
        let root = hierarchy(&[
            ("a/memory.max", "2000000\n"),
            ("a/b/memory.max", "max\n"),
            ("a/b/cpuset.cpus.effective", "0-2\n"),
            ("a/cpuset.cpus.effective", "0-7\n"),
            ("other/memory.max", "1\n"),
        ]);
        let mounts = line("/", root.path(), "cgroup2 cgroup2 rw");
        let expected = Limits { memory: Some(2_000_000), cpus: Some(3) };
        assert_eq!(limits(&mounts, "0::/a/b\n"), expected);
        assert_eq!(limits(&mounts, "0::/\n"), Limits::default());
        let namespaced = line("/a", root.path(), "cgroup2 cgroup2 rw");
        assert_eq!(limits(&namespaced, "0::/a/other\n").memory, Some(1));
        assert_eq!(limits(&namespaced, "0::/../../x\n"), Limits::default());
        assert_eq!(limits("", "0::/a/b\n"), Limits::default());
    }

    #[test]
    fn hierarchies_of_single_controllers_count_as_well() {
        let root = hierarchy(&[
            ("memory/limit/memory.limit_in_bytes", "4096\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("cpuset/cpuset.cpus", "0-1\n"),
            ("unified/memory.max", "8192\n"),
        ]);
        let mount = |name: &str, kind: &str| line("/", &root.path().join(name), kind);
        let mounts = mount("memory", "cgroup cgroup rw,memory")
            + &mount("cpuset", "cgroup cgroup rw,cpuset")
            + &mount("unified", "cgroup2 cgroup2 rw");
        let expected = Limits { memory: Some(4_096), cpus: Some(2) };
        assert_eq!(limits(&mounts, "4:memory:/limit\n3:cpuset:/\n0::/\n"), expected);
    }

    #[test]
    fn sets_of_cpus_are_counted() {
        assert_eq!(cpu_set("0-1,2,4,6-8\n"), Some(7));
        assert_eq!(cpu_set("3"), Some(1));
        for wrong in ["", "0-12;17", "3-1", "a", "1,,2", "-1"] {
            assert_eq!(cpu_set(wrong), None, "{wrong}");
        }
    }
}
