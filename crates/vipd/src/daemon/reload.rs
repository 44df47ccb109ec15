//! SIGHUP, or a file that has changed: the configuration is put in force without losing a connection, or not at all.
//!
//! Load balancers change, and what hangs on them. What is decided once, when vipd starts, such as addresses, peers and timing, doesn't:
//! a file in which that differs is refused like one that is wrong, and names it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use leader::kubernetes::ControlPlane;
use serde_yaml::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::apiservers::Apiservers;
use super::endpoints::ApiBackends;
use super::file_watch::FileWatch;
use super::parts::{listening, redirected};
use super::resolution::Resolution;
use crate::config::{self, Config, Diagnostic, Overrides, Text};
use crate::service::Service;
use crate::{listed, tell};

/// The keys that can change while vipd runs.
const CHANGEABLE: [&str; 4] = ["loadBalancers", "healthCheck", "drainTimeout", "reloadOnChange"];

/// The signal, and what is to be read again.
pub(super) struct Reload {
    hangup: Signal,
    /// None where there is no file.
    source: Option<Source>,
    watch: Option<FileWatch>,
}

/// A configuration file.
struct Source {
    file: PathBuf,
    overrides: Overrides,
    /// As it was when it was last put in force.
    in_force: Value,
    /// As it was when it was last looked at.
    seen: String,
}

/// What of the running vipd can change.
pub(super) struct Adjustable {
    pub(super) balancer: Option<Running>,
    pub(super) health_check: Option<lb::ConfigHandle>,
    pub(super) drain_timeout: Rc<Cell<Duration>>,
    /// From ports that the balancer listens on to those that clients connect to.
    pub(super) redirected: watch::Sender<BTreeMap<u16, u16>>,
}

/// The balancer that runs.
pub(super) struct Running {
    pub(super) configuration: lb::ConfigHandle,
    pub(super) backends: lb::BackendsHandle,
    /// Who is told of the control plane, and what is known of it.
    pub(super) discovery: Option<(Rc<Apiservers>, watch::Receiver<ControlPlane>)>,
    /// Who asks the API, where no election does.
    pub(super) endpoints: Option<Rc<ApiBackends>>,
    /// Who looks up names.
    pub(super) resolution: Rc<Resolution>,
}

/// What made the file be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Hangup,
    Change,
}

/// A text and what it says.
type Loaded = Result<(Text, Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>>), Box<Diagnostic>>;

impl Reload {
    /// Begins to listen: from now on, SIGHUP no longer ends the process. What is in the file now is taken to be in force.
    ///
    /// # Errors
    /// The kernel refused a handler.
    pub(super) fn listen(source: Option<(&Path, Overrides)>) -> std::io::Result<Self> {
        let source = source.map(|(file, overrides)| {
            let seen = std::fs::read_to_string(file).unwrap_or_default();
            Source { file: file.to_owned(), overrides, in_force: tree(&seen), seen }
        });
        Ok(Self { hangup: signal(SignalKind::hangup())?, source, watch: None })
    }

    /// Reads the file again whenever it is asked to or, if that is `wanted`, the file has changed; and puts in force what it says. May be
    /// cancelled at any time: the balancer has a configuration whole or not at all.
    pub(super) async fn follow(mut self, adjustable: Adjustable, wanted: bool, service: Rc<Service>) {
        self.watch_if(wanted);
        // It may have changed since it was read first.
        let mut cause = if self.watch.is_some() { Some(Cause::Change) } else { self.next().await };
        while let Some(why) = cause {
            // An operator who asked for it may wait for its end; nobody does where a file has changed.
            let awaited = why == Cause::Hangup;
            if awaited {
                service.reloading().await;
            }
            self.reload(why, &adjustable).await;
            if awaited {
                service.reloaded().await;
            }
            cause = self.next().await;
        }
    }

    /// The next reason to look. Cancel-safe.
    async fn next(&mut self) -> Option<Cause> {
        loop {
            let changed = tokio::select! {
                biased;
                hangup = self.hangup.recv() => return hangup.map(|()| Cause::Hangup),
                changed = changed(self.watch.as_mut()) => changed,
            };
            match changed {
                Ok(()) => return Some(Cause::Change),
                Err(error) => {
                    warn!(%error, "the configuration file can't be watched any more: use SIGHUP");
                    self.watch = None;
                }
            }
        }
    }

    fn watch_if(&mut self, wanted: bool) {
        let Some(source) = self.source.as_ref().filter(|_| wanted) else {
            self.watch = None;
            return;
        };
        if self.watch.is_none() {
            let watch = FileWatch::new(&source.file);
            let told = watch.inspect_err(|error| {
                let file = source.file.display();
                warn!(%file, %error, "the configuration file can't be watched: use SIGHUP");
            });
            self.watch = told.ok();
        }
    }

    async fn reload(&mut self, cause: Cause, adjustable: &Adjustable) {
        let Some(source) = &mut self.source else {
            warn!(
                "SIGHUP: this vipd was set up by flags and environment, which can't be read again: restart it"
            );
            return;
        };
        let (path, overrides, seen) = (source.file.clone(), source.overrides, source.seen.clone());
        // Files may be slow, and the election must not wait for them.
        let loaded = spawn_blocking(move || load(&path, overrides, seen, cause)).await;
        let file = source.file.display();
        let (text, built) = match loaded {
            Ok(None) => return,
            Ok(Some(Ok(loaded))) => loaded,
            Ok(Some(Err(finding))) => {
                tell(&finding.to_string());
                return error!(%file, "the file can't be read: nothing has changed");
            }
            Err(error) => return error!(%file, %error, "the file could not be read: nothing has changed"),
        };
        text.as_str().clone_into(&mut source.seen);
        let (config, warnings) = match built {
            Ok(built) => built,
            Err(findings) => {
                findings.iter().for_each(|finding| tell(&finding.to_string()));
                return error!(%file, "the file is wrong: nothing has changed");
            }
        };
        let tree = tree(text.as_str());
        let later = adjustable.restarts(&source.in_force, &tree, &config);
        if !later.is_empty() {
            return error!(
                %file,
                keys = listed(&later),
                "these keys take effect only at a start, so nothing has changed: restart vipd, and `vipd step-down` before, where it has the address"
            );
        }
        let watch = config.reload_on_change;
        match adjustable.put_in_force(config).await {
            Ok(()) => {
                warnings.iter().for_each(|warning| warn!("{warning}"));
                source.in_force = tree;
                info!(%file, "the configuration is in force");
                self.watch_if(watch);
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                error!(%file, error = format!("{error:#}"), "the file asks for what can't be: nothing has changed");
            }
        }
    }
}

/// Reads a file; nothing if it is the one that was seen before, and nobody has asked for it to be looked at.
fn load(file: &Path, overrides: Overrides, seen: String, cause: Cause) -> Option<Loaded> {
    let text = match Text::read(file) {
        Ok(text) => text,
        Err(finding) => return Some(Err(finding)),
    };
    if cause == Cause::Change && text.as_str() == seen {
        return None;
    }
    let built = config::load_text(text.clone(), overrides);
    Some(Ok((text, built)))
}

async fn changed(watch: Option<&mut FileWatch>) -> std::io::Result<()> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

impl Adjustable {
    /// The keys that differ and can't change while vipd runs.
    fn restarts(&self, old: &Value, new: &Value, config: &Config) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        differences(old, new, String::new(), &mut found);
        let root = |path: &str| path.split(['.', '[']).next().unwrap_or_default().to_owned();
        // A part that isn't there can't be changed, and one that is can't be taken away.
        let balancer = self.balancer.is_some() && config.balancer.is_some();
        let check = self.health_check.is_some() && config.health_check.is_some() && self.balancer.is_none();
        found.retain(|path| match root(path).as_str() {
            "loadBalancers" => !balancer,
            "healthCheck" => !check,
            key => !CHANGEABLE.contains(&key),
        });
        let asks = self.balancer.as_ref().is_some_and(|running| running.endpoints.is_some());
        if config.discovery.is_some() && !asks {
            // Nobody asks the API yet.
            found.insert("discover".to_owned());
        }
        found
    }

    /// Puts a configuration in force that differs in nothing but what can change.
    async fn put_in_force(&self, config: Config) -> Result<(), lb::Error> {
        if let (Some(running), Some(mut balancer)) = (&self.balancer, config.balancer) {
            let (listening, redirected) = (listening(&balancer), redirected(&balancer));
            let prepared = running.discovery.as_ref().map(|(apiservers, known)| {
                let discovered = apiservers.fill(&mut balancer, &known.borrow());
                (apiservers, known, discovered)
            });
            let told = running.endpoints.as_ref().map(|endpoints| (endpoints, endpoints.fill(&mut balancer)));
            let names = running.resolution.fill(&mut balancer).await;
            running.configuration.apply(balancer.config).await?;
            if let Some((endpoints, discovered)) = told {
                endpoints.discover(discovered);
                endpoints.tell(&running.backends);
            }
            running.resolution.want(names);
            running.resolution.tell(&running.backends);
            if let Some((apiservers, known, discovered)) = prepared {
                apiservers.discover(discovered);
                // Whatever has been heard meanwhile.
                apiservers.tell_balancer(&known.borrow(), &running.backends);
            }
            self.redirected.send_modify(|known| {
                // Connections that were led to a port that is left now are still there.
                known.retain(|own, _| !listening.contains(own));
                known.extend(redirected);
            });
        }
        if let (Some(check), Some(config)) = (&self.health_check, config.health_check) {
            check.apply(config).await?;
        }
        self.drain_timeout.set(config.drain_timeout);
        Ok(())
    }
}

/// The file as a tree; nothing where it is none, which loading it tells.
fn tree(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap_or_default()
}

/// Collects the paths of keys that differ.
fn differences(old: &Value, new: &Value, at: String, found: &mut BTreeSet<String>) {
    match (old, new) {
        (Value::Mapping(old), Value::Mapping(new)) => {
            let keys: BTreeSet<&str> = old.keys().chain(new.keys()).filter_map(Value::as_str).collect();
            for key in keys {
                let path = if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
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
    fn what_differs_is_named_by_its_path() {
        let old = "vip: 10.0.0.1\nloadBalancers: [{port: 1, backends: [{port: 2}]}, {port: 3}]\n";
        assert_eq!(found(old, old), "");
        let new = "vip: 10.0.0.2\nloadBalancers: [{port: 1, backends: [{port: 2}]}, {port: 4}]\n";
        assert_eq!(found(old, new), "loadBalancers[1].port, vip");
        assert_eq!(found(old, "vip: 10.0.0.1\nloadBalancers: []\nmetrics: ':1'\n"), "loadBalancers, metrics");
        assert_eq!(found(old, "loadBalancers: [{port: 1}, {port: 3}]\n"), "loadBalancers[0].backends, vip");
    }
}
