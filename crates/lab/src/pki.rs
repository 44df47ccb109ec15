//! The lab's certificates: one authority, one server certificate for every name, one admin, two whom an apiserver turns away,
//! one signing key.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::network::{FRONTEND, NODES, node_address, virtual_addresses};

/// The name that users give a control plane.
pub const CLUSTER_NAME: &str = "vip.mycluster.local";

/// The folder with the certificates.
#[derive(Debug, Clone)]
pub struct Pki {
    folder: PathBuf,
}

impl Pki {
    /// Makes the keys and certificates in a new folder.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let pki = Self { folder: folder.to_owned() };
        let authority = CertifiedIssuer::self_signed(authority()?, KeyPair::generate()?)?;
        fs::write(pki.authority(), authority.pem())?;
        let issued = [
            ("server", server()?),
            ("admin", client("lab-admin", Some("system:masters"))?),
            // Whom no rule gives a right.
            ("stranger", client("lab-stranger", None)?),
            ("expired", expired(client("lab-admin", Some("system:masters"))?)),
        ];
        for (name, params) in issued {
            let key = KeyPair::generate()?;
            fs::write(pki.file(name, "crt"), params.signed_by(&key, &authority)?.pem())?;
            fs::write(pki.file(name, "key"), key.serialize_pem())?;
        }
        let signing = KeyPair::generate()?;
        fs::write(pki.file("service-account", "key"), signing.serialize_pem())?;
        fs::write(pki.file("service-account", "pub"), signing.public_key_pem())?;
        pki.write_kubeconfig(FRONTEND)?;
        Ok(pki)
    }

    /// Opens a folder that [`Pki::create`] filled.
    pub fn open(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The authority's certificate.
    pub fn authority(&self) -> PathBuf {
        self.file("ca", "crt")
    }

    /// Writes the admin's kubeconfig anew, for a system whose clients connect there.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write_kubeconfig(&self, frontend: SocketAddr) -> Result<()> {
        fs::write(self.kubeconfig(), self.kubeconfig_text(frontend)).context("failed to write the kubeconfig")
    }

    /// The admin's way to the cluster, through the virtual IP.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.conf")
    }

    /// One of the files: `server.crt`, `server.key`, `admin.crt`, `service-account.pub`, …
    pub fn file(&self, name: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{name}.{kind}"))
    }

    /// A TLS client that trusts this authority only and does a full handshake each time.
    ///
    /// # Errors
    /// If the authority cannot be read.
    pub fn client(&self) -> Result<Arc<rustls::ClientConfig>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.authority())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// A TLS server with the server certificate, without session tickets.
    ///
    /// # Errors
    /// If the files cannot be read.
    pub fn server(&self) -> Result<Arc<rustls::ServerConfig>> {
        let certificate = CertificateDer::from_pem_file(self.file("server", "crt"))
            .context("failed to read the server certificate")?;
        let key = PrivateKeyDer::from_pem_file(self.file("server", "key"))
            .context("failed to read the server key")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn kubeconfig_text(&self, frontend: SocketAddr) -> String {
        let (authority, certificate, key) =
            (self.authority(), self.file("admin", "crt"), self.file("admin", "key"));
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
             clusters:\n- name: lab\n  cluster: {{server: 'https://{frontend}', certificate-authority: {}}}\n\
             users:\n- name: admin\n  user: {{client-certificate: {}, client-key: {}}}\n\
             contexts:\n- name: lab\n  context: {{cluster: lab, user: admin}}\n",
            authority.display(),
            certificate.display(),
            key.display()
        )
    }
}

fn authority() -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "vipd lab");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn server() -> Result<CertificateParams> {
    let mut names: Vec<String> = NODES.iter().map(ToString::to_string).collect();
    // As in kubeadm's certificates.
    let service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    names.extend(service.into_iter().chain([CLUSTER_NAME, "localhost"]).map(str::to_owned));
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    let local = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), [10, 96, 0, 1].into()];
    let nodes = (0..NODES.len()).map(|node| node_address(node).into());
    let addresses = virtual_addresses().into_iter().chain(local).chain(nodes);
    params.subject_alt_names.extend(addresses.map(SanType::IpAddress));
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn client(name: &str, group: Option<&str>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// The same, valid in another century.
fn expired(mut params: CertificateParams) -> CertificateParams {
    params.not_before = date_time_ymd(1999, 1, 1);
    params.not_after = date_time_ymd(1999, 12, 31);
    params
}
