//! The interface that the addresses go on, where the configuration leaves it open.

use anyhow::{Context, anyhow};
use tracing::info;

use crate::config::Interface;

/// The name of the interface; that of the default route is looked up.
///
/// # Errors
/// No default route, or no answer from the kernel.
pub(crate) async fn find(wanted: &Interface) -> anyhow::Result<String> {
    match wanted {
        Interface::Named(name) => Ok(name.clone()),
        Interface::DefaultRoute => {
            let found = vip::linux::default_interface().await.context("failed to find the default route")?;
            let link = found.ok_or_else(|| {
                anyhow!("no interface is named, and there is no default route to find it by: name it, as `ip -br address` shows it")
            })?;
            info!(interface = link.name, "the addresses go on the interface of the default route");
            Ok(link.name)
        }
    }
}
