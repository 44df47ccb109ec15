//! The hosts of a soak and what runs there: a client, vipd, and five backends, each a process that can be ended and started again.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tokio::process::ChildStderr;

use super::kind::Scale;
use crate::isolation::{Enclosure, WORK_DIR};
use crate::network::{CLIENT, FRONTEND_PORT, Host, Switch};
use crate::pki::Pki;
use crate::process::{Launch, Process};
use crate::system::Programs;

/// Where vipd runs.
pub(super) const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 20);
/// Where clients connect.
pub(super) const TARGET: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(BALANCER), FRONTEND_PORT);
/// Where vipd's metrics are.
pub(super) const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(BALANCER), 2112);
/// How many backends there are.
pub(super) const BACKENDS: usize = 5;
const BACKEND_PORT: u16 = 8080;
/// What is done at once by then is done.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a backend listens.
pub(super) fn address(place: usize) -> SocketAddr {
    let last = u8::try_from(31 + place).unwrap_or(u8::MAX);
    SocketAddr::from(([10, 0, 0, last], BACKEND_PORT))
}

/// The hosts.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) client: Host,
    pub(super) balancer: Host,
    pub(super) folder: PathBuf,
    program: PathBuf,
    launches: Vec<Launch>,
    hosts: Vec<Host>,
    servers: Vec<Option<Process>>,
    _switch: Switch,
}

impl Site {
    /// Builds the network; nothing runs yet.
    ///
    /// # Errors
    /// The kernel's, or if vipd or this program is not found.
    pub(super) async fn build(_proof: &Enclosure, programs: &Programs, seed: u64) -> Result<Self> {
        let folder = PathBuf::from(WORK_DIR);
        let pki = Pki::create(&folder.join("pki"))?;
        let switch = Switch::create().await?;
        let client = switch.add_host(CLIENT, [10, 0, 0, 10].into()).await?;
        let balancer = switch.add_host("balancer", BALANCER).await?;
        let (mut hosts, mut launches) = (Vec::new(), Vec::new());
        let own = std::env::current_exe()?;
        for place in 0..BACKENDS {
            let name = format!("server-{}", place + 1);
            let SocketAddr::V4(address) = address(place) else { continue };
            hosts.push(switch.add_host(&name, *address.ip()).await?);
            fs::create_dir_all(folder.join(&name))?;
            let args: [(&str, String); 5] = [
                ("--listen", address.to_string()),
                ("--name", name),
                ("--certificates", pki.folder().display().to_string()),
                ("--ledger", ledger(&folder).display().to_string()),
                ("--seed", seed.to_string()),
            ];
            let args = args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
            launches.push(Launch::new("server", &own, ["soak-backend".to_owned()].into_iter().chain(args)));
        }
        client.namespace.within(|| Ok(fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65000")?))?;
        let servers = (0..BACKENDS).map(|_| None).collect();
        // A file of its own: with pages that others share, the share of this one would change as they come and go.
        let program = folder.join("vipd");
        fs::copy(programs.vipd()?, &program).context("failed to copy vipd")?;
        Ok(Self { client, balancer, folder, program, launches, hosts, servers, _switch: switch })
    }

    /// Starts a backend that does not run.
    ///
    /// # Errors
    /// If it can't be started.
    pub(super) fn start(&mut self, place: usize) -> Result<()> {
        let home = self.folder.join(format!("server-{}", place + 1));
        self.servers[place] = Some(self.launches[place].start(&self.hosts[place].namespace, &home)?);
        Ok(())
    }

    /// Sends a backend a signal.
    ///
    /// # Errors
    /// If it does not run.
    pub(super) fn signal(&self, place: usize, signal: Signal) -> Result<()> {
        self.servers[place].as_ref().context("the backend does not run")?.signal(signal)
    }

    /// Waits until a backend has ended.
    ///
    /// # Errors
    /// If it does not.
    pub(super) async fn ended(&mut self, place: usize) -> Result<()> {
        let mut server = self.servers[place].take().context("the backend does not run")?;
        tokio::time::timeout(PATIENCE, server.ended()).await.context("a backend does not end")??;
        Ok(())
    }

    /// Writes vipd's file: with these backends.
    ///
    /// # Errors
    /// If it can't be written.
    pub(super) fn configure(&self, scale: &Scale, listed: &[bool]) -> Result<()> {
        let backends = (0..BACKENDS).filter(|place| listed[*place]).map(|place| {
            let address = address(place);
            format!("  - {{address: {}, port: {}}}\n", address.ip(), address.port())
        });
        let text = format!(
            "node: balancer\nsocket: {}\nmetrics: \":{}\"\nloadBalancers:\n- name: soak\n  type: tcp\n  port: {FRONTEND_PORT}\n  \
             accessLog: true\n  idleTimeout: {}ms\n  check: {{type: https, interval: 500ms, timeout: 5s, rise: 1, fall: 2}}\n  \
             backends:\n{}",
            self.socket().display(),
            METRICS.port(),
            scale.idle.as_millis(),
            backends.collect::<String>()
        );
        Ok(fs::write(self.config(), text)?)
    }

    /// Starts vipd; its log is to be read from what is returned.
    ///
    /// # Errors
    /// If it can't be started.
    pub(super) fn start_vipd(&self) -> Result<(Process, ChildStderr)> {
        let mut launch = Launch::new("vipd", &self.program, ["start", "--log-format", "json", "-c"]);
        launch.args.push(self.config().into());
        launch.start_heard(&self.balancer.namespace, &self.folder)
    }

    /// Gives a command of vipd's: `vipd ARGS --socket SOCKET`.
    ///
    /// # Errors
    /// If it fails, or does not end.
    pub(super) async fn command(&self, args: &[&str]) -> Result<()> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(args).arg("--socket").arg(self.socket()).kill_on_drop(true);
        let done = tokio::time::timeout(PATIENCE, command.output()).await;
        let output = done.with_context(|| format!("vipd {args:?} does not end"))??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "vipd {args:?}: {}: {said}", output.status);
        Ok(())
    }

    fn config(&self) -> PathBuf {
        self.folder.join("vipd.yaml")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("vipd.sock")
    }
}

/// Where backends tell of their streams.
pub(super) fn ledger(folder: &Path) -> PathBuf {
    folder.join("ledger.sock")
}
