//! The command line: what can be typed, and what it means.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use leader::{NodeId, NodeIdError};

use crate::config::kube_vip::Flags;
use crate::config::{Overrides, SOCKET_DEFAULT};
use crate::convert::Named;

/// Keeps a Kubernetes control plane reachable: elects one node, puts the virtual IP on it, balances the apiservers.
#[derive(Debug, Parser)]
#[command(name = "vipd", version, arg_required_else_help = true, max_term_width = 110)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run in the foreground, until SIGTERM or SIGINT
    Start(Start),
    /// Run in the foreground, set up by the flags and environment variables of kube-vip
    Manager(Manager),
    /// Print a Kubernetes manifest for `vipd manager`, from the flags and environment variables of kube-vip
    #[command(subcommand)]
    Manifest(Manifest),
    /// Check a configuration, and whether this machine can run it
    Check(Check),
    /// Make a configuration of the files of keepalived, haproxy, nginx or kube-vip, and tell what became of each line
    Convert(Convert),
    /// Print a sample on standard output
    #[command(subcommand)]
    Sample(Sample),
    /// Show what the vipd on this machine is doing
    Status(Status),
    /// Tell a kubelet or a script by the exit code whether the vipd on this machine is well: 0 if so, else 69
    Health(Health),
    /// Hand the address to another node, now and in good order, and leave it to others for a while
    StepDown(StepDown),
    /// Take a backend of this machine's balancer out of use, before maintenance, and back
    #[command(subcommand)]
    Backend(Backend),
    /// Show what the vipd on this machine logs, or have it log something else until it is started anew
    LogLevel(LogLevel),
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// `vipd start`
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The status socket, in place of the one the configuration names
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Balance only: own no address
    #[arg(short = 'd', long = "disableVIP", alias = "disable-vip")]
    pub(crate) disable_vip: bool,
    /// Own the address without an election
    #[arg(short = 's', long = "singleNode", alias = "single-node")]
    pub(crate) single_node: bool,
    /// Lead alone while no other node has been heard: for exactly one node, while a cluster is made
    #[arg(short = 'l', long = "startAsLeader", alias = "start-as-leader")]
    pub(crate) start_as_leader: bool,
    /// Keep all privileges: to find out whether what vipd gives up is what something fails for
    #[arg(long)]
    pub(crate) unconfined: bool,
    /// What is logged: error, warn, info, debug or trace; also per part, as in `info,lb=debug`
    #[arg(long = "log-level", env = "VIPD_LOG", value_name = "LEVEL", default_value = "info")]
    pub(crate) log_level: String,
    /// How it is logged
    #[arg(long = "log-format", env = "VIPD_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

impl Start {
    /// The options that stand in for keys of the configuration.
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            disable_vip: self.disable_vip,
            single_node: self.single_node,
            start_as_leader: self.start_as_leader,
        }
    }
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `vipd manager`
#[derive(Debug, Args)]
pub(crate) struct Manager {
    /// The status socket
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Keep all privileges: to find out whether what vipd gives up is what something fails for
    #[arg(long)]
    pub(crate) unconfined: bool,
    /// What kube-vip's flags say.
    #[command(flatten)]
    pub(crate) flags: Flags,
}

/// `vipd manifest`
#[derive(Debug, Subcommand)]
pub(crate) enum Manifest {
    /// A static Pod for /etc/kubernetes/manifests
    Pod(Pod),
    /// A DaemonSet for the control-plane nodes
    #[command(name = "daemonset")]
    DaemonSet(DaemonSet),
    /// The ServiceAccount that `--inCluster` needs, and its rights
    Rbac(Rbac),
}

/// `vipd manifest pod`
#[derive(Debug, Args)]
pub(crate) struct Pod {
    /// The image, in place of this binary's own
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// Use the ServiceAccount of the pod in place of a kubeconfig
    #[arg(long = "inCluster", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(crate) in_cluster: bool,
    /// What kube-vip's flags say.
    #[command(flatten)]
    pub(crate) flags: Flags,
}

/// `vipd manifest daemonset`
#[derive(Debug, Args)]
pub(crate) struct DaemonSet {
    /// Run on nodes whatever taints they have
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(crate) taint: bool,
    /// What a Pod has.
    #[command(flatten)]
    pub(crate) pod: Pod,
}

/// `vipd manifest rbac`
#[derive(Debug, Args)]
pub(crate) struct Rbac {
    /// A Role and a RoleBinding for the Lease, in place of the cluster-wide forms; nodes are not discovered then
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(crate) role: bool,
    /// A RoleBinding, in place of a ClusterRoleBinding
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(crate) rolebinding: bool,
    /// What kube-vip's flags say: the namespace counts.
    #[command(flatten)]
    pub(crate) flags: Flags,
}

/// `vipd check`
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Check the file alone, not this machine
    #[arg(long)]
    pub(crate) config_only: bool,
    /// A DNS name that clients are given for the virtual address: it must lead there, and the apiservers' certificates must have it
    #[arg(long, value_name = "NAME")]
    pub(crate) endpoint: Option<String>,
    /// Print JSON on standard output: all findings, each with `id`, `verdict`, `found`, `why` and `mend`
    #[arg(long)]
    pub(crate) json: bool,
}

/// `vipd convert`
#[derive(Debug, Args)]
#[command(
    after_help = "The configuration is printed on standard output, the report on standard error. Exit code 0: complete; 65: something \
                        is missing or has no counterpart, and the report says what; 78: a file can't be read."
)]
pub(crate) struct Convert {
    /// keepalived.conf and haproxy.cfg of one host, or the manifests of Pods that mount them; an nginx.conf with `stream`; a manifest of kube-vip,
    /// or its config.yaml; known by content
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Where the files of the host are that a manifest's Pods mount
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,
    /// A host of the address, where the files name none; once for each, this one may be among them
    #[arg(long = "peer", value_name = "NAME=ADDRESS[:PORT]")]
    pub(crate) peers: Vec<Named>,
    /// This host's name
    #[arg(long, value_name = "NAME", value_parser = node)]
    pub(crate) node: Option<NodeId>,
}

/// `vipd sample`
#[derive(Debug, Subcommand)]
pub(crate) enum Sample {
    /// A configuration with every key explained
    Config,
    /// A static Pod for /etc/kubernetes/manifests
    Manifest(SampleManifest),
}

/// `vipd sample manifest`
#[derive(Debug, Args)]
pub(crate) struct SampleManifest {
    /// The image, in place of this binary's own
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// The configuration file on the host; its folder is mounted
    #[arg(long, value_name = "FILE", default_value = "/etc/vipd/config.yaml")]
    pub(crate) config: PathBuf,
}

/// `vipd status`
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The status socket of the vipd to ask
    #[arg(long, value_name = "PATH", default_value = SOCKET_DEFAULT)]
    pub(crate) socket: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Go on showing it, with keys to hand the address over and to take backends out of use
    #[arg(long, conflicts_with = "json")]
    pub(crate) watch: bool,
}

/// `vipd health`
#[derive(Debug, Args)]
pub(crate) struct Health {
    /// Ask whether it takes part, in place of whether it runs: it knows who leads, it listens, and is not about to stop
    #[arg(long)]
    pub(crate) ready: bool,
    /// The status socket of the vipd to ask
    #[arg(long, value_name = "PATH", default_value = SOCKET_DEFAULT)]
    pub(crate) socket: PathBuf,
}

/// `vipd step-down`
#[derive(Debug, Args)]
pub(crate) struct StepDown {
    /// The node that is to take over; without it, the one that would be elected
    #[arg(long, value_name = "NODE", value_parser = node)]
    pub(crate) to: Option<NodeId>,
    /// Of addresses that are spread over the nodes, the one to hand over; without it, all that this node has
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) vip: Option<IpAddr>,
    /// The status socket of the vipd to tell
    #[arg(long, value_name = "PATH", default_value = SOCKET_DEFAULT)]
    pub(crate) socket: PathBuf,
}

/// `vipd backend`
#[derive(Debug, Subcommand)]
pub(crate) enum Backend {
    /// Give it no new connections as long as there is another; those that it has go on
    Drain(BackendOptions),
    /// Give it new connections again
    Enable(BackendOptions),
}

/// `vipd backend drain` and `enable`
#[derive(Debug, Args)]
pub(crate) struct BackendOptions {
    /// Its name, or its address with or without the port, as `vipd status` shows them
    #[arg(value_name = "BACKEND")]
    pub(crate) backend: String,
    /// The status socket of the vipd to tell
    #[arg(long, value_name = "PATH", default_value = SOCKET_DEFAULT)]
    pub(crate) socket: PathBuf,
}

/// `vipd log-level`
#[derive(Debug, Args)]
pub(crate) struct LogLevel {
    /// error, warn, info, debug or trace; also per part, as in `info,lb=debug`. Without it, the level is shown
    #[arg(value_name = "LEVEL")]
    pub(crate) level: Option<String>,
    /// The status socket of the vipd to tell
    #[arg(long, value_name = "PATH", default_value = SOCKET_DEFAULT)]
    pub(crate) socket: PathBuf,
}

fn node(name: &str) -> Result<NodeId, NodeIdError> {
    NodeId::new(name)
}

/// The arguments without a leading `/kube-vip` or `/vipd`.
///
/// The image has an entry point, and its users also write the program's name, as kube-vip's documents do:
/// `docker run IMAGE /kube-vip sample manifest`.
pub(crate) fn arguments(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    let named =
        |argument: &OsString| ["/kube-vip", "/vipd", "kube-vip", "vipd"].iter().any(|name| argument == name);
    if arguments.get(1).is_some_and(named) {
        arguments.remove(1);
    }
    arguments
}

#[cfg(test)]
mod documented;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_leading_program_name_is_tolerated() {
        let given = |words: &[&str]| arguments(words.iter().map(OsString::from));
        assert_eq!(given(&["/vipd", "/kube-vip", "version"]), given(&["/vipd", "version"]));
        assert_eq!(given(&["/vipd", "/vipd", "version"]), given(&["/vipd", "version"]));
        assert_eq!(given(&["/vipd"]), given(&["/vipd"]));
    }
}
