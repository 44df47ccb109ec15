//! A `virtual_server`: what IPVS balances, as a load balancer that the kernel carries.

use std::net::IpAddr;

use super::tree::Statement;
use super::{lost, wrong};
use crate::convert::report::{Fault, Kind, Report};
use crate::convert::setup::{Backend, Balancer, Check, Setup};
use crate::convert::time;

/// Reads one into the setup.
pub(super) fn read(statement: &Statement, setup: &mut Setup, report: &mut Report) -> Result<(), Fault> {
    let [_, ip, port] = &statement.words[..] else {
        let told = "only `virtual_server ADDRESS PORT` is converted: write a load balancer for it (docs/configuration.md)";
        report.note(Kind::Refused, &statement.at, &statement.words, told);
        return Ok(());
    };
    let (ip, port) = end(statement, ip, port)?;
    let mut balancer = Balancer::new(&format!("port-{port}"), &statement.at, &statement.words, port);
    balancer.binds.push(Some(ip));
    balancer.by_kernel = true;
    balancer.check.kind = Some("none");
    for line in statement.inner() {
        match (line.key(), line.value()) {
            ("lb_algo" | "lvs_sched", Some(algorithm)) => policy(line, algorithm, &mut balancer, report),
            ("lb_kind" | "lvs_method", Some("NAT")) => {
                report.note(Kind::Carried, &line.at, &line.words, "mode: kernel, by nftables");
            }
            ("lb_kind" | "lvs_method", Some(_)) => {
                let told = "the kernel translates addresses, and answers come back through this host: servers need not know the virtual address any more";
                report.note(Kind::Changed, &line.at, &line.words, told);
            }
            ("protocol", Some("UDP")) => {
                balancer.udp = true;
                report.note(Kind::Carried, &line.at, &line.words, "type: udp");
            }
            ("protocol", Some("TCP")) => report.note(Kind::Carried, &line.at, &line.words, "type: tcp"),
            ("delay_loop", Some(seconds)) => {
                balancer.check.interval = time::of_seconds(seconds).filter(|millis| *millis > 0);
                report.note(Kind::Carried, &line.at, &line.words, "check.interval");
            }
            ("real_server", _) => server(line, &mut balancer, report)?,
            _ => lost::tell(line, "is not known to vipd's load balancers", report),
        }
    }
    report.note(
        Kind::Changed,
        &statement.at,
        &statement.words,
        "a load balancer with `mode: kernel`: nftables in the place of IPVS",
    );
    setup.balancers.push(balancer);
    Ok(())
}

fn end(statement: &Statement, ip: &str, port: &str) -> Result<(IpAddr, u16), Fault> {
    let parsed = port.parse::<u16>().ok().filter(|port| *port != 0);
    let parsed =
        parsed.ok_or_else(|| wrong(&statement.at, statement.key(), port, "a port from 1 to 65535"))?;
    let ip = ip.parse().map_err(|_| wrong(&statement.at, statement.key(), ip, "an IP address"))?;
    Ok((ip, parsed))
}

fn policy(line: &Statement, algorithm: &str, balancer: &mut Balancer, report: &mut Report) {
    let (policy, kind, told) = match algorithm {
        "rr" => ("roundRobin", Kind::Carried, "policy: roundRobin"),
        "sh" | "mh" => ("sourceHash", Kind::Carried, "policy: sourceHash"),
        _ => (
            "roundRobin",
            Kind::Changed,
            "policy: roundRobin, in turn and without weights, or by source, is what `mode: kernel` has",
        ),
    };
    balancer.policy = Some(policy);
    report.note(kind, &line.at, &line.words, told);
}

fn server(statement: &Statement, balancer: &mut Balancer, report: &mut Report) -> Result<(), Fault> {
    let [_, ip, port] = &statement.words[..] else {
        return Err(Fault::new(
            &statement.at,
            "`real_server` has no address and port",
            "write `real_server 10.0.0.163 6443`",
        ));
    };
    let (ip, port) = end(statement, ip, port)?;
    for line in statement.inner() {
        let kind = match line.key() {
            "TCP_CHECK" => Some("tcp"),
            "SSL_GET" => Some("https"),
            "HTTP_GET" | "SMTP_CHECK" | "DNS_CHECK" | "MISC_CHECK" | "UDP_CHECK" | "PING_CHECK" => None,
            _ => {
                lost::tell(line, "is not known to vipd's load balancers", report);
                continue;
            }
        };
        let (how, told) = match kind {
            Some(kind) => (Kind::Carried, format!("check.type: {kind}")),
            None => (Kind::Changed, "check.type: tcp, whether a connection can be made".to_owned()),
        };
        let Check { kind: own, .. } = &mut balancer.check;
        *own = Some(kind.unwrap_or("tcp"));
        report.note(how, &line.at, &line.words, told);
        for inner in line.inner() {
            lost::tell(inner, "a check's own figures are those of `check` in config.yaml", report);
        }
    }
    report.note(Kind::Carried, &statement.at, &statement.words, "backends");
    balancer.backends.push(Backend {
        name: None,
        host: ip.to_string(),
        port,
        at: statement.at.clone(),
        words: statement.words.clone(),
    });
    Ok(())
}
