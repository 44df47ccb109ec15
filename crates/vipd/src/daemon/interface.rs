//! The interface that the addresses go on: found by its name or by the default route, and waited for at start.

use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::Lacking;
use crate::config::Interface;
use crate::exit;

/// How long an interface may be late. At boot, bonds, bridges and the first address of a host come some seconds after the
/// service or the kubelet that starts vipd. One that is not there by then is misspelt, more likely; vipd ends so that whoever
/// starts it again, as a kubelet does, has it read the corrected file.
const LATE_MAX: Duration = Duration::from_secs(20);

/// Between two looks. Both links and routes would have to be listened to otherwise, for twenty seconds of a life.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The name of the interface; that of the default route is looked up.
///
/// # Errors
/// No default route, or no answer from the kernel.
pub(crate) async fn find(wanted: &Interface) -> anyhow::Result<String> {
    match wanted {
        Interface::Named(name) => Ok(name.clone()),
        Interface::DefaultRoute => {
            let link = default().await?.ok_or_else(|| anyhow!("{NO_DEFAULT_ROUTE}"))?;
            info!(interface = link.name, "the addresses go on the interface of the default route");
            Ok(link.name)
        }
    }
}

/// Waits for the interface, which may be late, and names it. May be cancelled: nothing is held.
///
/// # Errors
/// It does not come, or the kernel does not answer.
pub(super) async fn appeared(wanted: &Interface) -> anyhow::Result<String> {
    let began = Instant::now();
    let mut told = false;
    loop {
        let missing = match look(wanted).await? {
            Ok(name) => return Ok(name),
            Err(missing) => missing,
        };
        if began.elapsed() >= LATE_MAX {
            let text = format!("after {} s, {missing}", LATE_MAX.as_secs());
            return Err(Lacking { code: exit::UNAVAILABLE, text }.into());
        }
        if !told {
            warn!("{missing}; waiting {} s for it", LATE_MAX.as_secs());
            told = true;
        }
        sleep(LOOK_INTERVAL).await;
    }
}

const NO_DEFAULT_ROUTE: &str = "no interface is named, and there is no default route to find it by: name it, as `ip -br address` shows it";

/// The name of the interface if it is there, or else what is missing and what would be right.
async fn look(wanted: &Interface) -> anyhow::Result<Result<String, String>> {
    match wanted {
        Interface::Named(name) => match vip::linux::interface(name).await {
            Ok(link) => Ok(Ok(link.name)),
            Err(vip::Error::NoInterface { .. }) => {
                let all = vip::linux::interfaces().await.unwrap_or_default();
                let names = all.into_iter().map(|link| link.name).collect::<Vec<_>>().join(", ");
                Ok(Err(format!(
                    "there is no interface {name} (this machine has {names}): make it, or correct the name"
                )))
            }
            Err(error) => Err(error.into()),
        },
        Interface::DefaultRoute => {
            Ok(default().await?.map_or_else(|| Err(NO_DEFAULT_ROUTE.to_owned()), |link| Ok(link.name)))
        }
    }
}

async fn default() -> anyhow::Result<Option<vip::linux::Link>> {
    vip::linux::default_interface().await.context("failed to find the default route")
}
