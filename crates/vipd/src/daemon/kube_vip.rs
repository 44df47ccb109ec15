//! What kube-vip's settings leave to be looked up at start: names, and the interface's subnets.

use std::fs;

use anyhow::Context;

use super::{interface, names};
use crate::config::kube_vip::{Lookups, NAMESPACE_FILE, Settings};

/// Looks everything up; names are asked for until each has an address, and an interface may be late. May be cancelled: nothing is held.
///
/// # Errors
/// The interface, where its subnets are wanted.
pub(super) async fn look_up(settings: &Settings) -> anyhow::Result<Lookups> {
    let mut lookups = Lookups::default();
    // Only a pod with a ServiceAccount has the file.
    if let Ok(namespace) = fs::read_to_string(NAMESPACE_FILE) {
        lookups.namespace = Some(namespace.trim().to_owned()).filter(|namespace| !namespace.is_empty());
    }
    if settings.wants_subnets() {
        let name = interface::appeared(&settings.interface()).await?;
        lookups.subnets = vip::linux::interface_addresses(&name)
            .await
            .with_context(|| format!("failed to list the addresses of {name}"))?;
    }
    if settings.shares_port() {
        let refused = lb::redirect::rehearse().map(drop).map_err(anyhow::Error::new);
        lookups.no_redirect = refused.err().map(|error| format!("{error:#}"));
    }
    for name in settings.names() {
        let found = names::resolve(&name, |found| !settings.chosen(found).is_empty()).await;
        lookups.names.insert(name, found);
    }
    Ok(lookups)
}

/// The names that addresses were taken from, to be looked at again.
pub(super) fn followed(settings: &Settings, lookups: &Lookups) -> Vec<names::Followed> {
    lookups
        .names
        .iter()
        .map(|(name, found)| {
            let settings = settings.clone();
            let choose = Box::new(move |found: &[_]| settings.chosen(found));
            names::Followed { name: name.clone(), chosen: choose(found), choose }
        })
        .collect()
}
