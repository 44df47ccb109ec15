//! `vipd manifest`: what runs `vipd manager` in a cluster, from the flags and environment variables of kube-vip.
//!
//! What is printed has been checked as the manager will check it: a manifest that would be refused at start is refused here.

mod pod;
mod rbac;

use std::process::ExitCode;

use anyhow::Context;
use k8s_openapi::Resource;
use serde::Serialize;

use crate::cli::Manifest;
use crate::config::Diagnostic;
use crate::config::kube_vip::{Flags, Settings};
use crate::{daemon, exit, fail, tell};

/// Prints the manifest.
pub(crate) fn print(options: &Manifest) -> ExitCode {
    let document = match options {
        Manifest::Pod(options) => settings(&options.flags).and_then(|settings| pod::pod(&settings, options)),
        Manifest::DaemonSet(options) => {
            settings(&options.pod.flags).and_then(|settings| pod::daemon_set(&settings, options))
        }
        Manifest::Rbac(options) => rbac::rbac(&gather(&options.flags), options),
    };
    match document {
        Ok(document) => crate::print(&document),
        Err(Refusal::Findings(findings)) => {
            findings.iter().for_each(|finding| tell(&finding.to_string()));
            ExitCode::from(exit::CONFIG)
        }
        Err(Refusal::Usage(error)) => fail(exit::USAGE, &error),
    }
}

/// Why there is no manifest.
enum Refusal {
    /// The manager would refuse the settings.
    Findings(Vec<Diagnostic>),
    /// The command's own options.
    Usage(anyhow::Error),
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self::Usage(error)
    }
}

/// The flags, and the environment that this runs in: kube-vip reads it too.
fn gather(flags: &Flags) -> Settings {
    Settings::gather(flags, &daemon::environment())
}

/// The settings, which the manager will not refuse; warnings are told.
fn settings(flags: &Flags) -> Result<Settings, Refusal> {
    let settings = gather(flags);
    let warnings = settings.on_some_node().check().map_err(Refusal::Findings)?;
    warnings.iter().for_each(|finding| tell(&finding.to_string()));
    Ok(settings)
}

/// One document of YAML.
fn yaml<T: Serialize + Resource>(object: &T) -> anyhow::Result<String> {
    serde_yaml::to_string(object).with_context(|| format!("failed to print the {}", T::KIND))
}

#[cfg(test)]
mod tests;
