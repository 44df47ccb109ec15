//! Why a balancer could not be started, or not be given another configuration or other backends.

use std::io;
use std::net::SocketAddr;

use crate::config::{Backend, Listen, MAX_BACKENDS};
use crate::redirect;
use crate::roster::Flaw;

/// Why a balancer could not be started: nothing is left bound or running. Or why it could not be given another configuration: the one
/// that it had goes on, whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another socket has the port, possibly one of another instance of this program.
    #[error("failed to listen on {address} for frontend {frontend}: the port is taken; {}", way_out(*.wanted))]
    AddressInUse {
        /// Name of the frontend.
        frontend: String,
        /// The address that is taken.
        address: SocketAddr,
        /// Which addresses the frontend wanted, and how.
        wanted: Wanted,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// An address can't be bound for another reason (a privileged port, an impossible address).
    #[error("failed to listen on {address} for frontend {frontend}")]
    Listen {
        /// Name of the frontend.
        frontend: String,
        /// The address that was wanted.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The port that clients connect to can't be led to the frontend.
    #[error(
        "failed to redirect port {port} of the virtual IP to frontend {frontend} \
         (another port, such as 8443 without `samePort`, needs no redirect)"
    )]
    Redirect {
        /// Name of the frontend.
        frontend: String,
        /// The port that clients connect to.
        port: u16,
        /// What stands in the way.
        #[source]
        source: redirect::Error,
    },
    /// The kernel can't lead connections to the frontend's backends.
    #[error(
        "failed to have the kernel lead port {port} to the backends of frontend {frontend} (`mode: proxy` needs nothing of the kernel)"
    )]
    Forward {
        /// Name of the frontend.
        frontend: String,
        /// The port that clients connect to.
        port: u16,
        /// What stands in the way.
        #[source]
        source: redirect::Error,
    },
    /// The host passes no packets on.
    #[error(
        "failed to have the kernel lead connections to the backends of frontend {frontend}: this host passes no packets on; \
         set {setting}=1 with sysctl, or write `mode: proxy`"
    )]
    NotForwarding {
        /// Name of the frontend.
        frontend: String,
        /// The setting that is 0.
        setting: &'static str,
    },
    /// The process may not connect to backends from its clients' addresses.
    #[error(
        "failed to show backends the clients' own addresses for frontend {frontend} (`transparentSource`): \
         it takes the capability NET_ADMIN or NET_RAW"
    )]
    TransparentSource {
        /// Name of the frontend.
        frontend: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A frontend's settings contradict themselves.
    #[error("failed to set up frontend {frontend}: {reason}")]
    Impossible {
        /// Name of the frontend.
        frontend: String,
        /// What can't be.
        reason: &'static str,
    },
    /// No thread was asked for.
    #[error("failed to start the balancer: it needs at least one worker")]
    NoWorkers,
    /// The number of threads was to be changed, which needs a new balancer.
    #[error("failed to change the number of workers from {running} to {wanted}: that needs a restart")]
    Workers {
        /// How many there are.
        running: usize,
        /// How many were asked for.
        wanted: usize,
    },
    /// The kernel was to lead other connections to backends than before.
    #[error(
        "failed to change where the kernel leads connections to the backends of frontend {frontend}: that needs a restart"
    )]
    OtherForward {
        /// Name of the frontend.
        frontend: String,
    },
    /// The workers can't watch other listeners.
    #[error("failed to have other listeners watched")]
    Watch {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel leads a frontend's connections by tables that belong to this process.
    #[error(
        "failed to hand the listeners over: where the kernel leads connections for frontend {frontend} (`samePort`, `mode: kernel`) belongs to this process; \
         restart it"
    )]
    Tied {
        /// Name of the frontend.
        frontend: String,
    },
    /// The listeners can't be duplicated.
    #[error("failed to duplicate the listeners")]
    Share {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The balancer drains, or is gone.
    #[error("failed to change the configuration: the balancer ends")]
    Ending,
    /// The CA of a check can't be used.
    #[error("failed to read the check's CA certificates for frontend {frontend}: {reason}")]
    Ca {
        /// Name of the frontend.
        frontend: String,
        /// What is wrong with them.
        reason: String,
    },
    /// A thread or its runtime could not be made.
    #[error("failed to start thread {name}")]
    Thread {
        /// Name of the thread.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Sorts a failure to bind.
    pub(crate) fn listen(frontend: &str, listen: &Listen, address: SocketAddr, source: io::Error) -> Self {
        let frontend = frontend.to_owned();
        if source.kind() == io::ErrorKind::AddrInUse {
            let wanted = match listen {
                Listen::Any { .. } | Listen::Forwarded(_) | Listen::Nowhere => Wanted::All,
                Listen::Addresses { .. } => Wanted::Some,
                Listen::Redirected { .. } => Wanted::Redirected,
            };
            Self::AddressInUse { frontend, address, wanted, source }
        } else {
            Self::Listen { frontend, address, source }
        }
    }
}

/// Why a frontend was not given other backends. It keeps those it has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetBackendsError {
    /// The balancer has no frontend of this name.
    #[error("failed to set the backends of frontend {frontend}: there is no such frontend")]
    NoSuchFrontend {
        /// The name that was given.
        frontend: String,
    },
    /// There are more than [`MAX_BACKENDS`].
    #[error(
        "failed to set the backends of frontend {frontend}: {count} are too many, it can have {MAX_BACKENDS}; \
         it keeps those it has"
    )]
    TooMany {
        /// Name of the frontend.
        frontend: String,
        /// How many were given.
        count: usize,
    },
    /// Two backends have the same address, so they are one.
    #[error(
        "failed to set the backends of frontend {frontend}: {address} (backend {backend}) is there twice; \
         it keeps those it has"
    )]
    Twice {
        /// Name of the frontend.
        frontend: String,
        /// The address.
        address: SocketAddr,
        /// Name of the second one.
        backend: String,
    },
}

impl SetBackendsError {
    /// Says what is wrong with `count` backends for a frontend.
    pub(crate) fn new(frontend: &str, count: usize, flaw: Flaw) -> Self {
        let frontend = frontend.to_owned();
        match flaw {
            Flaw::TooMany => Self::TooMany { frontend, count },
            Flaw::Twice(Backend { name, address, .. }) => Self::Twice { frontend, address, backend: name },
        }
    }
}

/// Which addresses a frontend wanted to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Every address of the host.
    All,
    /// Some of them, at the port that clients connect to.
    Some,
    /// Some of them, at a port that the clients' port is redirected to.
    Redirected,
}

/// What an operator can do about a taken port.
fn way_out(wanted: Wanted) -> &'static str {
    match wanted {
        Wanted::All => {
            "give the frontend another port, or stop the process that has it (ss -ltnp shows which); \
             a kube-apiserver beside it usually has 6443: with `samePort: true` both can have it"
        }
        Wanted::Some => {
            "give the frontend another port, or stop the process that has it (ss -ltnp shows which); \
             a listener on every address, as a kube-apiserver has on *:6443, takes the port of the virtual IP too: \
             with `samePort: true` both can have it"
        }
        Wanted::Redirected => {
            "give the frontend another `listenPort`, or stop the process that has it (ss -ltnp shows which)"
        }
    }
}
