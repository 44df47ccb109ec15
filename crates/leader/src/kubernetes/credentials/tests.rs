use std::fs;

use super::*;

const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
current-context: c
clusters:
- {name: k, cluster: {server: 'https://10.0.0.162:6443', certificate-authority: ca.crt}}
users:
- {name: u, user: {token: secret}}
contexts:
- {name: c, context: {cluster: k, user: u}}
";

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vipd-credentials-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn authority(serial: u64) -> String {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.serial_number = Some(serial.into());
    params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
}

async fn told(files: &[PathBuf]) -> String {
    let error = Credentials::read(files, 0).await.map(|_| ()).unwrap_err();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[tokio::test]
async fn the_first_file_that_exists_is_read_and_on_request_the_next() {
    let folder = Folder::new("order");
    folder.file("ca.crt", &authority(1));
    let admin = folder.file("admin.conf", KUBECONFIG);
    let super_admin = folder.file("super-admin.conf", KUBECONFIG);
    let files = [folder.0.join("missing.conf"), admin.clone(), super_admin.clone()];
    for (skip, expected) in [(0, &admin), (1, &super_admin), (2, &admin)] {
        let credentials = Credentials::read(&files, skip).await.unwrap();
        assert_eq!(credentials.origin, Origin::File(expected.clone()));
    }
    let named = Credentials::read(&files, 0).await.unwrap().named();
    assert_eq!(named, Some(SocketAddr::from(([10, 0, 0, 162], 6443))));
}

#[tokio::test]
async fn a_change_of_any_file_behind_them_is_noticed() {
    let folder = Folder::new("rotation");
    folder.file("ca.crt", &authority(1));
    let files = [folder.file("admin.conf", KUBECONFIG)];
    let before = Credentials::read(&files, 0).await.unwrap().fingerprint;
    assert_eq!(Credentials::read(&files, 0).await.unwrap().fingerprint, before);
    folder.file("ca.crt", &authority(2));
    let rotated = Credentials::read(&files, 0).await.unwrap().fingerprint;
    assert_ne!(rotated, before);
    folder.file("admin.conf", &KUBECONFIG.replace("secret", "another"));
    assert_ne!(Credentials::read(&files, 0).await.unwrap().fingerprint, rotated);
}

#[tokio::test]
async fn each_way_in_which_they_can_be_wrong_is_told_apart() {
    let folder = Folder::new("wrong");
    let text = told(&[folder.0.join("admin.conf")]).await;
    assert!(text.contains("none of") && text.contains("mount /etc/kubernetes"), "{text}");
    let text = told(&[folder.file("broken.conf", "clusters: [")]).await;
    assert!(text.contains("broken.conf can't be used"), "{text}");
    // The authority is named, and isn't there.
    let text = told(&[folder.file("admin.conf", KUBECONFIG)]).await;
    assert!(text.contains("admin.conf can't be used") && text.contains("ca.crt"), "{text}");
    folder.file("ca.crt", "no certificate");
    let text = told(&[folder.0.join("admin.conf")]).await;
    assert!(text.contains("ca.crt holds no certificate"), "{text}");
}
