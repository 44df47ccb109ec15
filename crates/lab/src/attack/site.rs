//! What is done to a node itself: its interface, its kernel's messages, its disk.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rtnetlink::LinkUnspec;
use rustix::mount::{MountFlags, mount_remount};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::lab::Lab;
use crate::network::{Host, INTERFACE, PREFIX6};
use crate::process::Process;

/// Between two changes of an interface's name, and two times that vipd is blind.
const STEP: Duration = Duration::from_millis(700);
/// What it's called meanwhile.
const OTHER_NAME: &str = "renamed0";
/// An address that comes and goes.
const PASSING: Ipv4Addr = Ipv4Addr::new(127, 9, 9, 9);
/// So long vipd reads nothing: less than half a lease.
const BLIND: Duration = Duration::from_millis(50);
const LOOPBACK: u32 = 1;

/// Gives an interface these MTUs, one after the other for so long, and in the end Ethernet's.
pub(super) async fn resize(host: &Host, sizes: &[u32], each: Duration) -> Result<()> {
    const ETHERNET: u32 = 1500;
    for size in sizes.iter().copied().chain([ETHERNET]) {
        set(host, LinkUnspec::new_with_index(host.interface).mtu(size))
            .await
            .with_context(|| format!("MTU {size}"))?;
        tokio::time::sleep(each).await;
    }
    own_address6(host).await
}

/// Gives an interface another name, for which it must be down, and its own one again.
pub(super) async fn rename(host: &Host) -> Result<()> {
    for name in [OTHER_NAME, INTERFACE] {
        let link = || LinkUnspec::new_with_index(host.interface);
        set(host, link().down()).await?;
        set(host, link().name(name.to_owned())).await?;
        set(host, link().up()).await?;
        tokio::time::sleep(STEP).await;
    }
    own_address6(host).await
}

async fn set(host: &Host, change: rtnetlink::LinkMessageBuilder<LinkUnspec>) -> Result<()> {
    Ok(host.netlink.handle().link().set(change.build()).execute().await?)
}

/// The kernel takes IPv6 addresses off an interface that is down, or too small for IPv6.
async fn own_address6(host: &Host) -> Result<()> {
    let address = host.address6().into();
    host.netlink.remove_address(address).await?;
    host.netlink.add_address(host.interface, address, PREFIX6).await
}

/// Has addresses of the loopback come and go, again and again, while vipd can't read what the kernel tells of them: its buffer overruns.
pub(super) fn storm(lab: &mut Lab, place: usize) -> Result<Storm> {
    let node = &mut lab.nodes[place];
    let netlink = node.host.namespace.netlink()?;
    let freeze = Freeze::of(node.process("vipd")?)?;
    let notices = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&notices);
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            freeze.set(true)?;
            let until = Instant::now() + BLIND;
            while Instant::now() < until {
                let mut request = netlink.handle().address().add(LOOPBACK, PASSING.into(), 32);
                let address = request.message_mut().clone();
                request.execute().await?;
                netlink.handle().address().del(address).execute().await?;
                told.fetch_add(2, Ordering::Relaxed);
            }
            freeze.set(false)?;
            tokio::time::sleep(STEP).await;
        }
    }));
    Ok(Storm { task, notices })
}

/// A storm of notices, which goes on until it's dropped.
pub(super) struct Storm {
    task: AbortOnDropHandle<Result<Infallible>>,
    notices: Arc<AtomicU64>,
}

impl Storm {
    /// Ends it; how many notices there were at least.
    ///
    /// # Errors
    /// If it had ended by itself.
    pub(super) async fn stop(self) -> Result<u64> {
        if self.task.is_finished() {
            match self.task.await? {
                Ok(never) => match never {},
                Err(error) => return Err(error.context("the kernel's notices")),
            }
        }
        Ok(self.notices.load(Ordering::Relaxed))
    }
}

/// A process that is frozen at times, and never for longer than this lives.
struct Freeze(Pid);

impl Freeze {
    fn of(process: &Process) -> Result<Self> {
        let pid = process.pid().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        pid.map(Self).context("vipd runs")
    }

    fn set(&self, frozen: bool) -> Result<()> {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        Ok(kill_process_group(self.0, signal)?)
    }
}

impl Drop for Freeze {
    fn drop(&mut self) {
        self.set(false).ok();
    }
}

/// Leaves no room on the disk that sockets, logs and everything else of the lab are on, or gives it back.
pub(super) fn fill(full: bool) -> Result<()> {
    // A size below what is used is refused; with this, nothing more fits.
    let used = {
        let state = rustix::fs::statvfs("/run")?;
        (state.f_blocks - state.f_bfree) * state.f_frsize
    };
    let size = if full { format!("size={used}") } else { "size=50%".to_owned() };
    mount_remount("/run", MountFlags::empty(), size.as_str()).context("/run can't be given a size")
}
