//! keepalived, with haproxy beside it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Result, bail};

use super::Site;
use crate::network::{
    BACKEND_PORT, FRONTEND_PORT, INTERFACE, NODES, PREFIX, VIP, find_program, node_address,
};
use crate::process::Launch;

/// How keepalived is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// As people do: one advert a second, ten failed checks three seconds apart.
    AsDocumented,
    /// As an expert might: an advert every 50 ms (VRRPv3), two failed checks one second apart.
    Tuned,
    /// The least the program accepts: an advert every 10 ms.
    Minimum,
}

/// Writes haproxy's file, and says how to start it.
pub(super) fn prepare_haproxy(folder: &Path) -> Result<Launch> {
    let haproxy = find_program("haproxy", "haproxy")?;
    let config = folder.join("haproxy.cfg");
    let mut text = format!(
        "global\n    maxconn 4000\n\ndefaults\n    mode tcp\n    option redispatch\n    retries 1\n    \
         timeout queue 20s\n    timeout connect 5s\n    timeout client 20s\n    timeout server 20s\n    \
         timeout check 10s\n\nfrontend apiserver\n    bind *:{FRONTEND_PORT}\n    mode tcp\n    option tcplog\n    \
         default_backend apiserver\n\nbackend apiserver\n    mode tcp\n    option httpchk GET /healthz\n    \
         http-check expect status 200\n    option ssl-hello-chk\n    balance roundrobin\n"
    );
    for (place, name) in NODES.iter().enumerate() {
        text += &format!("    server {name} {}:{BACKEND_PORT} check\n", node_address(place));
    }
    fs::write(&config, text)?;
    let mut launch = Launch::new("haproxy", &haproxy, ["-db", "-f"]);
    launch.args.push(config.into());
    Ok(launch)
}

/// Writes keepalived's files, and says how to start it.
pub(super) fn prepare(variant: Variant, site: Site<'_>) -> Result<Launch> {
    let folder = site.folder;
    let keepalived = find_program("keepalived", "keepalived")?;
    find_program("curl", "curl")?;
    let (config, script) = (folder.join("keepalived.conf"), folder.join("check_apiserver.sh"));
    fs::write(&script, check_script())?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700))?;
    fs::write(&config, text(variant, site.node, &script)?)?;
    let (pid, vrrp_pid) = (folder.join("keepalived.pid"), folder.join("vrrp.pid"));
    let mut launch = Launch::new("keepalived", &keepalived, ["--dont-fork", "--log-console", "--vrrp", "-f"]);
    launch.args.extend([
        config.into(),
        "-p".into(),
        pid.clone().into(),
        "-r".into(),
        vrrp_pid.clone().into(),
    ]);
    launch.leftovers.extend([pid, vrrp_pid]);
    Ok(launch)
}

/// The check of the local apiserver and, on the owner, of the virtual IP.
fn check_script() -> String {
    format!(
        "#!/bin/sh\nask() {{\n    curl --silent --max-time 2 --insecure \"https://$1/\" -o /dev/null || exit 1\n}}\n\
         ask localhost:{BACKEND_PORT}\nif ip address show | grep -q ' {VIP}/'; then\n    ask {VIP}:{FRONTEND_PORT}\nfi\n"
    )
}

fn text(variant: Variant, node: usize, script: &Path) -> Result<String> {
    let Some(priority) = 101_usize.checked_sub(node) else { bail!("there are three nodes") };
    let state = if node == 0 { "MASTER" } else { "BACKUP" };
    let (version, check, adverts) = match variant {
        Variant::AsDocumented => (2, "interval 3\n    weight -2\n    fall 10\n    rise 2", "1"),
        Variant::Tuned => (3, "interval 1\n    weight -2\n    fall 2\n    rise 2", "0.05"),
        Variant::Minimum => (3, "interval 1\n    weight -2\n    fall 2\n    rise 2", "0.01"),
    };
    // VRRPv3 knows no authentication.
    let password = "    authentication {\n        auth_type PASS\n        auth_pass labsonly\n    }\n";
    let authentication = if version == 2 { password } else { "" };
    Ok(format!(
        "global_defs {{\n    router_id {name}\n    vrrp_version {version}\n    script_user root\n    \
         enable_script_security\n}}\n\nvrrp_script check_apiserver {{\n    script \"{script}\"\n    {check}\n}}\n\n\
         vrrp_instance VI_1 {{\n    state {state}\n    interface {INTERFACE}\n    virtual_router_id 51\n    \
         priority {priority}\n    advert_int {adverts}\n{authentication}    virtual_ipaddress {{\n        \
         {VIP}/{PREFIX}\n    }}\n    track_script {{\n        check_apiserver\n    }}\n}}\n",
        name = NODES[node],
        script = script.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepalived_as_documented_has_the_documented_figures() {
        let text = text(Variant::AsDocumented, 0, Path::new("/run/check.sh")).unwrap();
        for line in
            ["advert_int 1", "interval 3", "weight -2", "fall 10", "rise 2", "priority 101", "state MASTER"]
        {
            assert!(text.contains(&format!("    {line}\n")), "{line}:\n{text}");
        }
    }
}
