//! A machine that was suspended, as far as one process can be made to believe it: it moves into a time namespace
//! (time_namespaces(7)) whose `CLOCK_BOOTTIME` is an hour ahead, and whose `CLOCK_MONOTONIC` is the same. That is what a resume after an
//! hour looks like. The kernel lets only a process with one thread do so, which those of the usual harness are not.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]
#![expect(clippy::print_stdout, reason = "without the usual harness, it tells by itself")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::time::Duration;

use leader::clock::{asleep, now};
use leader::peers::{Config, Driver};
use leader::{Leadership, NodeId, Timing, quorum};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use vip::State;
use vip::memory::Memory;
use vip::network::Event;

const HOUR: Duration = Duration::from_secs(3600);

/// The longest lease there is: by the clock that sleeps, it would live on.
const LEASE: Duration = Duration::from_secs(60);

/// More than anything here takes but the end of that lease.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    let Some(mut other) = Elsewhere::make() else {
        println!("SKIPPED: a time namespace takes root, and a kernel that has them");
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, an_owner_that_resumes_has_no_lease_before_it_has_asked(&other));
    other.end();
    println!("test an_owner_that_resumes_has_no_lease_before_it_has_asked ... ok");
}

async fn an_owner_that_resumes_has_no_lease_before_it_has_asked(other: &Elsewhere) {
    let began = now();
    let (driver, election, _monitor) = Driver::bind(alone(), 1, 1).await.unwrap();
    spawn_local(driver.run());
    let mut leadership = election.leadership();
    let leader = leadership.wait_for(|it| matches!(it, Leadership::Leader { .. })).await.unwrap().clone();
    let until = leader.lease_end(now()).unwrap();
    assert!(asleep() < Duration::from_secs(1) && until <= now() + LEASE);

    let (memory, events) = Memory::new("eth0", [2, 0, 0, 0, 0, 1]);
    let config = vip::driver::Config {
        interface: "eth0".to_owned(),
        addresses: vec!["10.0.0.162/24".parse().unwrap()],
        relay: false,
        announce: true,
        urgent: || {},
        asleep,
    };
    let (lease, granted) = watch::channel(Some(until));
    let (driver, address) =
        vip::driver::Driver::new(memory.clone(), events, Some(memory.link()), config, granted);
    spawn_local(driver.run());
    let mut state = address.state();
    within(state.wait_for(|state| *state == State::Active)).await;

    other.enter();
    assert!(now() - began >= HOUR && asleep() >= HOUR - Duration::from_secs(1), "{:?}", asleep());
    assert!(asleep() < HOUR + Duration::from_secs(1), "{:?}", asleep());
    // Nobody has to tell: whoever looks at the lease sees that it is over.
    assert_eq!(leadership.borrow().lease_end(now()), None);
    // The first thing that wakes the owner has it let go, whatever that was.
    memory.tell(Event::AddressesChanged).await;
    within(state.wait_for(|state| *state == State::Standby)).await;
    assert!(memory.held().is_empty() && memory.armed().is_none());

    // It leads again by a lease that it has asked for since: of another term.
    let term = |leadership: &Leadership| match leadership {
        Leadership::Leader { term, .. } => Some(*term),
        Leadership::Follower { .. } => None,
    };
    let first = term(&leader);
    let again = within(leadership.wait_for(|it| term(it).is_some_and(|term| Some(term) > first))).await;
    lease.send_replace(again.lease_end(now()));
    drop(again);
    within(state.wait_for(|state| *state == State::Active)).await;
}

async fn within<T>(done: impl Future<Output = Result<T, watch::error::RecvError>>) -> T {
    tokio::time::timeout(PATIENCE, done).await.expect("it takes no time").unwrap()
}

/// A member that needs nobody else's vote.
fn alone() -> Config {
    let me = NodeId::new("a").unwrap();
    Config {
        quorum: quorum::Config {
            witnesses: BTreeSet::new(),
            tie_break: None,
            members: BTreeSet::from([me.clone()]),
            me,
            timing: Timing::new(Duration::from_secs(1), LEASE).unwrap(),
            priority: 100,
            preempt: false,
            preempt_delay: Duration::ZERO,
            start_as_leader: false,
        },
        listen: "127.0.0.1:0".parse().unwrap(),
        peers: BTreeMap::new(),
        subject: None,
        keys: Vec::new(),
        version: "0.1.0".to_owned(),
    }
}

/// A process that keeps a time namespace for this one to move into.
struct Elsewhere {
    namespace: File,
    keeper: Child,
}

impl Elsewhere {
    fn make() -> Option<Self> {
        let own = std::fs::read_link("/proc/self/ns/time").ok()?;
        let boottime = HOUR.as_secs().to_string();
        // The one that waits for the end of its input is there as soon as it says so.
        let mut keeper = Command::new("unshare")
            .args(["--time", "--boottime", &boottime, "--fork", "--kill-child", "sh", "-c", "echo; exec cat"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .ok()?;
        let mut line = [0; 1];
        let said = std::io::Read::read_exact(keeper.stdout.as_mut().unwrap(), &mut line);
        // The child of the process that unshared is the first one inside.
        let namespace = File::open(format!("/proc/{}/ns/time_for_children", keeper.id()));
        let is_other = std::fs::read_link(format!("/proc/{}/ns/time_for_children", keeper.id()));
        match (said, namespace, is_other) {
            (Ok(()), Ok(namespace), Ok(other)) if other != own => Some(Self { namespace, keeper }),
            _ => {
                let _ = keeper.kill();
                let _ = keeper.wait();
                None
            }
        }
    }

    fn enter(&self) {
        move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Time)).unwrap();
    }

    fn end(&mut self) {
        drop(self.keeper.stdin.take());
        self.keeper.wait().unwrap();
    }
}
