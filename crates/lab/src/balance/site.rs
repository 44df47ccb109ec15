//! Five hosts on the lab's switch: a client, one for the balancer, and three with an nginx as server.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use super::contender::Contender;
use crate::isolation::{Enclosure, WORK_DIR};
use crate::network::{CLIENT, Host, Switch, find_program};
use crate::process::{Launch, Process};
use crate::system::Programs;

/// Where the balancers run.
pub(super) const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 20);
/// Where the servers run.
pub(super) const SERVERS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 0, 0, 31), Ipv4Addr::new(10, 0, 0, 32), Ipv4Addr::new(10, 0, 0, 33)];
/// Where they listen.
pub(super) const SERVER_PORT: u16 = 8080;
/// Bytes of the file that stands for bulk.
pub(super) const BULK_BYTES: usize = 16 * 1024 * 1024;
/// What answers by then has started.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is tried.
const ASK_INTERVAL: Duration = Duration::from_millis(20);

/// The hosts, and what runs on them.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) client: Host,
    pub(super) balancer: Host,
    pub(super) folder: PathBuf,
    servers: Vec<(Host, Process)>,
}

impl Site {
    /// Plugs the hosts in and starts the servers.
    pub(super) async fn build(_proof: &Enclosure, switch: &Switch) -> Result<Self> {
        let folder = PathBuf::from(WORK_DIR);
        let client = switch.add_host(CLIENT, [10, 0, 0, 10].into()).await?;
        let balancer = switch.add_host("balancer", BALANCER).await?;
        fs::write(folder.join("bulk"), vec![b'x'; BULK_BYTES])?;
        let mut servers = Vec::new();
        for (place, address) in SERVERS.into_iter().enumerate() {
            let name = format!("server-{}", place + 1);
            let host = switch.add_host(&name, address).await?;
            let home = folder.join(&name);
            fs::create_dir_all(&home)?;
            let process = server(&home, &folder)?.start(&host.namespace, &home)?;
            servers.push((host, process));
        }
        for host in [&client, &balancer].into_iter().chain(servers.iter().map(|(host, _)| host)) {
            // A connection a tenth of a millisecond needs more ports than the usual 28 000 in the minute that each rests.
            host.namespace.within(|| {
                fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65000")?;
                // Else whoever comes after another finds none, and what is measured is how the kernel looks for one.
                fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1")?;
                Ok(fs::write("/proc/sys/net/ipv4/ip_forward", "1")?)
            })?;
        }
        let site = Self { client, balancer, folder, servers };
        site.answers(Contender::Nothing.target()).await.context("the servers do not answer")?;
        Ok(site)
    }

    /// Ends all of it.
    pub(super) async fn end(self, switch: &Switch) -> Result<()> {
        for (host, mut server) in self.servers {
            server.stop().await?;
            switch.remove_host(host).await?;
        }
        switch.remove_host(self.client).await?;
        switch.remove_host(self.balancer).await
    }

    /// Starts a contender, and waits until the client is served through it.
    pub(super) async fn start(&self, contender: Contender, programs: &Programs) -> Result<Option<Process>> {
        let launch = contender.prepare(&self.folder, programs)?;
        self.set_rules(contender, true).await?;
        let process =
            launch.map(|launch| launch.start(&self.balancer.namespace, &self.folder)).transpose()?;
        self.answers(contender.target()).await.with_context(|| {
            let words = process.as_ref().map(|process| process.last_words(5)).unwrap_or_default();
            format!("{contender} does not answer: {words}")
        })?;
        Ok(process)
    }

    /// Ends it.
    pub(super) async fn stop(&self, contender: Contender, process: Option<Process>) -> Result<()> {
        if let Some(mut process) = process {
            process.stop().await?;
        }
        self.set_rules(contender, false).await
    }

    async fn set_rules(&self, contender: Contender, on: bool) -> Result<()> {
        let servers: Vec<_> = self.servers.iter().map(|(host, _)| &*host.namespace).collect();
        contender.set_rules(&self.balancer.namespace, &servers, on).await
    }

    async fn answers(&self, target: (Ipv4Addr, u16)) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.client.namespace.within(|| super::load::ask_once(target));
            match answer {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(ASK_INTERVAL).await,
            }
        }
    }
}

fn server(home: &Path, root: &Path) -> Result<Launch> {
    let file = home.join("nginx.conf");
    let text = format!(
        "daemon off;\nworker_processes 1;\nworker_rlimit_nofile 20000;\npid {0}/nginx.pid;\nerror_log {0}/error.log;\n\
         events {{ worker_connections 16384; }}\nhttp {{\n access_log off;\n sendfile on;\n keepalive_timeout 1h;\n \
         keepalive_requests 1000000000;\n server {{\n  listen {SERVER_PORT};\n  root {1};\n  location = /small {{ return 200 \"{2}\"; }}\n }}\n}}\n",
        home.display(),
        root.display(),
        "x".repeat(200)
    );
    fs::write(&file, text)?;
    nginx_launch("server", &file)
}

/// How to start an nginx with this file alone.
pub(super) fn nginx_launch(name: &'static str, file: &Path) -> Result<Launch> {
    let program = find_program("nginx", "nginx-light")?;
    let mut launch = Launch::new(name, &program, ["-p", "/usr/share/nginx", "-e", "stderr", "-c"]);
    launch.args.push(file.into());
    Ok(launch)
}
