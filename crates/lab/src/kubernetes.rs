//! A real control plane on each node: an etcd member and a kube-apiserver, with the flags that suffice.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::network::{BACKEND_PORT, NODES, node_address};
use crate::pki::Pki;
use crate::process::Launch;

/// The folder with `etcd`, `kube-apiserver` and `kubectl`.
#[derive(Debug, Clone)]
pub struct Kubernetes {
    folder: PathBuf,
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
        for name in ["etcd", "kube-apiserver"] {
            ensure!(folder.join(name).is_file(), "there is no {name} in VIPD_KUBE_BIN");
        }
        Ok(Self { folder })
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

    /// The apiserver of a node, on its own etcd member as kubeadm sets it up.
    pub fn apiserver(&self, node: usize, pki: &Pki) -> Launch {
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
        ];
        Launch::new("apiserver", &self.folder.join("kube-apiserver"), flags)
    }
}
