//! RKE's nginx-proxy on two workers is given to vipd on one after the other, and back, while a client on each asks its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::isolation::WORK_DIR;
use lab::lab::Lab;
use lab::network::{BACKEND_PORT, NODES, find_program, node_address};
use lab::node::Node;
use lab::prober::{Prober, Service, Target, Verdict};
use lab::process::Launch;
use tokio::time::Instant;

use crate::enclosed::in_a_lab;
use crate::guide::{block, carry_out};
use crate::say;

const GUIDE: &str = include_str!("../../../../docs/migrating-from-nginx-proxy.md");
/// Debian's place for what RKE's image has built in.
const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
/// Milliseconds are expected; a loaded machine may take much longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often each client asks.
const INTERVAL: Duration = Duration::from_millis(20);
/// For so long every request is answered, before the next step.
const CALM: Duration = Duration::from_secs(1);
/// The longest silence while one program ends and the other starts: less than a second where the machine has nothing else to do.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// A node that is no control plane, and who asks there.
struct Worker {
    node: Node,
    client: Prober,
}

impl Worker {
    async fn start(lab: &Lab, name: &str, address: Ipv4Addr) -> Result<Self> {
        let host = lab.switch.add_host(name, address).await?;
        let folder = Path::new(WORK_DIR).join(name);
        let inside = folder.join("nginx-proxy/etc/nginx");
        fs::create_dir_all(&inside)?;
        let file = inside.join("nginx.conf");
        fs::write(&file, nginx_conf())?;
        let namespace = Arc::clone(&host.namespace);
        let mut node = Node::new(host, folder);
        let global = format!("daemon off; load_module {STREAM}; pid {};", inside.join("nginx.pid").display());
        let program = find_program("nginx", "nginx-light and libnginx-mod-stream")?;
        let mut launch = Launch::new("nginx-proxy", &program, ["-e", "stderr", "-g", &global, "-c"]);
        launch.args.push(file.into());
        node.run(launch)?;
        let own = SocketAddr::from((Ipv4Addr::LOCALHOST, BACKEND_PORT));
        let target = Target { address: own, tls: lab.pki.client()? };
        let client = Prober::start_paced(namespace, target, INTERVAL).await?;
        Ok(Self { node, client })
    }

    /// Waits until every request has been answered for a while.
    async fn calm(&self) -> Result<()> {
        let began = Instant::now();
        let calm = self.client.attempts().wait_for(began + PATIENCE, |attempts| {
            let since = Instant::now() - CALM;
            let recent = attempts.iter().rev().take_while(|attempt| attempt.ended > since);
            let (mut count, mut good) = (0, 0);
            for attempt in recent {
                count += 1;
                good += usize::from(attempt.verdict == Verdict::Ok);
            }
            (began <= since && count > 0 && good == count).then_some(())
        });
        calm.await.with_context(|| format!("not calm for {CALM:?} within {PATIENCE:?}"))
    }

    fn seen(&self, from: Instant) -> Service {
        Service::between(&self.client.attempts().entries(), from, Instant::now())
    }
}

/// The form that RKE gives the file.
fn nginx_conf() -> String {
    let servers: String = (0..NODES.len())
        .map(|place| format!("    server {}:{BACKEND_PORT};\n", node_address(place)))
        .collect();
    format!(
        "error_log stderr notice;\nworker_processes auto;\nevents {{\n  multi_accept on;\n  use epoll;\n  worker_connections 1024;\n}}\n\
         stream {{\n  upstream kube_apiserver {{\n{servers}  }}\n  server {{\n    listen {BACKEND_PORT};\n    proxy_pass kube_apiserver;\n    \
         proxy_timeout 30;\n    proxy_connect_timeout 2s;\n  }}\n}}\n"
    )
}

/// Carries out a part of the guide on one worker, and looks at what the clients of both saw.
async fn change(workers: &mut [Worker; 2], which: usize, part: &str) -> Result<()> {
    let from = Instant::now();
    for line in block(GUIDE, part)? {
        carry_out(&mut workers[which].node, &line).await?;
    }
    for worker in workers.iter() {
        worker.calm().await?;
    }
    let (own, other) = (workers[which].seen(from), workers[1 - which].seen(from));
    let part = part.trim_start_matches(['#', '\n', ' ']);
    say(&format!(
        "{part}: silent for {} ms there ({:?}), {} ms on the other worker ({:?})",
        own.silence.as_millis(),
        own.failed,
        other.silence.as_millis(),
        other.failed
    ));
    ensure!(own.silence <= SILENCE_MAX, "{part}: silent for {:?}", own.silence);
    ensure!(!other.failed.contains_key(&Verdict::Refused), "the other worker was refused: {other:?}");
    Ok(())
}

fn running(workers: &mut [Worker; 2]) -> [Vec<&'static str>; 2] {
    workers.each_mut().map(|worker| worker.node.running())
}

#[test]
fn it_is_replaced_on_one_worker_after_the_other_and_back_and_nobody_else_notices() {
    let name = "nginx_proxy::it_is_replaced_on_one_worker_after_the_other_and_back_and_nobody_else_notices";
    in_a_lab(name, async |mut lab| {
        lab.start_backends().await?;
        let mut workers = [
            Worker::start(&lab, "worker-1", [10, 0, 0, 21].into()).await?,
            Worker::start(&lab, "worker-2", [10, 0, 0, 22].into()).await?,
        ];
        for worker in &workers {
            worker.calm().await?;
        }
        for which in 0..workers.len() {
            change(&mut workers, which, "\n## The change").await?;
        }
        ensure!(running(&mut workers) == [["vipd"], ["vipd"]], "{:?}", running(&mut workers));

        // What it is there for: a control plane's end.
        let from = Instant::now();
        lab.nodes[0].process("apiserver")?.kill().await?;
        for worker in &workers {
            worker.calm().await?;
            let seen = worker.seen(from);
            say(&format!(
                "an apiserver killed: silent for {} ms ({:?})",
                seen.silence.as_millis(),
                seen.failed
            ));
            ensure!(!seen.failed.contains_key(&Verdict::Refused), "{seen:?}");
        }
        lab.nodes[0].start_again("apiserver")?;
        lab.backend_ready(0).await?;

        for which in 0..workers.len() {
            change(&mut workers, which, "\n## The way back").await?;
        }
        ensure!(running(&mut workers) == [["nginx-proxy"], ["nginx-proxy"]], "{:?}", running(&mut workers));
        Ok(())
    });
}
