//! A real Prometheus that scrapes three nodes, with the rules and the dashboard of this repository.
//!
//! They need prometheus and promtool, and a built vipd, beside this test's target folder or named by VIPD_BIN, and fail without.

mod enclosed;
mod hosts;
mod served;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use enclosed::in_a_lab;
use lab::lab::Lab;
use lab::network::{NODES, VIP, node_address};
use lab::process::{Launch, Process};
use serde_json::Value;
use served::{PORT, start};
use tokio::time::Instant;

/// Far longer than anything here takes; a busy machine may take longer than usual.
const PATIENCE: Duration = Duration::from_secs(90);

/// Where Prometheus listens, on the client's loopback.
const PROMETHEUS: u16 = 9090;

/// A folder of the repository.
fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests").join(name)
}

/// Starts one that scrapes every second, so that nobody waits for long.
fn scrape_all(lab: &Lab, rules: &Path) -> Result<Process> {
    let home = lab.nodes[0].folder().join("prometheus");
    std::fs::create_dir_all(&home)?;
    let targets: Vec<String> =
        (0..NODES.len()).map(|place| format!("'{}:{PORT}'", node_address(place))).collect();
    let config = home.join("prometheus.yaml");
    let text = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\nscrape_configs:\n- job_name: vipd\n  static_configs: [{{targets: [{}]}}]\n",
        rules.display(),
        targets.join(", ")
    );
    std::fs::write(&config, text)?;
    let launch = Launch::new(
        "prometheus",
        Path::new("/usr/bin/prometheus"),
        [
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", home.join("data").display()),
            format!("--web.listen-address=127.0.0.1:{PROMETHEUS}"),
        ],
    );
    launch.start(&lab.client.namespace, &home)
}

/// Asks Prometheus something; gives the data of its answer.
fn api(lab: &Lab, path: &str) -> Result<Value> {
    let text = lab.client.namespace.within(|| {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PROMETHEUS))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.0\r\nhost: prometheus\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })?;
    let (head, body) = text.split_once("\r\n\r\n").context("no head of an answer")?;
    let answer: Value = serde_json::from_str(body).with_context(|| format!("{head}\n{body}"))?;
    ensure!(answer["status"] == "success", "{path}: {answer}");
    Ok(answer["data"].clone())
}

/// What a query gives now: one list of labels and value.
fn query(lab: &Lab, expression: &str) -> Result<Vec<Value>> {
    let escaped: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let data = api(lab, &format!("/api/v1/query?query={escaped}"))?;
    Ok(data["result"].as_array().context("a list of samples")?.clone())
}

async fn eventually(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match holds() {
            Ok(true) => return Ok(()),
            outcome if Instant::now() > deadline => {
                outcome?;
                anyhow::bail!("not in {PATIENCE:?}: {what}");
            }
            Ok(false) | Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// All queries of the dashboard, as it would ask them for all jobs.
fn dashboard() -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(folder("grafana").join("vipd.json"))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let panels = dashboard["panels"].as_array().context("it has panels")?;
    let queries = panels.iter().flat_map(|panel| {
        let title = panel["title"].as_str().unwrap_or_default().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets
            .into_iter()
            .filter_map(move |target| Some((title.clone(), target["expr"].as_str()?.to_owned())))
    });
    Ok(queries
        .map(|(title, query)| (title, query.replace("$job", ".+").replace("$__rate_interval", "10s")))
        .collect())
}

#[test]
fn a_real_prometheus_scrapes_alerts_and_fills_the_dashboard() {
    in_a_lab("a_real_prometheus_scrapes_alerts_and_fills_the_dashboard", async |mut lab| {
        // With their waits as short as a test is: what is waited for is not what is tested.
        let rules = std::fs::read_to_string(folder("prometheus").join("rules.yaml"))?;
        let short: Vec<String> = rules
            .lines()
            .map(|line| {
                if line.trim_start().starts_with("for: ") {
                    "    for: 1s".to_owned()
                } else {
                    line.to_owned()
                }
            })
            .collect();
        let path = lab.nodes[0].folder().join("rules.yaml");
        std::fs::write(&path, short.join("\n"))?;
        lab.start_backends().await?;
        for place in 0..NODES.len() {
            start(&mut lab, place)?;
        }
        let owner = lab.await_owner(PATIENCE, |_| true).await?;
        lab.set_probing(true).await?;
        let _prometheus = scrape_all(&lab, &path)?;
        eventually("all nodes are scraped", || Ok(query(&lab, "up == 1")?.len() == NODES.len())).await?;
        let alerting = |lab: &Lab, name: &str| -> Result<bool> {
            Ok(!query(lab, &format!("ALERTS{{alertname=\"{name}\", alertstate=\"firing\"}}"))?.is_empty())
        };
        // Peers of this lab have no keys, which is the one thing that is amiss.
        eventually("the missing signatures are alerted", || alerting(&lab, "VipdPeersUnauthenticated"))
            .await?;
        let others = "ALERTS{alertstate=\"firing\", alertname!~\"VipdPeersUnauthenticated|VipdWokenLate\"}";
        let amiss = query(&lab, others)?;
        ensure!(amiss.is_empty(), "{amiss:?}");

        lab.nodes[owner].process("vipd")?.kill().await?;
        let next = lab.await_owner(PATIENCE, |node| node != owner).await?;
        eventually("the dead node is alerted", || alerting(&lab, "VipdDown")).await?;
        let held =
            format!("vipd_vip_held{{address=\"{VIP}\", instance=\"{}:{PORT}\"}} == 1", node_address(next));
        eventually("the next owner is scraped", || Ok(query(&lab, &held)?.len() == 1)).await?;
        let silent = "sum(vipd_failovers_total{reason=\"silent\"}) >= 1";
        eventually("the failover is counted", || Ok(query(&lab, silent)?.len() == 1)).await?;
        // Every panel has something to show by now, but those that show what didn't happen.
        for (title, expression) in dashboard()? {
            eventually(&format!("{title}: {expression}"), || {
                Ok(!query(&lab, &expression)?.is_empty() || expression.contains("> 0"))
            })
            .await?;
        }
        Ok(())
    });
}

/// Prometheus' own tool finds nothing to complain of, and what the rules mean is what their examples say.
#[test]
fn promtool_takes_the_rules_and_their_examples() {
    for arguments in [["check", "rules", "rules.yaml"], ["test", "rules", "rules.test.yaml"]] {
        let output =
            Command::new("promtool").args(arguments).current_dir(folder("prometheus")).output().unwrap();
        let said =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.success(), "{arguments:?}:\n{said}");
    }
}

/// What the rules and the dashboard ask for is exposed: docs/reference/metrics.md is made of that.
#[test]
fn rules_and_dashboard_ask_for_metrics_that_there_are() {
    let documented = include_str!("../../../docs/reference/metrics.md");
    let rules = std::fs::read_to_string(folder("prometheus").join("rules.yaml")).unwrap();
    let dashboard = std::fs::read_to_string(folder("grafana").join("vipd.json")).unwrap();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = 0;
    for word in rules.split(|c| !is_part(c)).chain(dashboard.split(|c| !is_part(c))) {
        if ["vipd_", "kube_vip_", "process_"].iter().any(|prefix| word.starts_with(prefix)) {
            found += 1;
            let name = word.strip_suffix("_bucket").unwrap_or(word);
            assert!(documented.contains(&format!("`{name}`")), "{word} is no metric of vipd's");
        }
    }
    assert!(found > 40, "{found}");
}
