//! What the way to the API is made of: credentials from files, and the control plane as it was found or is remembered.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{
    super::{
        Config, ControlPlane,
        access::Access,
        credentials::{Credentials, CredentialsError},
        memory,
        servers::Servers,
        telling::told,
    },
    Driver, now,
};

/// How often the files of the credentials are looked at: they rotate once a year, or when somebody mends them.
const CREDENTIALS_INTERVAL: Duration = Duration::from_secs(10);

impl Driver {
    /// Reads the credentials when it is time to; on a thread of its own, as a disk may be slow.
    pub(super) fn load(&mut self, now: Instant) {
        if self.loading.is_some() || now < self.load_at {
            return;
        }
        self.load_at = now + CREDENTIALS_INTERVAL;
        if self.skip_until <= now {
            self.skip = 0;
        }
        let (files, skip) = (self.config.access.kubeconfigs.clone(), self.skip);
        let runtime = tokio::runtime::Handle::current();
        let read = tokio::task::spawn_blocking(move || runtime.block_on(Credentials::read(&files, skip)));
        self.loading =
            Some(Box::pin(async { read.await.expect("reading doesn't panic, and nobody cancels it") }));
    }

    pub(super) fn take_credentials(&mut self, loaded: Result<Credentials, CredentialsError>) {
        let now = now();
        let credentials = match loaded {
            Ok(credentials) => credentials,
            Err(error) => {
                // Those that were read before stay.
                self.load_at = now + self.config.timing.retry_period();
                return self.complain(told(&error));
            }
        };
        let origin = credentials.origin.clone();
        match &mut self.access {
            Some(access) => {
                if !access.renew(credentials) {
                    return;
                }
                info!(credentials = %origin, "uses other credentials for the API");
            }
            None => {
                info!(credentials = %origin, "credentials for the API");
                let config = &self.config;
                let mut servers =
                    Servers::new(config.access.own, &config.access.servers, &config.access.never);
                servers.set_discovered(self.control_plane.borrow().servers(config.access.port));
                let patience = config.timing.renew_deadline() / 3;
                self.access = Some(Access::new(servers, credentials, patience, self.agent.clone()));
            }
        }
        self.status.send_modify(|status| status.credentials = Some(origin.to_string()));
        self.route.send_replace(None);
        self.election.retry_now(now);
    }

    pub(super) fn take_control_plane(&mut self) {
        let known = self.control_plane.borrow_and_update().clone();
        if let Some(access) = &mut self.access {
            access.servers.set_discovered(known.servers(self.config.access.port));
        }
        let names: Vec<&str> = known.nodes.keys().map(String::as_str).collect();
        info!(nodes = names.join(", "), "the control plane");
        let Some(file) = self.config.access.memory.clone() else { return };
        tokio::task::spawn_blocking(move || {
            if let Err(error) = memory::remember(&known, &file) {
                warn!(file = %file.display(), %error, "failed to remember the control-plane nodes: a start without an API won't know them");
            }
        });
    }
}

/// What an earlier process remembered; nothing, where that can't be read.
pub(super) fn recall(config: &Config) -> ControlPlane {
    let Some(file) = &config.access.memory else { return ControlPlane::default() };
    memory::recall(file).unwrap_or_else(|error| {
        warn!(file = %file.display(), %error, "failed to read the remembered control-plane nodes; they are looked up again");
        ControlPlane::default()
    })
}
