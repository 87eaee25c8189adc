//! The memory of this process, and how much of it there could be, as Linux tells it.

use nix::unistd::{SysconfVar, sysconf};
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// Where the hierarchy of cgroups, version 2, is mounted by convention.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What is resident of this process, in bytes (`proc_pid_statm(5)`). Files that are mapped, such as the program, count.
pub fn resident_bytes() -> Option<u64> {
    let pages = pages_of(&read_to_string("/proc/self/statm").ok()?)?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    pages.checked_mul(u64::try_from(page).ok()?)
}

/// The second number of `/proc/self/statm`.
fn pages_of(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The most memory that this process could have: the least limit of its cgroup and of those above it, else all that
/// the machine has.
pub fn available_bytes() -> Option<u64> {
    let machine = read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| total_of(&text));
    let group = read_to_string("/proc/self/cgroup").ok();
    let group = group.and_then(|text| least_limit(Path::new(CGROUPS), group_of(&text)?));
    [machine, group].into_iter().flatten().min()
}

/// `MemTotal` of `/proc/meminfo`, which says `kB` and means 1024 bytes.
fn total_of(meminfo: &str) -> Option<u64> {
    let total = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// The path of the cgroup, version 2, in `/proc/self/cgroup` (cgroups(7)).
fn group_of(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The least `memory.max` from that cgroup up.
fn least_limit(mount: &Path, group: &str) -> Option<u64> {
    let own: PathBuf = mount.join(group.trim_start_matches('/'));
    let groups = own
        .ancestors()
        .take_while(|folder| folder.starts_with(mount));
    let limit = |folder: &Path| {
        let text = read_to_string(folder.join("memory.max")).ok()?;
        // `max` is no limit
        text.trim().parse::<u64>().ok()
    };
    groups.filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_not_more_than_there_is() {
        let (resident, available) = (resident_bytes().unwrap(), available_bytes().unwrap());
        assert!(resident > 1 << 20 && resident < available);
    }

    #[test]
    fn what_linux_says_is_understood() {
        assert_eq!(pages_of("1000 250 90 5 0 300 0\n"), Some(250));
        assert_eq!(pages_of(""), None);
        let meminfo = "MemTotal:        2048 kB\nMemFree:  7 kB\n";
        assert_eq!(total_of(meminfo), Some(2 << 20));
        assert_eq!(total_of("MemFree: 7 kB\n"), None);
        assert_eq!(group_of("1:cpu:/x\n0::/a/b\n"), Some("/a/b"));
        assert_eq!(group_of("4:memory:/x\n"), None);
    }

    #[test]
    fn the_least_limit_of_the_groups_above_counts() {
        let mount = tempfile::tempdir().unwrap();
        let inner = mount.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        assert_eq!(least_limit(mount.path(), "/a/b"), None);
        std::fs::write(inner.join("memory.max"), "max\n").unwrap();
        std::fs::write(mount.path().join("a/memory.max"), "5000\n").unwrap();
        assert_eq!(least_limit(mount.path(), "/a/b"), Some(5000));
        std::fs::write(inner.join("memory.max"), "4000\n").unwrap();
        assert_eq!(least_limit(mount.path(), "/a/b"), Some(4000));
        // in a namespace of its own a process is at the root
        std::fs::write(mount.path().join("memory.max"), "3000\n").unwrap();
        assert_eq!(least_limit(mount.path(), "/"), Some(3000));
    }
}
