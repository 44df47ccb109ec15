//! How backends are judged, and this host's own apiserver.

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::file::{self, CheckKind, File};
use crate::config::reader::Reader;
use crate::config::source::Step;

/// The path that tells an apiserver's readiness.
const READY_PATH: &str = "/readyz";

pub(super) fn check(reader: &mut Reader<'_>, path: &[Step], check: Option<&file::Check>) -> lb::Check {
    let nothing = file::Check::default();
    let check = check.unwrap_or(&nothing);
    let at = |key: &'static str| [path, &[Step::Key(key)]].concat();
    let ca = authority(reader, &at("caFile"), check.ca_file.as_deref());
    let ready_path = ready_path(reader, &at("path"), check.path.as_deref());
    let kind = match check.kind {
        None | Some(CheckKind::Auto) => lb::CheckKind::Auto { path: ready_path, ca },
        Some(CheckKind::Https) => lb::CheckKind::Https { path: ready_path, ca },
        Some(CheckKind::Tcp) => lb::CheckKind::Tcp,
        Some(CheckKind::None) => lb::CheckKind::None,
    };
    if matches!(check.kind, Some(CheckKind::Tcp | CheckKind::None)) {
        for (key, present) in [("path", check.path.is_some()), ("caFile", check.ca_file.is_some())] {
            if present {
                reader.warn(
                    &at(key),
                    format!("`{key}` has no effect on this type of check"),
                    "write `type: https`, or remove the key",
                );
            }
        }
    }
    let pace = Pace {
        interval: check.interval.as_deref(),
        timeout: check.timeout.as_deref(),
        rise: check.rise,
        fall: check.fall,
    };
    pace.apply(reader, path, kind)
}

/// The check of this host's own apiserver: a frontend that listens nowhere.
pub(super) fn health_check(reader: &mut Reader<'_>, file: &File) -> Option<lb::Config> {
    let check = file.health_check.as_ref()?;
    let at = |key: &'static str| [Step::Key("healthCheck"), Step::Key(key)];
    if file.load_balancers.as_ref().is_some_and(|listed| !listed.is_empty()) {
        reader.warn(
            &["healthCheck".into()],
            "`healthCheck` has no effect beside `loadBalancers`: the VIP follows the balancer's own checks",
            "remove the key",
        );
        return None;
    }
    let ip = reader.ip(&at("address"), &check.address);
    let port = reader.port(&at("port"), check.port);
    let ca = authority(reader, &at("caFile"), check.ca_file.as_deref());
    let path = ready_path(reader, &at("path"), check.path.as_deref());
    let pace = Pace {
        interval: check.interval.as_deref(),
        timeout: check.timeout.as_deref(),
        rise: check.rise,
        fall: check.fall,
    };
    let check = pace.apply(reader, &["healthCheck".into()], lb::CheckKind::Https { path, ca });
    let frontend = lb::Frontend {
        name: "health check".to_owned(),
        listen: lb::Listen::Nowhere,
        backends: vec![lb::Backend {
            name: "apiserver".to_owned(),
            address: SocketAddr::new(ip?, port?),
            cordoned: false,
        }],
        policy: lb::Policy::RoundRobin,
        slow_start: None,
        check,
        timeouts: lb::Timeouts::default(),
        limits: lb::Limits::default(),
        virtual_ips: Vec::new(),
        rebalance: None,
        proxies: Vec::new(),
        transparent_source: Vec::new(),
        proxy_protocol: None,
        access_log: false,
    };
    Some(lb::Config { frontends: vec![frontend], workers: 1 })
}

/// How often a check runs and how many answers in a row count.
struct Pace<'a> {
    interval: Option<&'a str>,
    timeout: Option<&'a str>,
    rise: Option<u32>,
    fall: Option<u32>,
}

impl Pace<'_> {
    fn apply(self, reader: &mut Reader<'_>, path: &[Step], kind: lb::CheckKind) -> lb::Check {
        let at = |key: &'static str| [path, &[Step::Key(key)]].concat();
        let default = lb::Check::default();
        let interval = reader.duration(&at("interval"), self.interval, default.interval);
        let timeout = reader.duration(&at("timeout"), self.timeout, default.timeout);
        // Faster checks than this cost an apiserver more than they tell: a closed connection is seen at once anyway.
        const INTERVAL_MIN: Duration = Duration::from_millis(50);
        if interval < INTERVAL_MIN {
            reader.error(
                &at("interval"),
                "a check more often than every 50 ms is a load of its own",
                "write 1s; a dead backend is noticed at once by its closed connection",
            );
        }
        for (key, value) in [("rise", self.rise), ("fall", self.fall)] {
            if value == Some(0) {
                reader.error(&at(key), format!("`{key}: 0` would never change anything"), "write at least 1");
            }
        }
        lb::Check {
            kind,
            interval,
            timeout,
            rise: self.rise.unwrap_or(default.rise),
            fall: self.fall.unwrap_or(default.fall),
        }
    }
}

fn authority(reader: &mut Reader<'_>, path: &[Step], file: Option<&str>) -> lb::Ca {
    let Some(file) = file else { return lb::Ca::None };
    reader.file(path, file, "CA file").map_or(lb::Ca::None, lb::Ca::Pem)
}

fn ready_path(reader: &mut Reader<'_>, at: &[Step], path: Option<&str>) -> String {
    let path = path.unwrap_or(READY_PATH);
    if !path.starts_with('/') || path.contains(|c: char| c.is_whitespace() || c.is_control() || !c.is_ascii())
    {
        reader.error(at, format!("`{path}` is not the path of a URL"), "write a path such as /readyz");
    }
    path.to_owned()
}
