//! Today's kube-vip as a front door: its flags and environment variables fill the same configuration as the file.
//!
//! ```text
//!  flags ─┐  table: what each name is                    lookups: names, subnets
//!         ├──────────▶ Settings + findings ──fill──▶ File ──build──▶ Config + findings
//!  environment ┘                                      (the mirror of the file: every check exists once)
//! ```
//!
//! Environment variables win over flags, as in kube-vip. What vipd does not do is refused with the reason, what changes
//! nothing is told by a warning; nothing is passed over in silence, but values that say what is so anyway.

mod addresses;
mod fill;
mod flags;
mod settings;
pub(crate) mod table;
mod write;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) use self::flags::Flags;
pub(crate) use self::settings::Settings;

use self::table::Key;
use super::diagnostic::{Diagnostic, Severity};
use super::source::Source;
use super::{Config, Overrides, build};

/// Where a pod finds the namespace of its ServiceAccount.
pub(crate) const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// What the settings leave to be looked up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lookups {
    /// The namespace of the pod's ServiceAccount, where there is one.
    pub(crate) namespace: Option<String>,
    /// The addresses of the names among the virtual addresses, in the order in which they were found.
    pub(crate) names: BTreeMap<String, Vec<IpAddr>>,
    /// The addresses of the interface, for prefixes that are to be those of the subnet.
    pub(crate) subnets: Vec<vip::Address>,
    /// Why this host can't redirect the apiserver's port to the balancer, if it can't.
    pub(crate) no_redirect: Option<String>,
}

/// The balancer's port unless told otherwise.
const LOAD_BALANCER_PORT_DEFAULT: u16 = 6443;

impl Settings {
    /// The names among the virtual addresses.
    pub(crate) fn names(&self) -> Vec<String> {
        addresses::names(self)
    }

    /// Those of a name's addresses that count.
    pub(crate) fn chosen(&self, found: &[IpAddr]) -> Vec<IpAddr> {
        addresses::chosen(self, found)
    }

    /// Whether the interface has to tell its subnets.
    pub(crate) fn wants_subnets(&self) -> bool {
        addresses::wants_subnets(self)
    }

    /// Whether the balancer is to have the port that the apiserver has on every address of its node: kube-vip's default.
    pub(crate) fn shares_port(&self) -> bool {
        let apiserver = self.port(Key::Port).unwrap_or(build::kubernetes::PORT_DEFAULT);
        self.is_on(Key::LoadBalancer) && self.load_balancer_port() == apiserver
    }

    fn load_balancer_port(&self) -> u16 {
        self.port(Key::LoadBalancerPort).unwrap_or(LOAD_BALANCER_PORT_DEFAULT)
    }

    /// The interface, if one is named.
    pub(crate) fn interface(&self) -> super::Interface {
        self.text(Key::Interface)
            .map_or(super::Interface::DefaultRoute, |name| super::Interface::Named(name.to_owned()))
    }

    /// What is logged, in the words of `vipd start`.
    ///
    /// kube-vip took over the scale of Go's log/slog in 0.8.10; before, 0 to 6 were panic to trace.
    pub(crate) fn log_level(&self) -> &'static str {
        match self.number(Key::LogLevel).unwrap_or(0) {
            ..=-8 => "trace",
            -7..=-1 => "debug",
            0..=3 => "info",
            4..=7 => "warn",
            8.. => "error",
        }
    }

    /// The configuration that the settings mean.
    ///
    /// # Errors
    /// Every finding (warnings too) where at least one of them is an error.
    pub(crate) fn build(&self, lookups: &Lookups) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
        let fill::Filled { file, names, mut findings } = fill::fill(self, lookups);
        findings.extend(self.log_scale());
        let refused = findings.iter().any(|finding| finding.severity == Severity::Error);
        if file.vips.is_none() {
            // Told already; the rest would be told as if there should be none.
            return Err(findings);
        }
        match build::build(&Source::Names(names), file, Overrides::default()) {
            Ok((config, more)) => {
                findings.extend(more);
                if refused { Err(findings) } else { Ok((config, findings)) }
            }
            Err(more) => {
                findings.extend(more);
                Err(findings)
            }
        }
    }

    /// The settings as a node that is told its name by Kubernetes will see them.
    pub(crate) fn on_some_node(&self) -> Self {
        let mut settings = self.clone();
        settings.assume(Key::NodeName, "node");
        settings
    }

    /// Everything that is wrong whatever a lookup would give; the warnings, where nothing is.
    ///
    /// # Errors
    /// Every finding (warnings too) where at least one of them is an error.
    pub(crate) fn check(&self) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
        self.build(&self.assumed()).map(|(_, warnings)| warnings)
    }

    /// Lookups as they might turn out: every name has an address of each family, and every address is in a subnet.
    /// What is built with them is only looked at for findings.
    fn assumed(&self) -> Lookups {
        let mut lookups = Lookups::default();
        for (number, name) in (1..=u8::MAX).zip(self.names()) {
            // Addresses of RFC 5737 and RFC 3849, which nobody has.
            let ipv4 = Ipv4Addr::new(192, 0, 2, number);
            let ipv6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number));
            lookups.names.insert(name, vec![ipv4.into(), ipv6.into()]);
        }
        // Both halves of each family.
        for ip in [0, 1 << 31].map(Ipv4Addr::from_bits) {
            lookups.subnets.push(vip::Address { ip: ip.into(), prefix: 1 });
        }
        for ip in [0, 1 << 127].map(Ipv6Addr::from_bits) {
            lookups.subnets.push(vip::Address { ip: ip.into(), prefix: 1 });
        }
        lookups
    }

    /// A number that meant something else before the scale changed.
    fn log_scale(&self) -> Option<Diagnostic> {
        let value = self.value(Key::LogLevel)?;
        let before = match self.number(Key::LogLevel)? {
            4 => "info",
            5 => "debug",
            6 => "trace",
            _ => return None,
        };
        let now = self.log_level();
        Some(Diagnostic {
            severity: Severity::Warning,
            origin: value.origin.clone(),
            place: None,
            line: None,
            message: format!("{} logs from `{now}` on: before kube-vip 0.8.10 it was {before}", value.text),
            help: "write -4 for debug, 0 for info, 4 for warn or 8 for error".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests;
