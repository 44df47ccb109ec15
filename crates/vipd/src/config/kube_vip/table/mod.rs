//! Every flag and environment variable of kube-vip, old and new, and what it is to vipd: data, not code.

mod honoured;
mod refused;
mod warned;

/// One thing that can be set, under all its names.
#[derive(Debug)]
pub(crate) struct Setting {
    /// The flags, without their dashes; the present name first.
    pub(crate) flags: &'static [&'static str],
    /// The flag of one letter, where there is one.
    pub(crate) short: Option<char>,
    /// The environment variables; the first that is not empty counts.
    pub(crate) environment: &'static [&'static str],
    /// What its text must be.
    pub(crate) kind: Kind,
    /// What becomes of it.
    pub(crate) meaning: Meaning,
}

/// The form of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What Go's ParseBool takes: 1, t, T, TRUE, true, True, and so on.
    Bool,
    /// A whole number.
    Number,
    /// A whole number of seconds.
    Seconds,
    /// A port.
    Port,
    /// Any text.
    Text,
    /// Texts, with commas between them; a flag may be repeated.
    List,
}

/// What becomes of a setting.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Meaning {
    /// It fills a key of the configuration.
    Honoured {
        /// Which one.
        key: Key,
        /// What `--help` says of it.
        about: &'static str,
        /// Whether a manifest always has it, and with which value where none is given.
        manifest: Manifest,
    },
    /// It changes nothing, and a warning says why; silent where a value says what is so anyway.
    Warned {
        /// Those values.
        quiet: &'static [&'static str],
        /// Why it changes nothing, as a sentence that goes on after “has no effect: ”.
        why: &'static str,
    },
    /// It asks for what vipd lacks; silent where a value switches that off.
    Refused {
        /// Those values.
        off: &'static [&'static str],
        /// What it asks for.
        what: &'static str,
    },
}

/// Whether a manifest names a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manifest {
    /// Always, as kube-vip's does, with this value unless another is given.
    Always(&'static str),
    /// Where it is set.
    WhenSet,
    /// Never: each node's own name is filled in by Kubernetes.
    FromNode,
}

/// What a setting fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// ARP mode.
    Arp,
    /// The apiserver's port.
    Port,
    /// This node's name.
    NodeName,
    /// Which of several on one node this is.
    Instance,
    /// Where the addresses go.
    Interface,
    /// The prefix lengths.
    Subnet,
    /// Which addresses of a name count.
    DnsMode,
    /// Control-plane mode.
    ControlPlane,
    /// The namespace of the Lease.
    Namespace,
    /// Election by Lease.
    LeaderElection,
    /// The name of the Lease.
    LeaseName,
    /// The lease duration.
    LeaseDuration,
    /// The renew deadline.
    RenewDeadline,
    /// The retry period.
    RetryPeriod,
    /// Annotations of the Lease.
    LeaseAnnotations,
    /// The label of the owner's Node.
    NodeLabel,
    /// The balancer.
    LoadBalancer,
    /// Its port.
    LoadBalancerPort,
    /// How often apiservers are asked for their health.
    CheckInterval,
    /// The virtual addresses.
    Address,
    /// The same, under a deprecated name.
    VipAddress,
    /// Where metrics are served.
    Metrics,
    /// Where health is served.
    HealthPort,
    /// Whether a holder without an API leads on.
    Preserve,
    /// No election.
    SingleNode,
    /// The kubeconfig.
    Kubeconfig,
    /// This node's own apiserver.
    Server,
    /// How much is logged.
    LogLevel,
}

impl Setting {
    /// Named by these flags and environment variables, or by either alone.
    const fn new(
        flags: &'static [&'static str],
        environment: &'static [&'static str],
        kind: Kind,
        meaning: Meaning,
    ) -> Self {
        Self { flags, short: None, environment, kind, meaning }
    }

    const fn honoured(
        key: Key,
        flags: &'static [&'static str],
        environment: &'static [&'static str],
        kind: Kind,
        manifest: Manifest,
        about: &'static str,
    ) -> Self {
        Self::new(flags, environment, kind, Meaning::Honoured { key, about, manifest })
    }

    const fn warned(
        flags: &'static [&'static str],
        environment: &'static [&'static str],
        kind: Kind,
        quiet: &'static [&'static str],
        why: &'static str,
    ) -> Self {
        Self::new(flags, environment, kind, Meaning::Warned { quiet, why })
    }

    const fn refused(
        flags: &'static [&'static str],
        environment: &'static [&'static str],
        kind: Kind,
        off: &'static [&'static str],
        what: &'static str,
    ) -> Self {
        Self::new(flags, environment, kind, Meaning::Refused { off, what })
    }

    const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }
}

/// All settings; those that are honoured in the order of kube-vip's manifests.
pub(crate) fn all() -> impl Iterator<Item = &'static Setting> {
    honoured::SETTINGS.iter().chain(refused::SETTINGS).chain(warned::SETTINGS)
}
