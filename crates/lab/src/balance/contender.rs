//! What is compared: who stands between the client and the three servers.

use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::str::FromStr;

use anyhow::Result;

use super::site::{BALANCER, SERVER_PORT, SERVERS};
use crate::network::{FRONTEND_PORT, INTERFACE, find_program, nft};
use crate::process::Launch;
use crate::{namespace::Namespace, system::Programs};

/// One way from the client to the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    /// The client talks to one of the servers itself: the limit.
    Nothing,
    /// Rules of nftables that lead each connection to one of the servers in turn, and nothing else.
    Nft,
    /// Rules that send each packet on to a server by a hash of where it comes from, and remember nothing; the servers take
    /// what comes for the balancer's address, and answer the client themselves.
    Direct,
    /// haproxy in TCP mode, with checks.
    Haproxy,
    /// nginx with its stream module.
    Nginx,
    /// vipd's proxy, with checks and metrics.
    Vipd,
    /// vipd where the kernel leads connections, with checks and metrics.
    VipdKernel,
}

impl Contender {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Nothing, Self::Direct, Self::Nft, Self::Haproxy, Self::Nginx, Self::Vipd, Self::VipdKernel];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Direct => "direct",
            Self::Nft => "nft",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Vipd => "vipd",
            Self::VipdKernel => "vipd-kernel",
        }
    }

    /// Whether one of vipd's ways is measured by it: the proxy by programs that carry bytes themselves.
    pub(super) fn is_peer_of(self, other: Self) -> bool {
        match other {
            Self::Vipd => matches!(self, Self::Haproxy | Self::Nginx),
            Self::VipdKernel => self == Self::Nft,
            Self::Nothing | Self::Direct | Self::Nft | Self::Haproxy | Self::Nginx => false,
        }
    }

    /// Where the client connects.
    pub(super) fn target(self) -> (Ipv4Addr, u16) {
        match self {
            Self::Nothing => (SERVERS[0], SERVER_PORT),
            Self::Direct | Self::Nft | Self::Haproxy | Self::Nginx | Self::Vipd | Self::VipdKernel => {
                (BALANCER, FRONTEND_PORT)
            }
        }
    }

    /// Writes its files, and says how to start it; nothing where the kernel does it.
    ///
    /// # Errors
    /// If its program is missing, or a file can't be written.
    pub(super) fn prepare(self, folder: &Path, programs: &Programs) -> Result<Option<Launch>> {
        Ok(match self {
            Self::Nothing | Self::Direct | Self::Nft => None,
            Self::Haproxy => Some(haproxy(folder)?),
            Self::Nginx => Some(nginx(folder)?),
            Self::Vipd => Some(vipd(folder, programs, "maxConnections: 9000")?),
            Self::VipdKernel => Some(vipd(folder, programs, "mode: kernel")?),
        })
    }

    /// Sets up the kernels of the balancer's host and the servers' for it, or takes that away.
    ///
    /// # Errors
    /// If `nft` is missing or refuses.
    pub(super) async fn set_rules(self, host: &Namespace, servers: &[&Namespace], on: bool) -> Result<()> {
        match self {
            Self::Nft => {
                let rules = if on { dnat() } else { "delete table ip balance\n".to_owned() };
                nft(Some(host), &rules).await
            }
            Self::Direct => {
                let accept = if on { accept() } else { "delete table ip balance\n".to_owned() };
                for server in servers {
                    nft(Some(server), &accept).await?;
                }
                let rules = if on { direct() } else { "delete table netdev balance\n".to_owned() };
                nft(Some(host), &rules).await
            }
            Self::Nothing | Self::Haproxy | Self::Nginx | Self::Vipd | Self::VipdKernel => Ok(()),
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Contender {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|contender| contender.name() == text);
        found.ok_or_else(|| format!("no contender {text}: there is {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// The servers, one to a line.
fn servers(line: impl Fn(usize, Ipv4Addr) -> String) -> String {
    SERVERS.iter().enumerate().map(|(place, address)| line(place, *address)).collect()
}

fn dnat() -> String {
    let map = servers(|place, address| format!("{place} : {address}, "));
    format!(
        "table ip balance {{\n chain in {{\n  type nat hook prerouting priority dstnat;\n  ip daddr {BALANCER} tcp dport \
         {FRONTEND_PORT} dnat to numgen inc mod {} map {{ {map}}} : {SERVER_PORT}\n }}\n chain out {{\n  type nat hook \
         postrouting priority srcnat;\n  masquerade\n }}\n}}\n",
        SERVERS.len()
    )
}

fn direct() -> String {
    let map = servers(|place, address| format!("{place} : {address}, "));
    format!(
        "table netdev balance {{\n chain in {{\n  type filter hook ingress device {INTERFACE} priority 0;\n  ip daddr {BALANCER} \
         tcp dport {FRONTEND_PORT} fwd ip to jhash ip saddr . tcp sport mod {} seed 1 map {{ {map}}} device {INTERFACE}\n }}\n}}\n",
        SERVERS.len()
    )
}

/// What servers do with what was sent on to them; their answers leave with the address that the client wanted.
fn accept() -> String {
    format!(
        "table ip balance {{\n chain in {{\n  type nat hook prerouting priority dstnat;\n  ip daddr {BALANCER} tcp dport \
         {FRONTEND_PORT} redirect to :{SERVER_PORT}\n }}\n}}\n"
    )
}

fn haproxy(folder: &Path) -> Result<Launch> {
    let program = find_program("haproxy", "haproxy")?;
    let file = folder.join("haproxy.cfg");
    let servers = servers(|place, address| format!("    server s{place} {address}:{SERVER_PORT} check\n"));
    // As the project's setup has it, without its log, and with room for all connections.
    let text = format!(
        "global\n    maxconn 9000\n\ndefaults\n    mode tcp\n    option redispatch\n    retries 1\n    timeout queue 20s\n    \
         timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n    timeout check 10s\n\nfrontend api\n    bind \
         *:{FRONTEND_PORT}\n    default_backend api\n\nbackend api\n    balance roundrobin\n{servers}"
    );
    fs::write(&file, text)?;
    let mut launch = Launch::new("haproxy", &program, ["-db", "-f"]);
    launch.args.push(file.into());
    Ok(launch)
}

fn nginx(folder: &Path) -> Result<Launch> {
    let file = folder.join("stream.conf");
    let servers = servers(|_, address| format!("  server {address}:{SERVER_PORT};\n"));
    let text = format!(
        "load_module modules/ngx_stream_module.so;\ndaemon off;\nworker_processes auto;\nworker_rlimit_nofile 20000;\npid {0}/stream.pid;\n\
         error_log {0}/stream-error.log;\nevents {{ worker_connections 16384; }}\nstream {{\n upstream api {{\n{servers} }}\n \
         server {{ listen {FRONTEND_PORT} reuseport; proxy_timeout 1h; proxy_pass api; }}\n}}\n",
        folder.display()
    );
    fs::write(&file, text)?;
    super::site::nginx_launch("nginx", &file)
}

fn vipd(folder: &Path, programs: &Programs, key: &str) -> Result<Launch> {
    let file = folder.join("vipd.yaml");
    let servers = servers(|_, address| format!("  - {{address: {address}, port: {SERVER_PORT}}}\n"));
    let text = format!(
        "node: balancer\nsocket: {}/vipd.sock\nmetrics: \":2112\"\nloadBalancers:\n- name: api\n  type: tcp\n  port: {FRONTEND_PORT}\n  \
         policy: roundRobin\n  {key}\n  backends:\n{servers}",
        folder.display()
    );
    fs::write(&file, text)?;
    let mut launch = Launch::new("vipd", &programs.vipd()?, ["start", "-c"]);
    launch.args.push(file.into());
    Ok(launch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for contender in Contender::ALL {
            assert_eq!(contender.to_string().parse(), Ok(contender));
        }
        assert!(
            "keepalived"
                .parse::<Contender>()
                .unwrap_err()
                .contains("none, direct, nft, haproxy, nginx, vipd, vipd-kernel")
        );
    }

    #[test]
    fn the_rules_name_each_server_once() {
        for rules in [dnat(), direct()] {
            for server in SERVERS {
                assert_eq!(rules.matches(&server.to_string()).count(), 1, "{rules}");
            }
        }
    }
}
