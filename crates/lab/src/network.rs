//! The lab's plan, and its switch with five cables.
//!
//! ```text
//!    master-1 .163   master-2 .164   master-3 .165     client .10    onlooker .11
//!        │ ens3          │ ens3          │ ens3           │ ens3          │ ens3
//!   ┌────┴───────────────┴───────────────┴────────────────┴───────────────┴────┐
//!   │ bridge `switch` in the lab's own namespace, its ports named like hosts   │  10.0.0.0/24, fd00::/64, VIP .162
//!   └──────────────────────────────────────────────────────────────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute};
use rtnetlink::{LinkBridge, LinkUnspec, LinkVeth};
use tokio::io::AsyncWriteExt as _;

use crate::arp::Mac;
use crate::delay::{Relay, Slowness};
use crate::namespace::{Namespace, Netlink};
use crate::sys;

/// The names of the nodes: the control plane of the lab.
pub const NODES: [&str; 3] = ["master-1", "master-2", "master-3"];
/// The name of the host that makes the requests.
pub const CLIENT: &str = "client";
/// The name of the host that asks by ARP who answers for the virtual IP.
pub const ONLOOKER: &str = "onlooker";
/// The interface of every host.
pub const INTERFACE: &str = "ens3";
/// The virtual IP.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 162);
/// The virtual IPv6 address that moves with it.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x162);
/// The prefix length of the lab's IPv4 network.
pub const PREFIX: u8 = 24;
/// The prefix length of the lab's IPv6 network.
pub const PREFIX6: u8 = 64;
/// Where clients connect.
pub const FRONTEND_PORT: u16 = 8443;
/// Where the apiservers listen.
pub const BACKEND_PORT: u16 = 6443;

const BRIDGE: &str = "switch";

/// Where clients connect, as a socket address.
pub const FRONTEND: SocketAddr = SocketAddr::new(IpAddr::V4(VIP), FRONTEND_PORT);

/// The virtual addresses.
pub fn virtual_addresses() -> [IpAddr; 2] {
    [VIP.into(), VIP6.into()]
}

/// The IPv4 address of a node by its place in [`NODES`].
pub fn node_address(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 163 + u8::try_from(node).expect("there are three nodes"))
}

/// The place of a node in [`NODES`].
///
/// # Errors
/// If there is no such node.
pub fn node_named(name: &str) -> Result<usize> {
    let place = NODES.iter().position(|node| *node == name);
    place.with_context(|| format!("there is no node {name}: the nodes are {}", NODES.join(", ")))
}

/// A machine of the lab: a namespace with one interface on the switch.
#[derive(Debug)]
pub struct Host {
    /// Its network namespace.
    pub namespace: Arc<Namespace>,
    /// A netlink connection to it.
    pub netlink: Netlink,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// The kernel's number of its interface.
    pub interface: u32,
    /// Its Ethernet address: 02:00 and the IPv4 address.
    pub mac: Mac,
}

impl Host {
    /// Its IPv6 address: the last octet of the IPv4 address, written with the same digits.
    pub fn address6(&self) -> Ipv6Addr {
        let digits = u16::from_str_radix(&self.address.octets()[3].to_string(), 16);
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, digits.expect("decimal digits are hexadecimal digits"))
    }

    /// The Ethernet address that it sends to for an address on the segment, if it knows one.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn neighbour(&self, address: IpAddr) -> Result<Option<Mac>> {
        let wanted = match address {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        };
        let handle = self.netlink.handle();
        let mut entries = handle.neighbours().get().execute();
        while let Some(entry) = entries.try_next().await? {
            let is_it = |attribute: &NeighbourAttribute| {
                let NeighbourAttribute::Destination(destination) = attribute else { return false };
                *destination == wanted
            };
            if entry.attributes.iter().any(is_it) {
                return Ok(entry.attributes.iter().find_map(|attribute| {
                    let NeighbourAttribute::LinkLayerAddress(mac) = attribute else { return None };
                    mac.as_slice().try_into().ok()
                }));
            }
        }
        Ok(None)
    }
}

/// The switch.
#[derive(Debug)]
pub struct Switch {
    netlink: Netlink,
    bridge: u32,
    /// Directed pairs of hosts (from, to) whose frames are dropped.
    cut: BTreeSet<(String, String)>,
    /// Hosts whose frames are lost by chance, and how many of a hundred, each way.
    lossy: BTreeMap<String, u8>,
    /// Hosts whose cables are slow.
    slow: BTreeMap<String, Relay>,
}

impl Switch {
    /// Makes the switch in the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn create() -> Result<Self> {
        let netlink = Namespace::current(BRIDGE)?.netlink()?;
        netlink.handle().link().set(LinkUnspec::new_with_index(1).up().build()).execute().await?;
        let bridge = LinkBridge::new(BRIDGE).build();
        netlink.handle().link().add(bridge).execute().await.context("failed to make the bridge")?;
        let bridge = netlink.index_of(BRIDGE).await?;
        Ok(Self { netlink, bridge, cut: BTreeSet::new(), lossy: BTreeMap::new(), slow: BTreeMap::new() })
    }

    /// Makes a host and plugs it in.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn add_host(&self, name: &str, address: Ipv4Addr) -> Result<Host> {
        let namespace = Namespace::create(name)?;
        let links = self.netlink.handle().link();
        links.add(LinkVeth::new(name, INTERFACE).build()).execute().await?;
        let fd = sys::number(&namespace);
        self.set(LinkUnspec::new_with_name(INTERFACE).setns_by_fd(fd).build()).await?;
        self.set(LinkUnspec::new_with_name(name).controller(self.bridge).up().build()).await?;

        let netlink = namespace.netlink()?;
        let interface = netlink.index_of(INTERFACE).await?;
        let [a, b, c, d] = address.octets();
        let mac = [2, 0, a, b, c, d];
        let inside = netlink.handle();
        inside.link().set(LinkUnspec::new_with_index(1).up().build()).execute().await?;
        let up = LinkUnspec::new_with_index(interface).address(mac.to_vec()).up().build();
        inside.link().set(up).execute().await?;
        let host = Host { namespace, netlink, address, interface, mac };
        host.netlink.add_address(interface, address.into(), PREFIX).await?;
        host.netlink.add_address(interface, host.address6().into(), PREFIX6).await?;
        Ok(host)
    }

    /// Unplugs a host and ends it. What still runs on it is there until it ends, without a network.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn remove_host(&self, host: Host) -> Result<()> {
        let name = host.namespace.name();
        let port = self.netlink.index_of(name).await?;
        self.netlink.handle().link().del(port).execute().await.context("failed to unplug a host")?;
        host.namespace.unname()
    }

    /// Switches the port of a host on or off; the host sees its carrier come or go.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn set_link(&self, host: &str, up: bool) -> Result<()> {
        let port = LinkUnspec::new_with_name(host);
        self.set(if up { port.up() } else { port.down() }.build()).await
    }

    /// Takes the port of a host out of the bridge, or puts it back; the host keeps its carrier and notices nothing.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn set_plugged(&self, host: &str, plugged: bool) -> Result<()> {
        let bridge = if plugged { self.bridge } else { 0 };
        let port = if self.slow.contains_key(host) { slow_port(host) } else { host.to_owned() };
        self.set(LinkUnspec::new_with_name(&port).controller(bridge).build()).await
    }

    /// Makes the cable of a host slow, from now on; the host keeps its carrier.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn delay(&mut self, host: &str, slowness: Slowness) -> Result<()> {
        ensure!(!self.slow.contains_key(host), "the cable of {host} is slow already");
        let (far, port) = (format!("{host}.far"), slow_port(host));
        self.netlink.handle().link().add(LinkVeth::new(&far, &port).build()).execute().await?;
        self.set(LinkUnspec::new_with_name(&far).up().build()).await?;
        let sides = [self.netlink.index_of(host).await?, self.netlink.index_of(&far).await?];
        // Nothing passes both ways at once: the relay takes over from the bridge.
        self.set(LinkUnspec::new_with_name(host).controller(0).build()).await?;
        self.slow.insert(host.to_owned(), Relay::start(sides, slowness, fastrand::u64(..))?);
        self.set(LinkUnspec::new_with_name(&port).controller(self.bridge).up().build()).await
    }

    /// Makes all cables as fast as they were.
    async fn hasten(&mut self) -> Result<()> {
        while let Some((host, relay)) = self.slow.pop_first() {
            drop(relay);
            let port = self.netlink.index_of(&slow_port(&host)).await?;
            self.netlink.handle().link().del(port).execute().await?;
            self.set_plugged(&host, true).await?;
        }
        Ok(())
    }

    /// Drops, from now on, every frame that enters from one host and would leave to another.
    ///
    /// # Errors
    /// If `nft` is missing or refuses.
    pub async fn cut(&mut self, pairs: impl IntoIterator<Item = (String, String)>) -> Result<()> {
        self.cut.extend(pairs);
        self.apply_cuts().await
    }

    /// Loses, from now on, so many in a hundred of the frames from a host, and of those to it.
    ///
    /// # Errors
    /// If `nft` is missing or refuses.
    pub async fn lose(&mut self, host: &str, percent: u8) -> Result<()> {
        self.lossy.insert(host.to_owned(), percent);
        self.apply_cuts().await
    }

    /// Lets all frames through again, as fast as ever.
    ///
    /// # Errors
    /// If `nft` is missing or refuses.
    pub async fn heal(&mut self) -> Result<()> {
        self.cut.clear();
        self.lossy.clear();
        self.hasten().await?;
        self.apply_cuts().await
    }

    async fn apply_cuts(&self) -> Result<()> {
        let mut rules = String::from(
            "table bridge lab\ndelete table bridge lab\ntable bridge lab {\n chain forward {\n  \
             type filter hook forward priority 0; policy accept;\n",
        );
        for (from, to) in &self.cut {
            rules += &format!("  iifname {} oifname {} drop\n", ports(from), ports(to));
        }
        for (host, percent) in &self.lossy {
            for way in ["iifname", "oifname"] {
                rules += &format!("  {way} {} numgen random mod 100 < {percent} drop\n", ports(host));
            }
        }
        rules += " }\n}\n";
        // The switch stands in the enclosure's own namespace.
        nft(None, &rules).await
    }

    async fn set(&self, message: rtnetlink::packet_route::link::LinkMessage) -> Result<()> {
        let done = self.netlink.handle().link().set(message).execute().await;
        done.context("failed to change a port of the switch")
    }
}

/// The port of a host whose cable is slow.
fn slow_port(host: &str) -> String {
    format!("{host}.sw")
}

/// Both ports that a host may have, for nftables.
fn ports(host: &str) -> String {
    format!("{{ \"{host}\", \"{}\" }}", slow_port(host))
}

/// Has `nft` carry out these commands in a namespace, or in this thread's own.
///
/// # Errors
/// If it is missing or refuses.
pub async fn nft(namespace: Option<&Namespace>, commands: &str) -> Result<()> {
    let mut nft = tokio::process::Command::new("nft");
    nft.args(["-f", "-"]).stdin(std::process::Stdio::piped());
    let mut start = || Ok(nft.spawn()?);
    let started = match namespace {
        Some(namespace) => namespace.within(start),
        None => start(),
    };
    let mut nft = started.context("failed to run nft (Debian package nftables)")?;
    let mut stdin = nft.stdin.take().expect("it is piped");
    stdin.write_all(commands.as_bytes()).await?;
    drop(stdin);
    let status = nft.wait().await?;
    ensure!(status.success(), "nft refused the rules: {status}");
    Ok(())
}

/// Finds a program in PATH.
///
/// # Errors
/// If it is not there; the message names the Debian package.
pub fn find_program(name: &str, package: &str) -> Result<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(std::path::PathBuf::from);
    for folder in std::env::split_paths(&path).chain(system) {
        let program = folder.join(name);
        if program.is_file() {
            return Ok(program);
        }
    }
    bail!("{name} is not installed (Debian package {package})")
}
