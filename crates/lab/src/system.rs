//! The systems under test and the files that set them up.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::network::{
    BACKEND_PORT, FRONTEND_PORT, INTERFACE, NODES, PREFIX, PREFIX6, VIP, VIP6, find_program, node_address,
};
use crate::process::Launch;

/// Where vipd's peers talk to each other.
const PEER_PORT: u16 = 10_000;

/// What keeps the virtual IP alive on the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    /// vipd, with one of its timing profiles.
    Vipd(Timing),
    /// keepalived and haproxy.
    Keepalived(Variant),
}

/// A timing profile of vipd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timing {
    /// `timing: default`
    Default,
    /// `timing: fast`
    Fast,
    /// `timing: relaxed`
    Relaxed,
}

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

impl System {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Vipd(Timing::Default),
        Self::Vipd(Timing::Fast),
        Self::Vipd(Timing::Relaxed),
        Self::Keepalived(Variant::AsDocumented),
        Self::Keepalived(Variant::Tuned),
        Self::Keepalived(Variant::Minimum),
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vipd(Timing::Default) => "vipd",
            Self::Vipd(Timing::Fast) => "vipd-fast",
            Self::Vipd(Timing::Relaxed) => "vipd-relaxed",
            Self::Keepalived(Variant::AsDocumented) => "keepalived",
            Self::Keepalived(Variant::Tuned) => "keepalived-tuned",
            Self::Keepalived(Variant::Minimum) => "keepalived-minimum",
        }
    }

    /// The longest after which a dead local apiserver may still move the address, by the system's own timers.
    pub fn check_time(self) -> Duration {
        match self {
            Self::Vipd(_) => Duration::from_secs(3),
            // Ten checks three seconds apart, one running check, one election.
            Self::Keepalived(Variant::AsDocumented) => Duration::from_secs(37),
            Self::Keepalived(Variant::Tuned | Variant::Minimum) => Duration::from_secs(4),
        }
    }

    /// How long nothing may have happened before the next fault: longer than the slowest of its timers that
    /// could still move the address back.
    pub fn calm_time(self) -> Duration {
        match self {
            Self::Vipd(Timing::Default | Timing::Fast) => Duration::from_millis(1500),
            Self::Vipd(Timing::Relaxed) => Duration::from_secs(6),
            // Two good checks three seconds apart, then an election of 3.6 s.
            Self::Keepalived(Variant::AsDocumented) => Duration::from_secs(11),
            Self::Keepalived(Variant::Tuned | Variant::Minimum) => Duration::from_secs(4),
        }
    }

    /// Writes the files of one node and says what to start there, in order.
    ///
    /// # Errors
    /// If a program is missing or the folder cannot be written.
    pub fn prepare(self, node: usize, folder: &Path, programs: &Programs) -> Result<Vec<Launch>> {
        match self {
            Self::Vipd(timing) => {
                let vipd = programs.vipd()?;
                Ok(vec![prepare_vipd(timing, node, folder, &vipd)?])
            }
            Self::Keepalived(variant) => {
                Ok(vec![prepare_haproxy(folder)?, prepare_keepalived(variant, node, folder)?])
            }
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for System {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|system| system.name() == text);
        known.ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.into_iter().map(Self::name).collect();
            format!("no system {text}: it is one of {}", names.join(", "))
        })
    }
}

impl FromStr for Timing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "default" => Ok(Self::Default),
            "fast" => Ok(Self::Fast),
            "relaxed" => Ok(Self::Relaxed),
            _ => Err(format!("no timing {text}: it is default, fast or relaxed")),
        }
    }
}

/// Where the programs are that no package brings.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    /// vipd, if the command line names it.
    pub vipd: Option<PathBuf>,
}

impl Programs {
    /// Finds vipd: as told, else by `VIPD_BIN`, else beside the running program.
    ///
    /// # Errors
    /// If there is none; the message says where it was looked for.
    pub fn vipd(&self) -> Result<PathBuf> {
        let told = self.vipd.clone().or_else(|| std::env::var_os("VIPD_BIN").map(PathBuf::from));
        if let Some(path) = told {
            ensure!(path.is_file(), "there is no vipd at {}", path.display());
            return Ok(path.canonicalize()?);
        }
        let own = std::env::current_exe()?;
        // A test's own file lies one folder deeper, in `deps`.
        let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join("vipd"));
        let found = beside.into_iter().find(|path| path.is_file());
        found.with_context(|| {
            let folder = own.parent().unwrap_or_else(|| Path::new("/")).display();
            format!("there is no vipd: build it (`cargo build -p vipd` puts it beside this program, in {folder}), or name it with --vipd or VIPD_BIN")
        })
    }
}

/// The socket on which vipd answers `vipd status`.
pub fn vipd_socket(folder: &Path) -> PathBuf {
    folder.join("vipd.sock")
}

fn prepare_vipd(timing: Timing, node: usize, folder: &Path, vipd: &Path) -> Result<Launch> {
    let (config, key, socket) = (folder.join("config.yaml"), folder.join("peer.key"), vipd_socket(folder));
    // A secret of the lab: 32 bytes in hexadecimal, the same on every node.
    fs::write(&key, format!("{}\n", "0123456789abcdef".repeat(4)))?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    fs::write(&config, vipd_config(timing, node, &key))?;
    let mut launch = Launch::new("vipd", vipd, ["start", "-c"]);
    launch.args.extend([config.into(), "--socket".into(), socket.clone().into()]);
    launch.leftovers.push(socket);
    Ok(launch)
}

/// A node's config.yaml: the form of kube-vip 0.1 and our own keys.
fn vipd_config(timing: Timing, node: usize, key: &Path) -> String {
    let peer = |place: usize| {
        format!("id: {}\n  address: {}\n  port: {PEER_PORT}\n", NODES[place], node_address(place))
    };
    let timing = match timing {
        Timing::Default => "default",
        Timing::Fast => "fast",
        Timing::Relaxed => "relaxed",
    };
    let mut text = format!("localPeer:\n  {}remotePeers:\n", peer(node));
    for other in (0..NODES.len()).filter(|other| *other != node) {
        text += &format!("- {}", peer(other));
    }
    text += &format!(
        "vips: [{VIP}/{PREFIX}, {VIP6}/{PREFIX6}]\ngratuitousARP: true\nsingleNode: false\nstartAsLeader: {}\n\
         interface: {INTERFACE}\ntiming: {timing}\npeerKeys: [{{id: 1, file: {}}}]\n\
         loadBalancers:\n- name: API Server Load Balancer\n  type: tcp\n  port: {FRONTEND_PORT}\n  \
         bindToVip: false\n  backends:\n",
        node == 0,
        key.display()
    );
    for place in 0..NODES.len() {
        text += &format!("  - port: {BACKEND_PORT}\n    address: {}\n", node_address(place));
    }
    text
}

fn prepare_haproxy(folder: &Path) -> Result<Launch> {
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

fn prepare_keepalived(variant: Variant, node: usize, folder: &Path) -> Result<Launch> {
    let keepalived = find_program("keepalived", "keepalived")?;
    find_program("curl", "curl")?;
    let (config, script) = (folder.join("keepalived.conf"), folder.join("check_apiserver.sh"));
    fs::write(&script, check_script())?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700))?;
    fs::write(&config, keepalived_config(variant, node, &script)?)?;
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

fn keepalived_config(variant: Variant, node: usize, script: &Path) -> Result<String> {
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
    fn every_system_is_found_by_its_name() {
        for system in System::ALL {
            assert_eq!(system.name().parse(), Ok(system));
        }
        assert!("keepalive".parse::<System>().unwrap_err().contains("keepalived-tuned"));
    }

    #[test]
    fn vipds_file_has_the_form_of_kube_vip_and_one_node_that_starts_as_leader() {
        let text = vipd_config(Timing::Fast, 1, Path::new("/run/key"));
        let begin = "localPeer:\n  id: master-2\n  address: 10.0.0.164\n  port: 10000\nremotePeers:\n- id: master-1\n  \
                     address: 10.0.0.163\n  port: 10000\n- id: master-3\n";
        assert!(text.starts_with(begin), "{text}");
        assert!(text.contains("\nvips: [10.0.0.162/24, fd00::162/64]\n"), "{text}");
        assert!(text.contains("\nstartAsLeader: false\ninterface: ens3\ntiming: fast\n"), "{text}");
        let leaders = (0..NODES.len()).filter(|node| {
            vipd_config(Timing::Default, *node, Path::new("/k")).contains("startAsLeader: true")
        });
        assert_eq!(leaders.count(), 1);
    }

    #[test]
    fn keepalived_as_documented_has_the_documented_figures() {
        let text = keepalived_config(Variant::AsDocumented, 0, Path::new("/run/check.sh")).unwrap();
        for line in
            ["advert_int 1", "interval 3", "weight -2", "fall 10", "rise 2", "priority 101", "state MASTER"]
        {
            assert!(text.contains(&format!("    {line}\n")), "{line}:\n{text}");
        }
    }
}
