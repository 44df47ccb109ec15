use std::path::PathBuf;

use super::*;

fn options(image: Option<&str>, config: &str) -> SampleManifest {
    SampleManifest { image: image.map(str::to_owned), config: PathBuf::from(config) }
}

#[test]
fn the_manifest_names_its_own_image() {
    let document = manifest(&options(None, "/etc/vipd/config.yaml")).unwrap();
    assert!(document.contains(&format!("image: vipd:{}", env!("CARGO_PKG_VERSION"))), "{document}");
}

#[test]
fn the_manifest_mounts_the_folder_of_the_configuration() {
    let document = manifest(&options(Some("r.example/vipd:1"), "/etc/kube-vip/config.yaml")).unwrap();
    let pod: Pod = serde_yaml::from_str(&document).unwrap();
    let spec = pod.spec.unwrap();
    let container = &spec.containers[0];
    let args = container.args.as_deref().unwrap();
    assert_eq!(args, ["start", "-c", "/etc/kube-vip/config.yaml", "--socket", "/run/vipd/vipd.sock"]);
    // Whatever `socket` the configuration names, the probes ask where vipd answers.
    for probe in [&container.startup_probe, &container.liveness_probe, &container.readiness_probe] {
        let command = probe.as_ref().unwrap().exec.as_ref().unwrap().command.as_deref().unwrap();
        assert_eq!(command[..2], ["/vipd", "health"]);
        assert_eq!(command[command.len() - 2..], args[3..]);
    }
    let mounts: Vec<_> =
        container.volume_mounts.as_ref().unwrap().iter().map(|mount| mount.mount_path.as_str()).collect();
    assert_eq!(mounts, ["/etc/kube-vip", "/run/vipd"]);
    assert_eq!(spec.host_network, Some(true));
}

#[test]
fn paths_that_cannot_be_mounted_are_refused() {
    for path in ["config.yaml", "/config.yaml", ""] {
        assert!(manifest(&options(None, path)).is_err(), "{path:?} was taken");
    }
    assert!(manifest(&options(Some("two words"), "/etc/vipd/config.yaml")).is_err());
}
