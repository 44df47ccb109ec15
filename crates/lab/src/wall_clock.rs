//! Steps of the wall clock: what vipd reads of it is set by an hour, forwards and back, and nothing may come of it.
//!
//! The machine's own clock stays as it is. A small library, compiled here and preloaded into each vipd, shifts what that one process
//! reads of `CLOCK_REALTIME`. So it takes a vipd that is linked dynamically, as cargo builds it; a static one reads on unshifted, and
//! that is noticed: of each step it is shown that it reached the process, by what it read and by the time in front of its log lines.
//!
//! What the kernel counts by itself, the fence and the lifetimes of addresses, counts by no wall clock, and isn't stepped here.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use tokio::process::Command;
use tokio::time::Instant;

use crate::demo::{Console, readable};
use crate::fault::Observation;
use crate::isolation::WORK_DIR;
use crate::lab::Lab;
use crate::network::{NODES, find_program};
use crate::prober::Verdict;
use crate::system::{Pace, Programs, System};

const SOURCE: &str = include_str!("wall_clock.c");
/// By how many seconds each step goes: more than any duration of an election but the longest Lease.
const HOUR: i64 = 3600;
/// Where the clock stands after each step, relative to the machine's: twice on, twice back, once to before the process began.
const SHIFTS: [i64; 4] = [HOUR, 0, -HOUR, 0];
/// The first owner must be there by then, real apiservers included.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long the calm before the first step may take, and how long it has to last.
const CALM: [Duration; 2] = [Duration::from_secs(90), Duration::from_secs(2)];
/// A step has reached the process by then: it has logged a line.
const STEP_PATIENCE: Duration = Duration::from_secs(20);
/// How often it is asked whether it has: nothing tells.
const ASK_INTERVAL: Duration = Duration::from_millis(20);
/// How far a line in the log may be from now: much less than a step.
const LOG_GRAIN: i64 = 600;
/// A client that is answered at all is answered within this time, on a machine that is busy with other things too. An owner that let
/// go and was elected again shows in the addresses, however fast it was.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// Everything an election among peers waits for is over by then: the longest lease of a profile has 2 s.
const PEERS_WATCH: Duration = Duration::from_secs(4);

/// The wall clock of one node's vipd, as its process sees it.
#[derive(Debug)]
struct WallClock(File);

impl WallClock {
    fn create(folder: &Path) -> Result<()> {
        Ok(fs::write(file(folder), [0; 24])?)
    }

    fn open(folder: &Path) -> Result<Self> {
        Ok(Self(File::options().read(true).write(true).open(file(folder))?))
    }

    /// Steps it to so many seconds beside the machine's.
    fn set(&self, shift: i64) -> Result<()> {
        Ok(self.0.write_all_at(&shift.to_ne_bytes(), 0)?)
    }

    fn number(&self, place: u64) -> Result<i64> {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, 8 * place)?;
        Ok(i64::from_ne_bytes(bytes))
    }

    /// By how much what the process read last was shifted.
    fn shown(&self) -> Result<i64> {
        self.number(1)
    }

    /// How often the process has read it.
    fn reads(&self) -> Result<i64> {
        self.number(2)
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("wall-clock")
}

/// What a program's environment has so that it reads the wall clock of this folder, and logs [what is provoked](provoke_line).
pub(crate) fn environment(library: &Path, folder: &Path) -> [(&'static str, String); 3] {
    [
        ("LD_PRELOAD", library.display().to_string()),
        ("LAB_WALL_CLOCK", file(folder).display().to_string()),
        ("VIPD_LOG", "info,vipd::command=debug".to_owned()),
    ]
}

impl Lab {
    /// Gives each vipd that is started from now on a wall clock of its own. It is the one beside this program if none was named on the
    /// command line: `VIPD_BIN` is the released one as a rule, which is static.
    ///
    /// # Errors
    /// If there is no compiler, or no vipd.
    pub async fn give_wall_clocks(&mut self) -> Result<()> {
        let folder = Path::new(WORK_DIR);
        let (source, library) = (folder.join("wall_clock.c"), folder.join("wall_clock.so"));
        fs::write(&source, SOURCE)?;
        let mut compiler = Command::new(find_program("cc", "build-essential")?);
        compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
        let status = compiler.status().await?;
        ensure!(status.success(), "wall_clock.c was not compiled: {status}");
        for node in &self.nodes {
            WallClock::create(node.folder())?;
        }
        if self.plan.programs.vipd.is_none() {
            self.plan.programs.vipd = Some(Programs::built()?);
        }
        self.wall_clocks = Some(library);
        Ok(())
    }

    /// Steps the wall clock of a node's vipd, and waits until its process has seen that; says what it wrote in its log next.
    ///
    /// # Errors
    /// If it doesn't see it.
    pub async fn step_wall_clock(&mut self, place: usize, shift: i64) -> Result<String> {
        let clock = WallClock::open(self.nodes[place].folder())?;
        ensure!(
            clock.reads()? > 0,
            "vipd on {} doesn't read the lab's clock: it is linked statically, or another's",
            NODES[place]
        );
        clock.set(shift)?;
        let deadline = Instant::now() + STEP_PATIENCE;
        let mut ticks = tokio::time::interval(ASK_INTERVAL);
        loop {
            ticks.tick().await;
            provoke_line(&self.nodes[place].vipd_socket());
            let line = self.nodes[place].process("vipd")?.last_words(1);
            let logged = seconds(&line).map(|seconds| seconds - machine_seconds());
            let is_logged = logged.is_some_and(|beside| (beside - shift).abs() < LOG_GRAIN);
            if clock.shown()? == shift && is_logged {
                return Ok(line);
            }
            ensure!(
                Instant::now() < deadline,
                "the step to {shift} s has not reached vipd on {}: it read one of {} s, and its log says {line:?}",
                NODES[place],
                clock.shown()?
            );
        }
    }
}

/// Steps the wall clocks of the owner and then of a follower, and tells what came of each step; true if nothing did.
///
/// # Errors
/// If the lab cannot be brought up, or a step doesn't reach the process.
pub async fn run(lab: &mut Lab, system: System) -> Result<bool> {
    let console = Console;
    lab.give_wall_clocks().await?;
    lab.start_backends().await?;
    lab.start_system(system)?;
    lab.await_owner(START_PATIENCE, |_| true).await?;
    lab.set_probing(true).await?;
    let owner = lab.calm(CALM[1], CALM[0]).await?;
    console.line(format!("{system}: steps of the wall clock by an hour"));
    let watched = system.lease().map_or(PEERS_WATCH, watch_time);
    let mut failed = 0;
    for place in [owner, (owner + 1) % NODES.len()] {
        for shift in SHIFTS {
            let from = Instant::now();
            let line = lab.step_wall_clock(place, shift).await?;
            // What a step does shows within that time, and nothing tells that it did nothing.
            tokio::time::sleep(watched).await;
            let effect = Effect::since(lab, from);
            failed += usize::from(!effect.is_none(owner));
            let at = format!(
                "{} {} {shift:>5} s beside the machine's (its log: {})",
                NODES[place],
                if place == owner { "(owner)" } else { "       " },
                line.get(..19).unwrap_or(&line)
            );
            console.line(format!("{at}: {}", told(&effect, owner)));
        }
    }
    console.line(if failed == 0 { "passed: nothing moved, and nobody was refused" } else { "FAILED" });
    Ok(failed == 0)
}

fn told(effect: &Effect, owner: usize) -> String {
    let seen = &effect.seen;
    format!(
        "{} changes of addresses, {} nodes answered at once, {} requests answered, not {:?}, silence {}{}",
        effect.changes,
        seen.answered_at_once,
        seen.service.good,
        seen.service.failed,
        readable(seen.service.silence),
        if effect.is_none(owner) { "" } else { "  FAILED" }
    )
}

/// What came of a step.
struct Effect {
    seen: Observation,
    /// How often an address came to a node or left it.
    changes: usize,
    /// Requests that the address did not take, or that were answered otherwise. What was taken and answered late, or not in time, is a
    /// busy machine's doing.
    lost: usize,
}

impl Effect {
    fn since(lab: &Lab, from: Instant) -> Self {
        let seen = lab.observe(from);
        let changes =
            lab.ownership.changes().read(|changes| changes.iter().filter(|one| one.at >= from).count());
        let lost = [Verdict::Refused, Verdict::Unreachable, Verdict::ConnectTimeout, Verdict::BadStatus];
        let lost = lost.iter().filter_map(|verdict| seen.service.failed.get(verdict)).sum();
        Self { seen, changes, lost }
    }

    /// The owner had the address all the time, it alone answered for it, and clients were answered.
    fn is_none(&self, owner: usize) -> bool {
        self.changes == 0
            && self.lost == 0
            && self.seen.holders == [owner].into()
            && self.seen.answered_at_once == 1
            && self.seen.service.good > 0
            && self.seen.service.silence < SILENCE_MAX
    }
}

/// Where a Lease elects, every node has counted a whole one meanwhile, and renewed or looked again.
fn watch_time(pace: Pace) -> Duration {
    2 * pace.lease_duration() + pace.retry_period()
}

/// Has vipd log a line, with the time in front: of whoever begins a command and is gone before the answer.
fn provoke_line(status_socket: &Path) {
    let mut path = status_socket.as_os_str().to_owned();
    path.push(".command");
    // Whether a line comes is seen there.
    UnixStream::connect(Path::new(&path)).ok();
}

/// The machine's wall clock, in seconds since 1970.
fn machine_seconds() -> i64 {
    clock_gettime(ClockId::Realtime).tv_sec
}

/// The time at the beginning of a log line, as `2026-11-28T18:53:05.123456Z`, in seconds since 1970.
fn seconds(line: &str) -> Option<i64> {
    let number = |from: usize, to: usize| line.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    // A year that begins in March has its leap day at the end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469;
    Some(((days * 24 + number(11, 13)?) * 60 + number(14, 16)?) * 60 + number(17, 19)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_log_line_is_in_seconds_since_1970() {
        assert_eq!(seconds("1970-01-01T00:00:00.000000Z  INFO"), Some(0));
        assert_eq!(seconds("2024-02-29T12:00:00.5Z TRACE x"), Some(1_709_208_000));
        assert_eq!(seconds("2026-11-28T18:53:05.123456Z  INFO follows"), Some(1_795_891_985));
        assert_eq!(seconds("vipd: something else"), None);
        assert_eq!(seconds(""), None);
    }
}
