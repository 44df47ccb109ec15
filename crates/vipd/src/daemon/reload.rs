//! SIGHUP: what of a changed configuration can be put in force without losing a connection, and what needs a restart.
//!
//! The backends of load balancers change; whatever else differs is named, and stays as it is until vipd is started again. A file
//! that is wrong changes nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_yaml::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use crate::config::{self, Config, Diagnostic, Overrides};
use crate::{listed, tell};

/// The signal, and what is to be read again.
pub(super) struct Reload {
    hangup: Signal,
    /// None where there is no file.
    source: Option<Source>,
}

/// A configuration file, as it was when it was last put in force.
#[derive(Clone)]
struct Source {
    file: PathBuf,
    overrides: Overrides,
    in_force: Value,
}

/// What a file says now.
type Loaded = Result<(Config, Vec<Diagnostic>, Value), Vec<Diagnostic>>;

impl Reload {
    /// Begins to listen: from now on, SIGHUP no longer ends the process. What is in the file now is taken to be in force.
    ///
    /// # Errors
    /// The kernel refused a handler.
    pub(super) fn listen(source: Option<(&Path, Overrides)>) -> std::io::Result<Self> {
        let source =
            source.map(|(file, overrides)| Source { file: file.to_owned(), overrides, in_force: tree(file) });
        Ok(Self { hangup: signal(SignalKind::hangup())?, source })
    }

    /// Reads the file again whenever it is asked to, and gives the balancer its backends. May be cancelled at any time.
    pub(super) async fn follow(mut self, backends: Option<lb::BackendsHandle>) {
        while self.hangup.recv().await.is_some() {
            let Some(source) = &mut self.source else {
                warn!(
                    "SIGHUP: this vipd was set up by flags and environment, which can't be read again: restart it"
                );
                continue;
            };
            let asked = source.clone();
            // Files may be slow, and the election must not wait for them.
            match spawn_blocking(move || asked.load()).await {
                Ok(Ok((config, warnings, tree))) => {
                    warnings.iter().for_each(|warning| warn!("{warning}"));
                    source.put_in_force(&config, tree, backends.as_ref());
                }
                Ok(Err(findings)) => {
                    findings.iter().for_each(|finding| tell(&finding.to_string()));
                    error!(file = %source.file.display(), "SIGHUP: the file is wrong, and nothing has changed");
                }
                Err(error) => error!(%error, "SIGHUP: the file could not be read, and nothing has changed"),
            }
        }
    }
}

impl Source {
    fn load(&self) -> Loaded {
        let (config, warnings) = config::load(&self.file, self.overrides)?;
        Ok((config, warnings, tree(&self.file)))
    }

    fn put_in_force(&mut self, config: &Config, tree: Value, backends: Option<&lb::BackendsHandle>) {
        let mut later = BTreeSet::new();
        differences(&self.in_force, &tree, String::new(), &mut later);
        self.in_force = tree;
        let balancer = config.balancer.as_ref();
        let frontends = || balancer.iter().flat_map(|balancer| &balancer.config.frontends);
        for frontend in frontends() {
            let namesakes = frontends().filter(|other| other.name == frontend.name).count();
            // Those of the control plane are not the file's to say.
            let discovered = balancer.is_some_and(|it| it.discovered.contains_key(&frontend.name));
            if discovered {
                continue;
            }
            let given = match backends {
                Some(backends) if namesakes == 1 => backends.set(&frontend.name, frontend.backends.clone()),
                // Which of them is meant can't be told.
                Some(_) | None => {
                    later.insert(format!("the backends of {}", frontend.name));
                    continue;
                }
            };
            if let Err(error) = given {
                warn!(%error, "SIGHUP: a load balancer keeps its backends until vipd is started again");
            }
        }
        info!(file = %self.file.display(), "SIGHUP: backends are as the file says");
        if !later.is_empty() {
            warn!(changed = listed(&later), "SIGHUP: these take effect when vipd is started again");
        }
    }
}

/// The file as a tree; nothing where it can't be read, which loading it tells.
fn tree(file: &Path) -> Value {
    std::fs::read_to_string(file).ok().and_then(|text| serde_yaml::from_str(&text).ok()).unwrap_or_default()
}

/// Collects the paths of keys that differ, but for the backends of a load balancer that is there in both.
fn differences(old: &Value, new: &Value, at: String, found: &mut BTreeSet<String>) {
    match (old, new) {
        (Value::Mapping(old), Value::Mapping(new)) => {
            let keys: BTreeSet<&str> = old.keys().chain(new.keys()).filter_map(Value::as_str).collect();
            for key in keys {
                let path = if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
                if at.starts_with("loadBalancers[") && key == "backends" {
                    continue;
                }
                let null = Value::Null;
                let (old, new) = (old.get(key).unwrap_or(&null), new.get(key).unwrap_or(&null));
                differences(old, new, path, found);
            }
        }
        (Value::Sequence(old), Value::Sequence(new)) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                differences(old, new, format!("{at}[{index}]"), found);
            }
        }
        (old, new) if old != new => drop(found.insert(at)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(old: &str, new: &str) -> String {
        let tree = |text: &str| serde_yaml::from_str(text).unwrap();
        let mut found = BTreeSet::new();
        differences(&tree(old), &tree(new), String::new(), &mut found);
        listed(&found)
    }

    #[test]
    fn what_differs_is_named_by_its_path_and_backends_are_not() {
        let old = "vip: 10.0.0.1\nloadBalancers: [{port: 1, backends: [{port: 2}]}, {port: 3}]\n";
        assert_eq!(found(old, old), "");
        let new =
            "vip: 10.0.0.2\nloadBalancers: [{port: 1, backends: []}, {port: 4, backends: [{port: 5}]}]\n";
        assert_eq!(found(old, new), "loadBalancers[1].port, vip");
        assert_eq!(found(old, "vip: 10.0.0.1\nloadBalancers: []\nmetrics: ':1'\n"), "loadBalancers, metrics");
        assert_eq!(found(old, "loadBalancers: [{port: 1}, {port: 3}]\n"), "vip");
    }
}
