//! A frontend and its backend, as a load balancer for each port.

use std::collections::BTreeMap;

use super::Global;
use super::bind::Bind;
use super::server::Server;
use super::settings::Settings;
use super::words::Line;
use crate::convert::report::{Kind, Report};
use crate::convert::setup::{Backend, Balancer, Check, Idle, Said, Setup};
use crate::convert::time;

/// Shorter silence than this would cut watches and `kubectl logs -f`, in milliseconds: an apiserver ends a watch after five to ten
/// minutes.
const IDLE_MIN: u64 = 300_000;

/// The shortest interval of vipd's checks, in milliseconds.
const INTERVAL_MIN: u64 = 50;

/// More connections than a host has ports and files for.
const CONNECTIONS_MAX: u64 = 10_000_000;

/// Makes a load balancer of each port of a frontend.
pub(super) fn convert(
    head: &Line,
    frontend: &Settings,
    backend: &Settings,
    global: &Global,
    (setup, report): (&mut Setup, &mut Report),
) {
    let mut ports: BTreeMap<u16, Vec<&Bind>> = BTreeMap::new();
    for bind in &frontend.binds {
        ports.entry(bind.port).or_default().push(bind);
    }
    if ports.is_empty() {
        report.note(Kind::Refused, &head.at, &head.words, "it has no port that vipd could listen on");
        return;
    }
    if let Some(said) = &frontend.default_backend {
        report.note(
            Kind::Carried,
            &said.at,
            &said.words,
            "its servers are the backends of this load balancer",
        );
    }
    let several = ports.len() > 1;
    for (port, binds) in ports {
        let name = head.word(1);
        let name = if several { format!("{name}-{port}") } else { name.to_owned() };
        let mut balancer = Balancer::new(&name, &head.at, &head.words, port);
        balancer.binds = binds.iter().map(|bind| bind.ip).collect();
        balancer.accepts_proxy = binds.iter().any(|bind| bind.accepts_proxy);
        for bind in binds {
            report.note(Kind::Carried, &bind.at, &bind.words, format!("port: {port}"));
        }
        report.note(Kind::Carried, &head.at, &head.words, format!("loadBalancers: {name}"));
        servers(backend, &mut balancer, report);
        balancer.check = check(backend, report);
        balancer.policy = policy(backend.balance.as_ref(), report);
        timeouts(frontend, backend, &mut balancer, report);
        limits(frontend, global, &mut balancer, report);
        balancer.access_log = logs(frontend, report);
        for http in [&frontend.http, &backend.http].into_iter().flatten() {
            let told = "type: tcp: HTTP passes through untouched, one backend for each connection";
            report.note(Kind::Changed, &http.at, &http.words, told);
        }
        if balancer.backends.is_empty() {
            report.note(Kind::Refused, &head.at, &head.words, "it has no server that vipd could lead to");
        } else {
            setup.balancers.push(balancer);
        }
    }
}

fn servers(backend: &Settings, balancer: &mut Balancer, report: &mut Report) {
    let first = backend.servers.first().map(|server| &server.options);
    balancer.proxy_protocol = first.and_then(|options| options.proxy);
    balancer.slow_start = first.and_then(|options| options.slow_start);
    for Server { name, host, port, options, at, words } in &backend.servers {
        if options.tls {
            let told = "haproxy makes TLS of its own to this server; vipd passes bytes, so clients must speak TLS with it themselves";
            report.note(Kind::Refused, at, words, told);
            continue;
        }
        if options.unused {
            report.note(
                Kind::Changed,
                at,
                words,
                "out of use, so not listed: `vipd backend drain` does that to one that is",
            );
            continue;
        }
        let port = port.unwrap_or(balancer.port);
        if balancer.backends.iter().any(|other| other.host == *host && other.port == port) {
            report.note(Kind::Changed, at, words, "listed once");
            continue;
        }
        let same = first.is_none_or(|first| {
            (first.proxy, first.slow_start, first.interval, first.rise, first.fall)
                == (options.proxy, options.slow_start, options.interval, options.rise, options.fall)
        });
        let told = if same {
            "backends"
        } else {
            "backends; what its checks and its connections begin with is that of the first server"
        };
        report.note(if same { Kind::Carried } else { Kind::Changed }, at, words, told);
        let name = Some(name.clone()).filter(|name| !name.is_empty());
        let (at, words) = (at.clone(), words.clone());
        balancer.backends.push(Backend { name, host: host.clone(), port, at, words });
    }
}

/// What servers are asked, and how often.
fn check(backend: &Settings, report: &mut Report) -> Check {
    let mut check = Check::default();
    let options = backend.servers.first().map(|server| server.options.clone()).unwrap_or_default();
    let any = backend.servers.iter().any(|server| server.options.check);
    if !any {
        for server in &backend.servers {
            report.note(Kind::Carried, &server.at, &server.words, "without `check`: check.type: none");
        }
        check.kind = Some("none");
        return check;
    }
    let tls = backend.tls.is_some() || options.check_tls;
    match &backend.asks {
        Some(asks) if tls => {
            let path = asks.value.as_deref().filter(|path| is_path(path));
            match path {
                Some("/healthz") => {
                    let told = "check.path: /readyz, vipd's own: /healthz is deprecated, and says nothing of an apiserver that is about to end";
                    report.note(Kind::Changed, &asks.at, &asks.words, told);
                }
                None => report.note(Kind::Changed, &asks.at, &asks.words, "check.path: /readyz, vipd's own"),
                Some(path) => {
                    check.path = Some(path.to_owned());
                    report.note(Kind::Carried, &asks.at, &asks.words, format!("check.path: {path}"));
                }
            }
            check.kind = Some("https");
        }
        Some(asks) => {
            let told = "vipd asks by HTTPS alone; here, whether a connection can be made: check.type: tcp";
            report.note(Kind::Changed, &asks.at, &asks.words, told);
            check.kind = Some("tcp");
        }
        None if backend.talks => check.kind = Some("tcp"),
        // As vipd does by itself: /readyz where TLS is spoken, else the connection.
        None => {
            if let Some(server) = backend.servers.iter().find(|server| server.options.check) {
                let told = "a connection was enough; vipd asks for /readyz, too, where TLS is spoken (check.type: auto)";
                report.note(Kind::Changed, &server.at, &["check".to_owned()], told);
            }
        }
    }
    if let Some(tls) = &backend.tls {
        report.note(Kind::Carried, &tls.at, &tls.words, "checks speak TLS");
    }
    check.interval = options.interval.map(|millis| millis.max(INTERVAL_MIN));
    (check.rise, check.fall) = (options.rise, options.fall);
    if let Some(timeout) = backend.timeouts.get("check").filter(|timeout| timeout.value > 0) {
        check.timeout = Some(timeout.value);
        report.note(
            Kind::Carried,
            &timeout.at,
            &timeout.words,
            format!("check.timeout: {}", time::text(timeout.value)),
        );
    }
    check
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic())
}

fn policy(balance: Option<&Said<String>>, report: &mut Report) -> Option<&'static str> {
    let said = balance?;
    let name = said.value.split('(').next().unwrap_or_default();
    let (policy, kind, told) = match name {
        "roundrobin" | "static-rr" => (Some("roundRobin"), Kind::Carried, "policy: roundRobin"),
        "leastconn" => (Some("leastConnections"), Kind::Carried, "policy: leastConnections"),
        "random" => (
            Some("leastConnections"),
            Kind::Carried,
            "policy: leastConnections, the less loaded of two chosen at random",
        ),
        "source" => (Some("sourceHash"), Kind::Carried, "policy: sourceHash"),
        _ => (
            None,
            Kind::Changed,
            "vipd chooses by load, in turn or by source: left at policy: leastConnections",
        ),
    };
    report.note(kind, &said.at, &said.words, told);
    policy
}

fn timeouts(frontend: &Settings, backend: &Settings, balancer: &mut Balancer, report: &mut Report) {
    if let Some(connect) = backend.timeouts.get("connect").filter(|connect| connect.value > 0) {
        balancer.connect = Some(connect.value);
        report.note(
            Kind::Carried,
            &connect.at,
            &connect.words,
            format!("connectTimeout: {}", time::text(connect.value)),
        );
    }
    let silent = [(frontend, "client"), (backend, "server")];
    let mut silent: Vec<&Said<u64>> =
        silent.iter().filter_map(|(settings, name)| settings.timeouts.get(name)).collect();
    if let Some(tunnel) = backend.timeouts.get("tunnel") {
        for said in &silent {
            report.note(
                Kind::Lost,
                &said.at,
                &said.words,
                "`timeout tunnel` counts once both sides have spoken",
            );
        }
        silent = vec![tunnel];
    }
    let Some(longest) = silent.iter().map(|said| said.value).max() else { return };
    // Zero is for ever.
    let ever = silent.iter().any(|said| said.value == 0);
    let (kind, told) = match (ever, longest) {
        (true, _) => {
            balancer.idle = Some(Idle::Ever);
            (Kind::Carried, "idleTimeout: none".to_owned())
        }
        (false, millis) if millis < IDLE_MIN => {
            let told = format!(
                "{} of silence would cut watches and `kubectl logs -f`: left at idleTimeout: 1h",
                time::text(millis)
            );
            (Kind::Changed, told)
        }
        (false, millis) => {
            balancer.idle = Some(Idle::For(millis));
            (Kind::Carried, format!("idleTimeout: {}", time::text(millis)))
        }
    };
    for said in silent {
        report.note(kind, &said.at, &said.words, told.clone());
    }
}

fn limits(frontend: &Settings, global: &Global, balancer: &mut Balancer, report: &mut Report) {
    let taken = frontend.maxconn.as_ref().or(global.maxconn.as_ref());
    let Some(said) = taken.filter(|said| (1..=CONNECTIONS_MAX).contains(&said.value)) else {
        if let Some(said) = taken {
            report.note(
                Kind::Changed,
                &said.at,
                &said.words,
                "as many connections as the limit of open files lets be",
            );
        }
        return;
    };
    balancer.max_connections = Some(said.value);
    let own = frontend.maxconn.is_some();
    let told = if own { "maxConnections" } else { "maxConnections of each load balancer" };
    report.note(if own { Kind::Carried } else { Kind::Changed }, &said.at, &said.words, told);
}

/// Whether each connection is logged: where something says so and something says where to.
fn logs(frontend: &Settings, report: &mut Report) -> bool {
    let Some(said) = &frontend.logs else { return false };
    let log = frontend.log.is_some();
    let (kind, told) = if log {
        (Kind::Carried, "accessLog: true")
    } else {
        (Kind::Lost, "without a `log` line here nothing was logged; accessLog: true does")
    };
    report.note(kind, &said.at, &said.words, told);
    log
}
