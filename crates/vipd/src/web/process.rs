//! What the kernel says about this process, read from /proc.

use std::fs;

/// This process at one moment, under the names that Prometheus' own libraries use.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// When it started, in seconds since 1970.
    pub(super) start_seconds: Option<f64>,
    /// Time on a processor, in seconds.
    pub(super) cpu_seconds: Option<f64>,
    /// Memory that is in RAM, in bytes.
    pub(super) resident_bytes: Option<u64>,
    /// Open descriptors.
    pub(super) open_files: Option<u64>,
    /// The most there may be.
    pub(super) max_files: Option<u64>,
}

impl Process {
    /// Reads everything once; what can't be read is left out.
    pub(super) fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").ok();
        let stat = stat.as_deref().and_then(parse_stat);
        let boot = fs::read_to_string("/proc/stat").ok().as_deref().and_then(parse_boot);
        let ticks_per_second = as_f64(rustix::param::clock_ticks_per_second());
        let seconds = |ticks: u64| as_f64(ticks) / ticks_per_second;
        let page = u64::try_from(rustix::param::page_size()).ok();
        Self {
            start_seconds: stat
                .as_ref()
                .zip(boot)
                .map(|(stat, boot)| as_f64(boot) + seconds(stat.start_ticks)),
            cpu_seconds: stat.as_ref().map(|stat| seconds(stat.cpu_ticks)),
            resident_bytes: stat
                .as_ref()
                .zip(page)
                .map(|(stat, page)| stat.resident_pages.saturating_mul(page)),
            // One of them is the folder that is being read.
            open_files: fs::read_dir("/proc/self/fd")
                .ok()
                .map(|files| (files.count() as u64).saturating_sub(1)),
            max_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        }
    }
}

/// The fields of /proc/PID/stat that are told on.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    resident_pages: u64,
}

/// Fields are counted from the state, the third in proc(5): the name before it may hold anything, spaces and brackets too.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let (user, system) = (field(14)?, field(15)?);
    Some(Stat { cpu_ticks: user.saturating_add(system), start_ticks: field(22)?, resident_pages: field(24)? })
}

/// When the machine was started, in seconds since 1970, from /proc/stat.
fn parse_boot(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// Exact up to 2^53, which no second, tick or byte count here comes near.
pub(super) fn as_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let text = "7 (a) b (c)) S 1 7 7 0 -1 4194560 9 8 7 6 150 50 3 2 20 0 5 0 1234 99 4321 18446744073709551615 1";
        assert_eq!(parse_stat(text), Some(Stat { cpu_ticks: 200, start_ticks: 1234, resident_pages: 4321 }));
        assert_eq!(parse_stat("7 (vipd) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn the_time_of_boot_has_a_line_of_its_own() {
        assert_eq!(parse_boot("cpu 1 2 3\nbtime 1700000000\nprocesses 5\n"), Some(1_700_000_000));
        assert_eq!(parse_boot("cpu 1 2 3\n"), None);
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let process = Process::read();
        assert!(process.resident_bytes.unwrap() > 100_000, "{process:?}");
        assert!(process.open_files.unwrap() >= 3, "{process:?}");
        assert!(process.max_files.unwrap() >= process.open_files.unwrap(), "{process:?}");
        assert!(process.start_seconds.unwrap() > 1_600_000_000.0, "{process:?}");
    }
}
