//! One network namespace, and how to do things in it.

use std::fmt;
use std::fs;
use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use std::net::IpAddr;
use tokio_util::task::AbortOnDropHandle;

use crate::sys;

const THREAD_NETWORK: &str = "/proc/thread-self/ns/net";

/// A network namespace, held open by its file descriptor.
pub struct Namespace {
    name: String,
    fd: OwnedFd,
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Namespace").field(&self.name).finish()
    }
}

impl Namespace {
    /// Makes a namespace and gives it a name under the enclosure's `/run/netns`, where `ip netns` finds it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn create(name: &str) -> Result<Arc<Self>> {
        let path = PathBuf::from("/run/netns").join(name);
        let fd = thread::scope(|scope| {
            let made = scope.spawn(|| -> Result<OwnedFd> {
                sys::unshare(UnshareFlags::NEWNET)?;
                // Addresses are usable at once; duplicate address detection would take a second.
                fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")?;
                fs::write(&path, "")?;
                mount_bind(THREAD_NETWORK, &path)?;
                Ok(fs::File::open(THREAD_NETWORK)?.into())
            });
            made.join().expect("the closure does not panic")
        });
        let fd = fd.with_context(|| format!("failed to make network namespace {name}"))?;
        Ok(Arc::new(Self { name: name.to_owned(), fd }))
    }

    /// Takes its name away, which another may then have. The namespace goes with the last that is in it or has it open.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn unname(&self) -> Result<()> {
        let path = PathBuf::from("/run/netns").join(&self.name);
        unmount(&path, UnmountFlags::empty())?;
        Ok(fs::remove_file(&path)?)
    }

    /// The namespace that the calling thread is in.
    ///
    /// # Errors
    /// If /proc is not mounted.
    pub fn current(name: &str) -> Result<Arc<Self>> {
        let fd = fs::File::open(THREAD_NETWORK)?.into();
        Ok(Arc::new(Self { name: name.to_owned(), fd }))
    }

    /// Its name in the lab.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Moves the calling thread into this namespace, for good.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("failed to enter network namespace {}", self.name))
    }

    /// Does something short on a thread inside: what it opens or starts there stays in this namespace.
    ///
    /// The caller's runtime is entered, so that sockets register with it.
    ///
    /// # Errors
    /// What the closure returns, or the kernel's refusal to enter.
    pub fn within<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let runtime = tokio::runtime::Handle::try_current().ok();
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                self.enter()?;
                let _entered = runtime.as_ref().map(tokio::runtime::Handle::enter);
                action()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a future to its end on a thread and a runtime inside.
    ///
    /// # Errors
    /// What the future returns, or the kernel's refusal to enter.
    pub async fn run<T, F>(self: &Arc<Self>, make: impl FnOnce() -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>>,
    {
        let (answer, result) = tokio::sync::oneshot::channel();
        let namespace = Arc::clone(self);
        let inside = move || {
            namespace.enter()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(make())
        };
        // The thread ends with the future, whose end is awaited below.
        thread::Builder::new().name(self.name.clone()).spawn(move || answer.send(inside()).ok())?;
        result.await.context("the thread in the namespace ended without an answer")?
    }

    /// Opens a netlink connection to this namespace, driven by the caller's runtime.
    ///
    /// # Errors
    /// The kernel's.
    pub fn netlink(&self) -> Result<Netlink> {
        let (connection, handle, _) = self.within(|| Ok(rtnetlink::new_connection()?))?;
        Ok(Netlink { handle, _driver: AbortOnDropHandle::new(tokio::spawn(connection)) })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A netlink connection to one namespace.
#[derive(Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
    _driver: AbortOnDropHandle<()>,
}

impl Netlink {
    /// The requests of rtnetlink.
    pub fn handle(&self) -> &rtnetlink::Handle {
        &self.handle
    }

    /// The kernel's number of an interface.
    ///
    /// # Errors
    /// If there is none of this name.
    pub async fn index_of(&self, interface: &str) -> Result<u32> {
        let mut links = self.handle.link().get().match_name(interface).execute();
        let link = links.try_next().await.with_context(|| format!("failed to look up {interface}"))?;
        Ok(link.with_context(|| format!("there is no interface {interface}"))?.header.index)
    }

    /// Adds an address, usable at once.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> Result<()> {
        let mut request = self.handle.address().add(index, address, prefix);
        if address.is_ipv6() {
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.with_context(|| format!("failed to add {address}"))
    }

    /// Removes an address, with whatever prefix it has; false if it was not there.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn remove_address(&self, address: IpAddr) -> Result<bool> {
        let mut found = self.handle.address().get().set_address_filter(address).execute();
        let mut removed = false;
        while let Some(message) = found.try_next().await? {
            match self.handle.address().del(message).execute().await {
                Ok(()) => removed = true,
                // Someone else was faster.
                Err(rtnetlink::Error::NetlinkError(error))
                    if error.raw_code() == -rustix::io::Errno::ADDRNOTAVAIL.raw_os_error() => {}
                Err(error) => return Err(error).with_context(|| format!("failed to remove {address}")),
            }
        }
        Ok(removed)
    }
}
