//! Who this node is to the API: a kubeconfig, or the ServiceAccount of its pod.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

/// Credentials as they were read.
#[derive(Clone)]
pub(super) struct Credentials {
    /// Where they are from.
    pub(super) origin: Origin,
    pub(super) config: kube::Config,
    /// Changes when any of the files behind them does.
    pub(super) fingerprint: u64,
}

/// Where credentials are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    File(PathBuf),
    ServiceAccount,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::ServiceAccount => f.write_str("the pod's ServiceAccount"),
        }
    }
}

/// Why there are no credentials. Each may be healed by time, so nothing ends by it.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialsError {
    #[error(
        "no credentials for the Kubernetes API: none of {tried} exists, and there is no ServiceAccount; \
         on a kubeadm node mount /etc/kubernetes, or name a kubeconfig"
    )]
    None { tried: String },
    #[error("failed to read the kubeconfig {path}")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the kubeconfig {path} can't be used")]
    Invalid {
        path: PathBuf,
        #[source]
        source: Box<KubeconfigError>,
    },
    #[error("the kubeconfig {path} can't be used: its authority {authority} holds no certificate (PEM)")]
    NoAuthority { path: PathBuf, authority: String },
    #[error("failed to read the pod's ServiceAccount")]
    ServiceAccount(#[source] kube::config::InClusterError),
}

impl Credentials {
    /// Reads the first of these files that exists, from this one on; without any, the ServiceAccount.
    ///
    /// # Errors
    ///
    /// The first file that exists can't be used, or there is nothing to read.
    pub(super) async fn read(files: &[PathBuf], skip: usize) -> Result<Self, CredentialsError> {
        let existing: Vec<&PathBuf> = files.iter().filter(|file| file.is_file()).collect();
        if existing.is_empty() {
            return Self::service_account(files);
        }
        let path = existing[skip % existing.len()];
        let text = std::fs::read_to_string(path)
            .map_err(|source| CredentialsError::Unreadable { path: path.clone(), source })?;
        let invalid = |source| CredentialsError::Invalid { path: path.clone(), source: Box::new(source) };
        let kubeconfig = Kubeconfig::read_from(path).map_err(invalid)?;
        let fingerprint = fingerprint(&text, &kubeconfig);
        let authority = authority(&kubeconfig);
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(invalid)?;
        if config.root_cert.as_ref().is_some_and(Vec::is_empty) {
            return Err(CredentialsError::NoAuthority { path: path.clone(), authority });
        }
        Ok(Self { origin: Origin::File(path.clone()), config, fingerprint })
    }

    fn service_account(tried: &[PathBuf]) -> Result<Self, CredentialsError> {
        if !Path::new(SERVICE_ACCOUNT_TOKEN).exists() {
            let tried = tried.iter().map(|path| path.display().to_string());
            return Err(CredentialsError::None { tried: tried.collect::<Vec<_>>().join(", ") });
        }
        let config = kube::Config::incluster().map_err(CredentialsError::ServiceAccount)?;
        // Its token and authority are read again by the client itself.
        Ok(Self { origin: Origin::ServiceAccount, config, fingerprint: 0 })
    }

    /// The server that they name, if by its address.
    pub(super) fn named(&self) -> Option<SocketAddr> {
        let url = &self.config.cluster_url;
        let host = url.host()?.trim_start_matches('[').trim_end_matches(']');
        let ip = host.parse::<IpAddr>().ok()?;
        Some(SocketAddr::new(ip, url.port_u16().unwrap_or(443)))
    }
}

/// What the first cluster names as its authority, for a message.
fn authority(kubeconfig: &Kubeconfig) -> String {
    let cluster = kubeconfig.clusters.first().and_then(|named| named.cluster.as_ref());
    let file = cluster.and_then(|cluster| cluster.certificate_authority.clone());
    file.unwrap_or_else(|| "in certificate-authority-data".to_owned())
}

/// A number that follows from the bytes of a kubeconfig and of every file that it names.
pub(super) fn fingerprint(text: &str, kubeconfig: &Kubeconfig) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let clusters = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
    let users = kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
    let authorities = clusters.filter_map(|cluster| cluster.certificate_authority.as_ref());
    let own = users.flat_map(|user| [&user.client_certificate, &user.client_key, &user.token_file]);
    for path in authorities.chain(own.flatten()) {
        std::fs::read(path).unwrap_or_default().hash(&mut hasher);
    }
    hasher.finish()
}

/// Where the kubelet puts the token of a pod.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

#[cfg(test)]
mod tests;
