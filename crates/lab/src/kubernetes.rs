//! A real control plane on each node: an etcd member and a kube-apiserver, with the flags that suffice.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::namespace::Namespace;
use crate::network::{BACKEND_PORT, NODES, node_address};
use crate::pki::Pki;
use crate::process::Launch;
use crate::system::{LEASE_NAME, LEASE_NAMESPACE};

/// What an apiserver notes of requests: who asked for what about which Lease, and nothing of others. A watch makes two lines, one
/// at its beginning and one at its end.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  resources: [{group: coordination.k8s.io, resources: [leases]}]
- level: None
";

/// The file with an apiserver's audit log, in its node's folder.
pub const AUDIT_LOG: &str = "audit.log";

/// The folder with `etcd`, `kube-apiserver` and `kubectl`.
#[derive(Debug, Clone)]
pub struct Kubernetes {
    folder: PathBuf,
    /// For how long an apiserver that is told to end goes on serving, saying that it isn't ready.
    shutdown_delay: Duration,
}

impl Kubernetes {
    /// Takes the folder from `VIPD_KUBE_BIN`.
    ///
    /// # Errors
    /// If it is not set, or a binary is missing there.
    pub fn find() -> Result<Self> {
        let folder = std::env::var_os("VIPD_KUBE_BIN")
            .context("VIPD_KUBE_BIN is not set: the folder with etcd, kube-apiserver and kubectl")?;
        let folder = PathBuf::from(folder).canonicalize().context("VIPD_KUBE_BIN names no folder")?;
        for name in ["etcd", "kube-apiserver", "kubectl"] {
            ensure!(folder.join(name).is_file(), "there is no {name} in VIPD_KUBE_BIN");
        }
        Ok(Self { folder, shutdown_delay: Duration::ZERO })
    }

    /// The same with apiservers that go on serving for a while when they are told to end, and say meanwhile that they aren't ready.
    #[must_use]
    pub fn with_shutdown_delay(self, shutdown_delay: Duration) -> Self {
        Self { shutdown_delay, ..self }
    }

    /// The folder with the binaries.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The etcd member of a node.
    pub fn etcd(&self, node: usize, folder: &Path) -> Launch {
        let (name, address) = (NODES[node], node_address(node));
        let members: Vec<String> = NODES
            .iter()
            .enumerate()
            .map(|(place, name)| format!("{name}=http://{}:2380", node_address(place)))
            .collect();
        let flags = [
            format!("--name={name}"),
            format!("--data-dir={}", folder.join("etcd").display()),
            "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
            "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
            format!("--listen-peer-urls=http://{address}:2380"),
            format!("--initial-advertise-peer-urls=http://{address}:2380"),
            format!("--initial-cluster={}", members.join(",")),
            // Three members share one machine; nothing here must survive it.
            "--unsafe-no-fsync".to_owned(),
        ];
        Launch::new("etcd", &self.folder.join("etcd"), flags)
    }

    /// The apiserver of a node, on its own etcd member as kubeadm sets it up. It notes in [`AUDIT_LOG`] who asks for Leases.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn apiserver(&self, node: usize, folder: &Path, pki: &Pki) -> Result<Launch> {
        let policy = folder.join("audit-policy.yaml");
        fs::write(&policy, AUDIT_POLICY)?;
        let file = |name, kind| pki.file(name, kind).display().to_string();
        let flags = [
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            format!("--secure-port={BACKEND_PORT}"),
            format!("--advertise-address={}", node_address(node)),
            format!("--tls-cert-file={}", file("server", "crt")),
            format!("--tls-private-key-file={}", file("server", "key")),
            format!("--client-ca-file={}", pki.authority().display()),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", file("service-account", "pub")),
            format!("--service-account-signing-key-file={}", file("service-account", "key")),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            format!("--audit-policy-file={}", policy.display()),
            format!("--audit-log-path={}", folder.join(AUDIT_LOG).display()),
            format!("--shutdown-delay-duration={}ms", self.shutdown_delay.as_millis()),
        ];
        Ok(Launch::new("apiserver", &self.folder.join("kube-apiserver"), flags))
    }

    /// Deletes the Lease that control planes elect by, so that whoever comes next finds none.
    ///
    /// # Errors
    /// If no apiserver answers.
    pub async fn free_lease(&self, from: &Namespace, pki: &Pki) -> Result<()> {
        let mut kubectl = tokio::process::Command::new(self.folder.join("kubectl"));
        kubectl
            .arg(format!("--kubeconfig={}", pki.kubeconfig().display()))
            .arg(format!("--server=https://{}:{BACKEND_PORT}", node_address(0)))
            .arg(format!("--namespace={LEASE_NAMESPACE}"))
            .args(["delete", "lease", LEASE_NAME, "--ignore-not-found"])
            .env("KUBECACHEDIR", pki.folder().join("kubectl-cache"))
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .kill_on_drop(true);
        let mut child = from.within(|| Ok(kubectl.spawn()?)).context("failed to run kubectl")?;
        let status = child.wait().await?;
        ensure!(
            status.success(),
            "kubectl could not delete the Lease {LEASE_NAMESPACE}/{LEASE_NAME}: {status}"
        );
        Ok(())
    }
}
