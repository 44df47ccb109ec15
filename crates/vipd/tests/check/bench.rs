//! Two machines on one cable: the one that is checked, and one that has the addresses of both its peers.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::rig::{Enclosed, Place};

/// What is said of a machine that is well, whatever it is.
pub(crate) const SAID_WELL: &[&str] = &[
    "configuration",
    "capability",
    "memory-lock",
    "open-files",
    "interface-up",
    "address-foreign",
    "subnet",
    "address-in-use",
    "fence",
    "arp-ignore",
    "arp-filter",
    "rp-filter",
    "peer-port",
    "port",
    "peer",
    "round-trip",
    "peer-firewall",
    "input-firewall",
];

/// The two, and a folder for files. 10.0.0.1 is checked; 10.0.0.2 and 10.0.0.3 are its peers.
pub(crate) struct Bench {
    pub(crate) here: Place,
    pub(crate) there: Place,
    pub(crate) folder: PathBuf,
}

impl Bench {
    /// Says aloud why there is none.
    pub(crate) fn new(name: &str) -> Option<Self> {
        Enclosed::new("a broken machine")?;
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("check-{name}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let (here, there) = (Place::new(), Place::new());
        here.ip(&format!("link add eth0 type veth peer name eth0 netns {}", there.pid()));
        for (place, addresses) in [(&here, &["10.0.0.1/24"][..]), (&there, &["10.0.0.2/24", "10.0.0.3/24"])] {
            place.ip("link set lo up");
            place.ip("link set eth0 up");
            for address in addresses {
                place.ip(&format!("address add {address} dev eth0"));
            }
        }
        let bench = Self { here, there, folder };
        // Whatever this machine gives to new namespaces.
        for scope in ["all", "default", "eth0"] {
            for key in ["arp_ignore", "arp_filter", "rp_filter"] {
                bench.set(&format!("net/ipv4/conf/{scope}/{key}"), "0");
            }
        }
        bench.set("net/ipv4/ip_forward", "0");
        Some(bench)
    }

    /// A configuration that is right here: a member of three, and a balancer.
    pub(crate) fn config(&self) -> String {
        format!(
            "{}vip: 10.0.0.9\ninterface: eth0\n{}",
            self.members(),
            self.balancer("port: 8443, check: {type: none}")
        )
    }

    /// The members, with a timing that this machine keeps whatever else it does.
    pub(crate) fn members(&self) -> String {
        let socket = self.folder.join("vipd.sock");
        format!(
            "localPeer: {{id: a, address: 10.0.0.1, port: 10000}}\nremotePeers:\n\
             - {{id: b, address: 10.0.0.2, port: 10000}}\n- {{id: c, address: 10.0.0.3, port: 10000}}\n\
             timing: relaxed\nsocket: {}\n",
            socket.display()
        )
    }

    /// A load balancer with these keys, to one backend.
    pub(crate) fn balancer(&self, keys: &str) -> String {
        format!("loadBalancers:\n- {{name: api, {keys}, backends: [{{address: 10.0.0.2, port: 6443}}]}}\n")
    }

    /// Changes a setting of the machine that is checked.
    pub(crate) fn set(&self, key: &str, value: &str) {
        // /proc/sys/net is that of the process that looks.
        let script = format!("echo {value} > /proc/sys/{key}");
        let mut command = self.command(&["sh", "-c", &script]);
        assert!(command.status().unwrap().success(), "{key}");
    }

    /// Gives it these rules.
    pub(crate) fn rules(&self, rules: &str) {
        let mut nft = self.command(&["nft", "-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "{rules}");
    }

    /// A second interface with this address, that leads nowhere.
    pub(crate) fn second_interface(&self, address: &str) {
        self.here.ip("link add eth1 type veth peer name eth2");
        self.here.ip("link set eth2 up");
        self.here.ip("link set eth1 up");
        self.here.ip(&format!("address add {address} dev eth1"));
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.here.pid()]).args(words);
        command
    }

    /// Runs `vipd check` there by a command that runs its arguments.
    pub(crate) fn run(&self, prefix: &[&str], config: &str, arguments: &[&str]) -> Output {
        let file = self.folder.join("check.yaml");
        fs::write(&file, config).unwrap();
        let mut command = self.command(prefix);
        command.arg(env!("CARGO_BIN_EXE_vipd")).args(["check", "-c"]).arg(file).args(arguments);
        command.output().unwrap()
    }

    /// What `vipd check --json` finds.
    pub(crate) fn check(&self, config: &str) -> Findings {
        self.check_by(&[], config, &[])
    }

    /// The same by a command that runs its arguments, and with more arguments of its own.
    pub(crate) fn check_by(&self, prefix: &[&str], config: &str, arguments: &[&str]) -> Findings {
        let output = self.run(prefix, config, &[arguments, &["--json"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        let document = serde_json::from_slice(&output.stdout);
        let document = document.unwrap_or_else(|error| panic!("{error}: {output:?}"));
        assert!(said.is_empty(), "{said}");
        Findings { document, code: output.status.code() }
    }
}

/// What was found.
pub(crate) struct Findings {
    pub(crate) document: Value,
    pub(crate) code: Option<i32>,
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.document)
    }
}

impl Findings {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Value> {
        self.document["findings"].as_array().unwrap().iter()
    }

    /// What isn't well is exactly this, each with its verdict; and the exit code is that of an error, or none.
    pub(crate) fn are(&self, expected: &[(&str, &str)]) {
        self.are_but_for(expected, &[]);
    }

    /// The same, where these may be there or not: what this machine is, and not what was done to it.
    pub(crate) fn are_but_for(&self, expected: &[(&str, &str)], ignored: &[&str]) {
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
        let found: BTreeSet<(String, String)> = self
            .all()
            .filter(|finding| finding["verdict"] != "ok")
            .map(|finding| (text(finding, "id"), text(finding, "verdict")))
            .filter(|(id, _)| !ignored.contains(&id.as_str()))
            .collect();
        let expected: BTreeSet<(String, String)> =
            expected.iter().map(|(id, verdict)| ((*id).to_owned(), (*verdict).to_owned())).collect();
        assert_eq!(found, expected, "{self}");
        let is_error = expected.iter().any(|(_, verdict)| verdict == "error");
        assert_eq!(self.code != Some(0), is_error, "{self}");
        assert_eq!(self.document["exit"].as_i64(), self.code.map(i64::from), "{self}");
    }

    /// Of this, these words are said, and the way out has those.
    pub(crate) fn tell(&self, id: &str, found: &str, mend: &str) {
        let matches = |finding: &&Value| {
            let has = |key: &str, words: &str| finding[key].as_str().is_some_and(|text| text.contains(words));
            finding["id"] == id && finding["verdict"] != "ok" && has("found", found) && has("mend", mend)
        };
        let told = self.all().find(matches);
        let told = told.unwrap_or_else(|| panic!("no `{id}` with `{found}` and `{mend}` in {self}"));
        assert!(told["why"].as_str().is_some_and(|why| !why.is_empty()), "{told}");
    }
}
